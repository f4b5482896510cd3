"""A layer planted into any network: in front of it or of one of its layers, or around them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.errors import NotApplicable
from fedspill.core.model import Model, parameter_name
from fedspill.core.module.twins import copied
from fedspill.core.types import Params
from fedspill.inversion.network.layers import layer_at, layer_inputs
from fedspill.inversion.network.trace import probe_inputs

PLANTED, BASE = "planted", "base"

Activation = Literal["relu", "hardtanh", "two_relus"]
Connection = Literal["linear", "addition"]


class PlantedLayer(nn.Module):
    """Measures its input x and hands on V act(U x + b) + c ("linear"), or x + s mean(act(U x + b)) ("addition").

    Args:
        features: numbers in one flattened input.
        rows: of U.
        activation: "relu"; "hardtanh", cut off at `ceiling`; or the same as two ReLUs.
        connection: "linear" has a second layer of the input's size, "addition" has no further parameter.
        ceiling: of "hardtanh" and "two_relus".
        scale: s of "addition".
    """

    def __init__(
        self,
        features: int,
        rows: int,
        activation: Activation = "relu",
        connection: Connection = "linear",
        ceiling: float = 1.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        with torch.device("meta"):
            self.first = nn.Linear(features, rows)
            self.second = nn.Linear(rows, features) if connection == "linear" else None
        self.activation, self.ceiling, self.scale = activation, ceiling, scale

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) to (n, ...)."""
        answers = self._act(self.first(x.flatten(1)))
        if self.second is not None:
            return self.second(answers).view_as(x)
        return x + self.scale * answers.mean(1).view(-1, *[1] * (x.ndim - 1))

    def _act(self, a: Tensor) -> Tensor:
        if self.activation == "relu":
            return torch.relu(a)
        if self.activation == "hardtanh":
            return functional.hardtanh(a, 0.0, self.ceiling)
        return torch.relu(a) - torch.relu(a - self.ceiling)


class Before(nn.Module):
    """A planted layer and the layer (or the whole network) that it stands in front of."""

    def __init__(self, planted: nn.Module, base: nn.Module) -> None:
        super().__init__()
        self.planted = planted
        self.base = base

    def forward(self, x: Tensor, *more: Any, **named: Any) -> Any:
        """What `base` makes of the changed input."""
        return self.base(self.planted(x), *more, **named)


@dataclass(frozen=True)
class Place:
    """Where a layer is planted, and what it sees there.

    Attributes:
        at: name of the layer in front of which it stands; "" is the network.
        shape: of one example's features there.
    """

    at: str
    shape: tuple[int, ...]

    @property
    def features(self) -> int:
        """Numbers in one example's flattened features."""
        return prod(self.shape)

    @property
    def module(self) -> str:
        """Name of the planted layer in the changed network."""
        return parameter_name(self.at, PLANTED)

    @property
    def layer(self) -> str:
        """Name of its first linear layer."""
        return parameter_name(self.module, "first")

    @property
    def second(self) -> str:
        """Name of its second one."""
        return parameter_name(self.module, "second")


def find_place(model: Model, at: str) -> Place:
    """The place in front of the layer `at`.

    Raises:
        NotApplicable: there is no such layer, it is not called once, or what enters it are no numbers on a scale.
    """
    layer_at(model, at)
    entering = layer_inputs(model, at, probe_inputs(model.input, 2, model.like))
    if not entering.is_floating_point():
        raise NotApplicable(
            f"what enters {at or 'the network'!r} are whole numbers (tokens), through which no gradient flows;"
            " place the module behind the embedding"
        )
    return Place(at, tuple(entering.shape[1:]))


def planted(model: Model, place: Place, layer: PlantedLayer, values: Params) -> Model:
    """The model with `layer` in front of `place`; its own parameters keep their values.

    Args:
        model: stays as it is.
        place: of the model.
        layer: its parameters are on the meta device.
        values: of the planted layer, named as in it ("first.weight", ...).
    """
    named = {parameter_name(PLANTED, k): v for k, v in values.items()}
    return enclosed(model, place.at, lambda base: Before(layer, base), named)


def enclosed(model: Model, at: str, around: Callable[[nn.Module], nn.Module], values: Params) -> Model:
    """The model with the layer `at` inside another module; its own parameters keep their values.

    Args:
        model: stays as it is.
        at: name of the layer; "" is the network.
        around: makes the module that holds a layer as its attribute `base`; parameters are on the meta device.
        values: of the parameters that `around` adds, named as in the module that it makes.
    """
    module = copied(model.module)
    if at == "":
        module = around(module)
    else:
        above, _, name = at.rpartition(".")
        parent = module.get_submodule(above)
        setattr(parent, name, around(parent.get_submodule(name)))
    module.train(model.training)

    def moved(name: str) -> str:
        inside = at == "" or name.startswith(f"{at}.")
        return parameter_name(at, parameter_name(BASE, name.removeprefix(f"{at}.") if at else name)) if inside else name

    params = {moved(k): v for k, v in model.params.items()} | {parameter_name(at, k): v for k, v in values.items()}
    buffers = {moved(k): v for k, v in model.buffers.items()}
    # The order of named_parameters(), which an update and its readers go by.
    ordered = {k: params[k] for k, _ in module.named_parameters()}
    frozen = frozenset(moved(k) for k in model.frozen)
    return replace(model, module=module, params=ordered, buffers=buffers, frozen=frozen)


def equal_columns(rows: int, features: int, size: float, like: Tensor) -> Float[Tensor, "features rows"]:
    """A second layer that treats all rows alike: an example has the same derivative in every bin (appendix B)."""
    return like.new_full((features, rows), size)
