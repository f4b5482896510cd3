"""When another way of feeding is better by more than luck: tests that a single example can hardly pass by chance."""

import math

from scipy.stats import binom

from fedspill.auditing.feeding.answers import Answers

RARE = 1e-3
"""Probability below which luck is ruled out; some eight ways are tried."""
WINS_BY_LUCK = 0.25
"""Share of examples, at most, that a way which is not better gets right where the right one fails."""
MOST_CLASSES = 3
"""Wins must be of so many classes: a network that always says one class wins by luck on a batch of that class."""
EXTREME = 25.0
"""Times log(classes): a mean loss of the wrong answers that no network made that was fed right; 17 was the most."""
BAD = 1.25
"""Times log(classes): a mean loss that is worse than knowing nothing."""
FEWEST_AT_CHANCE = 16
"""Examples on which chance can be told from a weak network."""


def is_better(fed: Answers, other: Answers) -> bool:
    """The other way is right on more examples, of several classes, and above chance, by more than luck."""
    wins, losses = other.right & ~fed.right, fed.right & ~other.right
    won, lost, n = int(wins.sum()), int(losses.sum()), len(wins)
    if won <= lost or float(other.surprise.mean()) >= float(fed.surprise.mean()):
        return False
    sign = float(binom.sf(won - 1, won + lost, 0.5))
    alone = float(binom.sf(won - 1, n, WINS_BY_LUCK))
    varied = len(fed.labels[wins].unique()) >= MOST_CLASSES
    return varied and (sign <= RARE or (alone <= RARE and sign <= 0.05)) and above_chance(other, RARE)


def is_extreme(fed: Answers, other: Answers) -> bool:
    """Wrong answers surer than any network gives that is fed right, while another way is no worse than nothing."""
    nothing, wrong = math.log(fed.classes), fed.surprise[~fed.right]
    return len(wrong) > 0 and float(wrong.mean()) >= EXTREME * nothing and float(other.surprise.mean()) <= nothing


def is_at_chance(fed: Answers) -> bool:
    """Enough examples, no more right than by the commonest label, and a loss worse than knowing nothing."""
    known = len(fed.right) >= FEWEST_AT_CHANCE and not above_chance(fed, 0.05)
    return known and float(fed.surprise.mean()) >= BAD * math.log(fed.classes)


def above_chance(answers: Answers, rare: float) -> bool:
    """More right than the commonest label explains."""
    n = len(answers.right)
    commonest = int(answers.labels.bincount().max()) / n
    share = max(1 / answers.classes, min(commonest, 1 - 1 / (n + 1)))
    return float(binom.sf(int(answers.right.sum()) - 1, n, share)) <= rare


def is_far(fed: float, best: float, n: int) -> bool:
    """What the first BatchNorm sees of n pictures is far from what it was trained on, and another way is near.

    Args:
        fed: divergence in nats, as fed.
        best: the least of the other ways.
        n: pictures; the fewer, the further they may be by themselves.
    """
    return fed > 0.15 + 0.35 / math.sqrt(n) and best < fed / 4
