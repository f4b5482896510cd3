"""Guesses made without any update: what a score is worth is its distance from these.

Each returns one guess per private example, in their order; score them with `score.score_pairs`.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.types import Batch
from fedspill.scoring.distances import same_examples, squared_errors
from fedspill.scoring.images import pieces


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


def best_public(public: Batch, private: Tensor) -> Float[Tensor, "n ..."]:
    """For each private example the public one with the least squared error.

    An oracle: the choice looks at the private example, so this is an upper bound on what picking from public
    data can reach, not a thing that a server can do. One public example may serve several private ones.

    Raises:
        BadInput: the shapes of the examples differ, or inputs are not numbers on a scale.
    """
    if not (public.inputs.is_floating_point() and private.is_floating_point()):
        raise BadInput(
            f"inputs of {public.inputs.dtype} and {private.dtype} were got; floating-point inputs are needed"
        )
    size = public.inputs[0].numel()
    errors = [squared_errors(public.inputs[s], private) for s in pieces(len(public), size, 2**23)]
    chosen = torch.cat(errors).argmin(0)
    return public.inputs[chosen.to(public.inputs.device)].to(private)


def _flat(spec: ImageSpec) -> Tensor:
    if not any(spec.mean) and all(s == 1 for s in spec.std):
        return torch.full(spec.shape, sum(spec.bounds) / 2)
    return spec.decode(torch.zeros(spec.shape))
