"""The clients' training in the row space of the first layer's update: m inputs of m numbers each.

With R the orthonormal basis of that space, [X, 1] = Q R; the first layer's weights enter as V = [W, b] R^T, whose
updates are Delta^T Q, and SGD with momentum, weight decay and a proximal term does to V what it does to [W, b].
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedspill.core.local_training.protocol import FedAvg
from fedspill.core.local_training.steps import LocalState, Turn, followed
from fedspill.core.types import Params
from fedspill.inversion.disaggregation.errors import LogitErrors
from fedspill.inversion.disaggregation.local_steps.orders import Order, Part, Step
from fedspill.inversion.network.activations import Invertible, slope_from_output
from fedspill.inversion.network.dense import Dense


@dataclass(frozen=True)
class Space:
    """The row space of the first layer's update.

    Attributes:
        basis: R; the last column is the bias's if `affine`.
        affine: whether the bias was trained.
        sizes: singular values of the mean gradient there, largest first.
    """

    basis: Float[Tensor, "m k"]
    affine: bool
    sizes: Float[Tensor, " m"]

    @classmethod
    def of(cls, first: Dense, gradient: Params, number: int) -> "Space":
        """That of so many inputs, or of as many as there are singular values."""
        affine = first.bias is not None and first.bias in gradient
        _, sizes, right = torch.linalg.svd(_joined(first, gradient, affine), full_matrices=False)
        return cls(right[:number], affine, sizes[:number])

    def within(self, first: Dense, values: Params) -> dict[str, Tensor]:
        """Parameters, or their updates, with those of the first layer in coordinates of the space."""
        kept = {k: v for k, v in values.items() if k != first.weight and not (self.affine and k == first.bias)}
        if first.weight not in values:
            return kept
        return {first.weight: _joined(first, values, self.affine) @ self.basis.T, **kept}

    def mixing(self, inputs: Float[Tensor, "n d"]) -> Float[Tensor, "n m"]:
        """Q of inputs."""
        whole = torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1) if self.affine else inputs
        return whole @ self.basis.T

    def inputs(self, mixing: Float[Tensor, "n m"]) -> Float[Tensor, "n d"]:
        """X of a mixing."""
        return mixing @ (self.basis[:, :-1] if self.affine else self.basis)


def _joined(first: Dense, values: Params, affine: bool) -> Float[Tensor, "out k"]:
    if not affine:
        return values[first.weight]
    assert first.bias is not None
    return torch.cat([values[first.weight], values[first.bias][:, None]], 1)


@dataclass(frozen=True)
class Clients:
    """What is known of the clients, in the coordinates of a space and in float64.

    Attributes:
        layers: of the network; the first one's bias is in its weight if that was trained.
        params: at the start.
        trained: names of those that the clients train.
        training: the protocol.
        errors: what the loss makes of probabilities.
        labels: of all clients' examples.
    """

    layers: Sequence[Dense]
    params: Params
    trained: tuple[str, ...]
    training: FedAvg
    errors: LogitErrors
    labels: Int[Tensor, " n"]

    def update(
        self, mixing: Float[Tensor, "n m"], order: Order, gates: Sequence["Gate"] | None = None
    ) -> dict[str, Tensor]:
        """The mean over clients of start minus end, differentiable in the mixing.

        Args:
            gates: derivatives of activations that jump, by step and layer; None for those at the inputs.
        """
        held = None if gates is None else iter(gates)
        each = [self._update(mixing, steps, Gates(held)) for steps in order.clients]
        return {k: torch.stack([u[k] for u in each]).sum(0) / len(each) for k in self.trained}

    def gates(self, mixing: Float[Tensor, "n m"], order: Order) -> list["Gate"]:
        """The derivatives of activations that jump."""
        gates = Gates(None)
        for steps in order.clients:
            self._update(mixing, steps, gates)
        return gates.met

    def _update(self, mixing: Tensor, steps: Sequence[Step], gates: "Gates") -> dict[str, Tensor]:
        state = LocalState({k: self.params[k] for k in self.trained}, {}, {})
        for number, step in enumerate(steps):
            turn = Turn(number, len(steps), list(step))
            state = followed(state, self._gradients(state.params, mixing, step, gates), self.training, turn, True)
        return {k: self.params[k] - state.params[k] for k in self.trained}

    def _gradients(self, current: Params, mixing: Tensor, step: Step, gates: "Gates") -> dict[str, Tensor]:
        parts = [self.passed(current, mixing, part, gates).gradients for part in step]
        return self.combined(parts, current, self.params)

    def combined(self, parts: Sequence[Params], current: Params, start: Params) -> dict[str, Tensor]:
        """What the optimiser is given of the gradients of a step's mini-batches.

        Args:
            parts: the gradients.
            current: the parameters.
            start: where they are pulled to by a proximal term; 0 for those that are not in it.
        """
        share = len(parts) / self.training.accumulate * self.training.proximal
        total = {k: torch.stack([p[k] for p in parts]).sum(0) / self.training.accumulate for k in self.trained}
        return {k: g + share * (current[k] - start.get(k, 0)) for k, g in total.items()} if share else total

    def passed(self, current: Params, mixing: Tensor, part: Part, gates: "Gates | None" = None) -> "Pass":
        """A mini-batch's way through the network and back."""
        rows, params, gates = list(part), {**self.params, **current}, gates or Gates(None)
        outputs, entered, labels = [mixing[rows]], list[Tensor](), self.labels[rows]
        for layer in self.layers:
            entering = outputs[-1] @ params[layer.weight].T
            entering = entering if layer.bias is None else entering + params[layer.bias]
            entered.append(entering)
            outputs.append(entering if layer.activation is None else layer.activation.forward(entering.clone()))
        shares, p = self.errors.shares(labels)[:, None], outputs[-1].softmax(-1)
        slope = shares * self.errors.slope[labels][:, None]
        slopes, deltas = list[Tensor](), [slope * p - shares * self.errors.target[labels]]
        for number in range(len(self.layers) - 1, 0, -1):
            below = self.layers[number - 1].activation
            slopes.append(gates.of(below, outputs[number], entered[number - 1]))
            deltas.append((deltas[-1] @ params[self.layers[number].weight]) * slopes[-1])
        return Pass(outputs, deltas[::-1], slopes[::-1], p, slope, self._gradients_of(outputs, deltas[::-1]))

    def _gradients_of(self, outputs: list[Tensor], deltas: list[Tensor]) -> dict[str, Tensor]:
        found = dict[str, Tensor]()
        for layer, entered, delta in zip(self.layers, outputs, deltas, strict=False):
            found[layer.weight] = delta.T @ entered
            if layer.bias is not None:
                found[layer.bias] = delta.sum(0)
        return {k: found[k] for k in self.trained}


