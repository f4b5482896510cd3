"""An example rebuilt from its gradient by a few steps, and the derivative of the error that is left by the parameters.

A step is taken along a derivative of the network's gradient, so that differentiating the steps needs third derivatives,
which PyTorch does not have for every layer (a strided convolution that leaves a rest is one). The steps are run
backwards instead, one by one (Maclaurin, Duvenaud, Adams 2015, arXiv 1502.03492): each wants the third derivative in
one direction only, which is a difference of second derivatives at two points.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.model import Model
from fedspill.core.types import Params
from fedspill.inversion.objective.distances import cosine_distance

APART = 1e-4
"""Distance of the two points of a difference, in units of normalised pixels (root mean square)."""
TINY = 1e-30


@dataclass(frozen=True)
class Rebuilding:
    """Descent on the cosine distance of gradients, by steps of one length whatever the slope; in float64.

    Attributes:
        steps: of the descent.
        lr: length of the first step in normalised pixels (root mean square); it falls to 0.
    """

    steps: int
    lr: float

    def run(self, model: Model, z: Tensor, labels: Tensor, start: Tensor) -> "Rebuilt":
        """What is rebuilt of one gradient.

        Args:
            model: with the parameters that the gradient is taken at; in eval mode, float64.
            z: the encoded examples (n, ...), seen by their gradient only.
            labels: theirs, known to the descent.
            start: where the descent begins, as `z`.
        """
        observed = _gradient(model, model.params, z, labels, create_graph=False)
        points, slopes = [start], list[Tensor]()
        for step in range(self.steps):
            slopes.append(_slope(model, observed, points[-1], labels))
            points.append(points[-1] - self._length(step) * slopes[-1] / _size(slopes[-1]))
        return Rebuilt(self, model, z, labels, observed, tuple(points), tuple(slopes))

    def _length(self, step: int) -> float:
        return self.lr * (1 - step / self.steps)

    def back(self, model: Model, rebuilt: "Rebuilt", step: int, later: Tensor) -> "_Slopes":
        """From a derivative by the point after a step to those by the point before it, parameters and observation."""
        before, labels, observed = rebuilt.points[step], rebuilt.labels, rebuilt.observed
        slope, size = rebuilt.slopes[step], _size(rebuilt.slopes[step])
        along = slope / size
        direction = -self._length(step) / size * (later - along * (along * later).mean())
        apart = APART / float(_size(direction))
        plus, minus = (_slopes(model, observed, before + s * apart * direction, labels) for s in (1, -1))
        share = plus.minus(minus).times(0.5 / apart)
        return _Slopes(later + share.point, share.params, share.observed)


@dataclass(frozen=True)
class Rebuilt:
    """A descent, with all its points.

    Attributes:
        rebuilding: the descent's settings.
        observed: the gradient that it went by.
        points: from the start to the result, (n, ...) each.
        slopes: of the distance, at each point but the last.
    """

    rebuilding: Rebuilding
    model: Model
    z: Tensor
    labels: Tensor
    observed: Params
    points: tuple[Tensor, ...]
    slopes: tuple[Tensor, ...]

    @property
    def error(self) -> float:
        """Mean squared error of what is rebuilt, in normalised pixels."""
        return float((self.points[-1] - self.z).square().mean())

    def derivative(self) -> Params:
        """The derivative of `error` by the parameters, through every step and through what was observed."""
        later = 2 * (self.points[-1] - self.z) / self.z.numel()
        total = {k: torch.zeros_like(v) for k, v in self.observed.items()}
        seen = {k: torch.zeros_like(v) for k, v in self.observed.items()}
        for step in reversed(range(self.rebuilding.steps)):
            back = self.rebuilding.back(self.model, self, step, later)
            later = back.point
            total = {k: v + back.params[k] for k, v in total.items()}
            seen = {k: v + back.observed[k] for k, v in seen.items()}
        through = _gradient_pulled_back(self.model, self.z, self.labels, seen)
        return {k: v + through[k] for k, v in total.items()}


@dataclass(frozen=True)
class _Slopes:
    """Derivatives of a distance by the point, the parameters, and the gradient that was observed."""

    point: Tensor
    params: Params
    observed: Params

    def minus(self, other: "_Slopes") -> "_Slopes":
        params = {k: v - other.params[k] for k, v in self.params.items()}
        observed = {k: v - other.observed[k] for k, v in self.observed.items()}
        return _Slopes(self.point - other.point, params, observed)

    def times(self, factor: float) -> "_Slopes":
        params = {k: v * factor for k, v in self.params.items()}
        observed = {k: v * factor for k, v in self.observed.items()}
        return _Slopes(self.point * factor, params, observed)


def _size(x: Tensor) -> Float[Tensor, ""]:
    return x.square().mean().sqrt().clamp_min(TINY)


def _slope(model: Model, observed: Params, point: Tensor, labels: Tensor) -> Tensor:
    """Of the distance between the gradient of a candidate and the observed one, by the candidate."""
    point = point.detach().requires_grad_()
    with torch.enable_grad():
        distance = cosine_distance(_gradient(model, model.params, point, labels, create_graph=True), observed)
        return torch.autograd.grad(distance, point)[0]


def _slopes(model: Model, observed: Params, point: Tensor, labels: Tensor) -> _Slopes:
    """Of that distance by all that it depends on."""
    names = list(observed)
    params = {**model.params, **{k: model.params[k].detach().requires_grad_() for k in names}}
    point = point.detach().requires_grad_()
    target = {k: observed[k].detach().requires_grad_() for k in names}
    with torch.enable_grad():
        distance = cosine_distance(_gradient(model, params, point, labels, create_graph=True), target)
        wanted = [point, *(params[k] for k in names), *target.values()]
        first, *others = torch.autograd.grad(distance, wanted, materialize_grads=True)
    return _Slopes(first, _named(names, others[: len(names)]), _named(names, others[len(names) :]))


def _gradient(model: Model, params: Params, z: Tensor, labels: Tensor, *, create_graph: bool) -> dict[str, Tensor]:
    names = model.trained_names(None)
    given = {**params, **{k: v if v.requires_grad else v.detach().requires_grad_() for k, v in params.items()}}
    with torch.enable_grad():
        loss = model.loss(given, z, labels)
        wanted = [given[k] for k in names]
        got = torch.autograd.grad(loss, wanted, create_graph=create_graph, materialize_grads=True)
    return _named(names, got)


def _gradient_pulled_back(model: Model, z: Tensor, labels: Tensor, direction: Params) -> dict[str, Tensor]:
    """The second derivative of the loss by the parameters, in one direction."""
    names = list(direction)
    params = {**model.params, **{k: model.params[k].detach().requires_grad_() for k in names}}
    gradient = _gradient(model, params, z, labels, create_graph=True)
    kept = [k for k in names if gradient[k].requires_grad]
    with torch.enable_grad():
        along = torch.stack([(gradient[k] * direction[k]).sum() for k in kept]).sum()
        got = torch.autograd.grad(along, [params[k] for k in names], materialize_grads=True)
    return _named(names, got)


def _named(names: Sequence[str], values: Sequence[Tensor]) -> dict[str, Tensor]:
    return dict(zip(names, values, strict=True))
