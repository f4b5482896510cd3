"""From the head's gradient to the features and probabilities of the examples behind it."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.inversion.disaggregation.certificate.determined import deviations
from fedspill.inversion.disaggregation.certificate.redraws import Redrawn, redrawn
from fedspill.inversion.disaggregation.certificate.zeros import mixed_in
from fedspill.inversion.disaggregation.errors import LogitErrors
from fedspill.inversion.disaggregation.labels import likely_multisets, speakers
from fedspill.inversion.disaggregation.point import Rules
from fedspill.inversion.disaggregation.silent import disturbed, own_noise, rounding, row_noise, scatter, speaking
from fedspill.inversion.disaggregation.solving import DENSE, Solved, solve
from fedspill.inversion.disaggregation.starts import loudest_first, mean_starts, starts, sure_starts
from fedspill.inversion.disaggregation.system import System, system

STEPS = 200
"""Of one solution and one weight of the hinge, at most."""
HINGES = (0.3, 0.03)
"""Weights of negative features, one after the other."""
MANY, KEPT = 48, 6
"""Starts in a round of a longer look, and how many of these are followed to their end."""
LIKELIEST = 3
"""Guesses of labels before examples are found one by one."""
FEW, ONES, NEAR = 12, 2, 5.0
"""Examples up to which they are found one by one; results of that which are followed to their end; and how many times
what quieter examples bring may be left over at every one."""
LOGIT = 4.0
"""Size of a logit from which on its own rounding is what disturbs a probability."""
EXACT = 10.0
"""Times the rounding of a number, or noise, up to which a residual is a solution's."""
BEYOND = 6.0
"""Times what the equations miss of gradients with fresh noise, beyond which they do not hold."""
PINNED = 4e-4
"""Relative standard deviation of an example's features up to which they are pinned down."""


EPS = torch.finfo(torch.float32).eps
SOLVED = 1e-13
"""Relative error down to which the equations are solved in float64."""


@dataclass(frozen=True)
class Effort:
    """How much is tried.

    Attributes:
        starts: of one solution; up to 20 examples they go side by side.
        guesses: multisets of labels, or choices of the examples that speak, at most.
        rounds: of a longer look, with many starts each, where none of these led to a solution.
    """

    starts: int = 12
    guesses: int = 60
    rounds: int = 4


EFFORT = Effort()


@dataclass(frozen=True)
class Disaggregated:
    """The examples that speak, m of the B, in float64.

    Attributes:
        features: what enters the head.
        probabilities: softmax of the logits.
        labels: the class of each of them.
        certain: the equations hold as exactly as rounding lets them, and pin this example's features down.
        residual: relative error of the equations, over all.
        silent: examples of the batch that send nothing above rounding, B - m.
        errors: the derivative of the batch's mean loss by each example's logits.
        copies: examples of one class for whose mean each stands, because they cannot be told apart; mostly 1.
        fits: the equations hold as exactly as rounding lets them, so labels and factor are right.
        factor: of the update over the mean gradient.
        redrawn: solutions of gradients that are disturbed as this one is; None where the equations do not hold, or of
            large batches.
    """

    features: Float[Tensor, "m d"]
    probabilities: Float[Tensor, "m classes"]
    labels: Int[Tensor, " m"]
    certain: Bool[Tensor, " m"]
    residual: float
    silent: int
    errors: Float[Tensor, "m classes"]
    copies: Int[Tensor, " m"]
    fits: bool
    factor: float = 1.0
    redrawn: Redrawn | None = None


@dataclass(frozen=True)
class Unlabelled:
    """A batch whose labels nobody granted: the likeliest multisets are tried until the equations hold.

    Attributes:
        count: examples in the batch.
        inferred: labels that another method reads, tried first; None for none.
    """

    count: int
    inferred: Int[Tensor, " n"] | None = None


