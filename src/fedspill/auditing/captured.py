"""Attacks on an update that was captured: no truth, no scores, only what the attack itself believes."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

import fedspill
from fedspill import catalogue
from fedspill.auditing.resolving.components import configure, misfit
from fedspill.auditing.resolving.scenario import weights_sha256
from fedspill.auditing.watch import Listener, TrialWatch
from fedspill.core.errors import BadInput
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model, conform
from fedspill.core.rng import stream
from fedspill.core.roles import Attack
from fedspill.core.tensor_files import sha256, write_tensors, write_whole
from fedspill.core.types import Reconstruction, Update, UpdateKind
from fedspill.plan.sections import AttackEntry
from fedspill.report.store import TENSOR_FILE

Kind = Literal["gradient", "delta", "weights"]


@dataclass(frozen=True)
class Captured:
    """What an attack made of a captured update.

    Attributes:
        summary: what `attack.json` holds.
    """

    reconstruction: Reconstruction
    summary: Mapping[str, object]


def as_update(tensors: Mapping[str, Tensor], kind: Kind, model: Model) -> Update:
    """Named tensors of a file as an update to this model.

    Args:
        kind: "gradient"; "delta", server minus client; or "weights", the client's parameters after training.

    Raises:
        BadInput: names or shapes that the model does not have, or values that are not finite.
    """
    values = {k: v for k, v in tensors.items() if k not in model.buffers}
    parameters = {k: model.params[k] for k in values if k in model.params}
    if not parameters:
        raise BadInput(f"the update holds none of the model's parameters {list(model.params)[:4]}, ...")
    checked = dict(conform(values, parameters, "update"))
    if kind == "weights":
        checked = {k: model.params[k] - v for k, v in checked.items()}
        checked = {k: v for k, v in checked.items() if bool(v.any())}
        if not checked:
            raise BadInput("the client's weights equal the model's: nothing was trained")
    sent = {k: v for k, v in tensors.items() if k in model.buffers}
    return Update(UpdateKind.GRADIENT if kind == "gradient" else UpdateKind.DELTA, checked, sent or None)


def check_entry(entry: AttackEntry, knowledge: ServerKnowledge) -> Attack:
    """The attack that an entry names.

    Raises:
        BadInput: unknown attack, preset or field, or needs that are not met.
    """
    name, _, card = catalogue.pick(catalogue.attacks(), f"{entry.name}:{entry.preset}", "attack")
    missing = knowledge.missing(card.needs)
    if missing:
        raise BadInput(f"attack {name!r} needs {sorted(k.value for k in missing)}; give them as options")
    if (reason := misfit(card, knowledge.model.input)) is not None:
        raise BadInput(f"attack {name!r} does not apply: {reason}")
    return configure(card, entry, "attack")


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
) -> Captured:
    """Runs one attack and writes attack.json and the reconstructions; a killed run goes on where it was.

    Args:
        out: an opened folder; None writes nothing, and keeps nothing of a killed run.

    Raises:
        BadInput: unknown attack, preset or field, or needs that are not met.
        NotApplicable: the attack does not fit the model or the update.
    """
    attack = check_entry(entry, knowledge)
    listener.trial(1, 1, entry.label)
    deadline = None if budget is None else time.monotonic() + budget
    checkpoint = None if out is None else out / "checkpoint.pt"
    watch = TrialWatch(listener, checkpoint, deadline, quality)
    began = time.monotonic()
    rebuilt = attack.reconstruct(update, knowledge, stream(seed, "attack", entry.label, 0), watch)
    summary = _summary(entry, update, knowledge, rebuilt, time.monotonic() - began, command)
    if out is not None:
        write_tensors(out / TENSOR_FILE, {"rebuilt": rebuilt.inputs.float()})
        write_whole(out / "attack.json", json.dumps(summary, indent=1))
    if checkpoint is not None and not watch.ended:
        checkpoint.unlink(missing_ok=True)
    return Captured(rebuilt, summary)


def run_key(model: Model, update: Update, conditions: object) -> str:
    """The digest by which an output folder knows its run again.

    Args:
        conditions: what else decides the result; told apart by its `repr`.
    """
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
        "warning": "No truth was at hand: a poor reconstruction is not evidence of safety.",
    }
