"""The parts of a ResNet, found by the names that torchvision, timm and the zoo give them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedspill.core.errors import NotApplicable
from fedspill.core.model import Model, parameter_name
from fedspill.inversion.network.layers import layer_at

PASSING = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU)
"""Activations that hand on values in [0.1, 1.1] unchanged."""
POOLS, UNITS = ("pool", "maxpool"), 4


@dataclass(frozen=True)
class Unit:
    """A convolution and the BatchNorm behind it, with their names in the network."""

    conv: nn.Conv2d
    conv_name: str
    norm: nn.BatchNorm2d
    norm_name: str

    @property
    def stride(self) -> int:
        """The stride of the convolution, in its own positions."""
        return self.conv.stride[0]

    def tap(self, offset: int) -> int | None:
        """The kernel index that reads `offset` positions after the output's own, on either axis; None without one."""
        size, spread, pad = self.conv.kernel_size[0], self.conv.dilation[0], self.conv.padding
        before = spread * (size - 1) // 2 if pad == "same" else 0 if isinstance(pad, str) else pad[0]
        index, rest = divmod(offset + before, spread)
        return index if rest == 0 and 0 <= index < size else None


@dataclass(frozen=True)
class Block:
    """A residual block: its main branch, and what stands beside it.

    Attributes:
        name: in the network.
        units: the main branch.
        shortcut: a 1x1 convolution; None for the identity, or for
        padded: the output channel of every input channel, of a shortcut that only skips pixels and pads channels.
    """

    name: str
    units: tuple[Unit, ...]
    shortcut: Unit | None
    padded: tuple[int, ...] | None

    @property
    def stride(self) -> int:
        """The stride of the whole block."""
        stride = 1
        for unit in self.units:
            stride *= unit.stride
        return stride


@dataclass(frozen=True)
class Residual:
    """The part of a ResNet that lies before a place.

    Attributes:
        stem: the first convolution; None if the place is before it.
        pool_stride: of the maximum pools behind the stem; None without any.
        blocks: all that come before the place.
    """

    stem: Unit | None
    pool_stride: int | None
    blocks: tuple[Block, ...]


def is_residual(model: Model) -> bool:
    """The network has a stem and stages named as a ResNet's."""
    names = {name for name, _ in model.module.named_children()}
    return {"conv1", "bn1", "layer1"} <= names


def residual_before(model: Model, at: str) -> Residual:
    """The parts before the module named `at`.

    Raises:
        NotApplicable: a part is not that of a ResNet, or `at` lies inside the stem or a block; names it.
    """
    layer_at(model, at)
    blocks = _blocks(model)
    if at in ("", "conv1"):
        return Residual(None, None, ())
    stem, pool = _unit(model, "", 1), _pool_stride(model)
    if at in POOLS:
        return Residual(stem, None, ())
    before = next((i for i, name in enumerate(blocks) if at in (name, name.rpartition(".")[0])), None)
    if at in ("bn1", "relu", "act1") or any(at.startswith(f"{name}.") for name in (*blocks, *POOLS)):
        raise NotApplicable(f"{at!r} lies inside the stem or a block; a stage, a block or the average is needed")
    return Residual(stem, pool, tuple(_block(model, name) for name in blocks[:before]))


def _blocks(model: Model) -> list[str]:
    stages = [name for name, _ in model.module.named_children() if name.startswith("layer")]
    return [f"{stage}.{name}" for stage in stages for name, _ in model.module.get_submodule(stage).named_children()]


def _unit(model: Model, block: str, number: int) -> Unit:
    names = parameter_name(block, f"conv{number}"), parameter_name(block, f"bn{number}")
    conv, norm = (dict(model.module.named_modules()).get(name) for name in names)
    return _checked(model, conv, names[0], norm, names[1])


