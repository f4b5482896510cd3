"""A whole audit: every update, every attack, every seed, one report."""

import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import fedspill
from fedspill.auditing.bounding.recorded import recorded_bounds
from fedspill.auditing.by_round.ledger import Ledger
from fedspill.auditing.by_round.records import round_records
from fedspill.auditing.exposure import MeasuresExposure
from fedspill.auditing.feeding import MOST_MEASURED, check_feeding
from fedspill.auditing.ranks import ranks
from fedspill.auditing.resolving.components import ChosenDefence
from fedspill.auditing.resolving.digests import weights_sha256
from fedspill.auditing.resolving.scenario import Scenario, prepare
from fedspill.auditing.scheduling.schedule import Schedule
from fedspill.auditing.servers import Servers
from fedspill.auditing.trial import Finished, Task
from fedspill.auditing.utility.short_training import examples, utility
from fedspill.auditing.verdict import caveats, verdict, worst_examples
from fedspill.auditing.verdict.levels import Rules
from fedspill.auditing.verdict.roles import Circumstances, planted_by
from fedspill.auditing.watch import Listener, Silent, TrialWatch, duration
from fedspill.core.errors import BadInput
from fedspill.core.knowledge import Knows
from fedspill.core.model import BATCH_NORMS, Model
from fedspill.core.settings import plain_fields
from fedspill.core.tensor_files import sha256, write_tensors, write_whole
from fedspill.plan.build import pick_device
from fedspill.plan.sections import DEFAULT_BUDGET, AuditPlan
from fedspill.report.leakage import leaked_share
from fedspill.report.schema import (
    AppliedDefence,
    AuditReport,
    Cost,
    Environment,
    Feeding,
    Grant,
    Ranks,
    RoundRecord,
    Utility,
)
from fedspill.report.store import REPORT_FILE, TENSOR_FILE, TEXT_FILE, Store, Texts, write_texts
from fedspill.report.trial import Trial
from fedspill.zoo.data import DataPool, from_tensors
from fedspill.zoo.models import of_module, surely_untrained
from fedspill.zoo.networks.registry import has_unsaid_small_stem

GETTING_READY = 2.0
"""Seconds of reading data and making a model that do not count as the budget's."""
MOST_KEPT = 1024
"""Private examples of one update beyond which only those that were matched are kept beside the report."""
EXPLAINED = {
    Knows.NUM_EXAMPLES: "how many examples are behind the update",
    Knows.LABELS: "the labels of the private examples",
    Knows.LOCAL_TRAINING: "the protocol: epochs, mini-batches, learning rate, momentum, weight decay",
    Knows.PUBLIC_DATA: "examples from the clients' distribution",
    Knows.BN_STATISTICS: "mean and variance of the private batch at every BatchNorm layer",
    Knows.DRAWS: "what the clients drew: dropout masks, augmentation, the order of examples",
    Knows.DEFENCE: "what the clients do to their updates before they send them, without what they draw for it",
}


@dataclass(frozen=True)
class AuditResult:
    """What a run gives; `fedspill.AuditResult` is this with its page, which is drawn above `auditing`.

    Attributes:
        tensors: "private/INDEX", "rebuilt/TRIAL" and, of what was read in bins, "unscored/TRIAL"; empty for a redacted
            audit.
        folder: where it was written, if it was.
        texts: the same as text, of sentences and tables.
    """

    report: AuditReport
    tensors: Mapping[str, Tensor]
    folder: Path | None
    texts: Texts = field(default_factory=dict[str, list[str]])


