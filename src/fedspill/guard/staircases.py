"""Biases, sizes of rows and scales that stand on a staircase: cutoffs of bins, whatever the rows themselves are.

Fowl et al., "Robbing the Fed", ICLR 2022, arXiv:2110.13057 (biases are quantiles of what is measured); Dabholkar et al.
(Maui), arXiv:2509.11451 (quantile biases on trained rows). In order, such numbers rise or fall from row to row; out of
order, they are still spaced too evenly. The gaps between sorted random numbers are like those of raindrops: of two
neighbouring gaps the smaller is 0.386 of the larger on average (2 ln 2 - 1), on a staircase, also a bent one, about 1.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.roles import Card, Check, Finding, Incoming
from fedspill.inversion.network.weights import Weights, layer_weights

NAME = "staircases"
BY_CHANCE, SPREAD = 2 * math.log(2) - 1, 0.32
"""Mean, and standard deviation, of the smaller over the larger of two neighbouring gaps of random numbers; the latter
with what neighbouring ratios have in common."""
READS = (
    "Numbers on a staircase are cutoffs: each row fires from another brightness on, so that the differences of"
    " neighbouring rows' gradients show single examples of a client to the server."
)
ADVICE = "Do not train on it; ask the server how this layer was initialised or trained."


def order(numbers: Float[Tensor, " m"]) -> float:
    """Rank correlation of numbers with their places: 1 if they rise from each to the next, -1 if they fall."""
    places = torch.arange(len(numbers), dtype=torch.float64)
    ranks = numbers.argsort(stable=True).argsort().to(places)
    return float(torch.corrcoef(torch.stack([places, ranks]))[0, 1])


def evenness(numbers: Float[Tensor, " m"]) -> float:
    """Mean of the smaller over the larger of every two neighbouring gaps of the sorted numbers."""
    gaps = numbers.sort().values.diff()
    pairs = torch.stack([gaps[:-1], gaps[1:]])
    return float((pairs.amin(0) / pairs.amax(0).clamp_min(1e-300)).mean())


@dataclass(frozen=True)
class Staircases:
    """Finds biases, sizes of rows, their quotients, and scales that rise from row to row, or are spaced evenly.

    Attributes:
        fewest: numbers that there must be.
        correlation: of the numbers with their places from which on they are in order. At `fewest` numbers it is 0.85 or
            more by chance once in 10,000 times; the level falls to it from 1 with the square root of their number.
        deviations: by so many standard deviations the evenness must be above that of random numbers.
        distinct: share of the numbers that must differ: those of rounded weights fall on few levels.

    Raises:
        BadInput: a field out of range.
    """

    fewest: int = 12
    correlation: float = 0.9
    deviations: float = 6.0
    distinct: float = 0.9

    def __post_init__(self) -> None:
        if not (self.fewest >= 6 and 0 < self.correlation < 1 and self.deviations > 0 and 0 < self.distinct <= 1):
            raise BadInput(
                f"fewest={self.fewest} must be from 6, correlation={self.correlation} and distinct={self.distinct}"
                f" between 0 and 1, and deviations={self.deviations} above 0"
            )

    def inspect(self, incoming: Incoming) -> list[Finding]:
        """One finding for each parameter; sizes are looked at of rows whose layer has biases."""
        found = dict[str, Finding]()
        for name, what, numbers in _sequences(incoming):
            if name not in found:  # biases on a staircase are on one over their rows' sizes, too
                found |= {finding.where: finding for finding in self._of(name, what, numbers)}
        return list(found.values())

    def _of(self, name: str, what: str, numbers: Float[Tensor, " m"]) -> Iterator[Finding]:
        if len(numbers) < self.fewest or len(numbers.unique()) < self.distinct * len(numbers):
            return
        along, even, count = order(numbers), evenness(numbers), len(numbers)
        evidence = {"numbers": float(count), "order": along, "evenness": even, "by_chance": BY_CHANCE}
        if abs(along) >= self.correlation:
            yield _finding(name, "ordered", evidence, f"The {count} {what} {_way(along)} from row to row.")
        elif even >= BY_CHANCE + self.deviations * SPREAD / math.sqrt(count) and even >= 0.6:
            yield _finding(
                name, "even", evidence, f"The {count} {what} are spaced as evenly as a staircase ({even:.2f})."
            )


def _sequences(incoming: Incoming) -> Iterator[tuple[str, str, Float[Tensor, " m"]]]:
    """What may be a staircase, with the name of the parameter and what the numbers are; in float64 on the CPU."""
    scales = dict(incoming.model.params)
    for weights in layer_weights(incoming.model, incoming.misfit.tensors):
        if weights.bias is None:
            continue
        scales.pop(weights.bias_name, None)
        yield from _of_layer(weights)
    for name, value in scales.items():
        if value.ndim == 1 and bool(value.isfinite().all()):
            yield name, "numbers", value.detach().double().cpu()


def _of_layer(weights: Weights) -> Iterator[tuple[str, str, Float[Tensor, " m"]]]:
    assert weights.bias is not None, "rows without biases have no cutoffs"
    bias, sizes = weights.bias.double().cpu(), torch.linalg.vector_norm(weights.rows, dim=1, dtype=torch.float64).cpu()
    yield weights.bias_name, "biases", bias
    if bool((bias != 0).any()):
        yield weights.name, "sizes of rows", sizes
        yield weights.bias_name, "biases over the sizes of their rows", bias / sizes.clamp_min(1e-300)


def _way(along: float) -> str:
    return "rise" if along > 0 else "fall"


def _finding(name: str, rule: str, evidence: dict[str, float], seen: str) -> Finding:
    seen = f"{seen} Random or trained ones are not so; cutoffs of bins are."
    return Finding(NAME, name, 0.8, evidence, seen, rule=rule, reads=READS, advice=ADVICE)


CARD: Card[Check] = Card(
    title="Staircases of biases and scales",
    paper="Fowl et al., ICLR 2022, arXiv:2110.13057; Dabholkar et al. 2025, arXiv:2509.11451",
    summary="Reports biases, sizes of rows and scales that rise from row to row or are spaced evenly, as cutoffs are.",
    presets={"paper": Staircases(), "quick": Staircases()},
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
)
