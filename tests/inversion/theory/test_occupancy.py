"""The theory of how many examples are alone, against enumeration of every case."""

import itertools
import math
from collections import Counter

import pytest
import torch

from fedspill.core.rng import stream
from fedspill.inversion.theory.occupancy import (
    alone,
    alone_deviation,
    alone_expected,
    masses,
    one_shot_chance,
    proposition_1,
    recoverable,
    summary,
)


def compositions(n: int, k: int):
    """Every way to share n indistinguishable examples out to k bins."""
    for bars in itertools.combinations(range(n + k - 1), k - 1):
        ends = (-1, *bars, n + k - 1)
        yield [b - a - 1 for a, b in itertools.pairwise(ends)]


@pytest.mark.parametrize(("n", "k"), [(3, 4), (4, 6), (5, 7), (6, 7)])
def test_proposition_1_is_the_mean_over_all_occupancy_patterns(n: int, k: int) -> None:
    counted = [sum(c == 1 for c in pattern) for pattern in compositions(n, k)]
    assert proposition_1(n, k) == pytest.approx(sum(counted) / len(counted), rel=1e-9)


def test_proposition_1_gives_the_figures_of_the_paper_and_says_where_it_does_not_hold() -> None:
    assert 0.5 < proposition_1(64, 156) / 64 < 0.51
    assert math.isnan(proposition_1(64, 64))
    assert math.isnan(proposition_1(2, 9))


@pytest.mark.parametrize("p", [[0.5, 0.3, 0.2], [0.4, 0.1, 0.1], [0.25] * 4])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_mean_and_deviation_of_the_number_alone_against_enumeration(p: list[float], n: int) -> None:
    lost = 1 - sum(p)
    mean = square = 0.0
    for case in itertools.product(range(len(p) + 1), repeat=n):
        chance = math.prod([*p, lost][b] for b in case)
        number = sum(c == 1 for b, c in Counter(case).items() if b < len(p))
        mean, square = mean + chance * number, square + chance * number**2
    found = torch.tensor(p)
    assert alone_expected(n, found) == pytest.approx(mean, rel=1e-6)
    assert alone_deviation(n, found) == pytest.approx(math.sqrt(max(0, square - mean**2)), abs=1e-6)


def test_one_bin_of_mass_one_over_n_is_best() -> None:
    chances = [one_shot_chance(50, m / 1000) for m in range(1, 100)]
    assert max(range(len(chances)), key=chances.__getitem__) + 1 == 20
    assert one_shot_chance(50, 1 / 50) == pytest.approx((1 - 1 / 50) ** 49)


def naive_peel(bins: list[list[int]]) -> set[int]:
    found: set[int] = set()
    while True:
        left = [i for i in range(len(bins)) if i not in found]
        new = {
            i
            for i in left
            for j, b in enumerate(bins[i])
            if b >= 0 and not any(bins[o][j] == b for o in left if o != i)
        }
        if not new:
            return found
        found |= new


@pytest.mark.parametrize("d", [1, 2, 3])
def test_peeling_finds_what_repeated_search_finds_in_any_order(d: int) -> None:
    rng = stream(d, "peel")
    for _ in range(40):
        bins = torch.randint(-1, 6, (9, d), generator=rng)
        found = recoverable(bins)
        assert set(found.nonzero()[:, 0].tolist()) == naive_peel(bins.tolist())
        if d == 1:
            assert torch.equal(found, alone(bins[:, 0]))


def test_masses_are_shares_of_measurements() -> None:
    edges, answers = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.5, 0.6, 1.5, 2.5])
    assert masses(edges, answers).tolist() == [0.5, 0.25]


def test_the_sentence_names_both_figures() -> None:
    assert "39.0 ± 4.6" in summary(64, 128)
    assert "Proposition 1 says 28.7" in summary(64, 128)
    assert "Proposition" not in summary(64, 32)
