"""Matches reconstructions with private examples and applies every metric to the pairs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.inputs import TableSpec
from fedspill.core.roles import Metric
from fedspill.scoring.leakage import Summary, summary
from fedspill.scoring.match import match
from fedspill.scoring.metrics import PSNR
from fedspill.scoring.pairs import NotComputed, paired


@dataclass(frozen=True)
class MetricValues:
    """One metric over the private examples.

    Attributes:
        values: (n,) float64 on the CPU, in the order of the private examples; NaN where there is no
            reconstruction.
        cap: the value at which the metric stops, if it does.
        not_computed: why there are no values (all NaN), if there are none.
    """

    name: str
    unit: str
    higher_is_closer: bool
    values: Float[Tensor, " n"]
    cap: float | None = None
    not_computed: str | None = None

    def summary(self) -> Summary:
        """Mean, median, worst, quantiles and the number of capped values."""
        return summary(self.values, self.higher_is_closer, self.cap)

    def listed(self) -> list[float | None]:
        """The values as report.json wants them: None for no value, nothing at all if not computed."""
        if self.not_computed is not None:
            return []
        return [None if v != v else v for v in self.values.tolist()]


@dataclass(frozen=True)
class Scored:
    """All metrics of one reconstruction.

    Attributes:
        matched: for each private example the index of its reconstruction, None if it got none.
        metrics: in the order asked for.
    """

    matched: tuple[int | None, ...]
    metrics: tuple[MetricValues, ...]

    def values(self) -> dict[str, Float[Tensor, " n"]]:
        """Name to values, of the metrics that were computed (what `leakage.leaked` takes)."""
        return {m.name: m.values for m in self.metrics if m.not_computed is None}

    def directions(self) -> dict[str, bool]:
        """Name to `higher_is_closer`."""
        return {m.name: m.higher_is_closer for m in self.metrics}


def score_all(
    rebuilt: Float[Tensor, "m ..."] | Int[Tensor, "m ..."],
    private: Float[Tensor, "n ..."] | Int[Tensor, "n ..."],
    metrics: Sequence[Metric],
    rebuilt_labels: Int[Tensor, " m ..."] | None = None,
    private_labels: Int[Tensor, " n ..."] | Float[Tensor, " n ..."] | None = None,
    table: TableSpec | None = None,
) -> Scored:
    """Matches (see `match.match`), then scores each pair. Blind to the order of `rebuilt`.

    Raises:
        BadInput: the shapes of the examples differ, or a metric does not take such inputs.
    """
    rebuilt_idx, private_idx = match(rebuilt, private, rebuilt_labels, private_labels, table)
    matched = dict(zip(private_idx.tolist(), rebuilt_idx.tolist(), strict=True))
    pairs = (
        rebuilt[rebuilt_idx.to(rebuilt.device)].to(private.device),
        private[private_idx.to(private.device)],
    )
    scores = tuple(_applied(metric, *pairs, private_idx, len(private)) for metric in metrics)
    return Scored(tuple(matched.get(i) for i in range(len(private))), scores)


def score_pairs(rebuilt: Tensor, private: Tensor, metrics: Sequence[Metric]) -> Scored:
    """Scores rebuilt[i] against private[i] without matching, as a baseline made for each example wants it.

    Raises:
        BadInput: shapes differ, or a metric does not take such inputs.
    """
    paired(rebuilt, private)
    every = torch.arange(len(private))
    scores = (_applied(metric, rebuilt.to(private.device), private, every, len(private)) for metric in metrics)
    return Scored(tuple(range(len(private))), tuple(scores))


def _applied(metric: Metric, rebuilt: Tensor, private: Tensor, where: Tensor, n: int) -> MetricValues:
    values, reason = torch.full((n,), float("nan"), dtype=torch.float64), None
    try:
        values[where] = metric(rebuilt, private).double().cpu()
    except NotComputed as error:
        reason = str(error)
    cap = metric.cap if isinstance(metric, PSNR) else None
    return MetricValues(metric.name, metric.unit, metric.higher_is_closer, values, cap, reason)
