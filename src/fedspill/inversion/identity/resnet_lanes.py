"""Parameters that make a ResNet hand the picture on to a place inside it.

Convolutions on the way become Dirac kernels and BatchNorms (eval mode) identities; residual branches are off where
nothing strides. The stem moves pixels into [0.1, 1.1], where no ReLU clips them on the whole way. In a strided block
the shortcut hands on the pixels that it sees, and the main branch those between. A maximum pool stays: it shows the
brightest of 3 x 3 positions. With spare channels it is passed twice, as max(x) and as -max(-x), the darkest, between
which all of these pixels lie; this leaves half as many channels for shifted copies.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model, parameter_name
from fedspill.inversion.identity.offsets import Offsets, balanced, thinned, widened
from fedspill.inversion.identity.resnet import Block, Residual, Unit

LOW, HIGH = 0.1, 1.1
"""The values of the darkest and the brightest pixel behind the stem."""

Pair = tuple[int, int]


@dataclass(frozen=True)
class Lane:
    """A channel that carries one colour of the picture.

    Attributes:
        channel: its number.
        colour: of the picture.
        shift: rows and columns by which its pixels lie after the start of their cells.
        mirrored: bright is dark.
    """

    channel: int
    colour: int
    shift: Pair
    mirrored: bool


@dataclass(frozen=True)
class Detour:
    """A lane that the main branch of a block carries: the phase at which it is read, and where it arrives."""

    lane: Lane
    phase: Pair
    arrived: Lane


def residual_params(model: Model, spec: ImageSpec, residual: Residual, *, fill: bool) -> dict[str, Tensor]:
    """All parameters of the network, with those before a place replaced.

    Args:
        model: a ResNet.
        spec: of its pictures.
        residual: its parts before the place.
        fill: use free channels for shifted copies; else one channel per colour.

    Raises:
        NotApplicable: the stem has fewer channels than the picture has colours.
    """
    params = dict(model.params)
    if residual.stem is None:
        return params
    grid, lanes = _stem_lanes(spec, residual.stem, residual.pool_stride, fill)
    _set_stem(model, params, spec, residual.stem, lanes)
    for block in residual.blocks:
        for unit in block.units:
            _clear(params, unit)
        if block.shortcut is not None or block.padded is not None:
            grid, lanes = _set_block(model, params, block, grid, lanes, fill)
    return params


def _stem_lanes(spec: ImageSpec, stem: Unit, pool: int | None, fill: bool) -> tuple[Offsets, list[Lane]]:
    colours, width = spec.shape[0], stem.conv.out_channels
    if width < colours:
        raise NotApplicable(f"{stem.conv_name!r} has {width} channels, which cannot carry {colours} colours")
    mirrors = (False, True) if fill and pool is not None and width >= 2 * colours else (False,)
    cell = stem.stride * (pool or 1)
    reached = [p for p in range(cell) if stem.tap(p) is not None]
    rows, columns = balanced(len(reached), len(reached), width // (colours * len(mirrors)) if fill else 1)
    grid = Offsets(thinned(reached, cell, rows), thinned(reached, cell, columns), cell)
    kinds = [(c, shift, mirrored) for shift in grid.pairs() for mirrored in mirrors for c in range(colours)]
    return grid, [Lane(number, *kind) for number, kind in enumerate(kinds)]


def _set_stem(model: Model, params: dict[str, Tensor], spec: ImageSpec, stem: Unit, lanes: list[Lane]) -> None:
    _clear(params, stem)
    _open(model, params, stem, [lane.channel for lane in lanes])
    ends = spec.encode(torch.tensor(spec.bounds).view(2, 1, 1, 1).expand(2, spec.shape[0], 1, 1)).double()
    for lane in lanes:
        dark, bright = ends[:, lane.colour, 0, 0].tolist()
        gain = (HIGH - LOW) / (bright - dark) * (-1 if lane.mirrored else 1)
        _connect(params, stem, lane.colour, lane.channel, lane.shift, gain)
        params[parameter_name(stem.norm_name, "bias")][lane.channel] += LOW - gain * (bright if lane.mirrored else dark)


def _set_block(
    model: Model, params: dict[str, Tensor], block: Block, grid: Offsets, lanes: list[Lane], fill: bool
) -> tuple[Offsets, list[Lane]]:
    after, strided = _grid_behind(block, grid, lanes, fill)
    beside = _set_shortcut(model, params, block, after, lanes)
    detours = _detours(after, grid, lanes, beside, block.units[-1].conv.out_channels)
    for unit in block.units:
        first, last = unit is block.units[0], unit is block.units[-1]
        for number, detour in enumerate(detours):
            into, out = detour.lane.channel if first else number, detour.arrived.channel if last else number
            _connect(params, unit, into, out, detour.phase if unit is strided else (0, 0))
        _open(model, params, unit, [d.arrived.channel if last else n for n, d in enumerate(detours)])
    return after, beside + [d.arrived for d in detours]


def _grid_behind(block: Block, grid: Offsets, lanes: list[Lane], fill: bool) -> tuple[Offsets, Unit]:
    """The grid behind the block, and the unit of the main branch that strides."""
    kinds = len({(lane.colour, lane.mirrored) for lane in lanes})
    strided = next((u for u in block.units if u.stride > 1), block.units[0])
    steps = [s for s in range(1, block.stride) if strided.stride == block.stride and strided.tap(s) is not None]
    room = block.units[-1].conv.out_channels // kinds if fill else 1
    branch = min(u.conv.out_channels for u in block.units) // kinds if fill else 0
    keep = block.padded is not None
    return widened(grid, block.stride, steps, room=room, branch=branch, keep=keep), strided


def _set_shortcut(
    model: Model, params: dict[str, Tensor], block: Block, after: Offsets, lanes: list[Lane]
) -> list[Lane]:
    """The lanes that it hands on, in their new channels."""
    if block.padded is not None:
        return [replace(lane, channel=block.padded[lane.channel]) for lane in lanes]
    kept, unit = [lane for lane in lanes if lane.shift in set(after.pairs())], block.shortcut
    assert unit is not None
    _clear(params, unit)
    for channel, lane in enumerate(kept):
        _connect(params, unit, lane.channel, channel, (0, 0))
    _open(model, params, unit, list(range(len(kept))))
    return [replace(lane, channel=channel) for channel, lane in enumerate(kept)]


def _detours(after: Offsets, before: Offsets, lanes: list[Lane], beside: list[Lane], width: int) -> list[Detour]:
    needed, taken = set(after.pairs()) - set(before.pairs()), {lane.channel for lane in beside}
    free = iter(c for c in range(width) if c not in taken)
    phases = range(after.cell // before.cell)
    read = [(lane, (y, x)) for lane in lanes for y in phases for x in phases]
    moved = [(lane, p, (lane.shift[0] + p[0] * before.cell, lane.shift[1] + p[1] * before.cell)) for lane, p in read]
    return [Detour(la, p, replace(la, channel=next(free), shift=shift)) for la, p, shift in moved if shift in needed]


def _connect(params: dict[str, Tensor], unit: Unit, into: int, out: int, offset: Pair, gain: float = 1.0) -> None:
    row, column = unit.tap(offset[0]), unit.tap(offset[1])
    if row is None or column is None:
        raise NotApplicable(f"{unit.conv_name!r} does not read the position {offset} after its own")
    params[parameter_name(unit.conv_name, "weight")][out, into, row, column] = gain


def _clear(params: dict[str, Tensor], unit: Unit) -> None:
    """Nothing passes the unit."""
    for name in (
        parameter_name(layer, which) for layer in (unit.conv_name, unit.norm_name) for which in ("weight", "bias")
    ):
        if name in params:
            params[name] = torch.zeros_like(params[name])


def _open(model: Model, params: dict[str, Tensor], unit: Unit, channels: Sequence[int]) -> None:
    """The BatchNorm becomes the identity for these channels."""
    mean, var = (model.buffers[parameter_name(unit.norm_name, k)] for k in ("running_mean", "running_var"))
    index = torch.tensor(list(channels), dtype=torch.long, device=mean.device)
    params[parameter_name(unit.norm_name, "weight")][index] = (var + unit.norm.eps).sqrt()[index]
    params[parameter_name(unit.norm_name, "bias")][index] = mean[index]
