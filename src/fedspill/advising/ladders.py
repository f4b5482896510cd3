"""Which changes of a plan there are, each a ladder of strengths from the weakest up; the cheapest ladders first."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedspill.advising.settings import Settings
from fedspill.auditing.resolving.scenario import Scenario
from fedspill.core.model import BATCH_NORMS
from fedspill.plan.sections import AuditPlan
from fedspill.privacy.gaussian import analytic_sigma
from fedspill.report.advice import Kind

TIMES = (2, 4, 8, 16, 32)
"""By which examples, clients and epochs are multiplied."""
EPSILONS = (3000.0, 1000.0, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0)
COARSE = (1e7, 1e6, 1e5, 1e4)
"""Before these where a plan has more epsilon than they."""
DELTA = 1e-5
MOST_FROZEN = 4
MOST_LAYERS = 12
"""Beyond which layers are counted in the network's outermost parts."""
SHARES = (0.9, 0.99, 0.999)
BITS = (4, 2, 1)
FEDAVG = (("client.protocol", "fedavg"),)


@dataclass(frozen=True)
class Ladder:
    """One way of changing a plan.

    Attributes:
        what: in words.
        rungs: in rising strength.
    """

    what: str
    kind: Kind
    rungs: tuple[Settings, ...]


@dataclass(frozen=True)
class Facts:
    """What ladders depend on.

    Attributes:
        table: the plan as it was written.
        available: private examples that it names.
        first: the position of the first of these.
        layers: names of the modules whose parameters are trained, from the first to the last.
        batch_norm: the network has one.
        proven: epsilon of each defence that costs some, by its name.
    """

    table: Mapping[str, Any]
    plan: AuditPlan
    available: int
    first: int
    layers: tuple[str, ...]
    batch_norm: bool
    proven: Mapping[str, float]


def facts_of(table: Mapping[str, Any], plan: AuditPlan, scenario: Scenario) -> Facts:
    """Reads them off a resolved plan."""
    model = scenario.model
    proven = {d.name: cost.epsilon for d in scenario.defences if (cost := d.component.cost()) is not None}
    return Facts(
        table=table,
        plan=plan,
        available=len(scenario.pool),
        first=scenario.pool.indices[0],
        layers=_layers(model.trained_names(scenario.clients.training.trainable)),
        batch_norm=any(isinstance(m, BATCH_NORMS) for m in model.module.modules()),
        proven=proven,
    )


def _layers(names: Sequence[str]) -> tuple[str, ...]:
    layers = tuple(dict.fromkeys(name.rpartition(".")[0] or name for name in names))
    return layers if len(layers) <= MOST_LAYERS else tuple(dict.fromkeys(name.partition(".")[0] for name in names))


def ladders_of(facts: Facts) -> list[Ladder]:
    """The ladders that a plan can climb, in the order in which they are walked: no noise, noise, heuristics."""
    every = [
        Ladder("GroupNorm instead of BatchNorm", "protocol", tuple(_group_norm(facts))),
        Ladder("more examples behind an update", "protocol", tuple(_examples(facts))),
        Ladder("secure aggregation over more clients", "protocol", tuple(_clients(facts))),
        Ladder("local steps", "protocol", tuple(_epochs(facts))),
        Ladder("the first layers frozen", "protocol", tuple(_frozen(facts))),
        Ladder("every example clipped, and noise (DP-SGD)", "noise", tuple(_dp_sgd(facts))),
        Ladder("the update clipped, and noise (local DP)", "noise", tuple(_local_dp(facts))),
        Ladder("only the largest values sent", "heuristic", tuple(_with(facts, "pruning", "share", SHARES))),
        Ladder("fewer bits for a value", "heuristic", tuple(_with(facts, "quantisation", "bits", BITS))),
    ]
    return [ladder for ladder in every if ladder.rungs]


def _group_norm(facts: Facts) -> Iterator[Settings]:
    if facts.batch_norm:
        yield _defended(facts, {"name": "group_norm"})


