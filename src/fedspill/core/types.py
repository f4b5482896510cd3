"""The nouns of an audit. Everything else in the package is a function between these."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.words import ServerRole as ServerRole

Params = Mapping[str, Tensor]
"""Tensors keyed by the name in `module.named_parameters()` (or `named_buffers()`)."""

Encoded = Float[Tensor, "n ..."] | Int[Tensor, "n ..."]
"""Encoded inputs, what a network takes: numbers on a scale, or tokens."""

LossFn = Callable[[Tensor, Tensor], Float[Tensor, ""]]
"""Logits and labels (classes, class probabilities, or next tokens) to the mean loss."""


@dataclass(frozen=True)
class Batch:
    """Inputs as a person would see them (not normalised), with their labels.

    Labels are what the loss takes: classes (n,), next tokens (n, t), or numbers, such as several labels each (n, k).

    Raises:
        BadInput: no example, or not one label per example.

    Example:
        >>> import fedspill, torch
        >>> len(fedspill.Batch(torch.rand(4, 3, 32, 32), torch.tensor([3, 8, 8, 0])))
        4
    """

    inputs: Float[Tensor, "n ..."] | Int[Tensor, "n ..."]
    labels: Int[Tensor, " n ..."] | Float[Tensor, " n ..."]

    def __post_init__(self) -> None:
        if len(self.inputs) == 0:
            raise BadInput("a batch of 0 examples was got; at least 1 example is needed")
        if len(self.inputs) != len(self.labels):
            raise BadInput(
                f"{len(self.inputs)} inputs and {len(self.labels)} labels were got; one label per input is needed"
            )

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: slice | list[int] | Tensor) -> "Batch":
        return Batch(self.inputs[index], self.labels[index])

    def to(self, like: Tensor) -> "Batch":
        """This batch on the device of `like`; floating inputs also take its dtype."""
        inputs = self.inputs.to(like) if self.inputs.is_floating_point() else self.inputs.to(like.device)
        return Batch(inputs, self.labels.to(like.device))


class UpdateKind(Enum):
    """What the numbers in an update are.

    Example:
        >>> import fedspill
        >>> fedspill.UpdateKind("delta")
        <UpdateKind.DELTA: 'delta'>
    """

    GRADIENT = "gradient"
    """FedSGD: the mean gradient over the batch."""
    DELTA = "delta"
    """FedAvg: server parameters minus client parameters."""


@dataclass(frozen=True)
class Update:
    """What leaves a client. Both kinds point uphill; a parameter that was not trained has no key.

    Example:
        >>> import fedspill, torch
        >>> update = fedspill.Update(fedspill.UpdateKind.GRADIENT, {"weight": torch.tensor([3.0, 4.0])})
        >>> update.norm()
        5.0
    """

    kind: UpdateKind
    values: Params
    buffers: Params | None = None

    def to(self, like: Tensor) -> "Update":
        """This update on the device and in the dtype of `like`."""
        buffers = None if self.buffers is None else {k: v.to(like.device) for k, v in self.buffers.items()}
        return Update(self.kind, {k: v.to(like) for k, v in self.values.items()}, buffers)

    def norm(self) -> float:
        """Euclidean norm over all values."""
        if not self.values:
            return 0.0
        return float(torch.stack([v.double().pow(2).sum() for v in self.values.values()]).sum().sqrt())


Mark = Literal["alone", "mixture", "duplicate", "unsure"]
"""What an attack believes of a candidate, blind: one example, several, one that it has already, or it cannot tell."""


@dataclass(frozen=True)
class Reconstruction:
    """What an attack believes the clients held: m candidates in any order; m may differ from the true n.

    Attributes:
        inputs: as a person would see them, inside the bounds of the model's input.
        labels: the labels that the attack used or found, if any.
        label_method: how it found them; None for granted labels, or for none.
        confidence: the attack's own, in [0, 1], never from the truth.
        objective: the value that the attack minimised, one per iteration of its best run; () for a closed form.
        converged: the attack's own word: its objective fell below the level that it states, or a blind
            certificate holds.
        notes: what a reader must know about this run, one sentence each.
        origins: where each candidate was read, such as "bin 17" (or "row 3, 40": the first place, then others); () if
            that means nothing.
        marks: what the attack believes of each candidate; () or one per candidate.
        representations: what the network made of the examples inside, if the attack read that and `inputs` are
            what it was inverted to.

    Example:
        >>> import fedspill, torch
        >>> rebuilt = fedspill.Reconstruction(torch.rand(2, 3, 32, 32), objective=(0.9, 0.1), converged=True)
        >>> len(rebuilt.inputs)
        2
    """

    inputs: Float[Tensor, "m ..."] | Int[Tensor, "m ..."]
    labels: Int[Tensor, " m ..."] | None = None
    label_method: str | None = None
    confidence: Float[Tensor, " m"] | None = None
    objective: tuple[float, ...] = ()
    converged: bool = False
    notes: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    marks: tuple[Mark, ...] = ()
    representations: Float[Tensor, "m d"] | None = None
