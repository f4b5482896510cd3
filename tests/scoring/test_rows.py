"""Metrics, matching and guesses of table rows against their definitions."""

from itertools import permutations

import pytest
import torch
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import CategoricalColumn, NumericColumn, TableSpec
from fedspill.core.rng import rand, stream
from fedspill.core.types import Batch
from fedspill.scoring.baselines import best_public, commonest_row
from fedspill.scoring.distances import mixed
from fedspill.scoring.exact import exact_copies
from fedspill.scoring.match import match
from fedspill.scoring.metrics import by_names
from fedspill.scoring.metrics.rows import EXACT_ROW, FEATURE_ACCURACY, TABLEAK_ACCURACY

TABLE = TableSpec(
    (
        NumericColumn("age", mean=40.0, std=10.0, low=17.0, high=90.0, step=1.0),
        NumericColumn("weight", mean=70.0, std=12.0, low=30.0, high=200.0),
        CategoricalColumn("work", ("office", "farm", "shop")),
        CategoricalColumn("city", ("yes", "no")),
    )
)
ROW = [39.0, 71.5, 2.0, 1.0]


def rows(n: int, name: str) -> Tensor:
    z = 4 * rand((n, *TABLE.encoded_shape), stream(0, "test tables", name), torch.zeros(())) - 2
    return TABLE.decode(z)


def altered(column: int, by: float) -> tuple[Tensor, Tensor]:
    private = torch.tensor([ROW])
    rebuilt = private.clone()
    rebuilt[0, column] += by
    return rebuilt, private


@pytest.mark.parametrize(
    ("column", "by", "right", "lax"),
    [
        (0, 0.4, True, True),
        (0, 0.6, False, True),
        (0, 3.1, False, True),
        (0, 3.3, False, False),
        (1, 0.011, True, True),
        (1, 0.013, False, True),
        (1, -4.0, False, False),
        (2, -1.0, False, False),
        (3, -1.0, False, False),
    ],
)
def test_when_a_column_is_right(column: int, by: float, right: bool, lax: bool) -> None:
    pair = altered(column, by)
    assert FEATURE_ACCURACY.of(TABLE)(*pair).item() == (1.0 if right else 0.75)
    assert EXACT_ROW.of(TABLE)(*pair).item() == float(right)
    assert TABLEAK_ACCURACY.of(TABLE)(*pair).item() == (1.0 if lax else 0.75)
    assert exact_copies(*pair, TABLE).item() is right


def test_what_survives_encoding_is_exact() -> None:
    private = rows(50, "encoding")
    again = TABLE.decode(TABLE.encode(private))
    for metric in by_names(["feature_accuracy", "tableak_accuracy", "exact_row"], table=TABLE):
        assert metric(again, private).tolist() == [1.0] * 50
        assert metric.accepts == {TableSpec}


def test_large_counts_are_told_apart() -> None:
    table = TableSpec((NumericColumn("people", mean=2e5, std=1e5, low=0.0, high=2e7, step=1.0),))
    private = torch.tensor([[16_777_215.0]])
    assert EXACT_ROW.of(table)(private, private).item() == 1
    assert EXACT_ROW.of(table)(private - 1, private).item() == 0


def test_the_columns_must_be_known() -> None:
    private = rows(2, "columns")
    for metric in by_names(["feature_accuracy", "exact_row"]):
        with pytest.raises(BadInput, match="give it the TableSpec"):
            metric(private, private)
    with pytest.raises(BadInput, match=r"\(n, 4 columns\) are needed"):
        FEATURE_ACCURACY.of(TABLE)(private[:, :3], private[:, :3])
    with pytest.raises(BadInput, match=r"\(n, 4 columns\) are needed"):
        mixed(private[:, :3], private[:, :3], TABLE)


def test_distance_is_gowers_with_deviations() -> None:
    first, second = rows(5, "first"), rows(7, "second")
    by_hand = [
        [
            min(abs(a[0] - b[0]) / 10, 1) + min(abs(a[1] - b[1]) / 12, 1) + (a[2] != b[2]) + (a[3] != b[3])
            for b in second.double().tolist()
        ]
        for a in first.double().tolist()
    ]
    torch.testing.assert_close(mixed(first, second, TABLE), torch.tensor(by_hand, dtype=torch.float64))


def test_distance_obeys_the_triangle_inequality() -> None:
    some = rows(30, "triangle")
    d = mixed(some, some, TABLE)
    assert (d[:, :, None] <= d[:, None, :] + d.T[None] + 1e-12).all()
    assert (d == d.T).all()
    assert (d.diagonal() == 0).all()


def test_exact_rows_keep_their_examples() -> None:
    private = rows(6, "private")
    rebuilt = torch.cat([rows(4, "others"), private[[4, 1, 3]]])
    found = dict(zip(*(i.tolist() for i in reversed(match(rebuilt, private, table=TABLE))), strict=True))
    assert (found[4], found[1], found[3]) == (4, 5, 6)


def test_least_total_distance() -> None:
    rebuilt, private = rows(5, "rebuilt"), rows(5, "truth")
    cost = mixed(rebuilt, private, TABLE)
    best = min(float(cost[list(order), range(5)].sum()) for order in permutations(range(5)))
    i, j = match(rebuilt, private, table=TABLE)
    assert float(cost[i, j].sum()) == pytest.approx(best)


def test_one_wild_number_does_not_outweigh_a_row() -> None:
    """Squared errors in the columns' own units would give this row away for its age alone."""
    private = torch.tensor([[40.0, 70.0, 0.0, 0.0], [90.0, 50.0, 1.0, 1.0]])
    rebuilt = torch.tensor([[90.0, 70.0, 0.0, 0.0], [40.0, 50.0, 1.0, 1.0]])
    assert match(rebuilt, private)[0].tolist() == [1, 0]
    assert match(rebuilt, private, table=TABLE)[0].tolist() == [0, 1]


def test_guesses_of_rows() -> None:
    public = Batch(
        torch.tensor([[30.0, 60.0, 1.0, 0.0], [50.0, 61.0, 1.0, 1.0], [31.0, 90.0, 2.0, 1.0]]), torch.arange(3)
    )
    assert commonest_row(TABLE, 2, public).tolist() == [[31.0, 61.0, 1.0, 1.0]] * 2
    assert commonest_row(TABLE, 1).tolist() == [[40.0, 70.0, 0.0, 0.0]]
    private = torch.tensor([[52.0, 95.0, 1.0, 1.0], [31.0, 90.0, 2.0, 0.0]])
    assert torch.equal(best_public(public, private, TABLE), public.inputs[[1, 2]])
