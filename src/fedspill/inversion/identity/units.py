"""One convolution, with the BatchNorm and the activation behind it, as an identity for a number of lanes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedspill.core.errors import NotApplicable
from fedspill.core.model import Model, parameter_name
from fedspill.inversion.network.trace import Step

WORKING_RANGE: dict[type[nn.Module], tuple[float, float]] = {
    nn.ReLU: (0.1, 1.1),
    nn.ReLU6: (0.1, 1.1),
    nn.LeakyReLU: (0.1, 1.1),
    nn.ELU: (0.1, 1.1),
    nn.SELU: (0.1, 1.1),
    nn.CELU: (0.1, 1.1),
    nn.Softplus: (0.1, 1.1),
    nn.GELU: (1.0, 2.0),
    nn.SiLU: (1.0, 2.0),
    nn.Sigmoid: (-1.5, 1.5),
    nn.Tanh: (-1.0, 1.0),
    nn.Hardtanh: (-0.9, 0.9),
}
"""Inputs for which an activation is strictly increasing and well conditioned."""


@dataclass(frozen=True)
class Lane:
    """One channel on its way through the network.

    Attributes:
        source: its number in the layer that was reached; at the start its colour.
        shift: rows and columns by which it still has to move, in pixels.
        values: the smallest and the largest value that it can have there.
        mirrored: the next convolution turns bright into dark. A maximum pool then keeps the darkest pixel of a
            window, and the mean of the two is nearer to the picture than the brightest alone.
    """

    source: int
    shift: tuple[int, int]
    values: tuple[float, float]
    mirrored: bool = False


@dataclass(frozen=True)
class Unit:
    """A convolution with the BatchNorm and the activation that directly follow it."""

    conv: nn.Conv2d
    weight: str
    bias: str | None
    norm: Step | None
    activation: nn.Module | None
    length: int


def unit_at(stack: Sequence[Step], at: int) -> Unit:
    """The convolution at this place of the stack, with what directly follows it."""
    step, after = stack[at], list(stack[at + 1 : at + 3])
    assert isinstance(step.module, nn.Conv2d)
    norm = after.pop(0) if after and isinstance(after[0].module, nn.BatchNorm2d) else None
    activation = after[0].module if after and type(after[0].module) in WORKING_RANGE else None
    length = 1 + (norm is not None) + (activation is not None)
    weight = step.parameter("weight")
    if weight is None:
        raise NotApplicable(f"{step.describe()} holds no weight of its own")
    return Unit(step.module, weight, step.parameter("bias"), norm, activation, length)


def set_unit(
    model: Model, params: dict[str, Tensor], unit: Unit, lanes: list[Lane], stride: tuple[int, int]
) -> list[Lane]:
    """Writes a unit's parameters into `params`; the lanes as they are behind it.

    Raises:
        NotApplicable: an activation would clip them.
    """
    if unit.norm is not None:
        _neutralise(model, params, unit.norm)
    where = unit.bias or (unit.norm.parameter("bias") if unit.norm else None)
    weight, moved = torch.zeros_like(params[unit.weight]), list[Lane]()
    offsets = params[unit.weight].new_zeros(len(weight))
    for number, lane in enumerate(lanes):
        gain, offset = _affine(lane, unit, movable=where is not None)
        place, shift = _tap(unit.conv, lane.shift, stride)
        weight[number, lane.source, place[0], place[1]], offsets[number] = gain, offset
        reached = sorted(gain * v + offset for v in lane.values)
        moved.append(Lane(number, shift, _through(unit.activation, reached)))
    params[unit.weight] = weight
    if unit.bias is not None:
        params[unit.bias] = offsets
    elif where is not None:
        params[where] = params[where] + offsets
    return moved


def _affine(lane: Lane, unit: Unit, *, movable: bool) -> tuple[float, float]:
    """Gain and offset that bring the values into the activation's working range."""
    low, high = WORKING_RANGE[type(unit.activation)] if unit.activation is not None else (0.0, 1.0)
    values = lane.values
    if movable:
        gain = (high - low) / (values[1] - values[0])
        return (-gain, high + gain * values[0]) if lane.mirrored else (gain, low - gain * values[0])
    if unit.activation is None:
        return 1.0, 0.0
    if low >= 0 and values[0] < 0:
        raise NotApplicable(
            f"{unit.weight!r} has neither a bias nor a BatchNorm to keep {type(unit.activation).__name__}"
            " from clipping the picture"
        )
    return high / max(abs(v) for v in values), 0.0


def _tap(conv: nn.Conv2d, shift: tuple[int, int], stride: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The kernel entry that moves a lane nearest to where it should be, and the shift that is left."""
    places, remainder = list[int](), list[int]()
    for axis in (0, 1):
        size, spread = conv.kernel_size[axis], conv.dilation[axis]
        centre = spread * (size - 1) // 2
        pad = conv.padding[axis] if not isinstance(conv.padding, str) else centre * (conv.padding == "same")
        offsets = [spread * k - pad for k in range(size)]
        place = min(range(size), key=lambda k: abs(shift[axis] - stride[axis] * offsets[k]))
        places.append(place)
        remainder.append(shift[axis] - stride[axis] * offsets[place])
    return (places[0], places[1]), (remainder[0], remainder[1])


def _neutralise(model: Model, params: dict[str, Tensor], norm: Step) -> None:
    """BatchNorm in eval mode becomes the identity: scale sqrt(var + eps), shift mean."""
    module, weight, bias = norm.module, norm.parameter("weight"), norm.parameter("bias")
    assert isinstance(module, nn.BatchNorm2d)
    mean, var = (model.buffers.get(parameter_name(norm.name, k)) for k in ("running_mean", "running_var"))
    if weight is None or bias is None or mean is None or var is None:
        raise NotApplicable(f"{norm.describe()} has no parameters or running statistics to neutralise")
    params[weight], params[bias] = (var + module.eps).sqrt(), mean.clone()


def set_single(model: Model, params: dict[str, Tensor], step: Step, lanes: list[Lane]) -> list[Lane]:
    """The same for a BatchNorm or an activation that stands alone; pools and the like change nothing."""
    if isinstance(step.module, nn.BatchNorm2d):
        _neutralise(model, params, step)
    if type(step.module) not in WORKING_RANGE:
        return lanes
    return [replace(lane, values=_through(step.module, list(lane.values))) for lane in lanes]


def _through(activation: nn.Module | None, values: list[float]) -> tuple[float, float]:
    ends = torch.tensor(values, dtype=torch.float64)
    low, high = ends if activation is None else activation(ends)
    if not float(high) > float(low):
        raise NotApplicable(f"{type(activation).__name__} clips the picture before a convolution prevents it")
    return float(low), float(high)
