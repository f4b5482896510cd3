"""The classification head: where the labels show, and whose input can be computed from its gradient."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedspill.core.errors import NotApplicable
from fedspill.core.model import Model, parameter_name
from fedspill.core.types import Encoded, Params


@dataclass(frozen=True)
class Head:
    """The last linear layer of a network.

    Attributes:
        name: of the module; "" when the network itself is one linear layer.
        weight: name of the weight (classes, features) among the model's parameters.
        bias: name of the bias (classes,), None for a head without one.
    """

    name: str
    weight: str
    bias: str | None


def last_linear(model: Model) -> Head:
    """The `nn.Linear` that the network registered last.

    Raises:
        NotApplicable: the network has none, or its weight is tied to a layer of another name.
    """
    linear = [(k, m) for k, m in model.module.named_modules() if isinstance(m, nn.Linear)]
    if not linear:
        raise NotApplicable(
            f"{type(model.module).__name__} has no nn.Linear layer, so no classification head was found"
        )
    name = linear[-1][0]
    weight, bias = parameter_name(name, "weight"), parameter_name(name, "bias")
    if weight not in model.params:
        raise NotApplicable(f"the head {name!r} does not hold its weight under its own name")
    return Head(name, weight, bias if bias in model.params else None)


def features_and_logits(
    model: Model, params: Params, z: Encoded, head: Head
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n k"]]:
    """What enters and what leaves the head for encoded inputs, without a graph.

    Raises:
        NotApplicable: the head is not called exactly once, with one row per example.
    """
    calls: list[tuple[Tensor, Tensor]] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((inputs[0], output))

    handle = model.module.get_submodule(head.name).register_forward_hook(keep)
    try:
        with torch.no_grad():
            model.logits(params, z)
    finally:
        handle.remove()
    if len(calls) != 1 or calls[0][0].ndim != 2:
        raise NotApplicable(f"the head {head.name!r} must be called once with (n, features) per forward pass")
    return calls[0]