def disaggregate(
    rows: Float[Tensor, "classes k"],
    weight: Float[Tensor, "classes d"],
    bias: Float[Tensor, " classes"],
    labels: Int[Tensor, " n"] | Unlabelled,
    *,
    non_negative: bool,
    rng: torch.Generator,
    errors: LogitErrors | None = None,
    noise: float = EPS,
    free: bool = False,
    effort: Effort = EFFORT,
    is_up: Callable[[], bool] = lambda: False,
    shares: Float[Tensor, " n"] | None = None,
) -> Disaggregated:
    """Every example's features and probabilities from their mean gradient.

    Args:
        rows: the gradient of the head, a row for each class: [dW | db], or dW alone where no bias was trained.
        weight: the head's, at which the gradient was taken.
        bias: the head's; zeros for a head without one.
        labels: of the batch, in any order, or what is known in their place.
        non_negative: features are 0 or more, as behind ReLU, sigmoid, or pooling of these.
        rng: for the starts.
        errors: what the loss makes of probabilities; None for plain cross-entropy.
        noise: relative error of the gradient, such as the rounding of the type in which it was computed or sent.
        free: the gradient may be a multiple of the mean one.
        effort: how much is tried.
        is_up: whether the time is over.
        shares: of the examples in the mean, in the order of their labels, where these differ otherwise than by class;
            they are made use of if labels are given and all examples speak.

    Raises:
        NotApplicable: as many examples as classes, or more, or none that speaks.
    """
    count = labels.count if isinstance(labels, Unlabelled) else len(labels)
    seen = _Seen.of(rows, weight, bias, count, non_negative, errors, noise, free, effort)
    if isinstance(labels, Unlabelled):
        likely = likely_multisets(count * _shares(seen), count, labels.inferred)
        return _by_guesses(seen, (next(speakers(seen.rows, one, seen.heard)) for one in likely), None, rng, is_up)
    seen = seen if shares is None or seen.heard < len(labels) else replace(seen, shares=shares.to(seen.rows))
    return _by_guesses(seen, speakers(seen.rows, labels, seen.heard), labels, rng, is_up)


def _shares(seen: "_Seen") -> Float[Tensor, " classes"]:
    """Each class's share of the batch, if all examples got the probabilities of features that are 0.

    Some class is always missing; the one whose bias grows most, relative to its probability, tells an unknown factor.
    """
    guessed = seen.bias.softmax(0)
    if not seen.affine:
        return guessed
    factor = (seen.rows[:, -1] / guessed).max() if seen.free else 1.0
    return guessed - seen.rows[:, -1] / factor


def _by_guesses(
    seen: "_Seen",
    guesses: Iterator[Int[Tensor, " n"]],
    granted: Int[Tensor, " n"] | None,
    rng: torch.Generator,
    is_up: Callable[[], bool],
) -> Disaggregated:
    """The first result with which the equations hold; where none does, the one that misses them least."""
    best: Disaggregated | None = None
    for told in _tried(seen, guesses, granted, rng, is_up):
        best = told if best is None or told.fits or told.residual < best.residual else best
        if best.fits or is_up():
            break
    assert best is not None
    return best


def _tried(
    seen: "_Seen",
    guesses: Iterator[Int[Tensor, " n"]],
    granted: Int[Tensor, " n"] | None,
    rng: torch.Generator,
    is_up: Callable[[], bool],
) -> Iterator[Disaggregated]:
    """The likeliest labels; the examples one by one, for a network that is sure; more labels; the likeliest, longer."""
    first = list(islice(guesses, min(LIKELIEST, seen.effort.guesses)))
    for labels in first:
        yield _told(seen, labels, rng, is_up)
    yield from _one_by_one(seen, granted, rng, is_up)
    for labels in islice(guesses, seen.effort.guesses - len(first)):
        yield _told(seen, labels, rng, is_up)
    if seen.effort.rounds:
        yield _told(seen, first[0], rng, is_up, longer=True)


