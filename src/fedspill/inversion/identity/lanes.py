"""Parameters that make a plain stack of convolutions hand the picture on to its first linear layer.

A lane is one channel that carries one colour, shifted by some pixels. Every convolution becomes, for each
lane, a single weight (a Dirac kernel) with a gain and an offset that put the values where the activation
neither clips nor saturates.
"""

from collections.abc import Sequence
from math import floor, isqrt

import torch
from torch import Tensor, nn

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec, image_spec
from fedspill.core.model import Model
from fedspill.inversion.identity.units import WORKING_RANGE, Lane, set_single, set_unit, unit_at
from fedspill.inversion.network.trace import Step, Trace

POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


def identity_params(
    model: Model, traced: Trace, *, phases: bool, at: str | None = None
) -> tuple[dict[str, Tensor], Step]:
    """All parameters, with those before a place replaced, and the first step there.

    Args:
        model: a plain feed-forward stack; weights of the linear layers are kept.
        traced: of the same model.
        phases: use free channels for shifted copies, so that strides lose fewer pixels; else three lanes.
        at: name of the module that is the place; None for the first linear layer.

    Raises:
        NotApplicable: the network is no such stack; names the layer.
    """
    spec = image_spec(model.input)
    stack, end = _stack(traced, at)
    lanes = _lanes(spec, stack, phases)
    params, stride, here = dict(model.params), (1, 1), 0
    while here < len(stack):
        step = stack[here]
        if isinstance(step.module, nn.Conv2d):
            unit = unit_at(stack, here)
            lanes = set_unit(model, params, unit, lanes, stride)
            here += unit.length
        else:
            lanes = set_single(model, params, step, lanes)
            here += 1
        stride = _times(stride, step)
    return params, end


def _stack(traced: Trace, at: str | None) -> tuple[list[Step], Step]:
    steps = list[Step]()
    for step in traced.steps:
        if not step.linked:
            raise NotApplicable(
                f"something that is not a layer of its own happens before {step.describe()} (a residual sum,"
                " a functional activation); only plain stacks of layers can become identities"
            )
        reached = isinstance(step.module, nn.Linear) if at is None else f"{step.name}.".startswith(f"{at}.")
        if reached:
            if not any(isinstance(s.module, nn.Conv2d) for s in steps):
                raise NotApplicable(f"no convolution comes before {at or 'the first linear layer'}")
            return steps, step
        if any(step.module is other.module for other in steps) and step.parameter("weight"):
            raise NotApplicable(f"{step.describe()} is used twice, so it cannot serve two places of a stack")
        if isinstance(step.module, nn.Conv2d) and step.module.groups != 1:
            raise NotApplicable(f"{step.describe()} has groups, which no lane can cross")
        known = (nn.Conv2d, nn.BatchNorm2d, *POOLS, *WORKING_RANGE)
        if not isinstance(step.module, known) and not step.passes():
            raise NotApplicable(f"{step.describe()} cannot become an identity")
        if isinstance(step.module, nn.BatchNorm2d) and step.module.training:
            raise NotApplicable(f"{step.describe()} uses batch statistics (train mode)")
        steps.append(step)
    if at is not None:
        raise NotApplicable(f"the network does not call {at!r}")
    raise NotApplicable("the network has no linear layer, from whose gradient the picture could be read")


def _lanes(spec: ImageSpec, stack: Sequence[Step], phases: bool) -> list[Lane]:
    channels = spec.shape[0]
    widths = [s.module.out_channels for s in stack if isinstance(s.module, nn.Conv2d)]
    if min(widths) < channels:
        raise NotApplicable(f"a convolution with {min(widths)} channels cannot carry {channels} colours")
    ends = spec.encode(torch.tensor(spec.bounds).view(2, 1, 1, 1).expand(2, channels, 1, 1)).flatten(1)
    total = (1, 1)
    for step in stack:
        total = _times(total, step)
    mirrors = (False, True) if _mirrors(stack) and min(widths) >= 2 * channels else (False,)
    # Windows of a maximum pool overlap, so that shifted copies tell little more (measured: no gain).
    side = isqrt(min(widths) // channels) if phases and len(mirrors) == 1 else 1
    shifts = [(_phase(y, side, total[0]), _phase(x, side, total[1])) for y in range(side) for x in range(side)]
    return [
        Lane(c, shift, (float(ends[0, c]), float(ends[1, c])), mirror)
        for shift in dict.fromkeys(shifts)
        for mirror in mirrors
        for c in range(channels)
    ]


def _mirrors(stack: Sequence[Step]) -> bool:
    first = next(i for i, s in enumerate(stack) if isinstance(s.module, nn.Conv2d))
    unit = unit_at(stack, first)
    movable = unit.bias is not None or unit.norm is not None
    return movable and any(isinstance(s.module, nn.MaxPool2d | nn.AdaptiveMaxPool2d) for s in stack)


def _phase(number: int, of: int, stride: int) -> int:
    # Not `round`, which takes both -0.5 and 0.5 to 0, so that two phases of a stride of 2 would be one.
    return floor(stride * (number + 0.5) / of - stride / 2 + 0.5) if stride > 1 else 0


def _times(stride: tuple[int, int], step: Step) -> tuple[int, int]:
    """The stride after a convolution or a pool, from the sizes that it was seen to map."""
    if len(step.input_shape) != 3 or len(step.output_shape) != 3:
        return stride
    ratios = (max(1, round(a / b)) for a, b in zip(step.input_shape[1:], step.output_shape[1:], strict=True))
    y, x = ratios
    return stride[0] * y, stride[1] * x