def _checked(model: Model, conv: nn.Module | None, conv_name: str, norm: nn.Module | None, norm_name: str) -> Unit:
    if not isinstance(conv, nn.Conv2d) or conv.groups != 1:
        raise NotApplicable(f"{conv_name!r} is {type(conv).__name__}, not a convolution without groups")
    if len({*conv.stride}) > 1 or len({*conv.kernel_size}) > 1 or len({*conv.dilation}) > 1:
        raise NotApplicable(f"{conv_name!r} is not the same in rows and columns")
    if not isinstance(norm, nn.BatchNorm2d) or not norm.affine or f"{norm_name}.running_var" not in model.buffers:
        raise NotApplicable(f"{norm_name!r} is {type(norm).__name__}, not a BatchNorm2d with running statistics")
    return Unit(conv, conv_name, norm, norm_name)


def _pool_stride(model: Model) -> int | None:
    stride, pooled = 1, False
    for name in POOLS:
        for layer in getattr(model.module, name, nn.Identity()).modules():
            if isinstance(layer, nn.MaxPool2d):
                stride, pooled = stride * (layer.stride if isinstance(layer.stride, int) else layer.stride[0]), True
            elif not isinstance(layer, nn.Identity | nn.Sequential | nn.CircularPad2d):
                raise NotApplicable(f"{name!r} holds {type(layer).__name__}, not a maximum pool")
    return stride if pooled else None


def _block(model: Model, name: str) -> Block:
    block = model.module.get_submodule(name)
    known = {f"{kind}{n}" for kind in ("conv", "bn") for n in range(1, UNITS)}
    for child, layer in block.named_children():
        idle = isinstance(layer, (nn.Identity, nn.Dropout, nn.Dropout2d, *PASSING))
        if child not in known and child != "downsample" and not idle:
            raise NotApplicable(f"{name}.{child} is {type(layer).__name__}, which is no part of a plain residual block")
    count = sum(hasattr(block, f"conv{n}") for n in range(1, UNITS))
    units = tuple(_unit(model, name, n + 1) for n in range(max(count, 1)))
    down = getattr(block, "downsample", None)
    if isinstance(down, nn.Sequential) and len(down) == 2:
        keys = [parameter_name(name, f"downsample.{key}") for key, _ in down.named_children()]
        return Block(name, units, _checked(model, down[0], keys[0], down[1], keys[1]), None)
    if not (down is None or isinstance(down, nn.Identity)):
        raise NotApplicable(f"{name}.downsample is {type(down).__name__}, not a convolution and a BatchNorm")
    plain = Block(name, units, None, None)
    if plain.stride == 1 and units[0].conv.in_channels == units[-1].conv.out_channels:
        return plain
    return Block(name, units, None, _padded(model, plain))


def _padded(model: Model, block: Block) -> tuple[int, ...]:
    """What a shortcut without parameters does, seen with the main branch at zero."""
    inside, side = block.units[0].conv.in_channels, 4 * block.stride
    module, last = model.module.get_submodule(block.name), block.units[-1]
    params = {k.removeprefix(f"{block.name}."): v for k, v in _own(model, block.name)}
    off = {f"{last.norm_name.removeprefix(f'{block.name}.')}.{k}": v for k, v in _zeros(model, last).items()}
    ramp = torch.arange(1, side * side + 1).to(model.like).view(side, side)
    one = torch.eye(inside).to(ramp).view(inside, inside, 1, 1) * ramp
    with torch.no_grad():
        out: Tensor = functional_call(module, {**params, **off}, (one,))
    lit = out.flatten(2).amax(2)
    target = lit.argmax(1)
    expected = torch.zeros_like(out)
    expected[torch.arange(inside), target] = ramp[:: block.stride, :: block.stride]
    if not torch.equal(out, expected) or len(target.unique()) < inside:
        raise NotApplicable(f"the shortcut of {block.name!r} neither keeps every channel nor is a convolution")
    return tuple(target.tolist())


def _own(model: Model, name: str) -> list[tuple[str, Tensor]]:
    return [(k, v) for k, v in [*model.params.items(), *model.buffers.items()] if k.startswith(f"{name}.")]


def _zeros(model: Model, unit: Unit) -> dict[str, Tensor]:
    return {k: torch.zeros_like(model.params[f"{unit.norm_name}.{k}"]) for k in ("weight", "bias")}
