"""A layer's input from linear equations: what its weight's gradient says, and what is known of its output.

R-GAP (Zhu and Blaschko, ICLR 2021, arXiv 2010.07733) calls them gradient constraints and weight constraints.
The second say what the output tells of the directions of the input that the gradient leaves open.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fedspill.core.rng import randn, stream
from fedspill.inversion.recursion.equations.spoiled import spoiled
from fedspill.inversion.shift_structure.patches import design, is_plain

STEPS = 300
ENOUGH = 1e-10
"""Relative gradient at which conjugate gradients have converged."""
MANY = 2
"""Times the unknowns of one picture: so many equations by its outputs are taken to determine them."""
PLANTED = 1e-3
"""Relative error of a random solution that equations give back from which on they are too few."""


@dataclass(frozen=True)
class Outputs:
    """What is known of an affine function of an input."""

    function: Callable[[Tensor], Tensor]
    value: Tensor
    known: Bool[Tensor, "b ..."]


def completed(
    outputs: Sequence[Outputs], pictures: Float[Tensor, "b c h w"], nullspace: Float[Tensor, "f k"], misfit: float
) -> Float[Tensor, "b c h w"] | None:
    """The pictures with what is missing along the open directions of every channel; None if that is not determined.

    Of several pictures one may have too few equations while all together have enough, and some of what outputs say is
    what the gradient said, so that where equations are not many more than unknowns a solution counts only if they give
    back another one, which was drawn at random.
    """
    size = (pictures.shape[1], nullspace.shape[1])
    equations, unknowns = sum(int(o.known.sum()) for o in outputs), size[0] * size[1]
    if equations < unknowns:
        return None

    def spread(amounts: Tensor) -> Tensor:
        return as_pictures(nullspace @ amounts.T, pictures.shape)

    bases = [o.function(torch.zeros_like(pictures)) for o in outputs]

    def seen(amounts: Tensor) -> Tensor:
        x = spread(amounts)
        return torch.cat([(o.function(x) - b)[o.known] for o, b in zip(outputs, bases, strict=True)])

    rest = torch.cat([(o.value - o.function(pictures))[o.known] for o in outputs])
    amounts, rest = _least_squares(seen, rest, pictures.new_zeros(size))
    doubtful = len(pictures) > 1 or equations < MANY * unknowns
    if doubtful and not recovers(seen, pictures.new_zeros(size)):
        return None
    target = torch.cat([o.value[o.known] for o in outputs])
    return pictures + spread(amounts) if rest.norm() <= misfit * target.norm() else None


def recovers(linear: Callable[[Tensor], Tensor], zero: Tensor) -> bool:
    """Whether linear equations give back a solution that was drawn at random.

    Args:
        zero: in the shape of a solution.
    """
    drawn = randn(tuple(zero.shape), stream(0, "least squares"), zero)
    again, _ = _least_squares(linear, linear(drawn), zero)
    return bool((again - drawn).norm() <= PLANTED * drawn.norm())


def as_pictures(columns: Float[Tensor, "f c"] | Bool[Tensor, "f c"], shape: torch.Size) -> Tensor:
    """The values of all examples' pixels, a column for each channel, as pictures (b, c, h, w)."""
    examples, channels, height, width = shape
    return columns.T.reshape(channels, examples, height, width).transpose(0, 1)


def as_columns(pictures: Float[Tensor, "b c h w"] | Bool[Tensor, "b c h w"]) -> Tensor:
    """The other way round: (f, c)."""
    return pictures.transpose(0, 1).flatten(1).T


