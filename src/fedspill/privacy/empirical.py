"""A lower bound on epsilon, by playing: how well can releases with and without a canary be told apart?

A mechanism that forgot its noise, clips after it, leaves buffers bare, or draws the same noise in every round, spends
more than it says, and whoever plays against it sees so; nothing is read of its code. One trial is a sequence of
releases with the canary or without. On one half of the trials a score and a threshold are chosen, on the other errors
are counted, and Clopper-Pearson says how small their rates may truly be (Nasr et al. 2021, arXiv:2101.04535; 2023,
arXiv:2302.07956). With probability 1 - confidence the bound is wrong. That nothing is found says little: another
canary, or more trials, may find it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from scipy.special import ndtri
from scipy.stats import beta, binom
from torch import Tensor
from torch.nn.functional import pad

from fedspill.core.errors import BadInput
from fedspill.core.types import Params, Update
from fedspill.privacy.gaussian import analytic_epsilon, analytic_sigma

Play = Callable[[bool, int], Sequence[Update | None]]
"""With the canary or without, and the number of the trial, to what was released in its rounds; None is withheld."""

BARE = 1e-12
"""Share of a value's size below which its spread over trials is none."""
LEAST = 20
"""Trials of each kind with which anything can be said."""


@dataclass(frozen=True)
class Trials:
    """What was released in many trials, one row each.

    Attributes:
        without: (n, d) without the canary; rounds after one another.
        present: (m, d) with it.
        rounds: releases of a trial.
    """

    without: Float[Tensor, "n d"]
    present: Float[Tensor, "m d"]
    rounds: int

    def half(self, which: int) -> "Trials":
        """Every second trial, beginning with the first or the second."""
        return Trials(self.without[which::2], self.present[which::2], self.rounds)


@dataclass(frozen=True)
class Played:
    """What a game has shown.

    Attributes:
        epsilon: at least this is spent, by counted errors alone.
        mu: at least this is mu, if the mechanism is Gaussian: by the trade-off curve through the counted errors.
        gaussian_epsilon: epsilon of that mu.
        delta: at which both are told.
        confidence: probability with which both hold, over the trials.
        trials: counted, of each kind.
        score: by what the two were told apart.
        false_positives: trials without the canary that were taken for others.
        false_negatives: trials with it, likewise.
    """

    epsilon: float
    mu: float
    gaussian_epsilon: float
    delta: float
    confidence: float
    trials: int
    score: str
    false_positives: int
    false_negatives: int

    def contradicts(self, claimed: float, *, gaussian: bool = True) -> bool:
        """Whether less than was spent is claimed: an epsilon at this delta, and of Gaussian noise its whole curve."""
        return self.epsilon > claimed or (gaussian and self.mu > 1 / analytic_sigma(claimed, self.delta))


def played(
    play: Play, trials: int, *, difference: Update | None = None, delta: float = 1e-5, confidence: float = 0.95
) -> Played:
    """Plays the game.

    Args:
        play: one trial; must draw anew for every number.
        trials: of each kind, half of which are counted.
        difference: what the canary changes in one release before the noise: releases are also scored along it.
        delta: at which epsilon is told.
        confidence: of the bound.

    Raises:
        BadInput: fewer than 40 trials, delta or confidence out of range, or releases of different make.
    """
    if trials < 2 * LEAST:
        raise BadInput(f"trials={trials}: at least {2 * LEAST} of each kind are needed")
    if not (0 < delta < 1 and 0.5 < confidence < 1):
        raise BadInput(f"delta={delta}, confidence={confidence}: in (0, 1) and (0.5, 1) are needed")
    without, present = ([_row(play(kind, k)) for k in range(trials)] for kind in (False, True))
    rounds = len(without[0])
    widths = [max(len(row[k]) for row in (*without, *present) if len(row) > k) for k in range(rounds)]
    both = Trials(_stacked(without, widths), _stacked(present, widths), rounds)
    return _judged(both, difference, delta, confidence)


def _row(released: Sequence[Update | None]) -> list[Tensor]:
    """Everything that leaves in one trial, round by round: whether an update leaves, its values, its buffers."""
    return [_numbers(update) for update in released]


def _numbers(update: Update | None) -> Float[Tensor, " d"]:
    if update is None:
        return torch.zeros(1, dtype=torch.float64)
    return torch.cat([torch.ones(1, dtype=torch.float64), _flat(update.values), _flat(update.buffers or {})])


