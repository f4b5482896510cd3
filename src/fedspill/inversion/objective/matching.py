"""Gradient matching: how far the update of a candidate is from the update that was observed.

A large batch may have a part of it in memory at a time. In eval mode the gradient of the mean loss is the mean over
examples, unless the loss is no mean (class weights, sums, pairs) or a layer mixes them, which is tried. So is its
derivative: the direction in which the distance falls is one for all, and an example's share of it asks for that
example's own graph only.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining, aggregate_update, encoded_update
from fedspill.core.model import Model
from fedspill.core.probing.mean import is_mean_of_batches, is_mean_of_examples
from fedspill.core.types import Params, Update
from fedspill.inversion.kernels.ghost_network import GhostNetwork
from fedspill.inversion.kernels.winograd_network import LARGE, with_winograd
from fedspill.inversion.objective.autograd import ValueAndGradients, evaluated, product
from fedspill.inversion.objective.distances import Distance, cosine_distance, cotangent, squared_distance
from fedspill.inversion.objective.memory import Evaluation, MemoryPlan, bound_bytes
from fedspill.inversion.objective.unrolled import Pullback, pays, unrolled

Valued = tuple[Tensor, list[Tensor | None]]
"""A value, and its gradients, None for what requires none."""


@dataclass(frozen=True)
class Matching:
    """The distance between an observed update and that of a candidate, under an assumed protocol.

    Attributes:
        chunk: examples of one gradient in eval mode that are in memory at a time; None takes all where they fit, and
            else as many as do.
    """

    model: Model
    observed: Update
    training: LocalTraining
    clients: int
    distance: Distance
    chunk: int | None = None

    def __post_init__(self) -> None:
        if self.chunk is not None and (self.chunk < 1 or not self._is_one_gradient):
            raise BadInput(f"chunk={self.chunk}: at least 1 example is needed, and one gradient in eval mode")

    def __call__(self, z: Float[Tensor, "n ..."], labels: Tensor) -> Float[Tensor, ""]:
        """Differentiable once in `z`, and in `labels` where these are class probabilities."""
        return evaluated(self.value_and_gradients, z, labels)

    def each(self, z: Float[Tensor, "r n ..."], labels: Tensor) -> Float[Tensor, " r"]:
        """The distances of independent candidates, differentiable once in `z`; in one batch where the model allows it.

        Args:
            labels: the same for all.
        """
        if self._stacks(labels, len(z)) and self._plan(labels).side_by_side(z, labels):
            return evaluated(self._stacked, z, labels)
        return torch.stack([self(one, labels) for one in z])

    def value_and_gradients(self, z: Tensor, labels: Tensor) -> Valued:
        """The distance, and its gradients with respect to those of the two that require one.

        Of one gradient in eval mode from what the layers tell of it, where that is cheaper; else in two phases: first
        the update of the candidate, then the gradient of the distance with respect to this update, in closed form,
        and one vector-Jacobian product. The weights' second derivatives are never asked for.

        Raises:
            BadInput: there is too little memory, or `chunk` is asked for where the gradient is no mean over examples.
        """
        size = self._part(z, labels)
        return self._whole(z, labels) if size is None or size >= len(z) else self._in_parts(z, labels, size)

    def guess(self, z: Float[Tensor, "n ..."], labels: Tensor) -> Params:
        """The update of a candidate as a client computes it, without a graph; in parts where the memory asks for it."""
        z, labels = z.detach(), labels.detach()
        size = self._part(z, labels)
        if size is None or size >= len(z):
            return self._like(aggregate_update(self.model, z, labels, self.training, self.clients))
        return in_parts(
            lambda z, labels, _: self._like(encoded_update(self.model, z, labels, self.training)), z, labels, size
        )

    def need(self, z: Float[Tensor, "n ..."], labels: Tensor, candidates: int = 1) -> int:
        """Bytes that one evaluation of value and gradients takes, measured on a few examples.

        Args:
            candidates: asked for at once by `each`.
        """
        stacked = z.detach().expand(candidates, *z.shape)
        fit = candidates > 1 and self._stacks(labels, candidates) and self._plan(labels).side_by_side(stacked, labels)
        return self._plan(labels).need(z, labels, candidates if fit else 1)

    def release(self) -> None:
        """Lets go of copies of the network and of the update; the next evaluation makes them anew."""
        network = self.__dict__.pop("_network", None)
        if network is not None:
            network.close()

    def _part(self, z: Tensor, labels: Tensor) -> int | None:
        if self.chunk is not None and not self._is_mean(labels):
            raise BadInput(f"chunk={self.chunk}: the gradient of these examples is not the mean over them")
        return self.chunk or self._plan(labels).part(z, labels)

    def _plan(self, labels: Tensor) -> MemoryPlan:
        return self._memory_plan if self._is_mean(labels) or not self._is_one_gradient else self._whole_plan

    @cached_property
    def _memory_plan(self) -> MemoryPlan:
        return self._planned(self.model.training)

    @cached_property
    def _whole_plan(self) -> MemoryPlan:
        return self._planned(True)

    def _planned(self, needs_whole_batch: bool) -> MemoryPlan:
        size = sum(v.numel() for v in self.observed.values.values())

        def bound(z: Tensor, step_size: int, steps: int) -> int:
            return bound_bytes(self.model, z, step_size, steps, size)

        return MemoryPlan(self.training, self.clients, needs_whole_batch, size, bound, self._prepared)

    def _prepared(self, way: Evaluation, training: LocalTraining) -> ValueAndGradients:
        """The objective of one client by itself."""
        alone = replace(self, training=training, clients=1, chunk=None)
        ways: dict[Evaluation, ValueAndGradients] = {
            "whole": alone._whole,
            "stack": alone._stacked,
            "parts": lambda z, labels: alone._in_parts(z, labels, len(z)),
        }
        return ways[way]

    def _stacks(self, labels: Tensor, candidates: int) -> bool:
        network = self._ghost(labels)
        if network is None or not network.stackable(labels.expand(2, *labels.shape)):
            return False
        return is_mean_of_batches(self.model, labels.expand(candidates, *labels.shape))

    def _stacked(self, z: Tensor, labels: Tensor) -> Valued:
        network = self._network
        assert network is not None, "asked only where candidates can be stacked"
        return differentiated(lambda z, labels: network.distances(z, labels.expand(len(z), *labels.shape)), z, labels)

    def _in_parts(self, z: Tensor, labels: Tensor, size: int) -> Valued:
        return chunked(self._update_of_part, self.observed.values, self.distance, z, labels, size)

    def _update_of_part(self, z: Tensor, labels: Tensor, create_graph: bool) -> Params:
        model = self._arithmetic(len(z))
        return self._like(encoded_update(model, z, labels, self.training, create_graph=create_graph))

    @property
    def _is_one_gradient(self) -> bool:
        return isinstance(self.training, FedSGD) and self.training.is_plain and not self.model.training

    def _is_mean(self, labels: Tensor) -> bool:
        """Whether the update is the mean over examples of one gradient each."""
        return self._is_one_gradient and is_mean_of_examples(self.model, labels)

    def _ghost(self, labels: Tensor) -> GhostNetwork | None:
        """The network by which one gradient is computed; that of several clients is one only if it is a mean."""
        return self._network if self.clients == 1 or self._is_mean(labels) else None

    def _whole(self, z: Tensor, labels: Tensor) -> Valued:
        network = self._ghost(labels)
        if network is not None and network.pays and network.agrees(labels[None]):
            return differentiated(lambda z, labels: network.distances(z[None], labels[None])[0], z, labels)
        variables = [v for v in (z, labels) if v.requires_grad]
        guess, pullback = self._update(z, labels, variables)
        value, direction, factor = cotangent(
            self.distance, {k: v.detach() for k, v in guess.items()}, self.observed.values
        )
        scale = self._scale(len(z))
        gradients = pullback(dict(zip(self.observed.values, direction, strict=True))) if variables else []
        return value * scale, _placed(gradients, [z, labels], factor * scale)

    @cached_property
    def _network(self) -> GhostNetwork | None:
        possible = self._is_one_gradient and self.distance is cosine_distance
        return GhostNetwork(self.model, {k: v[None] for k, v in self.observed.values.items()}) if possible else None

    def _update(self, z: Tensor, labels: Tensor, variables: list[Tensor]) -> tuple[Params, Pullback]:
        """The update of a candidate, and its vector-Jacobian product, of many local steps without their graph."""
        model, training = self._arithmetic(len(z) // self.clients), self.training
        if variables and isinstance(training, FedAvg) and self._pays_to_unroll(model, z, labels, training):
            guess, pullback = unrolled(model, z, labels, training, self.clients)
            return self._like(Update(self.observed.kind, guess)), pullback
        guess = self._like(aggregate_update(model, z, labels, training, self.clients, create_graph=bool(variables)))
        return guess, lambda direction: product([guess[k] for k in direction], list(direction.values()), variables)

    def _like(self, update: Update) -> Params:
        """What of an update is compared: 0 of a parameter that the candidate's loss does not reach."""
        held = update.values
        return {k: held[k] if k in held else torch.zeros_like(v) for k, v in self.observed.values.items()}

    def _pays_to_unroll(self, model: Model, z: Tensor, labels: Tensor, training: FedAvg) -> bool:
        if len(z) not in self._unrolled:
            self._unrolled[len(z)] = pays(model, z, labels, training, self.clients)
        return self._unrolled[len(z)]

    def _arithmetic(self, n: int) -> Model:
        if n not in self._models:
            large = sum(v.numel() for v in self.observed.values.values()) >= LARGE
            self._models[n] = with_winograd(self.model, n) if large else self.model
        return self._models[n]

    @cached_property
    def _models(self) -> dict[int, Model]:
        """The model in the cheapest arithmetic, by the number of examples."""
        return {}

    @cached_property
    def _unrolled(self) -> dict[int, bool]:
        """Whether the graphs of local steps are too large to be kept, by the number of examples."""
        return {}

    def _scale(self, n: int) -> float:
        """Squared distances of deltas are brought to the scale of gradients, for which tolerances are stated."""
        if isinstance(self.training, FedSGD) or self.distance is not squared_distance:
            return 1.0
        return (self.training.lr * self.training.local_steps(n // self.clients)) ** -2


def differentiated(function: Callable[[Tensor, Tensor], Tensor], z: Tensor, labels: Tensor) -> Valued:
    """The value, or values that depend on one candidate each, with gradients by autograd."""
    variables = [v for v in (z, labels) if v.requires_grad]
    # The network's weights are constants, so its own gradients need an input that is none.
    value = function(z if variables else z.detach().requires_grad_(), labels)
    gradients = product([value], [torch.ones_like(value)], variables) if variables else []
    return value.detach(), _placed(gradients, [z, labels], 1.0)


def _placed(gradients: list[Tensor], inputs: list[Tensor], factor: Tensor | float) -> list[Tensor | None]:
    """The gradients of those inputs that require one, None for the others."""
    remaining = iter(gradients)
    return [next(remaining) * factor if v.requires_grad else None for v in inputs]


PartUpdate = Callable[[Tensor, Tensor, bool], Params]
"""Examples, labels, and whether a graph is wanted, to the gradient of their mean loss."""


def chunked(update: PartUpdate, observed: Params, distance: Distance, z: Tensor, labels: Tensor, size: int) -> Valued:
    """What `Matching.value_and_gradients` gives, up to rounding, with `size` examples at a time.

    One gradient of each part without a graph, then one with: a quarter to a third more work.
    """
    guess = in_parts(update, z, labels, size)
    value, direction, factor = cotangent(distance, guess, observed)
    gradients = list[list[Tensor]]()
    for chunk in _parts(len(z), size) if z.requires_grad or labels.requires_grad else []:
        inputs = [v[chunk].detach().requires_grad_(v.requires_grad) for v in (z, labels)]
        its_update = update(inputs[0], inputs[1], True)
        variables = [v for v in inputs if v.requires_grad]
        share = factor * (len(inputs[0]) / len(z))
        gradients.append([g * share for g in product([its_update[k] for k in observed], direction, variables)])
    whole = iter([torch.cat(pieces) for pieces in zip(*gradients, strict=True)])
    return value, [next(whole) if v.requires_grad else None for v in (z, labels)]


def in_parts(update: PartUpdate, z: Tensor, labels: Tensor, size: int) -> dict[str, Tensor]:
    """The gradient of the mean loss without a graph, from parts of `size` examples."""
    total = dict[str, Tensor]()
    for chunk in _parts(len(z), size):
        inputs = z[chunk].detach(), labels[chunk].detach()
        for name, value in update(*inputs, False).items():
            share = value.detach() * (len(inputs[0]) / len(z))
            total[name] = total[name].add_(share) if name in total else share
    return total


def _parts(n: int, size: int) -> list[slice]:
    return [slice(first, first + size) for first in range(0, n, size)]