def _least_squares(linear: Callable[[Tensor], Tensor], target: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
    """The solution and what is left of `target`, by conjugate gradients on the normal equations (CGLS)."""
    leaf = zero.clone().requires_grad_()
    with torch.enable_grad():
        image = linear(leaf)

    def back(values: Tensor) -> Tensor:
        return torch.autograd.grad(image, leaf, values, retain_graph=True)[0]

    x, rest, gradient = zero, target, back(target)
    direction, length = gradient, gradient.pow(2).sum()
    first = length
    for _ in range(STEPS):
        if length <= ENOUGH**2 * first:
            break
        along = linear(direction)
        step = length / along.pow(2).sum()
        x, rest = x + step * direction, rest - step * along
        gradient = back(rest)
        before, length = length, gradient.pow(2).sum()
        direction = gradient + length / before * direction
    return x, rest


MOST_PIXELS = 2048
"""Of one channel in all examples: beyond, the normal equations are too large."""
MOST_OPEN = 1024
"""Pixels of one channel in a batch up to which outputs may tell what the gradient leaves open: beyond, this takes many
seconds, and their shares of the examples are never enough."""
RANK = 1e-11
"""Share of the largest eigenvalue of the normal equations below which they do not determine a direction."""
MISFIT = 1e-2
"""Relative residual beyond which the equations of a single example contradict each other."""
CERTAIN = 2e-5
"""The same of a batch: right, it is 1e-6 of a float32 gradient; with a few units wrongly firing, 1e-2."""
TRIMS = 8
STRAY = 6.0
"""Times the median misfit of a layer's channels beyond which one is left out."""
ROUNDING = 1e-6
"""Relative misfit of a channel that is never held against it."""
SHARPER = 0.1
"""What leaving channels out must make of the misfit, or else they are kept."""
SURE, DOUBTFUL = 1e-5, 1e-3
"""Expected relative errors: up to the first a direction is taken as solved, up to the second if nothing else is."""


@dataclass
class Solution:
    """The inputs of all examples, as far as the equations determine them.

    Attributes:
        value: 0 where unknown.
        stray: layers, by their place among the equations, and channels of theirs whose rows contradict the others.
        used: rows of the equations that told all of it; None if outputs told some.
        error: the largest expected error of a value; 0 where it was not asked for.
    """

    value: Float[Tensor, "b c h w"]
    known: Bool[Tensor, "b c h w"]
    stray: list[tuple[int, int]]
    used: Bool[Tensor, " e"] | None = None
    error: float = 0.0


@dataclass
class Equations:
    """Linear equations for inputs (b, c, h, w), the same for every channel but for the right-hand side.

    Attributes:
        left_out: by layer: which of its out channels not to use, since it is not known who fires there.
        rows: by layer: (e, b * h * w), where e = out channels * taps, out channels first.
        wanted: by layer: (e, c).
    """

    shape: torch.Size
    rows: list[Tensor] = field(default_factory=list[Tensor])
    wanted: list[Tensor] = field(default_factory=list[Tensor])
    left_out: list[Tensor] = field(default_factory=list[Tensor])
    outputs: list[Outputs] = field(default_factory=list[Outputs])

    @property
    def misfit(self) -> float:
        """The largest relative residual of a solution."""
        return MISFIT if self.shape[0] == 1 else CERTAIN

    def add_gradient(
        self, layer: nn.Conv2d, cotangent: Tensor, gradient: Tensor, left_out: Tensor | None = None
    ) -> bool:
        """What the gradient of a layer's weight says, given the cotangent of its output; False if that is nothing."""
        size = cotangent.norm()
        if not is_plain(layer) or self.shape[0] * self.shape[2] * self.shape[3] > MOST_PIXELS or size == 0:
            return False
        self.rows.append(design(cotangent / size, layer, self.shape))
        self.wanted.append(gradient.transpose(0, 1).flatten(1).T / size)
        nobody = torch.zeros(len(gradient), dtype=torch.bool, device=gradient.device)
        self.left_out.append(nobody if left_out is None else left_out)
        return True

    def add_output(self, function: Callable[[Tensor], Tensor], value: Tensor, known: Tensor) -> None:
        """What is known of an affine function of the input."""
        self.outputs.append(Outputs(function, value, known))


def solved(equations: Equations, channels: list[int]) -> Solution | None:
    """The input where it is determined; None if nowhere, or if the equations contradict each other.

    Args:
        channels: out channels of the layers.
    """
    if not equations.rows:
        return None
    rows, targets = torch.cat(equations.rows), torch.cat(equations.wanted)
    if len(rows) < rows.shape[1] and equations.shape[0] > 1 and rows.shape[1] > MOST_OPEN:
        return None
    owners = owners_of(equations, channels, rows.device)
    used = undoubted(equations, owners)
    kept = _fitting(rows, targets, owners, used)
    spectrum = _Spectrum.of(rows[kept], targets[kept])
    if spectrum.misfit > equations.misfit:
        return None
    sure = spectrum.error < max(SURE, 30 * float(spectrum.error.min()))
    picture, nullspace = as_pictures(spectrum.solve(sure), equations.shape), spectrum.vectors[:, ~sure]
    stray = [(int(o[0]), int(o[1])) for o in owners[~kept & used].unique(dim=0)]
    if nullspace.shape[1]:
        completion = completed(equations.outputs, picture, nullspace, equations.misfit)
        if completion is None:
            doubtful = spectrum.error < DOUBTFUL
            partial = _partial(spectrum.solve(doubtful), spectrum.vectors[:, ~doubtful], equations.shape, stray)
            return replace(partial, used=kept) if partial and bool(doubtful.all()) else partial
        picture = completion
    used = None if nullspace.shape[1] else kept
    return Solution(picture, torch.ones_like(picture, dtype=torch.bool), stray, used)


def undoubted(equations: Equations, owners: Tensor) -> Bool[Tensor, " e"]:
    """The rows of channels that are not to be left out, if they are enough."""
    out = torch.zeros(len(owners), dtype=torch.bool, device=owners.device)
    for layer, channels in enumerate(equations.left_out):
        of = owners[:, 0] == layer
        out[of] = channels[owners[of, 1]]
    columns = equations.rows[0].shape[1]
    return ~out if len(out) - int(out.sum()) > columns or len(out) <= columns else torch.ones_like(out)


def owners_of(equations: Equations, channels: list[int], device: torch.device) -> Tensor:
    """(e, 2): of every row its layer and out channel."""
    parts = [
        torch.stack([torch.full((len(r),), i), torch.arange(n).repeat_interleave(len(r) // n)], 1)
        for i, (r, n) in enumerate(zip(equations.rows, channels, strict=True))
    ]
    return torch.cat(parts).to(device)


def _fitting(rows: Tensor, targets: Tensor, owners: Tensor, everything: Tensor) -> Bool[Tensor, " e"]:
    """Rows without the channels that contradict the rest: one wrongly firing unit spoils all rows of its channel."""
    pairs, owner = owners.unique(dim=0, return_inverse=True)
    kept, first, misfit = everything, float("inf"), float("inf")
    found = spoiled(rows[everything], targets[everything])
    if bool(found.any()):
        wrong = torch.zeros(len(pairs), dtype=torch.bool, device=rows.device)
        wrong[owner[everything][found]] = True
        kept = everything & ~wrong[owner]
    for number in range(TRIMS):
        spectrum = _Spectrum.of(rows[kept], targets[kept])
        first, misfit = (spectrum.misfit if number == 0 else first), spectrum.misfit
        bad = _stray(rows @ spectrum.solve() - targets, targets, pairs, owner, kept)
        if misfit < ROUNDING and not bool(bad.any()):
            break
        fresh = kept & ~bad[owner]
        if int(fresh.sum()) <= rows.shape[1] or bool((fresh == kept).all()):
            break
        kept = fresh
    return kept if misfit < SHARPER * first or first < ROUNDING else everything


def _stray(off: Tensor, targets: Tensor, pairs: Tensor, owner: Tensor, kept: Tensor) -> Bool[Tensor, " channels"]:
    """Channels that miss by far more than the others of their layer; if there are none, the worst one."""

    def by_channel(values: Tensor) -> Tensor:
        return values.new_zeros(len(pairs)).index_add_(0, owner, values)

    missed, size = by_channel(off.pow(2).sum(1)).sqrt(), by_channel(targets.pow(2).sum(1)).sqrt()
    used = by_channel(kept.to(off)) > 0
    bad = torch.zeros_like(used)
    for layer in pairs[:, 0].unique():
        of = (pairs[:, 0] == layer) & used
        bad |= of & (missed > STRAY * missed[of].median()) & (missed > ROUNDING * size[of].median())
    if not bool(bad.any()) and float(missed[used].norm()) > ROUNDING * float(size[used].norm()):
        bad[missed.where(used, 0.0).argmax()] = True
    return bad


@dataclass(frozen=True)
class _Spectrum:
    """The spectrum of the normal equations.

    Attributes:
        vectors: eigenvectors, in columns.
        error: expected along each of them, relative to the solution.
        misfit: relative residual.
    """

    values: Tensor
    vectors: Tensor
    moment: Tensor
    error: Tensor
    misfit: float

    @classmethod
    def of(cls, rows: Tensor, targets: Tensor) -> "_Spectrum":
        values, vectors = torch.linalg.eigh(rows.T @ rows)
        moment, safe = vectors.T @ (rows.T @ targets), values > RANK * values[-1]
        x = vectors[:, safe] @ (moment[safe] / values[safe, None])
        off = rows @ x - targets
        free = max(1, len(off) - int(safe.sum())) * off.shape[1]
        noise = (off.pow(2).sum() / free).sqrt().clamp_min(1e-8 * targets.pow(2).mean().sqrt())
        error = noise / values.clamp_min(torch.finfo(values.dtype).tiny).sqrt() / x.pow(2).mean().sqrt()
        return cls(values, vectors, moment, error.where(safe, torch.inf), float(off.norm() / targets.norm()))

    def solve(self, along: Tensor | None = None) -> Float[Tensor, "f c"]:
        """The solution without what lies along other directions."""
        along = self.error.isfinite() if along is None else along
        return self.vectors[:, along] @ (self.moment[along] / self.values[along, None])


def _partial(x: Tensor, nullspace: Tensor, shape: torch.Size, stray: list[tuple[int, int]]) -> Solution | None:
    """Those pixels that the open directions do not touch."""
    known = (nullspace.pow(2).sum(1) < 1e-8).reshape(shape[0], 1, *shape[2:]).expand(shape)
    return Solution(as_pictures(x, shape), known, stray) if bool(known.any()) else None
