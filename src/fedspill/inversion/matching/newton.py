"""A picture near the right one, made exact: Gauss-Newton on the whole gradient of one example.

Where a layer's constraints leave directions of its input open, the layers below know more: not every input is what
they can put out, and their own gradients must agree. R-GAP's authors join the two as H-GAP, DLG from their solution;
COPA and its successor (Chen and Campbell, arXiv 2111.10178, 2210.13231) correct each layer by gradient matching. Here
it is one least squares problem for the picture: every tensor's error relative to its size, linearised at the candidate,
solved by conjugate gradients in float64, and a step is halved until the errors fall.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.model import Model
from fedspill.core.roles import UNWATCHED, Watch
from fedspill.core.types import Params

HALVINGS = 6
"""Of a step, until the errors fall."""
ENOUGH = 1e-13
"""Relative squared error of the gradient at which nothing is left to gain in float64."""
STALLED = 0.999
"""Share of the squared error before a step that must be left at most, or it was the last one."""
SOLVED = 1e-8
"""Share of the first gradient at which conjugate gradients have solved a step."""

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Newton:
    """What limits the steps.

    Attributes:
        steps: at most.
        products: conjugate gradients' iterations in each, two products with the Jacobian apiece.
    """

    steps: int = 30
    products: int = 200

    def refined(
        self, model: Model, gradient: Params, z: Float[Tensor, "1 ..."], labels: Tensor, watch: Watch = UNWATCHED
    ) -> Float[Tensor, "1 ..."]:
        """The candidate after the last step that made its gradient's errors smaller, float64.

        Args:
            gradient: of one example, observed.
            z: the candidate, encoded.
            labels: its label.
        """
        errors = _Errors.of(model, gradient, labels)
        z = z.detach().double()
        value = errors.squared(z)
        for step in range(self.steps):
            if value < ENOUGH or watch.out_of_time():
                break
            moved = self._step(errors, z, value)
            watch.progress(step + 1, self.steps, moved[1])
            done = moved[1] > STALLED * value
            z, value = moved if moved[1] < value else (z, value)
            if done:
                break
        return z

    def _step(self, errors: "_Errors", z: Tensor, value: float) -> tuple[Tensor, float]:
        rest, forward, back = errors.linearised(z)
        change = solved(forward, back, -rest, self.products)
        for halving in range(HALVINGS):
            tried = z + change / 2**halving
            found = errors.squared(tried)
            if found < value:
                return tried, found
        return z, value


@dataclass(frozen=True)
class _Errors:
    """A candidate's gradient less the observed one, each tensor over the size of the observed one."""

    model: Model
    observed: Params
    labels: Tensor

    @classmethod
    def of(cls, model: Model, gradient: Params, labels: Tensor) -> "_Errors":
        double = model.to(model.like.device, torch.float64)
        labels = labels.double() if labels.is_floating_point() else labels
        return cls(double, {k: v.double() for k, v in gradient.items() if bool(v.any())}, labels)

    def __call__(self, z: Tensor, *, create_graph: bool = False) -> Float[Tensor, " m"]:
        leaves = {k: self.model.params[k].detach().requires_grad_() for k in self.observed}
        with torch.enable_grad():
            loss = self.model.loss({**self.model.params, **leaves}, z, self.labels)
            found = torch.autograd.grad(loss, list(leaves.values()), create_graph=create_graph)
        pairs = zip(found, self.observed.values(), strict=True)
        return torch.cat([((f - o) / o.norm()).flatten() for f, o in pairs])

    def squared(self, z: Tensor) -> float:
        """Their sum of squares, over the number of tensors; infinite where it is not finite."""
        value = float(self(z).square().sum() / len(self.observed))
        return value if value < float("inf") else float("inf")

    def linearised(self, z: Tensor) -> tuple[Tensor, Product, Product]:
        """The errors at a candidate, and products with their Jacobian and with its transpose."""
        leaf = z.detach().clone().requires_grad_()
        rest = self(leaf, create_graph=True)
        dual = torch.zeros_like(rest).requires_grad_()
        with torch.enable_grad():
            (pulled,) = torch.autograd.grad(rest, leaf, dual, create_graph=True)

        def forward(change: Tensor) -> Tensor:
            return torch.autograd.grad(pulled, dual, change, retain_graph=True)[0]

        def back(values: Tensor) -> Tensor:
            return torch.autograd.grad(rest, leaf, values, retain_graph=True)[0]

        return rest.detach(), forward, back


def solved(forward: Product, back: Product, target: Tensor, most: int) -> Tensor:
    """The least squares solution by conjugate gradients on the normal equations (CGLS), from 0."""
    rest, gradient = target, back(target)
    x, direction = torch.zeros_like(gradient), gradient
    length = first = float(gradient.square().sum())
    for _ in range(most):
        if length <= SOLVED**2 * first:
            break
        along = forward(direction)
        step = length / float(along.square().sum())
        x, rest = x + step * direction, rest - step * along
        gradient = back(rest)
        before, length = length, float(gradient.square().sum())
        direction = gradient + length / before * direction
    return x