@dataclass(frozen=True)
class _Seen:
    """The head's gradient in the basis of its row space, and what is known besides."""

    rows: Float[Tensor, "classes k"]
    spread: Float[Tensor, " classes"]
    weight: Float[Tensor, "classes d"]
    bias: Float[Tensor, " classes"]
    basis: Float[Tensor, "m k"]
    sizes: Float[Tensor, " r"]
    count: int
    non_negative: bool
    errors: LogitErrors
    noise: float
    level: float
    free: bool
    effort: Effort
    shares: Float[Tensor, " n"] | None = None

    @property
    def heard(self) -> int:
        """Examples that speak."""
        return len(self.basis)

    @property
    def affine(self) -> bool:
        """Whether the bias's gradient is known."""
        return self.rows.shape[1] == self.weight.shape[1] + 1

    def equations(self, labels: Int[Tensor, " n"], shares: Float[Tensor, " n"]) -> System:
        """Those of examples with these labels, in as many directions, the loudest of the gradient's rows."""
        basis, spread = self.basis[: len(labels)], self.spread
        if self.affine and not self.free:
            spread = (spread.square() + own_noise(self.rows, labels, shares, self.noise).square()).sqrt()
        scale = spread.min() / spread
        return system(basis, self.rows @ basis.T, self.weight, self.bias, labels, shares, self.errors, scale)

    def even(self, rows: Float[Tensor, "classes k"]) -> Float[Tensor, "classes k"]:
        """Rows in which the noise is alike."""
        return (self.spread.min() / self.spread)[:, None] * rows

    def goals(self) -> list[float]:
        """The residual of the loudest 1, 2, ... examples: what the next one brings, and at the end rounding."""
        left = [float(self.sizes[r] / self.sizes[:r].norm()) for r in range(1, self.heard)]
        return [max(NEAR * size, 2 * EXACT * self.level) for size in [*left, 0.0]]

    def enough(self, known: System, found: Solved) -> float:
        """The residual up to which the best solution explains the gradient: rounding of its logits is in it, too."""
        size = float((found.mixing[0] @ known.keys + known.offset).abs().max())
        return EXACT * self.level * max(1.0, size / LOGIT)

    @classmethod
    def of(
        cls,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor,
        count: int,
        non_negative: bool,
        errors: LogitErrors | None,
        noise: float,
        free: bool,
        effort: Effort,
    ) -> "_Seen":
        rows, weight, bias = rows.double(), weight.double(), bias.double()
        classes = len(weight)
        if count >= classes:
            raise NotApplicable(
                f"{count} examples are behind a head of {classes} classes, and its gradient tells at most"
                f" {classes - 1} apart"
            )
        spread = row_noise(rows, count, noise)
        even = (spread.min() / spread)[:, None] * rows
        _, sizes, right = torch.linalg.svd(even, full_matrices=False)
        heard = speaking(sizes, count, rounding(even, noise))
        if heard == 0:
            raise NotApplicable(f"none of the {count} examples shows in the head's gradient above its rounding")
        errors = errors or LogitErrors.plain(classes, rows)
        level = max(noise, SOLVED, disturbed(sizes, count))
        return cls(
            rows, spread, weight, bias, right[:heard], sizes, count, non_negative, errors, noise, level, free, effort
        )


def _one_by_one(
    seen: _Seen, granted: Int[Tensor, " n"] | None, rng: torch.Generator, is_up: Callable[[], bool]
) -> Iterator[Disaggregated]:
    """The examples that speak, found one after the other, with any of the labels that were granted, or with any.

    Nothing where the examples are many, or their shares in the mean not known.
    """
    weight = seen.errors.weight
    alike = bool((weight == weight[0]).all())
    if seen.heard > FEW or seen.free or seen.shares is not None or (granted is None and not alike):
        return
    total = weight[0] * seen.count if granted is None else weight[granted].sum()
    pool = Counter(granted.tolist()) if granted is not None else Counter(dict.fromkeys(range(len(weight)), FEW))

    def left(labels: Tensor) -> list[int]:
        return sorted(pool - Counter(labels.tolist()))

    found = loudest_first(lambda c: seen.equations(c, weight[c] / total), left, seen.goals(), rng, is_up)
    for one in found[:ONES]:
        shares = weight[one.labels] / total
        known = seen.equations(one.labels, shares)
        best = _followed(known, one.mixing[None], HINGES if seen.non_negative else (0.0,), seen, is_up)
        yield _described(seen, known, one.labels, shares, torch.ones_like(one.labels), best, is_up)


