"""The making of an imprint from hyperparameters: linear functions, cutoffs, the order of the rows."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.model import Model
from fedspill.core.settings import Group
from fedspill.core.types import Batch
from fedspill.inversion.imprint.measurement import (
    LEAST_PUBLIC,
    Cutoffs,
    check_function,
    decorrelated,
    edges,
    edges_at,
    vector,
)
from fedspill.inversion.imprint.rows import Imprint, arranged
from fedspill.inversion.imprint.soliton import Sorting, degrees, white_vectors
from fedspill.inversion.network.layers import layer_inputs
from fedspill.inversion.network.planting import Place

PER_BIN = 4
"""Public examples per bin, below which a fitted curve is closer to the distribution than their quantiles."""


@dataclass(frozen=True)
class Bins(Group):
    """How an imprint measures and sorts.

    Attributes:
        rows: bins of all linear functions together; the paper takes 128 for 64 photographs.
        functions: one group of bins each: "mean", "dct:M", "random" or "own" (A.2), see `measurement.vector`.
        own: the vector of "own", as long as the flattened features.
        cutoffs: see `measurement.edges`; "auto" takes the quantiles of public data if there are several for each
            bin, else fits a distribution to them: Laplace for cosines, normal for the others; without public data
            it assumes that one.
        sorting: "bins" of equal mass; "ideal_soliton" and "robust_soliton" are rows of an LT code, each with a random
            function of its own, see `soliton`, and are there for `decode = "peel"`.
        expected: examples of an update, at least 2, by which the shares of a soliton's rows are set; bins do without.

    Raises:
        BadInput: too few rows for the functions, a function that does not exist, or several with a soliton.
    """

    rows: int = 128
    functions: tuple[str, ...] = ("mean",)
    own: tuple[float, ...] = ()
    cutoffs: Cutoffs | Literal["auto"] = "normal"
    sorting: Sorting = "bins"
    expected: int = 64

    def __post_init__(self) -> None:
        if not self.functions or self.rows < 2 * len(self.functions):
            raise BadInput(f"rows={self.rows}, functions={list(self.functions)}: at least 2 rows each are needed")
        for function in self.functions:
            check_function(function, self.own)
        if self.expected < 2:
            raise BadInput(f"expected={self.expected}: an update of at least 2 examples is needed")
        if self.sorting != "bins" and self.functions != ("random",):
            raise BadInput(
                f"sorting={self.sorting!r} draws a function for each row: functions=['random'] is needed,"
                f" got {list(self.functions)}"
            )


def make_imprint(
    bins: Bins,
    model: Model,
    place: Place,
    public_data: Batch | None,
    rng: torch.Generator,
    *,
    ordinary: int = 0,
    shuffle: bool = False,
    sparse: bool = False,
    gain: float = 1.0,
) -> Imprint:
    """An imprint for the features at `place`.

    Raises:
        NotApplicable: the cutoffs need public data, and there are too few.
    """
    public = public_features(model, place, public_data)
    make = _bins if bins.sorting == "bins" else _rows
    vectors, ends = make(bins, place.features, public, rng)
    return arranged(vectors, ends, ordinary, rng if shuffle else None, sparse=sparse, gain=gain)


def _bins(
    bins: Bins, features: int, public: Float[Tensor, "m features"] | None, rng: torch.Generator
) -> tuple[Float[Tensor, "d features"], list[Tensor]]:
    """A function, and the ends of its bins, for each group."""
    vectors = torch.stack([vector(f, features, rng, bins.own) for f in bins.functions])
    if public is not None:
        vectors = decorrelated(vectors, public)
    answers = [None if public is None else public @ v for v in vectors]
    counts = [bins.rows // len(vectors) + (j < bins.rows % len(vectors)) for j in range(len(vectors))]
    number = 0 if public is None else len(public)
    kinds: list[Cutoffs] = [_cutoffs(bins.cutoffs, f, number, k) for f, k in zip(bins.functions, counts, strict=True)]
    return vectors, [edges(kind, k, a) for kind, k, a in zip(kinds, counts, answers, strict=True)]


def _rows(
    bins: Bins, features: int, public: Float[Tensor, "m features"] | None, rng: torch.Generator
) -> tuple[Float[Tensor, "k features"], list[Tensor]]:
    """A function for each row, and the lower end of what it is active for; there is no upper one."""
    vectors = white_vectors(bins.rows, features, public, rng)
    share = degrees(bins.sorting, bins.rows, bins.expected, rng).double() / bins.expected
    number = 0 if public is None else len(public)
    answers = [None] * bins.rows if public is None else list(vectors @ public.T)
    return vectors, [_upper(bins, a, float(s), number) for a, s in zip(answers, share, strict=True)]


def _upper(bins: Bins, answers: Float[Tensor, " m"] | None, share: float, public: int) -> Float[Tensor, "2"]:
    below = torch.tensor([1 - share] if share < 1 else [], dtype=torch.float64)
    return edges_at(_cutoffs(bins.cutoffs, "random", public, round(1 / share)), below, answers)[-2:]


def public_features(model: Model, place: Place, public_data: Batch | None) -> Float[Tensor, "m features"] | None:
    """What public examples look like at `place`, flattened, float64, on the CPU."""
    if public_data is None:
        return None
    z = model.input.encode(public_data.to(model.like).inputs)
    return layer_inputs(model, place.at, z).flatten(1).double().cpu()


def _cutoffs(kind: Cutoffs | Literal["auto"], function: str, public: int, bins: int) -> Cutoffs:
    if kind != "auto":
        return kind
    if public >= PER_BIN * bins:
        return "empirical"
    cosine = function.startswith("dct")
    if public >= LEAST_PUBLIC:
        return "fitted_laplace" if cosine else "fitted_normal"
    return "laplace" if cosine else "normal"
