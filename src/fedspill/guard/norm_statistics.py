"""Running statistics of BatchNorm that no data has: variances of nearly 0, below 0, or far apart.

In eval mode a channel is divided by the root of its running variance, so that one of 1e-12 is enlarged 300-fold (by the
1/sqrt(eps) that is left), and means far outside shut it: the same as a large weight or bias, where few look.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.roles import Card, Check, Finding, Incoming
from fedspill.core.types import Params

NAME = "norm_statistics"
VARIANCE, MEAN = "running_var", "running_mean"
READS = (
    "In eval mode such a channel is enlarged a hundredfold or shut, so that one example outweighs a client's batch in"
    " the update, and is what the server reads there."
)
ADVICE = "Do not train on it; put the statistics of the last round back, or measure them on your own data."


@dataclass(frozen=True)
class NormStatistics:
    """Finds running variances that are negative, or nearly 0 in many channels, and means far outside their spread.

    Attributes:
        smallest: variances below count as none. Single channels of trained networks are dead, and have such.
        share: of the channels that must be so.
        mean: absolute running mean over the root of the running variance from which on it is reported.
        largest: running variances above it are reported.

    Raises:
        BadInput: a field out of range.
    """

    smallest: float = 1e-9
    share: float = 0.2
    mean: float = 1e3
    largest: float = 1e9

    def __post_init__(self) -> None:
        if not (0 < self.smallest < self.largest and 0 < self.share <= 1 and self.mean > 0):
            raise BadInput(
                f"smallest={self.smallest} must lie between 0 and largest={self.largest}, share={self.share} between 0"
                f" and 1, and mean={self.mean} above 0"
            )

    def inspect(self, incoming: Incoming) -> list[Finding]:
        """At most one finding for each norm."""
        tensors = {**incoming.model.buffers, **incoming.misfit.tensors}
        return [f for name in tensors if name.endswith(VARIANCE) for f in self._norm(name, tensors)]

    def _norm(self, name: str, tensors: Params) -> Iterator[Finding]:
        variance, mean = tensors[name].double(), tensors.get(name.removesuffix(VARIANCE) + MEAN)
        if not variance.numel() or not bool(variance.isfinite().all()):
            return
        small = float((variance < self.smallest).double().mean())
        evidence = {"smallest": float(variance.min()), "largest": float(variance.max()), "share_small": small}
        if bool((variance < 0).any()):
            yield _finding(name, "negative", 0.9, evidence, "A running variance is negative, which no data has.")
        elif small >= self.share:
            seen = (
                f"{small:.0%} of its running variances are below {self.smallest:g}, the smallest"
                f" {evidence['smallest']:g}."
            )
            yield _finding(name, "small", 0.8, evidence, seen)
        elif evidence["largest"] > self.largest:
            yield _finding(name, "large", 0.7, evidence, f"A running variance is {evidence['largest']:g}.")
        elif mean is not None and mean.shape == variance.shape:
            yield from self._mean(name, mean.double(), variance, evidence)

    def _mean(self, name: str, mean: Tensor, variance: Tensor, evidence: dict[str, float]) -> Iterator[Finding]:
        alive = variance >= self.smallest
        far = float((mean[alive].abs() / variance[alive].sqrt()).max()) if bool(alive.any()) else 0.0
        if far > self.mean:
            seen = (
                f"A running mean lies {far:,.0f} standard deviations from 0, so that its channel is shut or always on."
            )
            yield _finding(name.removesuffix(VARIANCE) + MEAN, "mean", 0.7, {**evidence, "deviations": far}, seen)


def _finding(name: str, rule: str, severity: float, evidence: dict[str, float], seen: str) -> Finding:
    return Finding(NAME, name, severity, evidence, seen, rule=rule, reads=READS, advice=ADVICE)


CARD: Card[Check] = Card(
    title="Degenerate normalisation statistics",
    paper="no paper",
    summary="Reports running variances of BatchNorm that are negative, nearly 0 or huge, and means far outside.",
    presets={"paper": NormStatistics(), "quick": NormStatistics()},
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
)
