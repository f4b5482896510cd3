"""Guesses made without any update: what a score is worth is its distance from these.

Each returns one guess per private example, in their order; score them with `score.score_pairs`.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import CategoricalColumn, Column, ImageSpec, TableSpec
from fedspill.core.types import Batch
from fedspill.scoring.distances import distances, same_examples
from fedspill.scoring.pairs import pieces


def mean_image(spec: ImageSpec, n: int, public: Batch | None = None) -> Float[Tensor, "n c h w"]:
    """The same guess n times: the mean of the public images, or without them one flat colour.

    The flat colour is the normalisation's mean, which a server knows with the model. A spec that does not
    normalise (mean 0, std 1) tells nothing, and the middle of the bounds is guessed.

    Raises:
        BadInput: the public images do not have the shape of the spec.
    """
    if public is None:
        guess = _flat(spec)
    else:
        same_examples(public.inputs, torch.empty(1, *spec.shape))
        parts = [public.inputs[s].double().sum(0) for s in pieces(len(public), public.inputs[0].numel())]
        guess = (torch.stack(parts).sum(0) / len(public)).to(public.inputs.dtype)
    return guess.expand(n, *spec.shape).clone()


def best_public(public: Batch, private: Tensor, table: TableSpec | None = None) -> Tensor:
    """The closest public example to each private one (`distances.distances`), (n, ...).

    An oracle: the choice looks at the private example, so this is an upper bound on what picking from public
    data can reach, not a thing that a server can do. One public example may serve several private ones.

    Args:
        table: the columns, if the examples are rows of a table.

    Raises:
        BadInput: the shapes of the examples differ, or one set holds floats and the other tokens.
    """
    if public.inputs.is_floating_point() != private.is_floating_point():
        raise BadInput(f"inputs of {public.inputs.dtype} and {private.dtype} were got; inputs of one kind are needed")
    size = public.inputs[0].numel()
    gaps = [distances(public.inputs[s], private, table) for s in pieces(len(public), size, 2**23)]
    chosen = torch.cat(gaps).argmin(0)
    return public.inputs[chosen.to(public.inputs.device)].to(private)


def commonest_row(table: TableSpec, n: int, public: Batch | None = None) -> Float[Tensor, "n columns"]:
    """The same row n times: each column's commonest category or median in the public rows.

    Without public rows the table's own description is all there is: each column's mean (on its step, as a server knows
    it from the scaling) and its first category.

    Raises:
        BadInput: the public rows do not fit the table.
    """
    if public is None:
        row = torch.tensor([0.0 if isinstance(c, CategoricalColumn) else c.mean for c in table.columns])
        return table.decode(table.encode(row)).expand(n, -1).clone()
    same_examples(public.inputs, torch.empty(1, len(table.columns)))
    columns = zip(table.columns, public.inputs.T, strict=True)
    return torch.stack([_commonest(c, values) for c, values in columns]).expand(n, -1).clone()


def _commonest(column: Column, values: Tensor) -> Tensor:
    return values.mode().values if isinstance(column, CategoricalColumn) else values.median()


def commonest_token(public: Batch, n: int) -> Int[Tensor, "n t"]:
    """The commonest token of the public sentences, in every position of n sentences.

    Raises:
        BadInput: the public examples are no sentences.
    """
    if public.inputs.ndim != 2 or public.inputs.is_floating_point():
        raise BadInput(f"inputs of shape {tuple(public.inputs.shape)} and {public.inputs.dtype}; sentences are needed")
    token = public.inputs.flatten().mode().values
    return token.expand(n, public.inputs.shape[1]).clone()


def _flat(spec: ImageSpec) -> Tensor:
    if not any(spec.mean) and all(s == 1 for s in spec.std):
        return torch.full(spec.shape, sum(spec.bounds) / 2)
    return spec.decode(torch.zeros(spec.shape))