def _told(
    seen: _Seen, labels: Int[Tensor, " n"], rng: torch.Generator, is_up: Callable[[], bool], *, longer: bool = False
) -> Disaggregated:
    """The better of what the labels may mean: the first ones speak, or those of one class speak as one."""
    one = torch.ones_like(labels)
    shares = seen.errors.shares(labels) if seen.shares is None else seen.shares
    kinds, copies = labels.unique(return_counts=True)
    if len(kinds) != seen.heard or seen.heard == seen.count:
        return _of(seen, labels[: seen.heard], shares[: seen.heard], one[: seen.heard], rng, is_up, longer)
    weight = seen.errors.weight[kinds] * copies
    return _of(seen, kinds, weight / weight.sum(), copies, rng, is_up, longer)


def _of(
    seen: _Seen,
    labels: Tensor,
    shares: Tensor,
    copies: Tensor,
    rng: torch.Generator,
    is_up: Callable[[], bool],
    longer: bool,
) -> Disaggregated:
    """The solution for examples of these labels, shares and numbers of copies."""
    known = seen.equations(labels, shares)
    best = (_looked_for if longer else _solved)(known, seen, rng, is_up)
    return _described(seen, known, labels, shares, copies, best, is_up)


def _described(
    seen: _Seen,
    known: System,
    labels: Tensor,
    shares: Tensor,
    copies: Tensor,
    best: Solved,
    is_up: Callable[[], bool],
) -> Disaggregated:
    """What a solution says of the examples."""
    mixing, residual = best.mixing[0], float(best.residual[0])
    fits = residual < seen.enough(known, best)
    probabilities = known.probabilities(mixing)
    again = _redrawn(known, best, seen, labels, shares, is_up) if fits and len(labels) <= DENSE else None
    return Disaggregated(
        features=known.features(mixing),
        probabilities=probabilities,
        labels=labels,
        certain=(_expected(known, best, again, seen) < PINNED) & (copies == 1) & fits,
        residual=residual,
        silent=seen.count - int(copies.sum()),
        errors=known.derivatives(probabilities),
        copies=copies,
        fits=fits,
        factor=float(best.factor[0]),
        redrawn=again,
    )


def _expected(known: System, best: Solved, again: Redrawn | None, seen: _Seen) -> Float[Tensor, " m"]:
    """The error of each example that noise lets expect, over its distance from the others' mean."""
    features = known.features(best.mixing[0])
    if again is not None:
        return again.spread(features)
    if len(features) <= DENSE:
        return torch.full_like(features[:, 0], torch.inf)
    found = deviations(known, best.mixing[0], best.factor[0], _noise(known, best, seen)[0] / float(known.seen.norm()))
    return torch.minimum(found, mixed_in(features)) if seen.non_negative else found


def _noise(known: System, best: Solved, seen: _Seen) -> tuple[float, float]:
    """The standard deviation of what disturbs an entry of the weighed equations, in the row space and elsewhere.

    By what the spectrum holds beyond the examples, by rounding, and in the row space by what rounding leaves, which is
    not alike everywhere.
    """
    even = known.scale[:, None] * seen.rows
    everywhere = max(scatter(even, seen.heard), seen.noise / 4 * float(even.square().mean().sqrt()))
    m, classes = known.target.shape
    missed = float(best.residual[0] * known.seen.norm()) / max(1, m * (classes - m + known.affine)) ** 0.5
    return max(everywhere, missed if _rounded(known, best, seen) else 0.0), everywhere


def _rounded(known: System, best: Solved, seen: _Seen) -> bool:
    """The equations miss no more than rounding explains."""
    return float(best.residual[0]) <= seen.enough(known, best) * seen.noise / seen.level


