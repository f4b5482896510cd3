"""How many examples an imprint module is expected to recover: theory to stand beside every measurement."""

import math
from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from scipy.special import gammaln
from torch import Tensor


def proposition_1(n: int, k: int) -> float:
    """Expected number of recovered examples by Proposition 1 of Robbing the Fed (k > n > 2).

    The proposition counts every pattern of occupancy as equally likely (Bose-Einstein statistics). Examples that are
    drawn independently follow `alone_expected`, which is larger: 39.0 against 28.7 for n = 64, k = 128.
    """
    if not k > n > 2:
        return math.nan
    total = sum(
        i
        * math.exp(_log_binomial(k, i) + _log_binomial(k - i, j) + _log_binomial(n - i - j - 1, j - 1) - _log_all(n, k))
        for i in range(1, n - 1)
        for j in range(1, (n - i) // 2 + 1)
    )
    return total + n * math.exp(_log_binomial(k, n) - _log_all(n, k))


def _log_binomial(a: int, b: int) -> float:
    return -math.inf if b < 0 or b > a else float(gammaln(a + 1) - gammaln(b + 1) - gammaln(a - b + 1))


def _log_all(n: int, k: int) -> float:
    return _log_binomial(k + n - 1, k - 1)


def alone_expected(n: int, masses: Float[Tensor, " k"]) -> float:
    """Expected number of n independent examples that are alone in a bin: n * sum_b p_b (1 - p_b)^(n-1).

    Args:
        n: examples of one update.
        masses: probability of each bin; what is missing to 1 is lost.
    """
    p = masses.double().clamp(0, 1)
    return float(n * (p * (1 - p) ** (n - 1)).sum())


def alone_deviation(n: int, masses: Float[Tensor, " k"]) -> float:
    """Standard deviation of the number of examples that are alone in a bin."""
    p = masses.double().clamp(0, 1)
    if n < 2:
        return math.sqrt(max(0.0, float(p.sum()) * (1 - float(p.sum()))))
    single = n * p * (1 - p) ** (n - 1)
    # Two given bins hold one example each: n (n-1) p q (1 - p - q)^(n-2).
    pairs = n * (n - 1) * torch.outer(p, p) * (1 - p[:, None] - p[None]).clamp_min(0) ** (n - 2)
    mean = float(single.sum())
    return math.sqrt(max(0.0, float(pairs.sum() - pairs.diagonal().sum()) + mean - mean**2))


def one_shot_chance(n: int, mass: float) -> float:
    """Probability that exactly one of n independent examples falls into a bin: n p (1 - p)^(n-1), best at p = 1/n."""
    return n * mass * (1 - mass) ** (n - 1)


def recoverable(bins: Int[Tensor, "n d"]) -> Bool[Tensor, " n"]:
    """Which examples an ideal decoder recovers: a bin with one example gives it, and it is taken out of its others.

    Args:
        bins: for every example its bin in each of d groups; below 0 it lies in none. For d = 1 these are the
            examples that are alone.
    """
    places = [[(j, b) for j, b in enumerate(row) if b >= 0] for row in bins.tolist()]
    inside: dict[tuple[int, int], set[int]] = {}
    for example, row in enumerate(places):
        for place in row:
            inside.setdefault(place, set()).add(example)
    recovered, waiting = set[int](), [p for p, held in inside.items() if len(held) == 1]
    while waiting:
        held = inside[waiting.pop()]
        for example in list(held):
            recovered.add(example)
            for place in places[example]:
                inside[place].discard(example)
                if len(inside[place]) == 1:
                    waiting.append(place)
    return torch.tensor([i in recovered for i in range(len(places))], dtype=torch.bool)


def alone(bins: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Which examples are alone in their bin; below 0 an example lies in none."""
    counted = Counter(bins.tolist())
    return torch.tensor([b >= 0 and counted[b] == 1 for b in bins.tolist()], dtype=torch.bool)


def masses(edges: Float[Tensor, " ends"], answers: Float[Tensor, " m"]) -> Float[Tensor, " k"]:
    """Share of measurements in each bin, as an estimate of its probability."""
    where = torch.bucketize(answers.double().cpu(), edges.double().cpu()) - 1
    kept = where[(where >= 0) & (where < len(edges) - 1)]
    return torch.bincount(kept, minlength=len(edges) - 1).double() / max(1, len(answers))


def summary(n: int, k: int, recovered: Sequence[int] = ()) -> str:
    """The theory in one sentence, for ideal cutoffs."""
    even = torch.full((k,), 1.0 / k, dtype=torch.float64)
    exact, spread = alone_expected(n, even), alone_deviation(n, even)
    paper = proposition_1(n, k)
    bound = "" if math.isnan(paper) else f"; the paper's Proposition 1 says {paper:.1f}"
    return f"Of {n} examples in {k} bins {exact:.1f} ± {spread:.1f} are expected alone for ideal cutoffs{bound}."