def run_audit(
    plan: AuditPlan,
    *,
    out: Path | None = None,
    model: Model | nn.Module | None = None,
    data: DataPool | tuple[Tensor, Tensor] | None = None,
    device: str = "auto",
    listener: Listener | None = None,
    fresh: bool = False,
    redact: bool = False,
    command: str = "",
    normalisation: str | None = None,
    began: float | None = None,
) -> AuditResult:
    """Runs a plan.

    Args:
        out: folder to write to and to resume from; None keeps everything in memory.
        model: used instead of the plan's model.
        data: private pool used instead of the plan's; a pair is images (n, c, h, w) in [0, 1] and labels (n,).
        device: "auto", "cpu" or "cuda".
        listener: shows progress.
        fresh: start over in a folder that already holds this audit.
        redact: keep no private pixel and no reconstruction.
        command: what the user typed, for the report.
        normalisation: who says what the images of `model` are normalised by, for the report.
        began: `time.monotonic()` from which on the budget counts; None is now.

    Raises:
        BadInput: something cannot be used as given.
        NotApplicable: an attack that the plan names does not fit the model or the kind of data.
    """
    began, listener = time.monotonic() if began is None else began, listener or Silent()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    pool = from_tensors(*data) if isinstance(data, tuple) else data
    sent = _as_model(model, pool, plan)
    exposure = MeasuresExposure().as_sent
    scenario = prepare(plan, pick_device(device), model=sent, pool=pool, normalisation=normalisation, exposure=exposure)
    tasks = [
        Task(world, update, seed)
        for world in scenario.worlds
        for update in range(len(scenario.groups))
        for seed in scenario.seeds
    ]
    store = None if out is None else Store(out, scenario.key(redact=redact))
    if store is not None:
        store.open(fresh=fresh)
    if plan.utility is not None:
        examples(scenario, plan.utility)  # too few are told before anything is attacked
    if plan.audit.budget is None:
        listener.found(f"no budget was set: {duration(DEFAULT_BUDGET)}; --budget takes another, or none")
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        feeding = _feeding(scenario)
        if feeding.warning is not None:
            listener.message(feeding.warning)
        ranked = ranks(scenario.model, DEFAULT_BUDGET if plan.audit.budget is None else plan.audit.budget)
        ledger = Ledger(scenario, store)
        begins = min(time.monotonic(), began + GETTING_READY)
        finished = Schedule(scenario, tasks, store, listener, begins, keep_tensors=not redact, ledger=ledger).run()
        walk = partial(Servers(scenario, ledger).walk, seed=scenario.seeds[0], watch=TrialWatch(listener))
        rounds = round_records(ledger, [f.record for f in finished], walk)
        learnt = None if plan.utility is None else utility(scenario, plan.utility)
    seconds = time.monotonic() - began
    return conclude(
        scenario,
        finished,
        store,
        started=started,
        seconds=seconds,
        command=command,
        redact=redact,
        feeding=feeding,
        rounds=rounds,
        ranked=ranked,
        learnt=learnt,
    )


def conclude(
    scenario: Scenario,
    finished: Sequence[Finished],
    store: Store | None,
    *,
    started: str,
    seconds: float,
    command: str,
    redact: bool = False,
    feeding: Feeding | None = None,
    rounds: Sequence[RoundRecord] = (),
    ranked: Ranks | None = None,
    learnt: Utility | None = None,
) -> AuditResult:
    """The report of finished trials, written if there is a folder for it.

    Args:
        started: date and time (ISO 8601).
        seconds: that all took.
        command: what the user typed.
        redact: keep no private pixel and no reconstruction.
        feeding: what the network makes of the private examples, if it was looked at already.
        rounds: of a federation.
        ranked: how far closed forms come in the network, if that was asked.
        learnt: accuracy after a short training, if the plan asked.
    """
    trials = [f.record for f in finished]
    feeding = feeding or _feeding(scenario)
    environment = _environment(scenario, started, seconds, command)
    report = _report(scenario, trials, environment, feeding, redact)
    report = report.model_copy(update={"rounds": list(rounds), "ranks": ranked, "utility": learnt})
    tensors = {} if redact else _tensors(scenario, finished)
    texts = _texts(scenario, tensors)
    if store is not None:
        _write(store, report, tensors, texts)
    return AuditResult(report, tensors, None if store is None else store.folder, texts)


def _as_model(model: Model | nn.Module | None, pool: DataPool | None, plan: AuditPlan) -> Model | None:
    if model is None or isinstance(model, Model):
        return model
    if pool is None or pool.spec is None:
        raise BadInput("a bare nn.Module of images says not what they are normalised by; give it to fedspill.audit")
    return of_module(model, pool.spec, training=plan.model.mode == "train")