def _stacked(rows: Sequence[Sequence[Tensor]], widths: Sequence[int]) -> Float[Tensor, "n d"]:
    """One row for each trial; a round that was withheld is all zeros."""
    found = list[Tensor]()
    for row in rows:
        if len(row) != len(widths) or any(len(part) not in (1, w) for part, w in zip(row, widths, strict=True)):
            raise BadInput(
                f"a trial released {[len(part) - 1 for part in row]} values, another {[w - 1 for w in widths]};"
                " every trial must release the same tensors"
            )
        found.append(torch.cat([pad(part, (0, w - len(part))) for part, w in zip(row, widths, strict=True)]))
    return torch.stack(found)


def _flat(tensors: Params) -> Float[Tensor, " d"]:
    """All values in float64 on the CPU; what is not finite counts as a very large number."""
    flat = [value.detach().double().cpu().flatten() for value in tensors.values()]
    joined = torch.cat(flat) if flat else torch.zeros(0, dtype=torch.float64)
    return joined.nan_to_num(nan=1e30, posinf=1e30, neginf=-1e30)


Score = Callable[[Float[Tensor, "n d"]], Float[Tensor, " n"]]
"""Rows of trials to numbers that are larger with the canary."""


def _judged(all_of: Trials, difference: Update | None, delta: float, confidence: float) -> Played:
    chosen, counted = all_of.half(0), all_of.half(1)
    best, found = -1.0, None
    for name, score in _scores(chosen, difference).items():
        threshold, told = _threshold(score(chosen.without), score(chosen.present), delta, confidence)
        if told > best:
            best, found = told, (name, score, threshold)
    assert found is not None, "there is always the score along the means"
    name, score, threshold = found
    wrong = int((score(counted.without) > threshold).sum())
    missed = int((score(counted.present) <= threshold).sum())
    return _told(wrong, missed, len(counted.without), len(counted.present), delta, confidence, name)


def _told(wrong: int, missed: int, without: int, present: int, delta: float, confidence: float, score: str) -> Played:
    alpha, misses = (upper_rate(k, n, confidence) for k, n in ((wrong, without), (missed, present)))
    mu = mu_of_rates(alpha, misses)
    by_curve = analytic_epsilon(1 / mu, delta) if mu > 0 else 0.0
    epsilon = epsilon_of_rates(alpha, misses, delta)
    return Played(epsilon, mu, by_curve, delta, confidence, min(without, present), score, wrong, missed)


def upper_rate(errors: int, trials: int, confidence: float) -> float:
    """What a rate is at most by Clopper and Pearson; of two rates both hold with this confidence."""
    if errors >= trials:
        return 1.0
    return float(beta.ppf(1 - (1 - confidence) / 2, errors + 1, trials - errors))


def epsilon_of_rates(alpha: float, missed: float, delta: float) -> float:
    """The least epsilon that allows for these rates of false positives and false negatives (Kairouz et al. 2015)."""
    ratios = [(1 - delta - a) / b for a, b in ((alpha, missed), (missed, alpha)) if b > 0]
    return max([0.0, *(math.log(r) for r in ratios if r > 0)])


def mu_of_rates(alpha: float, missed: float) -> float:
    """The least mu of a Gaussian trade-off curve that allows for these rates; 0 if any does."""
    return max(0.0, float(ndtri(1 - alpha) - ndtri(missed))) if alpha < 1 and missed < 1 else 0.0


def _threshold(
    without: Float[Tensor, " n"], present: Float[Tensor, " m"], delta: float, confidence: float
) -> tuple[float, float]:
    """The threshold whose errors on this half would show most, and the mu that they would show."""
    levels = torch.cat([without, present]).unique()
    middles = torch.cat([levels[:1] - 1, (levels[1:] + levels[:-1]) / 2, levels[-1:]])
    middles = middles[torch.linspace(0, len(middles) - 1, min(len(middles), 200)).long()]
    shown = [
        mu_of_rates(
            upper_rate(int((without > t).sum()), len(without), confidence),
            upper_rate(int((present <= t).sum()), len(present), confidence),
        )
        for t in middles
    ]
    best = max(range(len(shown)), key=shown.__getitem__)
    return float(middles[best]), shown[best]


def _scores(chosen: Trials, difference: Update | None) -> dict[str, Score]:
    """Ways to tell the two apart: all are learnt on the half that is not counted."""
    scores = {"along the difference of the means": _along(chosen.present.mean(0) - chosen.without.mean(0))}
    bare = _bare(chosen)
    if bare is not None:
        scores["by values that no noise covers"] = bare
    if difference is not None:
        scores |= _known(chosen, difference)
    if chosen.rounds > 1 and chosen.without.shape[1] % chosen.rounds == 0:
        scores |= _between_rounds(chosen)
    return scores


def _along(direction: Float[Tensor, " d"]) -> Score:
    unit = direction / direction.norm().clamp_min(1e-300)
    return lambda rows: rows @ unit


