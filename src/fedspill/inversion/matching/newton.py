"""A picture near the right one, made exact: Gauss-Newton on the whole gradient of one example.

Where a layer's constraints leave directions of its input open, the layers below know more: not every input is what
they can put out, and their own gradients must agree. R-GAP's authors join the two as H-GAP, DLG from their solution;
COPA and its successor (Chen and Campbell, arXiv 2111.10178, 2210.13231) correct each layer by gradient matching. Here
it is one least squares problem for the picture, of the network below the place that the recursion knows: the values
there, and the gradients of the layers below, which follow from the loss's derivative there. Every tensor's error is
taken relative to its size, linearised at the candidate, solved by conjugate gradients in float64, and a step is halved
until the errors fall.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.roles import UNWATCHED, Watch
from fedspill.core.watching.clock import Clock, OutOfTime
from fedspill.inversion.recursion.known_activations import Below

HALVINGS = 8
"""Of a step, until the errors fall."""
ENOUGH = 1e-13
"""Squared error at which nothing is left to gain of float32 gradients."""
STALLED = 0.999
"""Share of the squared error before a step that must be left at most, or it was the last one."""
LAST = 5
"""Steps by all that is known."""
RIGHT = 1e-3
"""What these must make of the squared error to be believed; they are wrong where a unit is on the wrong side."""
SOLVED = 1e-8
"""Share of the first gradient at which conjugate gradients have solved a step."""
LARGEST = 2**24
"""Entries of a Jacobian that is written down."""

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Newton:
    """What limits the steps.

    Attributes:
        steps: at most.
        products: conjugate gradients' iterations in each, two products with the Jacobian apiece. Fewer than would solve
            the step: what is hardly determined is left for later, when more units are on their side.
    """

    steps: int = 40
    products: int = 400

    def refined(self, known: Below, z: Float[Tensor, "1 ..."], watch: Watch = UNWATCHED) -> Float[Tensor, "1 ..."]:
        """The encoded picture after the last step that made the errors smaller, float64.

        First by what is known but the gradients that change abruptly; these count once every unit may be on its side.

        Args:
            z: to begin with, encoded.
        """
        best = z.detach().double()
        with suppress(OutOfTime), Clock(watch.out_of_time):
            smooth, whole = _Errors(known, known.linear), _Errors(known, frozenset(known.gradient))
            for number in range(self.steps):
                best, gained = self._step(smooth, best)
                watch.progress(number + 1, self.steps, smooth.squared(best))
                if not gained:
                    break
            tried, before = best, whole.squared(best)
            for _ in range(LAST):
                tried, gained = self._step(whole, tried)
                if not gained:
                    break
            best = tried if whole.squared(tried) < RIGHT * before else best
        return best

    def _step(self, errors: "_Errors", z: Tensor) -> tuple[Tensor, bool]:
        """The next candidate, and whether it is worth another step."""
        value = errors.squared(z)
        if value < ENOUGH:
            return z, False
        rest, forward, back = errors.linearised(z, self.products)
        change = solved(forward, back, -rest, self.products)
        for halving in range(HALVINGS):
            tried = z + change / 2**halving
            found = errors.squared(tried)
            if found < value:
                return tried, found < STALLED * value
        return z, False


class _Errors:
    """What a candidate gives, less what is known, each tensor over the size of the known one."""

    def __init__(self, known: Below, names: frozenset[str]) -> None:
        self.known = known
        self.sent = {k: v for k, v in known.gradient.items() if k in names}
        own = dict(known.network.named_parameters())
        self.leaves = [own[k].requires_grad_() for k in self.sent]

    def __call__(self, z: Tensor, *, create_graph: bool = False) -> Float[Tensor, " m"]:
        wanted = [self.known.value, *self.sent.values()]
        with torch.enable_grad():
            value, found = self.known.network(z), list[Tensor]()
            if self.leaves:
                loss = (value * self.known.cotangent).sum()
                found += torch.autograd.grad(
                    loss, self.leaves, create_graph=create_graph, retain_graph=True, materialize_grads=True
                )
            return torch.cat([((f - w) / w.norm()).flatten() for f, w in zip((value, *found), wanted, strict=True)])

    def squared(self, z: Tensor) -> float:
        """Their sum of squares, over the number of tensors; infinite where it is not finite."""
        value = float(self(z).detach().square().sum()) / (1 + len(self.leaves))
        return value if value < float("inf") else float("inf")

    def linearised(self, z: Tensor, products: int) -> tuple[Tensor, Product, Product]:
        """The errors at a candidate, and products with their Jacobian and with its transpose.

        Args:
            products: how many of each are likely; the Jacobian of no more inputs is written down once.
        """
        leaf = z.detach().clone().requires_grad_()
        rest = self(leaf, create_graph=True)
        dual = torch.zeros_like(rest).requires_grad_()
        with torch.enable_grad():
            (pulled,) = torch.autograd.grad(rest, leaf, dual, create_graph=True)

        def forward(change: Tensor) -> Tensor:
            return torch.autograd.grad(pulled, dual, change, retain_graph=True)[0]

        def back(values: Tensor) -> Tensor:
            return torch.autograd.grad(rest, leaf, values, retain_graph=True)[0]

        if leaf.numel() > products or leaf.numel() * rest.numel() > LARGEST:
            return rest.detach(), forward, back
        units = torch.eye(leaf.numel(), dtype=leaf.dtype, device=leaf.device).view(-1, *leaf.shape)
        columns = torch.stack([forward(unit) for unit in units])  # the transposed Jacobian
        return rest.detach(), lambda change: change.flatten() @ columns, lambda values: (columns @ values).view_as(leaf)


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
