"""Attacks on an update that was captured: what the attack itself believes, and with the truth at hand its scores."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch

import fedspill
from fedspill.auditing.capturing.assumed import VIEWS, without_unknown_draws
from fedspill.auditing.capturing.in_turn import answered, tries_of
from fedspill.auditing.capturing.kinds import Kind as Kind
from fedspill.auditing.capturing.scoring import Judging, concluded, scenario_of, settled
from fedspill.auditing.capturing.updates import Sent
from fedspill.auditing.certifying.claims import claims
from fedspill.auditing.certifying.counting import certified
from fedspill.auditing.resolving.digests import loss_digits, weights_sha256
from fedspill.auditing.run import AuditResult
from fedspill.auditing.watch import Listener, TrialWatch, duration
from fedspill.core.errors import BadInput
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import Job
from fedspill.core.tensor_files import sha256, write_tensors, write_whole
from fedspill.core.types import Reconstruction, Update
from fedspill.core.watching.clock import OutOfTime
from fedspill.plan.sections import AttackEntry
from fedspill.report.certified import Certified
from fedspill.report.store import TENSOR_FILE


@dataclass(frozen=True)
class Captured:
    """What an attack made of a captured update.

    Attributes:
        summary: what `attack.json` holds.
        result: scores and verdict, if the truth was at hand.
        certified: what the attack claims to have read verbatim, by its own word; None if nothing.
    """

    reconstruction: Reconstruction
    summary: Mapping[str, object]
    result: AuditResult | None = None
    certified: Certified | None = None


def attack_captured(
    entry: AttackEntry,
    update: Update,
    knowledge: ServerKnowledge,
    *,
    out: Path | None,
    seed: int,
    budget: float | None,
    quality: float | None = None,
    listener: Listener,
    command: str,
    notes: Sequence[str] = (),
    turned: Callable[[], Sent] | None = None,
    judging: Judging | None = None,
) -> Captured:
    """Runs an attack, or what `standard` is, and writes attack.json and the reconstructions.

    A killed run goes on where it was.

    Args:
        out: an opened folder; None writes nothing, and keeps nothing of a killed run.
        notes: what is known of the update, for the reader.
        turned: of a delta whose sign is not known the same of the other sign, which the truth may tell.
        judging: the truth, opened when the attack is over, but for the sign of a delta that does not tell its own.

    Raises:
        BadInput: unknown attack, preset or field, needs that are not met, or a budget that ended before a first result.
        NotApplicable: the attack does not fit the model or the update.
    """
    tries = tries_of(entry, knowledge)
    knowledge, assumed = without_unknown_draws(knowledge)
    job = Job(update, knowledge, stream(seed, "attack", entry.label, 0))
    scenario = None if judging is None else scenario_of(judging, tries[-1].entry, job, seed, drawn=bool(assumed))
    if scenario is not None and turned is not None:
        sent = settled(scenario, Sent(update, None, tuple(notes), turned), knowledge.model)
        job, update, notes = replace(job, update=sent.update), sent.update, sent.notes
    started = datetime.now(UTC).isoformat(timespec="seconds")
    listener.trial(1, 1, entry.label)
    deadline = None if budget is None else time.monotonic() + budget
    checkpoint = None if out is None else out / "checkpoint.pt"
    watch = TrialWatch(listener, checkpoint, deadline, quality)
    began = time.monotonic()
    try:
        answer = answered(tries, job, seed, watch)
    except OutOfTime:
        spent = "" if budget is None else f" of {duration(budget)}"
        raise BadInput(f"the budget{spent} ended before {entry.label!r} had a first result; give more time") from None
    entry, rebuilt = answer.by.entry, answer.rebuilt
    rebuilt = replace(rebuilt, notes=(*notes, *assumed, *rebuilt.notes))
    seconds = time.monotonic() - began
    claim = _claimed(entry, rebuilt, knowledge, assumed)
    summary = _summary(entry, update, knowledge, rebuilt, seconds, command) | _told(judging)
    summary |= {"certified": None if claim is None else {**claim.model_dump(), "sentence": claim.sentence()}}
    result = None
    if scenario is not None and judging is not None:
        scenario = scenario if len(tries) == 1 else scenario_of(judging, entry, job, seed, drawn=bool(assumed))
        result = concluded(
            scenario, answer.by.attack, job, rebuilt, watch, seconds=seconds, started=started, out=out, command=command
        )
    if out is not None:
        if result is None:
            write_tensors(out / TENSOR_FILE, {"rebuilt": rebuilt.inputs.float()})
        write_whole(out / "attack.json", json.dumps(summary, indent=1))
    if checkpoint is not None and not watch.ended:
        checkpoint.unlink(missing_ok=True)
    return Captured(rebuilt, summary, result, claim)


def _claimed(
    entry: AttackEntry, rebuilt: Reconstruction, knowledge: ServerKnowledge, assumed: Sequence[str]
) -> Certified | None:
    """What is claimed; nothing where the client augments its examples, as then what is read is no record."""
    found = claims(rebuilt, knowledge)
    return None if VIEWS in assumed else certified(entry.name, found, rebuilt, knowledge.num_examples)


def _told(judging: Judging | None) -> dict[str, object]:
    if judging is not None:
        return {"truth": len(judging.truth)}
    return {"warning": "No truth was at hand: a poor reconstruction is not evidence of safety."}


def run_key(model: Model, update: Update, conditions: object, judging: Judging | None = None) -> str:
    """The digest by which an output folder knows its run again.

    Args:
        conditions: what else decides the result; told apart by its `repr`.
        judging: the truth beside it, if any.
    """
    if judging is not None:
        batch, limits = judging.truth.batch, judging.leak_threshold
        conditions = (conditions, limits, sha256(batch.inputs), sha256(batch.labels), judging.truth.has_labels)
    if loss := loss_digits(model):
        conditions = (conditions, loss)
    values = (content for named in update.values.items() for content in named)
    circumstances = repr((conditions, fedspill.__version__, torch.__version__, model.like.device.type))
    return sha256(weights_sha256(model), *values, circumstances)


def _summary(
    entry: AttackEntry,
    update: Update,
    knowledge: ServerKnowledge,
    rebuilt: Reconstruction,
    seconds: float,
    command: str,
) -> dict[str, object]:
    finite = [v for v in rebuilt.objective if math.isfinite(v)]
    return {
        "attack": entry.label,
        "converged": rebuilt.converged,
        "confidence": [] if rebuilt.confidence is None else rebuilt.confidence.tolist(),
        "labels": [] if rebuilt.labels is None else rebuilt.labels.tolist(),
        "label_method": rebuilt.label_method,
        "iterations": max(0, len(rebuilt.objective) - 1),
        "objective": [v for v in (*rebuilt.objective[:1], min(finite, default=math.nan)) if math.isfinite(v)],
        "notes": list(rebuilt.notes),
        "update": {"kind": update.kind.value, "norm": update.norm(), "parameters": len(update.values)},
        "granted": sorted(k.value for k in knowledge.holds()),
        "seconds": seconds,
        "weights_sha256": weights_sha256(knowledge.model),
        "fedspill": fedspill.__version__,
        "torch": torch.__version__,
        "command": command,
    }