def _bare(chosen: Trials) -> Score | None:
    """Values that are the same in all trials of a kind, and another number in those of the other."""
    size = torch.maximum(chosen.without.abs().amax(0), chosen.present.abs().amax(0))
    still = [(rows.amax(0) - rows.amin(0)) <= BARE * size for rows in (chosen.without, chosen.present)]
    apart = chosen.present.mean(0) - chosen.without.mean(0)
    told = still[0] & still[1] & (apart.abs() > BARE * size)
    if not bool(told.any()):
        return None
    middle = (chosen.present.mean(0) + chosen.without.mean(0)) / 2
    sign = apart.sign() * told / size.clamp_min(1e-300)
    return lambda rows: (rows - middle) @ sign


def _known(chosen: Trials, difference: Update) -> dict[str, Score]:
    """The likelihood ratio of Gaussian noise is a projection on what the canary changes."""
    one = torch.cat([torch.zeros(1, dtype=torch.float64), _flat(difference.values)])
    width = chosen.without.shape[1] // chosen.rounds
    if len(one) > width or one.norm() == 0:
        raise BadInput(f"difference has {len(one) - 1} values of norm {float(one.norm()):g}; a release has {width - 1}")
    padded = torch.cat([one, one.new_zeros(width - len(one))])
    return {"along what the canary changes": _along(padded.repeat(chosen.rounds))}


def _between_rounds(chosen: Trials) -> dict[str, Score]:
    """Differences of two rounds, in which noise that was drawn once cancels."""

    def apart(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        by_round = rows.view(len(rows), chosen.rounds, -1)
        return (by_round[:, :-1] - by_round[:, 1:]).flatten(1)

    inner = Trials(apart(chosen.without), apart(chosen.present), 1)
    along = _along(inner.present.mean(0) - inner.without.mean(0))
    scores: dict[str, Score] = {"along the difference of two rounds": lambda rows: along(apart(rows))}
    if (bare := _bare(inner)) is not None:
        scores["by differences of two rounds that no noise covers"] = lambda rows: bare(apart(rows))
    return scores


def one_run(
    scores: Float[Tensor, " m"], included: Bool[Tensor, " m"], guesses: int, *, delta: float, confidence: float = 0.95
) -> float:
    """A lower bound on epsilon from a single release that holds each of m canaries or not, by a fair coin.

    Steinke, Nasr and Jagielski 2023, arXiv:2305.08846. The canaries with the highest scores are guessed to be in, as
    many with the lowest to be out; the bound counts how many guesses are right.

    Args:
        scores: of the canaries, larger if one seems to be in the release.
        included: which are.
        guesses: how many of them are guessed, an even number of at most m; chosen without a look at `included`.
        delta: at which epsilon is told.
        confidence: with which the bound holds.

    Raises:
        BadInput: guesses that are not even, or more than there are canaries; delta or confidence out of range.
    """
    if guesses < 2 or guesses % 2 or guesses > len(scores) or len(scores) != len(included):
        raise BadInput(f"guesses={guesses} of {len(scores)} canaries: an even number from 2 up to theirs is needed")
    if not (0 <= delta < 1 and 0.5 < confidence < 1):
        raise BadInput(f"delta={delta}, confidence={confidence}: in [0, 1) and (0.5, 1) are needed")
    order = scores.argsort()
    right = int(included[order[-guesses // 2 :]].sum()) + int((~included[order[: guesses // 2]]).sum())
    return _epsilon_of_guesses(len(scores), guesses, right, delta, 1 - confidence)


def _epsilon_of_guesses(canaries: int, guesses: int, right: int, delta: float, chance: float) -> float:
    """The largest epsilon by which so many right guesses are less likely than `chance`; 0 if there is none."""
    low, high = 0.0, 1.0
    if chance_of_guesses(canaries, guesses, right, low, delta) > chance:
        return 0.0
    while chance_of_guesses(canaries, guesses, right, high, delta) < chance and high < 100:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        below = chance_of_guesses(canaries, guesses, right, middle, delta) < chance
        low, high = (middle, high) if below else (low, middle)
    return low


def chance_of_guesses(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Probability of at least `right` right guesses under (epsilon, delta), at most (their Theorem 5.2)."""
    rate = 1 / (1 + math.exp(-epsilon))
    beyond, total, most = float(binom.sf(right - 1, guesses, rate)), 0.0, 0.0
    for i in range(1, right + 1):
        total += float(binom.pmf(right - i, guesses, rate))
        most = max(most, total / i)
    return min(1.0, beyond + 2 * canaries * delta * most)