def _redrawn(
    known: System, best: Solved, seen: _Seen, labels: Tensor, shares: Tensor, is_up: Callable[[], bool]
) -> Redrawn | None:
    """Solutions of gradients that are disturbed as this one is; None if these fit better, or if the time is over."""

    def placed(rows: Tensor) -> System:
        basis = torch.linalg.svd(seen.even(rows), full_matrices=False)[2][: len(labels)]
        return replace(seen, rows=rows, basis=basis).equations(labels, shares)

    def solved(here: System, start: Tensor) -> Solved:
        even, root = here.balanced()
        rules = Rules(HINGES[-1] * seen.non_negative, seen.free, STEPS, 2 * seen.level)
        found = solve(even, start / root, best.factor, rules, is_up)
        return solve(here, found.mixing * root, found.factor, replace(rules, steps=STEPS // 4), is_up)

    again = redrawn(known, best.mixing[0], best.factor[0], _noise(known, best, seen), placed, solved)
    holds = _rounded(known, best, seen) or float(best.residual[0]) <= BEYOND * float(again.residual.median())
    return again if holds and not is_up() else None


def _solved(known: System, seen: _Seen, rng: torch.Generator, is_up: Callable[[], bool]) -> Solved:
    """The best of a few starts; of a large batch one is followed after the other until one is right.

    Where no solution without negative features is found, some may be negative after all.
    """
    small = len(known.slope) <= DENSE
    first = (starts if small else mean_starts)(known, seen.bias, seen.effort.starts, rng)
    groups = [first] if small else list(first[:, None])
    tries = [(start, HINGES if seen.non_negative else (0.0,)) for start in groups]
    best: Solved | None = None
    for start, hinges in [*tries, (groups[0], (0.0,))] if seen.non_negative else tries:
        found = _followed(known, start, hinges, seen, is_up)
        best = found if best is None or float(found.residual) < float(best.residual) else best
        if is_up() or float(best.residual) < seen.enough(known, best):
            break
    assert best is not None
    return best


def _looked_for(known: System, seen: _Seen, rng: torch.Generator, is_up: Callable[[], bool]) -> Solved:
    """The best of many starts of a trained network; of these few end in the solution, in the gradient's own metric."""
    best: Solved | None = None
    small = len(known.slope) <= DENSE
    for _ in range(seen.effort.rounds):
        start, factor = _scaled(known, sure_starts(known, seen.bias, MANY if small else 1, rng), seen)
        found = Solved(start, factor, factor, factor)
        for hinge in HINGES if seen.non_negative else (0.0,):
            found = solve(known, found.mixing, found.factor, Rules(hinge, seen.free, STEPS, 2 * seen.level), is_up)
            found = found.best(KEPT)
        best = found.best() if best is None or float(found.residual[0]) < float(best.residual) else best
        if is_up() or float(best.residual) < seen.enough(known, best):
            break
    assert best is not None
    return best


def _scaled(known: System, start: Float[Tensor, "s m m"], seen: _Seen) -> tuple[Tensor, Float[Tensor, " s"]]:
    """Starts and factors; where the factor is unknown, the one with which every example is there once: M r = 1."""
    one = start.new_ones(len(start))
    if not (seen.free and known.affine):
        return start, one
    factor = (start @ known.ones).mean(1)
    factor = torch.where(factor > 0, factor, one)
    return start / factor[:, None, None], factor


def _followed(
    known: System, start: Tensor, hinges: tuple[float, ...], seen: _Seen, is_up: Callable[[], bool]
) -> Solved:
    even, root = known.balanced()
    start, factor = _scaled(known, start, seen)
    found = Solved(start / root, factor, factor, factor)
    for hinge in hinges:
        found = solve(even, found.mixing, found.factor, Rules(hinge, seen.free, STEPS, 2 * seen.level), is_up)
    found = found.best()
    last = Rules(hinges[-1], seen.free, STEPS // 4, 2 * seen.level)
    return solve(known, found.mixing * root, found.factor, last, is_up)