def _feeding(scenario: Scenario) -> Feeding:
    """What the network makes of the private examples that are attacked, or of so many from all over them."""
    places = sorted({place for group in scenario.groups for place in group})
    places = places[:: -(-len(places) // MOST_MEASURED)]
    trained = "trained" if scenario.weights in ("trained", "robust") else "unknown"
    return check_feeding(
        scenario.model,
        scenario.pool.batch[places],
        weights="untrained" if _is_untrained(scenario) else trained,
        labelled=scenario.pool.has_labels,
        origin=scenario.normalisation,
    )


def _is_untrained(scenario: Scenario) -> bool:
    if scenario.network is None or scenario.weights is None:
        return False
    return surely_untrained(scenario.network, scenario.weights, scenario.plan.model.options)


def _report(
    scenario: Scenario,
    trials: list[Trial],
    environment: Environment,
    feeding: Feeding,
    redacted: bool,
) -> AuditReport:
    bounds = recorded_bounds(scenario)
    conditions = replace(_conditions(scenario, feeding), bounded=bounds is not None and not bounds.missing)
    rules = Rules(scenario.policy, bool(scenario.evaluation.thresholds), scenario.evaluation.main_metric)
    grants = [Grant(name=k.value, granted=k in scenario.knows, explanation=EXPLAINED[k]) for k in _asked(scenario)]
    limits = caveats.caveats(trials, conditions)
    known = Circumstances(
        assumed=[g.explanation for g in grants if g.granted],
        planted=planted_by(scenario),
        warnings=caveats.warnings(limits),
        looker=conditions.looker,
        bounds=bounds,
    )
    return AuditReport(
        plan=scenario.plan.model_dump(mode="json", exclude_none=True),
        environment=environment,
        feeding=feeding,
        grants=grants,
        defences=[_applied(d) for d in scenario.defences],
        trials=trials,
        worst=worst_examples(rules.metric, trials),
        leakage_rate=leaked_share(trials),
        caveats=limits,
        not_tested=caveats.not_tested(trials, conditions),
        verdict=verdict(trials, rules, known),
        bounds=bounds,
        redacted=redacted,
    )


def _applied(defence: ChosenDefence) -> AppliedDefence:
    cost, component = defence.component.cost(), defence.component
    return AppliedDefence(
        name=defence.name,
        preset=defence.preset,
        title=defence.card.title,
        origin=defence.card.origin or None,
        fields=plain_fields(component),
        cost=None if cost is None else Cost(**asdict(cost)),
    )


def _environment(scenario: Scenario, started: str, seconds: float, command: str) -> Environment:
    device = scenario.model.like.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    plan = json.dumps(scenario.plan.model_dump(mode="json"), sort_keys=True)
    return Environment(
        fedspill=fedspill.__version__,
        python=platform.python_version(),
        torch=torch.__version__,
        device=device.type,
        device_name=name,
        threads=torch.get_num_threads(),
        started=started,
        seconds=seconds,
        command=command or f"run_audit() of {Path(sys.argv[0] or 'python').name}",
        plan_sha256=sha256(plan),
        weights_sha256=weights_sha256(scenario.model),
        data=scenario.pool.source,
        model=_describe(scenario),
        parameters=_size(scenario),
    )


def _describe(scenario: Scenario) -> str:
    model = scenario.model
    name = (
        f"the caller's {type(model.module).__name__}"
        if scenario.network is None
        else f"{scenario.network}, {scenario.weights} weights"
    )
    return f"{name}, {_size(scenario):,} parameters, {'train' if model.training else 'eval'} mode"


def _size(scenario: Scenario) -> int:
    return sum(p.numel() for p in scenario.model.params.values())


def _asked(scenario: Scenario) -> list[Knows]:
    """The grants that mean something: that of defences where there are any."""
    return [k for k in Knows if k is not Knows.DEFENCE or scenario.defences]


def _conditions(scenario: Scenario, feeding: Feeding) -> caveats.Conditions:
    return caveats.Conditions(
        training=scenario.model.training,
        untrained=_is_untrained(scenario),
        fed_wrong=feeding.warning,
        labelled=scenario.pool.has_labels,
        captured=scenario.captured,
        batch_norm=any(isinstance(m, BATCH_NORMS) for m in scenario.model.module.modules()),
        one_seed=len(scenario.seeds) == 1,
        defended=bool(scenario.defences),
        known_defence=Knows.DEFENCE in scenario.knows,
        small_stem=scenario.network is not None
        and has_unsaid_small_stem(scenario.network, scenario.plan.model.options, scenario.model.input.encoded_shape),
        private=any(d.component.cost() is not None for d in scenario.defences),
        drawn=scenario.clients.draws and Knows.DRAWS not in scenario.knows,
        looker=_looker(scenario),
        idle=scenario.idle,
        repeats=scenario.repeats,
    )


def _looker(scenario: Scenario) -> int | None:
    return None if scenario.rounds is None else scenario.rounds.observations[0].by_client


def _tensors(scenario: Scenario, finished: Sequence[Finished]) -> dict[str, Tensor]:
    used = sorted({i for f in finished for i in _shown(scenario, f.record)})
    private = {f"private/{scenario.pool.indices[i]}": scenario.pool.batch.inputs[i] for i in used}
    read = {f"{kind}/{f.record.name}": tensor for f in finished for kind, tensor in f.tensors.items()}
    return {**private, **read}


def _shown(scenario: Scenario, trial: Trial) -> list[int]:
    """Positions in the pool of the examples that are kept: of a large update those that were matched."""
    group = scenario.groups[trial.update]
    if len(group) <= MOST_KEPT:
        return group
    return [i for i, match in zip(group, trial.matched, strict=False) if match is not None][:MOST_KEPT]


def _texts(scenario: Scenario, tensors: Mapping[str, Tensor]) -> Texts:
    show = scenario.pool.show
    if show is None:
        return {}
    return {k: show(v[None] if k.startswith("private/") else v) for k, v in tensors.items()}


def _write(store: Store, report: AuditReport, tensors: Mapping[str, Tensor], texts: Texts) -> None:
    if tensors:
        write_tensors(store.folder / TENSOR_FILE, tensors)
    if texts:
        write_texts(store.folder / TEXT_FILE, texts)
    write_whole(store.folder / REPORT_FILE, report.model_dump_json(indent=1))
    store.tidy(complete=not any(t.ended_by_budget for t in report.trials))
