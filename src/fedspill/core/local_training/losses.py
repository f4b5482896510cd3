"""Losses that clients train by, as functions of logits and labels to a mean; each equal to PyTorch's of its name.

Labels are classes (n,), or targets (n, k) of the logits' shape: class probabilities, or for `BinaryCrossEntropy` and
`MeanSquaredError` any numbers that these take. Classes stand for their one-hot vectors where a loss wants targets.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fedspill.core.errors import BadInput
from fedspill.core.libraries.named import named
from fedspill.core.types import LossFn


@dataclass(frozen=True)
class CrossEntropy:
    """`torch.nn.CrossEntropyLoss`.

    Attributes:
        label_smoothing: share of the target that is spread over all classes, in [0, 1].
        weight: of each class; () weighs all alike. With weights the mean is over the weights of the batch's labels,
            so that it is no mean over examples.

    Raises:
        BadInput: a value is out of range.

    Example:
        >>> import fedspill, torch
        >>> loss = fedspill.CrossEntropy(label_smoothing=0.1)
        >>> round(float(loss(torch.zeros(2, 10), torch.tensor([3, 5]))), 4)
        2.3026
    """

    label_smoothing: float = 0.0
    weight: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing <= 1:
            raise BadInput(f"label_smoothing={self.label_smoothing} must lie in [0, 1]")
        _check_weight(self.weight)

    def __call__(self, logits: Float[Tensor, "n k"], labels: Tensor) -> Float[Tensor, ""]:
        """The mean loss."""
        weight = _weight_of(self.weight, logits)
        return functional.cross_entropy(logits, labels, weight=weight, label_smoothing=self.label_smoothing)


@dataclass(frozen=True)
class Focal:
    """Cross-entropy times (1 - p) ** gamma, p the probability of the label (Lin et al. 2017, arXiv 1708.02002).

    Attributes:
        gamma: at least 0; 0 is cross-entropy.
        weight: of each class; () weighs all alike. The mean is over examples.

    Raises:
        BadInput: a value is out of range.

    Example:
        >>> import fedspill, torch
        >>> round(float(fedspill.Focal(gamma=2.0)(torch.zeros(1, 2), torch.tensor([1]))), 4)
        0.1733
    """

    gamma: float = 2.0
    weight: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.gamma >= 0:
            raise BadInput(f"gamma={self.gamma} must be 0 or more")
        _check_weight(self.weight)

    def __call__(self, logits: Float[Tensor, "n k"], labels: Tensor) -> Float[Tensor, ""]:
        """The mean loss."""
        log = logits.log_softmax(1)
        each = -targets_of(labels, logits) * (1 - log.exp()) ** self.gamma * log
        weight = _weight_of(self.weight, logits)
        return (each if weight is None else each * weight).sum(1).mean()


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """`torch.nn.BCEWithLogitsLoss`: several labels at once (n, k), or one output (n, 1) with labels 0 and 1.

    Attributes:
        pos_weight: of the positive answer of each output; () weighs all by 1.

    Raises:
        BadInput: a weight is not above 0.

    Example:
        >>> import fedspill, torch
        >>> round(float(fedspill.BinaryCrossEntropy()(torch.zeros(2, 3), torch.tensor([[1., 0, 1], [0, 0, 0]]))), 4)
        0.6931
    """

    pos_weight: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _check_weight(self.pos_weight)

    def __call__(self, logits: Float[Tensor, "n k"], labels: Tensor) -> Float[Tensor, ""]:
        """The mean loss over examples and outputs."""
        weight = _weight_of(self.pos_weight, logits)
        return functional.binary_cross_entropy_with_logits(logits, targets_of(labels, logits), pos_weight=weight)


@dataclass(frozen=True)
class MeanSquaredError:
    """`torch.nn.MSELoss` between logits and targets; classes stand for their one-hot vectors.

    Example:
        >>> import fedspill, torch
        >>> float(fedspill.MeanSquaredError()(torch.zeros(1, 4), torch.tensor([2])))
        0.25
    """

    def __call__(self, logits: Float[Tensor, "n k"], labels: Tensor) -> Float[Tensor, ""]:
        """The mean loss over examples and outputs."""
        return functional.mse_loss(logits, targets_of(labels, logits))


@dataclass(frozen=True)
class Mixture:
    """A weighted sum of losses.

    Attributes:
        parts: weight and loss.

    Raises:
        BadInput: there is no part.

    Example:
        >>> import fedspill, torch
        >>> loss = fedspill.Mixture(((0.5, fedspill.CrossEntropy()), (0.5, fedspill.Focal(gamma=0.0))))
        >>> round(float(loss(torch.zeros(1, 10), torch.tensor([3]))), 4)
        2.3026
    """

    parts: tuple[tuple[float, LossFn], ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise BadInput("a mixture of losses needs at least one part")

    def __call__(self, logits: Float[Tensor, "n k"], labels: Tensor) -> Float[Tensor, ""]:
        """The sum."""
        return torch.stack([weight * loss(logits, labels) for weight, loss in self.parts]).sum()


def targets_of(labels: Tensor, logits: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """Labels as targets of the logits' shape and dtype: classes as one-hot vectors, or 0 and 1 of a single output.

    Raises:
        BadInput: the labels fit neither.
    """
    if labels.shape == logits.shape:
        return labels.to(logits.dtype)
    if labels.ndim == logits.ndim - 1 and logits.shape[-1] == 1:
        return labels.to(logits.dtype)[..., None]
    if labels.ndim == logits.ndim - 1 and not labels.is_floating_point():
        return functional.one_hot(labels.long(), logits.shape[-1]).to(logits.dtype)
    raise BadInput(
        f"labels of shape {tuple(labels.shape)} fit no targets of logits {tuple(logits.shape)}: classes (n,) or targets"
        " (n, k) are needed"
    )


def _check_weight(weight: tuple[float, ...]) -> None:
    if weight and not min(weight) > 0:
        raise BadInput(f"weights {weight} of a loss must be above 0")


def _weight_of(weight: tuple[float, ...], logits: Tensor) -> Tensor | None:
    if not weight:
        return None
    if len(weight) != logits.shape[-1]:
        raise BadInput(f"{len(weight)} weights of a loss were got; the network has {logits.shape[-1]} outputs")
    return torch.tensor(weight, device=logits.device, dtype=logits.dtype)


LOSSES: dict[str, type[CrossEntropy | Focal | BinaryCrossEntropy | MeanSquaredError]] = {
    "cross_entropy": CrossEntropy,
    "focal": Focal,
    "binary_cross_entropy": BinaryCrossEntropy,
    "mean_squared_error": MeanSquaredError,
}
"""By the names that plans use."""


def loss_of(value: object) -> LossFn:
    """The loss that a plan names: a name; a table of a name and its fields; a list of such tables, each with a
    `share`, for their sum; or "package.module:function", a function of logits and labels to a mean, or a class of such.

    Raises:
        BadInput: it names none, or its fields do not fit.
    """
    if isinstance(value, (list, tuple)):
        return Mixture(tuple(_part(one) for one in value))
    table: dict[str, Any] = dict(value) if isinstance(value, Mapping) else {"name": value}
    name = table.pop("name", None)
    if not isinstance(name, str):
        raise BadInput(f"loss {value!r} has no name; there are {', '.join(LOSSES)}, or package.module:function")
    if ":" in name:
        return imported(name, table)
    if name not in LOSSES:
        raise BadInput(f"loss {name!r} is unknown; there are {', '.join(LOSSES)}, or package.module:function")
    kind: Any = LOSSES[name]
    known = [f.name for f in fields(kind)]
    if unknown := sorted(table.keys() - set(known)):
        raise BadInput(f"loss {name!r} has no field {', '.join(unknown)}; it has {', '.join(known) or 'none'}")
    return kind(**{k: _number_or_numbers(k, v) for k, v in table.items()})


def _number_or_numbers(name: str, value: object) -> float | tuple[float, ...]:
    numbers: list[Any] = list(value) if isinstance(value, list | tuple) else [value]  # pyright: ignore[reportUnknownArgumentType]
    several = name in ("weight", "pos_weight")
    if several is not isinstance(value, list | tuple) or any(
        isinstance(v, bool) or not isinstance(v, int | float) for v in numbers
    ):
        raise BadInput(f"{name}={value!r} of a loss must be {'a list of numbers' if several else 'a number'}")
    return tuple(map(float, numbers)) if several else float(numbers[0])


def _part(value: object) -> tuple[float, LossFn]:
    table: dict[str, Any] = dict(value) if isinstance(value, Mapping) else {"name": value}
    share = table.pop("share", 1.0)
    if isinstance(share, bool) or not isinstance(share, int | float):
        raise BadInput(f"share={share!r} of a loss must be a number")
    return float(share), loss_of(table)


def imported(name: str, options: Mapping[str, object]) -> LossFn:
    """The user's own `package.module:function`; options are handed to it beside logits and labels.

    Modules in the current folder are found too.

    Raises:
        BadInput: there is no such module or function.
    """
    function: Callable[..., Tensor] = named(name, "loss", "function")
    if not callable(function):
        raise BadInput(f"loss {name!r} is a {type(function).__name__}; a function of logits and labels is needed")
    if isinstance(function, type):  # as torch.nn:CrossEntropyLoss
        try:
            return function(**options)
        except Exception as error:  # likewise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise BadInput(f"loss {name!r} cannot be made with {dict(options)}: {reason}") from error
    return partial(function, **options) if options else function
