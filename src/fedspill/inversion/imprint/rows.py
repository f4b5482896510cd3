"""The rows of an imprint module: which linear function they measure, and which bins they make.

Fowl et al.: "Robbing the Fed", ICLR 2022, arXiv:2110.13057, sections 3.3 and 4.3. Several groups of rows with a
linear function each are not in the paper; `docs/peeling.md` tells what they are good for.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fedspill.core.rng import rand, randn

ORDINARY_SPREAD = 1.0
"""Standard deviation of an ordinary row's answers, where features have about unit variance."""


@dataclass(frozen=True)
class Group:
    """One linear function and its bins.

    Attributes:
        vector: w of h(x) = <w, x>, float64.
        edges: ends of the k bins, ascending, float64; an example outside of the outermost is lost.
        rows: the row of the planted layer that belongs to each bin.
    """

    vector: Float[Tensor, " features"]
    edges: Float[Tensor, " ends"]
    rows: Int[Tensor, " k"]

    def answers(self, features: Float[Tensor, "n features"]) -> Float[Tensor, " n"]:
        """The measurement h of flattened features, in float64."""
        return features.double() @ self.vector.to(features.device)

    def bins(self, features: Float[Tensor, "n features"]) -> Int[Tensor, " n"]:
        """The bin of each example, -1 if it is lost."""
        where = torch.bucketize(self.answers(features), self.edges.to(features.device)) - 1
        return where.where((where >= 0) & (where < len(self.rows)), -1)


@dataclass(frozen=True)
class Imprint:
    """All that the server knows of the module that it planted.

    Attributes:
        groups: their rows do not overlap.
        total: rows of the planted layer, ordinary ones among them.
        sparse: a row is active inside its bin only (Hardtanh), else for all examples above its lower end (ReLU).
        gain: multiplies the rows; the layer behind divides by it again. With sparse bins a large gain lets local
            training move the bins less (the paper's scaling c0).
    """

    groups: tuple[Group, ...]
    total: int
    sparse: bool = False
    gain: float = 1.0

    def bins(self, features: Float[Tensor, "n features"]) -> Int[Tensor, "n d"]:
        """The bin of each example in each group, -1 where it is lost."""
        vectors, edges, counts = (t.to(features.device) for t in self._stacked)
        answers = features.double() @ vectors.T
        where = torch.searchsorted(edges, answers.T.contiguous()).T - 1
        return where.where((where >= 0) & (where < counts), -1)

    @cached_property
    def _stacked(self) -> tuple[Float[Tensor, "d features"], Float[Tensor, "d ends"], Int[Tensor, " d"]]:
        """The groups' vectors, their edges with infinities behind the last ones, and their numbers of bins."""
        edges = pad_sequence([g.edges for g in self.groups], batch_first=True, padding_value=torch.inf)
        counts = torch.tensor([len(g.rows) for g in self.groups])
        return torch.stack([g.vector for g in self.groups]), edges, counts

    def weight_and_bias(
        self, rng: torch.Generator, like: Tensor, *, active: bool = True
    ) -> tuple[Float[Tensor, "total features"], Float[Tensor, " total"]]:
        """The planted layer; rows that belong to no bin, and all rows while not `active`, are ordinary random ones.

        A ReLU row of the bin (a, b) is g (w, -a). A sparse one is g (w, -a) / (b - a) and is cut off at g.
        """
        features = len(self.groups[0].vector)
        if active and sum(len(g.rows) for g in self.groups) == self.total:
            weight, bias = like.new_empty((self.total, features)), like.new_empty(self.total)
        else:
            weight = randn((self.total, features), rng, like) * (ORDINARY_SPREAD / features**0.5)
            bias = (rand((self.total,), rng, like) - 0.5) * ORDINARY_SPREAD
        for group in self.groups if active else ():
            lower, width = group.edges[:-1], group.edges.diff()
            size = self.gain / width if self.sparse else torch.full_like(lower, self.gain)
            for row, factor in zip(group.rows.tolist(), size, strict=True):
                weight[row] = factor * group.vector
            bias[group.rows] = (-lower * size).to(like)
        return weight, bias

    def typical(self) -> float:
        """What the rows with bins give together, in units of `gain`, for an example in the middle of every group."""
        total = 0.0
        for group in self.groups:
            lower, width = group.edges[:-1], group.edges.diff()
            above = (group.edges.median() - lower).clamp_min(0)
            total += float((above / width).clamp_max(1).sum() if self.sparse else above.sum())
        return total * self.gain

    def names(self) -> list[list[str]]:
        """What people call each bin of each group."""
        return [self.names_of(j) for j in range(len(self.groups))]

    def names_of(self, group: int) -> list[str]:
        """The same of one group; a group of one bin is a row."""
        bins = range(len(self.groups[group].rows))
        if len(self.groups) == 1:
            return [f"bin {b}" for b in bins]
        return [f"row {group}"] if len(bins) == 1 else [f"group {group}, bin {b}" for b in bins]


def arranged(
    vectors: Float[Tensor, "d features"],
    ends: list[Float[Tensor, "..."]],
    ordinary: int,
    rng: torch.Generator | None,
    *,
    sparse: bool = False,
    gain: float = 1.0,
) -> Imprint:
    """Groups of bins in consecutive rows, or, with `rng`, in a random order among `ordinary` ordinary rows.

    Args:
        vectors: one per group.
        ends: the edges of each group.
        ordinary: rows that belong to no bin.
        rng: shuffles the rows; None keeps them in order, ordinary rows last.
        sparse: see `Imprint`.
        gain: see `Imprint`.
    """
    sizes = [len(e) - 1 for e in ends]
    total = sum(sizes) + ordinary
    order = torch.arange(total) if rng is None else torch.randperm(total, generator=rng)
    parts = order[: sum(sizes)].split(sizes)
    groups = tuple(Group(v, e, r) for v, e, r in zip(vectors, ends, parts, strict=True))
    return Imprint(groups, total, sparse, gain)
