"""Activations that the gradient tells exactly, and how far a picture is from giving them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import NotApplicable, few
from fedspill.core.model import Model
from fedspill.core.rng import randn
from fedspill.core.roles import UNWATCHED, Watch
from fedspill.core.types import Params
from fedspill.core.watching.clock import OutOfTime, Pace
from fedspill.inversion.recursion.graph import Dataflow
from fedspill.inversion.recursion.layer_by_layer import Recursion

OVERDETERMINED = 8
"""Times the number of the picture's values: with so many active units known, these alone are inverted.

Measured on ResNets: with 12 times as many gradient descent finds the picture, with 3 times it does not."""
STEPS = 240
LR = 0.1
SPREAD = 0.3
"""Of the start, in normalised units."""
ENOUGH = 1e-9
"""Relative squared error of the activations at which a picture is found."""


@dataclass(frozen=True)
class KnownActivations:
    """Activations of one example, known up to rounding.

    Attributes:
        values: by the name of the operation in the traced network, (1, ...) each, in the model's dtype; those nearest
            to the input, which determine all others that are known.
        picture: the encoded input itself, where the recursion reached it.
    """

    model: Model
    values: dict[str, Tensor]
    picture: Float[Tensor, "1 ..."] | None

    @property
    def suffices(self) -> bool:
        """Whether so much is known that the picture is found without its gradient."""
        active = sum(int(v.count_nonzero()) for v in self.values.values())
        return self.picture is not None or active > OVERDETERMINED * math.prod(self.model.input.encoded_shape)

    def described(self) -> str:
        """Which they are, in the words of a report."""
        return "the picture itself" if self.picture is not None else few(self.values)

    def distance(self, z: Float[Tensor, "1 ..."]) -> Float[Tensor, ""]:
        """Relative squared error of a candidate's activations, differentiable."""
        pairs = zip(self._function(z), self.values.values(), strict=True)
        return torch.stack([(f - v).pow(2).sum() for f, v in pairs]).sum() / self._size

    def distances(self, z: Float[Tensor, "r 1 ..."]) -> Float[Tensor, " r"]:
        """`distance` of each candidate in a stack."""
        return torch.stack([self.distance(one) for one in z])

    def inverted(self, rng: torch.Generator, watch: Watch) -> Float[Tensor, "1 ..."]:
        """The picture with these activations, by gradient descent through the layers below them (Adam, cosine)."""
        if self.picture is not None:
            return self.picture
        spec = self.model.input
        z = SPREAD * randn((1, *spec.encoded_shape), rng, self.model.like)
        adam = torch.optim.Adam([z.requires_grad_()], lr=LR)
        rule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, STEPS)
        pace = Pace(watch.out_of_time)
        for step in range(STEPS):
            try:
                with pace.evaluation():
                    value = self.distance(z)
                    (z.grad,) = torch.autograd.grad(value, z)
            except OutOfTime:
                break
            watch.progress(step + 1, STEPS, float(value.detach()))
            if float(value.detach()) < ENOUGH or watch.out_of_time():
                break
            adam.step()
            rule.step()
            with torch.no_grad():
                z.copy_(spec.project(z))
        return z.detach()

    @cached_property
    def _function(self) -> Callable[[Tensor], list[Tensor]]:
        return Dataflow(self.model, self.model.like.dtype).until(list(self.values))

    @cached_property
    def _size(self) -> Tensor:
        return torch.stack([v.pow(2).sum() for v in self.values.values()]).sum()


def known_activations(model: Model, gradient: Params, watch: Watch = UNWATCHED) -> KnownActivations:
    """What the gradient of one example tells.

    Raises:
        NotApplicable: nothing; says why.
    """
    flow = Dataflow(model)
    with torch.no_grad():
        recursion = Recursion(flow, gradient)
        recursion.run(watch)
    frontier = recursion.frontier()
    values = {n.name: fact.value.to(model.like) for n, fact in frontier.items()}
    if not values:
        raise NotApplicable("no layer's input follows from the gradient")
    known = KnownActivations(model, values, values.get(flow.nodes[0].name))
    at = torch.zeros_like(model.like.new_empty(1, *model.input.encoded_shape)).requires_grad_()
    value = known.distance(at)
    slope: Any = torch.autograd.grad(value, at, allow_unused=True)[0]
    if not bool(value.isfinite()) or slope is None or not bool(slope.isfinite().all()):
        raise NotApplicable("what follows from the gradient cannot be compared with a candidate")
    return known
