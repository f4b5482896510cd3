"""Rows of a layer that point the same way: the bins of an imprint, whatever their sizes and biases.

Fowl et al., "Robbing the Fed", ICLR 2022, arXiv:2110.13057, A.7 (rank analysis). A rank alone is hidden by ordinary
rows among the bins, so rows of one direction are counted; a count alone is hidden by noise that is as large as a third
of the row, so the rank is looked at, too.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.roles import Card, Check, Finding, Incoming
from fedspill.inversion.network.weights import Weights, layer_weights, some_columns, spread_rows, unit_rows

NAME = "parallel_rows"
READS = (
    "Rows of one direction sort a client's examples into bins by one number, such as their brightness; the server"
    " divides the gradients of neighbouring bins and has the example between them, of every client that trains"
    " on the model."
)
ADVICE = "Do not train on it; ask the server where this layer comes from, and have its architecture confirmed."
FILLED = 4
"""Numbers of a row that must not be 0: what pruning leaves of a row is alike by chance. Rows of one number are for
`selecting_kernels`."""
AT_ONCE = 2**25
"""Numbers of one piece of the table of cosines."""


@dataclass(frozen=True)
class Alignment:
    """How far rows point the same way.

    Attributes:
        largest: rows that lie within the cosine of one of them, itself included.
        paired: share of the rows that have another one within it.
        top: share of the normalised rows' energy in one direction, the square of the first singular value.
    """

    largest: int
    paired: float
    top: float


def alignment(rows: Float[Tensor, "m n"], cosine: float, most: int) -> Alignment:
    """Compares rows of length 1 with each other; of more than `most` so many with all."""
    some = spread_rows(rows, most)
    step = max(1, AT_ONCE // len(rows))
    counts = torch.cat([(part @ rows.T).abs().gt(cosine).sum(1) for part in some.split(step)])
    gram = some @ some.T if len(some) <= some.shape[1] else some.T @ some
    top = float(torch.linalg.eigvalsh(gram.double())[-1]) / len(some)
    return Alignment(int(counts.max()), float(counts.gt(1).double().mean()), top)


@dataclass(frozen=True)
class ParallelRows:
    """Finds layers in which many rows are nearly multiples of one, and layers of nearly rank one.

    Attributes:
        cosine: rows whose cosine is above it, in absolute value, count as parallel. A noise of 1 % of the row leaves
            0.9999, one of 30 % leaves 0.92.
        bundle: so many rows of one direction are reported. Trained networks have two or three.
        share: and at least this share of the layer's rows.
        rank: a layer is reported if one direction holds this share of its rows' energy. Trained layers have up to 0.25.
        shortest: rows of fewer numbers are passed over: short rows are alike by chance.
        most: rows that are compared with all others, and numbers that are looked at of a longer row.

    Raises:
        BadInput: a field out of range.
    """

    cosine: float = 0.9
    bundle: int = 6
    share: float = 0.02
    rank: float = 0.5
    shortest: int = 24
    most: int = 2048

    def __post_init__(self) -> None:
        shares = (self.cosine, self.share, self.rank)
        if not (all(0 < x < 1 for x in shares) and self.bundle >= 2 and 2 <= self.shortest <= self.most):
            raise BadInput(
                f"cosine={self.cosine}, share={self.share} and rank={self.rank} must lie between 0 and 1,"
                f" bundle={self.bundle} from 2, shortest={self.shortest} from 2 to most={self.most}"
            )

    def inspect(self, incoming: Incoming) -> list[Finding]:
        """One finding for a layer with parallel rows, or of low rank; embeddings are passed over."""
        layers = layer_weights(incoming.model, incoming.misfit.tensors)
        return [f for weights in layers if not weights.embedding for f in self._layer(weights)]

    def _layer(self, weights: Weights) -> Iterator[Finding]:
        rows = unit_rows(some_columns(weights.rows, self.most))
        rows = rows[(rows != 0).sum(1) >= FILLED]
        if len(rows) < self.bundle or rows.shape[1] < self.shortest:
            return
        found = alignment(rows, self.cosine, self.most)
        evidence = {"largest_bundle": float(found.largest), "rows": float(len(rows)), "paired_share": found.paired}
        evidence |= {"first_direction": found.top, "cosine": self.cosine}
        if found.largest >= max(self.bundle, self.share * len(rows)):
            yield _finding(weights, "bundle", 0.9, evidence, _bundle(found, len(rows), self.cosine))
        elif found.top >= self.rank:
            yield _finding(weights, "rank", 0.7, evidence, _rank(found))


def _finding(weights: Weights, rule: str, severity: float, evidence: dict[str, float], seen: str) -> Finding:
    return Finding(NAME, weights.name, severity, evidence, seen, rule=rule, reads=READS, advice=ADVICE)


def _bundle(found: Alignment, rows: int, cosine: float) -> str:
    return (
        f"{found.largest} of {rows} rows point the same way (cosine above {cosine:g}), as no initialisation or training"
        " makes them: so do the bins of an imprint."
    )


def _rank(found: Alignment) -> str:
    return f"One direction holds {found.top:.0%} of the rows' energy, as in an imprint whose rows noise tells apart."


CARD: Card[Check] = Card(
    title="Near-parallel rows and rank",
    paper="Fowl et al., ICLR 2022, arXiv:2110.13057, appendix A.7",
    summary="Reports layers of which many rows are multiples of one up to noise, and layers of nearly rank one.",
    presets={"paper": ParallelRows(), "quick": ParallelRows(most=512)},
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
)