def _examples(facts: Facts) -> Iterator[Settings]:
    for times in TIMES:
        sizes = None if facts.plan.federation is None else facts.plan.federation.sizes
        if sizes is not None:
            more = [times * size for size in sizes]
            yield (("federation.sizes", more), *_enough(facts, sum(more)))
        else:
            n = times * facts.plan.client.num_examples
            yield (("client.num_examples", n), *_enough(facts, n))


def _enough(facts: Facts, needed: int) -> Settings:
    """The plan's own examples and those that follow them, where it names too few."""
    if facts.available >= needed or facts.plan.data.indices is None:
        return ()
    return (("data.indices", f"{facts.first}:{facts.first + needed}"),)


def _clients(facts: Facts) -> Iterator[Settings]:
    client, federation = facts.plan.client, facts.plan.federation
    mean: Settings = ()
    if federation is not None and federation.observes == "each":
        mean = (("federation.observes", "mean"),)
        yield mean
    if federation is not None and federation.sizes is not None:
        return
    for times in TIMES:
        n = times * client.num_examples
        yield (*mean, ("client.clients", times * client.clients), ("client.num_examples", n), *_enough(facts, n))


def _epochs(facts: Facts) -> Iterator[Settings]:
    client = facts.plan.client
    if client.protocol == "fedsgd" and (client.micro_batch is not None or facts.plan.federation is not None):
        return
    before = FEDAVG if client.protocol == "fedsgd" else ()
    for times in TIMES:
        yield (*before, ("client.epochs", times * client.epochs))


def _frozen(facts: Facts) -> Iterator[Settings]:
    layers = facts.layers
    names = [name for name in layers[1:] if name]
    for frozen in range(1, min(len(layers), MOST_FROZEN + 1)):
        yield (("client.trainable", [f"{layer}.*" for layer in names[frozen - 1 :]]),)


def _dp_sgd(facts: Facts) -> Iterator[Settings]:
    if facts.plan.client.protocol == "fedsgd" and facts.plan.federation is None:
        for epsilon in _lower(facts, "dp_sgd"):
            kept = _kept(facts, "dp_sgd")
            apart = 2 if kept.get("relation") == "replacement" else 1
            noise = _upwards(apart * analytic_sigma(epsilon, kept.get("delta", DELTA)))
            yield _defended(facts, {"name": "dp_sgd", **kept, "noise_multiplier": noise})


def _local_dp(facts: Facts) -> Iterator[Settings]:
    for epsilon in _lower(facts, "local_dp"):
        yield _defended(facts, {"name": "local_dp", **_kept(facts, "local_dp"), "epsilon": epsilon})


def _lower(facts: Facts, name: str) -> list[float]:
    """The values of epsilon below that of the plan's own."""
    own = facts.proven.get(name)
    return list(EPSILONS) if own is None else [epsilon for epsilon in (*COARSE, *EPSILONS) if epsilon < own]


def _upwards(value: float) -> float:
    """Three digits, not less."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{math.ceil(value / unit) * unit:.3g}")


def _kept(facts: Facts, name: str) -> dict[str, Any]:
    """What the plan's own defence of this name clips to, and what its epsilon is about."""
    own = next((entry for entry in _entries(facts) if entry["name"] == name), {})
    return {key: own[key] for key in ("clip", "delta", "relation") if key in own}


def _with(facts: Facts, name: str, field: str, strengths: Sequence[float | int]) -> Iterator[Settings]:
    if not any(own["name"] == name for own in _entries(facts)):
        for strength in strengths:
            yield _defended(facts, {"name": name, field: strength})


def _defended(facts: Facts, entry: dict[str, Any]) -> Settings:
    """The plan's defences with one more, last, in the place of one of the same name."""
    rest = [own for own in _entries(facts) if own["name"] != entry["name"]]
    return (("defences", [*rest, entry]),)


def _entries(facts: Facts) -> list[dict[str, Any]]:
    own = [{"name": e.name, "preset": e.preset, **e.overrides} for e in facts.plan.defences]
    return [{k: v for k, v in entry.items() if (k, v) != ("preset", "paper")} for entry in own]