@dataclass(frozen=True)
class Pass:
    """A mini-batch on its way through the network and back.

    Attributes:
        outputs: the inputs, then what each layer puts out behind its activation.
        deltas: the derivative of the mean loss by what enters each layer's activation.
        slopes: the derivative of each hidden layer's activation.
        probabilities: softmax of the logits.
        slope: of the last of these by the probabilities.
        gradients: of the trained parameters.
    """

    outputs: list[Tensor]
    deltas: list[Tensor]
    slopes: list[Tensor]
    probabilities: Float[Tensor, "b classes"]
    slope: Float[Tensor, "b 1"]
    gradients: dict[str, Tensor]


@dataclass(frozen=True)
class Gate:
    """The derivatives of a layer of ReLUs, or leaky ones, for a mini-batch in one step.

    Attributes:
        slope: the derivative, the negative side's or 1.
        entered: what it belongs to.
        negative: the derivative on the negative side.
    """

    slope: Float[Tensor, "b d"]
    entered: Float[Tensor, "b d"]
    negative: float

    @property
    def margin(self) -> Float[Tensor, "b d"]:
        """How far from its jump each unit is, relative to what usually enters the layer."""
        return self.entered.abs() / self.entered.square().mean().sqrt().clamp_min(1e-300)

    def flipped(self, place: int) -> "Gate":
        """With one unit on its other side."""
        slope = self.slope.flatten().clone()
        slope[place] = 1 + self.negative - slope[place]
        return replace(self, slope=slope.reshape(self.slope.shape))


class Gates:
    """Derivatives of activations, those that jump held as they were met before, or met now."""

    def __init__(self, held: Iterator[Gate] | None) -> None:
        self.held, self.met = held, list[Gate]()

    def of(self, activation: Invertible | None, outputs: Tensor, entered: Tensor) -> Tensor:
        """The derivative of an activation at what entered and left it."""
        if not isinstance(activation, nn.ReLU | nn.LeakyReLU):
            return slope_from_output(activation, outputs)
        if self.held is not None:
            return next(self.held).slope
        negative = activation.negative_slope if isinstance(activation, nn.LeakyReLU) else 0.0
        self.met.append(Gate(slope_from_output(activation, outputs), entered, negative))
        return self.met[-1].slope
