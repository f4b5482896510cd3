"""Every check's alarm level as a ladder: how many rungs up it, from lax to strict, a model still raises an alarm.

A check may have several levels, each of its own dial; the others are then set to where they tell nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from fedspill import catalogue
from fedspill.core.roles import Check, Finding, Incoming
from fedspill.guard.balanced_rows import BalancedRows
from fedspill.guard.change import Change
from fedspill.guard.dominated_gradients import DominatedGradients
from fedspill.guard.equal_columns import EqualColumns
from fedspill.guard.isolated_gradients import IsolatedGradients
from fedspill.guard.lone_examples import LoneExamples
from fedspill.guard.lost_accuracy import LostAccuracy
from fedspill.guard.norm_statistics import NormStatistics
from fedspill.guard.outlying_scales import OutlyingScales
from fedspill.guard.parallel_rows import ParallelRows
from fedspill.guard.selecting_kernels import SelectingKernels
from fedspill.guard.staircases import Staircases
from fedspill.guard.training_dynamics import TrainingDynamics
from fedspill.guard.weight_entropy import MOST_ROWS, WeightEntropy, stored_short
from fedspill.inversion.network.weights import spread_rows
from fedspill.vetting.policy import STANDARD

ALARM = STANDARD.fail_from
FAR, ALL = 1e300, 1 - 1e-12
"""Where a level tells nothing."""
WEIGHTS, DATA, BEFORE, AGREED = "weights", "own data", "round before", "agreed"
"""What a check looks at, beside the model itself."""


@dataclass(frozen=True)
class Dial:
    """One level of one check.

    Attributes:
        looks: at what.
        levels: from lax to strict.
        shipped: the place among them of the level that fedspill has.
        at: a level to the check that has it, and no other.
    """

    looks: str
    levels: Sequence[float]
    shipped: int
    at: Callable[[float], Check]

    def rung(self, incoming: Incoming) -> int:
        """At how many of the levels there is an alarm, since one at a strict level is one at all laxer ones."""
        low, high = 0, len(self.levels)
        while low < high:
            middle = low if low == 0 else (low + high) // 2  # most models raise none at the first
            if alarms(self.at(float(self.levels[middle])).inspect(incoming)):
                low = middle + 1
            else:
                high = middle
        return low


def alarms(findings: Sequence[Finding]) -> list[str]:
    return sorted({f.rule_id for f in findings if f.severity >= ALARM})


def _bundle(rows: float) -> Check:
    return ParallelRows(bundle=int(rows), share=0.02 * rows / 6, rank=ALL)


def _outlying(bias: float = FAR, row: float = FAR, scale: float = FAR) -> Check:
    return OutlyingScales(bias, row, scale)


DIALS: Mapping[str, Dial] = {
    "weight_entropy": Dial(
        WEIGHTS, (0.97, 0.94, 0.9, 0.85, 0.8, 0.7, 0.6, 0.45, 0.3, 0.15), 4, lambda x: WeightEntropy(threshold=x)
    ),
    "parallel_rows.bundle": Dial(WEIGHTS, (2, 3, 4, 5, 6, 8, 10, 14, 20, 28, 40), 4, _bundle),
    "parallel_rows.rank": Dial(
        WEIGHTS, (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), 6, lambda x: ParallelRows(share=ALL, rank=x)
    ),
    "equal_columns": Dial(
        WEIGHTS, (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9), 4, lambda x: EqualColumns(share=x)
    ),
    "staircases.ordered": Dial(
        WEIGHTS,
        (0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.96, 0.98, 0.99),
        5,
        lambda x: Staircases(correlation=x, deviations=FAR),
    ),
    "staircases.even": Dial(
        WEIGHTS, (2, 3, 4, 5, 6, 7, 8, 10, 12, 16), 4, lambda x: Staircases(correlation=ALL, deviations=x)
    ),
    "outlying_scales.bias": Dial(WEIGHTS, (2, 3, 5, 10, 20, 40, 100, 300, 1000, 1e4), 4, lambda x: _outlying(bias=x)),
    "outlying_scales.row": Dial(WEIGHTS, (3, 5, 10, 20, 50, 100, 300, 1000, 1e4), 5, lambda x: _outlying(row=x)),
    "outlying_scales.scale": Dial(
        WEIGHTS, (3, 10, 30, 100, 300, 1000, 3000, 1e4, 1e5), 5, lambda x: _outlying(scale=x)
    ),
    "balanced_rows": Dial(
        WEIGHTS,
        (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05, 0.02),
        7,
        lambda x: BalancedRows(spread=x, share=1.0),
    ),
    "balanced_rows.some": Dial(
        WEIGHTS,
        (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 0.9),
        3,
        lambda x: BalancedRows(spread=1e-12, share=x),
    ),
    "selecting_kernels.row": Dial(
        WEIGHTS, (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99), 4, lambda x: SelectingKernels(row=x, kernels=ALL)
    ),
    "selecting_kernels.one_hot": Dial(
        WEIGHTS,
        (0.02, 0.05, 0.1, 0.15, 0.25, 0.35, 0.5, 0.7, 0.9),
        4,
        lambda x: SelectingKernels(row=ALL, kernels=x),
    ),
    "norm_statistics.small": Dial(
        WEIGHTS, (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.9), 3, lambda x: NormStatistics(share=x, mean=FAR, largest=FAR)
    ),
    "norm_statistics.mean": Dial(
        WEIGHTS, (10, 30, 100, 300, 1000, 3000, 1e4), 4, lambda x: NormStatistics(share=1.0, mean=x, largest=FAR)
    ),
    "isolated_gradients": Dial(DATA, (5, 20, 100, 1000), 3, lambda x: IsolatedGradients(dominance=x)),
    "lone_examples": Dial(DATA, (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95), 4, lambda x: LoneExamples(share=x)),
    "dominated_gradients.planted": Dial(
        DATA, (1, 2, 4, 8, 16, 32, 100, 1000), 3, lambda x: DominatedGradients(factor=x, silenced=1.0)
    ),
    "dominated_gradients.silenced": Dial(
        DATA, (0.125, 0.25, 0.375, 0.5, 0.75, 1.0), 3, lambda x: DominatedGradients(factor=FAR, silenced=x)
    ),
    "training_dynamics.loss": Dial(
        DATA, (1.5, 2, 3, 5, 10, 20, 50, 100, 1000), 3, lambda x: TrainingDynamics(guessing=x, tries=12)
    ),
    "training_dynamics.descent": Dial(
        DATA, (1, 2, 3, 4, 5, 6, 8, 10), 5, lambda x: TrainingDynamics(guessing=FAR, tries=int(x))
    ),
    "lost_accuracy": Dial(BEFORE, (0.125, 0.25, 0.375, 0.5, 0.75), 1, lambda x: LostAccuracy(drop=x)),
    "change.exchanged": Dial(
        BEFORE, (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1), 5, lambda x: Change(turned=x, jump=FAR)
    ),
    "change.jump": Dial(BEFORE, (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 5), 4, lambda x: Change(turned=1e-12, jump=x)),
}
FIXED: Mapping[str, str] = {
    "broken_weights": WEIGHTS,
    "empty_layers": WEIGHTS,
    "input_shortcuts": WEIGHTS,
    "norm_statistics": WEIGHTS,
    "change": BEFORE,
    "structure": AGREED,
}
"""Checks without a level, or with rules that have none, and what they look at."""


def rungs(incoming: Incoming) -> dict[str, int]:
    """Of every dial that has something to look at."""
    once = {**_by_entropy(incoming), **_by_rows(incoming)}
    rest = {n: d.rung(incoming) for n, d in DIALS.items() if n not in once and _has(d.looks, incoming)}
    return {**once, **rest}


def lacking(incoming: Incoming, told: Mapping[str, int]) -> dict[str, int]:
    """Of the dials that were made after a model was looked at."""
    rest = {n: d for n, d in DIALS.items() if n not in told and _has(d.looks, incoming)}
    return {name: dial.rung(incoming) for name, dial in rest.items()}


def _by_entropy(incoming: Incoming) -> dict[str, int]:
    """As the dial's own runs would say; the entropies are taken once for all its levels."""
    dial = DIALS["weight_entropy"]
    found = dial.at(float(dial.levels[0])).inspect(incoming)
    lowest = {f.where: f.evidence["lowest_entropy"] for f in found}
    rows = {name: incoming.model.params[name].detach().flatten(1) for name in lowest}
    raised = [any(low < x and not _short(rows[k], x) for k, low in lowest.items()) for x in dial.levels]
    return {"weight_entropy": sum(raised)}


def _short(rows: Tensor, threshold: float) -> str:
    return stored_short(spread_rows(rows, MOST_ROWS), threshold, float(rows.abs().max()))


def _by_rows(incoming: Incoming) -> dict[str, int]:
    """As the dials' own runs would say; the cosines are taken once."""
    found = [f.evidence for f in ParallelRows(bundle=2, share=1e-12, rank=1e-12).inspect(incoming)]
    bundle, rank = DIALS["parallel_rows.bundle"].levels, DIALS["parallel_rows.rank"].levels
    bundles = [any(e["largest_bundle"] >= max(x, 0.02 * x / 6 * e["rows"]) for e in found) for x in bundle]
    ranks = [any(e["first_direction"] >= x and e["rows"] >= 6 for e in found) for x in rank]
    return {"parallel_rows.bundle": sum(bundles), "parallel_rows.rank": sum(ranks)}


def fixed(incoming: Incoming) -> dict[str, list[str]]:
    """The alarms of the checks without a level."""
    cards = catalogue.checks()
    return {name: alarms(cards[name].presets["paper"].inspect(incoming)) for name in FIXED}


def _has(looks: str, incoming: Incoming) -> bool:
    return looks != BEFORE or incoming.previous is not None
