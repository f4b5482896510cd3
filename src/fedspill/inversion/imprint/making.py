"""The making of an imprint from hyperparameters: linear functions, cutoffs, the order of the rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.model import Model
from fedspill.core.types import Batch
from fedspill.inversion.imprint.measurement import LEAST_PUBLIC, Cutoffs, decorrelated, edges, vector
from fedspill.inversion.imprint.rows import Imprint, arranged
from fedspill.inversion.network.layers import layer_inputs
from fedspill.inversion.network.planting import Place

PER_BIN = 4
"""Public examples per bin, below which a fitted curve is closer to the distribution than their quantiles."""


@dataclass(frozen=True)
class Bins:
    """How an imprint measures and sorts.

    Attributes:
        rows: bins of all linear functions together.
        functions: one group of bins each, see `measurement.vector`.
        own: the vector of "own".
        cutoffs: see `measurement.edges`; "auto" takes the quantiles of public data if there are several for each
            bin, else fits a distribution to them: Laplace for cosines, normal for the others; without public data
            it assumes that one.
    """

    rows: int
    functions: Sequence[str]
    own: Sequence[float]
    cutoffs: Cutoffs | Literal["auto"]

    def __post_init__(self) -> None:
        if not self.functions or self.rows < 2 * len(self.functions):
            raise BadInput(f"rows={self.rows}, functions={list(self.functions)}: at least 2 rows each are needed")


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
    vectors = torch.stack([vector(f, place.features, rng, bins.own) for f in bins.functions])
    public = public_features(model, place, public_data)
    if public is not None:
        vectors = decorrelated(vectors, public)
    answers = [None if public is None else public @ v for v in vectors]
    counts = [bins.rows // len(vectors) + (j < bins.rows % len(vectors)) for j in range(len(vectors))]
    number = 0 if public is None else len(public)
    kinds: list[Cutoffs] = [_cutoffs(bins.cutoffs, f, number, k) for f, k in zip(bins.functions, counts, strict=True)]
    ends = [edges(kind, k, a) for kind, k, a in zip(kinds, counts, answers, strict=True)]
    return arranged(vectors, ends, ordinary, rng if shuffle else None, sparse=sparse, gain=gain)


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
