"""Contents of bins whose sum of c was lost in rounding, as after local training; their direction is still good.

The bias of a narrow bin is large (c / width), so that a local step moves it by less than float32 holds, while the
weights are small and move visibly. The example is then known up to a factor. Two things tell the factor: the example
measured what its bin says, and stored data lie on a lattice. Not in Robbing the Fed, whose readout divides by the bias.
"""

from dataclasses import replace

from torch import Tensor

from fedspill.inversion.codebooks.codebook import Codebook
from fedspill.inversion.imprint.contents import Contents
from fedspill.inversion.imprint.rows import Group

GOOD = 1e-5
"""Relative rounding of the sum of c, below which it is left alone."""
SLACK = 0.02
"""Share of its place, besides a whole width, by which a bin may have moved during local training."""


def mended(held: Contents, group: Group, codebook: Codebook) -> Contents:
    """The same, with better sums of c where the bias is too rough: from the lattice, else from the bin's middle."""
    poor = ((held.weight.norm(dim=1) > held.rough) & (held.noise > GOOD * held.bias.abs())).nonzero()[:, 0].tolist()
    if not poor or held.deviation:  # no lattice shows behind noise
        return held
    bias, noise = held.bias.clone(), held.noise.clone()
    for place in poor:
        total = _sum_of_c(held, group, place, codebook)
        if total is not None:
            bias[place], noise[place] = total
    return replace(held, bias=bias, noise=noise)


def _sum_of_c(held: Contents, group: Group, place: int, codebook: Codebook) -> tuple[float, float] | None:
    direction = held.weight[place]
    measured = float(direction @ group.vector.to(direction))
    low, high = (float(e) for e in group.edges[place : place + 2])
    known = bool(held.known()[place])
    bounds = _factors(measured, low, high)
    # c has either sign where the bin does not tell.
    signs = [1.0, -1.0] if bounds is None else [1.0 if bounds[0] > 0 else -1.0]
    if known:
        signs = [float(held.bias[place].sign())]
    for sign in signs:
        ends = _wide(direction) if bounds is None else tuple(sorted((abs(bounds[0]), abs(bounds[1]))))
        factor = codebook.scale(sign * direction, *_met(ends, held, place, known))
        if factor is not None:
            c = sign / factor
            return c, 1e-6 * abs(c)
    if known or bounds is None:
        return None
    middle = (low + high) / 2
    return measured / middle, abs(measured / middle) * 1e-2


def _factors(measured: float, low: float, high: float) -> tuple[float, float] | None:
    """Ends of x = factor * direction, if the bin lies on one side of 0."""
    slack = (high - low) + SLACK * max(abs(low), abs(high))
    low, high = low - slack, high + slack
    if low * high <= 0 or measured == 0:
        return None
    return low / measured, high / measured


def _wide(direction: Tensor) -> tuple[float, float]:
    """Examples have a root mean square between a hundredth and ten, in normalised space."""
    size = float(direction.square().mean().sqrt())
    return 0.01 / size, 10 / size


def _met(ends: tuple[float, ...], held: Contents, place: int, known: bool) -> tuple[float, float]:
    low, high = ends[0], ends[-1]
    if known:
        middle, spread = 1 / abs(float(held.bias[place])), min(0.9, float(held.noise[place] / held.bias[place].abs()))
        near = middle / (1 + spread), middle / (1 - spread)
        if near[0] < high and near[1] > low:
            return max(low, near[0]), min(high, near[1])
        return near
    return low, high


def mended_all(held: list[Contents], groups: tuple[Group, ...], codebook: Codebook) -> list[Contents]:
    """`mended` for all groups."""
    return [mended(h, g, codebook) for h, g in zip(held, groups, strict=True)]
