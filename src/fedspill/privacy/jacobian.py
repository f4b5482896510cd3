"""The update as a function of the private inputs, and products with its Jacobian, which need no matrix.

Inputs are counted as people see them (pixels), of tables as they are encoded. Labels, protocol and what the client
draws are taken as known: who does not know them has less.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec, TokenSpec
from fedspill.core.local_training.protocol import LocalTraining
from fedspill.core.local_training.update import encoded_update
from fedspill.core.model import Model
from fedspill.core.types import Batch

Product = Callable[[Tensor], Tensor]
MOST_ENTRIES = 2**24
"""Of a Jacobian that is written down: 128 MiB in float64."""


@dataclass(frozen=True)
class Jacobian:
    """Derivatives of the numbers of an update by the values of the inputs, at one batch.

    Attributes:
        rows: numbers of the update.
        columns: values of the inputs.
        forward: (columns,) to (rows,), J v.
        back: (rows,) to (columns,), the transpose of J times u.
        update: (rows,) the update itself.
    """

    rows: int
    columns: int
    forward: Product
    back: Product
    update: Float[Tensor, " rows"]

    @property
    def small(self) -> bool:
        """It can be written down."""
        return self.rows * self.columns <= MOST_ENTRIES

    def matrix(self) -> Float[Tensor, "rows columns"]:
        """The Jacobian written down, by as many products as its shorter side has entries."""
        like, count = self.update, min(self.rows, self.columns)
        units = (like.new_zeros(count).index_fill_(0, torch.tensor(i, device=like.device), 1) for i in range(count))
        if self.rows < self.columns:
            return torch.stack([self.back(unit) for unit in units])
        return torch.stack([self.forward(unit) for unit in units], 1)

    @classmethod
    def of_matrix(cls, matrix: Float[Tensor, "rows columns"], update: Tensor | None = None) -> "Jacobian":
        """A Jacobian that is written down already."""
        rows, columns = matrix.shape
        value = matrix.new_zeros(rows) if update is None else update
        return cls(rows, columns, lambda v: matrix @ v, lambda u: matrix.T @ u, value)


class UpdateOfInputs:
    """The update of a batch, as one vector, by its inputs, as one vector; in float64.

    Args:
        model: as the client got it.
        batch: the private examples; their labels are taken as known.
        training: the client's protocol.
        clip: the longest Euclidean norm of the whole update; None clips nothing.

    Raises:
        NotApplicable: inputs are tokens, by which nothing can be differentiated; or the client computes in a lower
            precision, whose steps have no derivative.
    """

    def __init__(self, model: Model, batch: Batch, training: LocalTraining, clip: float | None = None) -> None:
        if isinstance(model.input, TokenSpec):
            raise NotApplicable("an update cannot be differentiated by tokens; images or table rows are needed")
        if training.conditions.precision != "float32":
            raise NotApplicable(f"precision={training.conditions.precision!r} moves in steps, which have no derivative")
        self._model = model.to(model.like.device, torch.float64)
        self._batch = batch.to(self._model.like)
        self._training, self._clip = training, clip

    def inputs(self) -> Float[Tensor, " columns"]:
        """The batch's own."""
        spec, given = self._model.input, self._batch.inputs
        return (given if isinstance(spec, ImageSpec) else spec.encode(given)).flatten()

    def __call__(self, x: Float[Tensor, " columns"], create_graph: bool = False) -> Float[Tensor, " rows"]:
        """The update of these inputs."""
        spec = self._model.input
        shaped = x.view(len(self._batch), *spec.encoded_shape)
        z = spec.encode(shaped) if isinstance(spec, ImageSpec) else shaped
        sent = encoded_update(self._model, z, self._batch.labels, self._training, create_graph=create_graph)
        flat = torch.cat([value.flatten() for value in sent.values.values()])
        return flat if self._clip is None else flat * (self._clip / flat.norm().clamp_min(1e-300)).clamp_max(1.0)

    def jacobian(self, x: Float[Tensor, " columns"]) -> Jacobian:
        """At these inputs; every product is one or two passes back through the network's gradient.

        Raises:
            NotApplicable: the update does not depend on the inputs by a derivative, as where it was rounded to signs.
        """
        at = x.detach().clone().requires_grad_()
        update = self(at, create_graph=True)
        if not update.requires_grad:
            raise NotApplicable("the update has no derivative by the inputs")
        weights = torch.zeros_like(update, requires_grad=True)
        (pulled,) = torch.autograd.grad(update, at, weights, create_graph=True)

        def back(u: Tensor) -> Tensor:
            return torch.autograd.grad(update, at, u, retain_graph=True)[0]

        def forward(v: Tensor) -> Tensor:
            # the transpose of a product with the transpose; None where the update is linear in nothing
            found = torch.autograd.grad(pulled, weights, v, retain_graph=True, allow_unused=True)[0]
            return torch.zeros_like(update) if found is None else found  # pyright: ignore[reportUnnecessaryComparison]

        return Jacobian(len(update), len(at), forward, back, update.detach())


NODES, WEIGHTS = (
    (-0.9602898564975363, -0.7966664774136267, -0.5255324099163290, -0.1834346424956498),
    (0.1012285362903763, 0.2223810344533745, 0.3137066458778873, 0.3626837833783620),
)
"""Gauss-Legendre of 8 points on [-1, 1]; the other half is symmetric."""


def jumps(function: UpdateOfInputs, start: Tensor, end: Tensor, pieces: int = 2) -> float:
    """The share of the update's change from one batch to another that its derivative does not account for.

    It is 0 up to the rule's error for smooth networks. Behind ReLU or a maximum the gradient of a weight is not
    continuous in the input: where a unit switches it jumps, and that is no part of the integral.

    Args:
        function: of the inputs.
        start: (columns,) one batch.
        end: (columns,) another.
        pieces: in which the way is integrated, by 8 points each.
    """
    change, total = function(end) - function(start), torch.zeros_like(function(start))
    for piece in range(pieces):
        for node, weight in zip((*NODES, *(-n for n in NODES)), (*WEIGHTS, *WEIGHTS), strict=True):
            share = (piece + (1 + node) / 2) / pieces
            slope = function.jacobian(start + share * (end - start)).forward(end - start)
            total += weight / (2 * pieces) * slope
    return float((change - total).norm() / change.norm().clamp_min(1e-300))
