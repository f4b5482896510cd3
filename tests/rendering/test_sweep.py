"""The page of a sweep: every trial stands in it, pooled right, and nothing of a plan is read as HTML."""

from statistics import stdev

import pytest

from fedspill.rendering.drawing.figures import NARROW, WIDE
from fedspill.rendering.sweep import facts, figures, page, trade_off
from fedspill.rendering.sweep.gains import gains_of
from fedspill.rendering.sweep.prices import Price, prices_of
from fedspill.report.sweep import Outcome, SweepRow
from tests.support.reports import HOSTILE, Strict


def row(number: int, attack: str, defence: str, leaked: int | None = 1, n: int = 2, **more) -> SweepRow:
    given = {"state": "done", "verdict": "leaks", "metric": "psnr", "unit": "dB", "scored": n, "seconds": 1.5}
    measured = {"median": 10.0 * number, "worst": 50.0, "fedspill": "0.1.0", "torch": "2", "python": "3"}
    outcome = Outcome(**{**given, **measured, "leaked": leaked, "examples": None if leaked is None else n, **more})
    values = {"client.num_examples": n, "defences": [], "audit.attacks": [attack]}
    state = outcome.state
    return SweepRow(
        digest=f"{number:064}",
        number=number,
        values=values,
        attack=attack,
        defence=defence,
        state=state,
        outcome=outcome,
    )


ROWS = [
    row(0, "dlg", "none", 2, 2),
    row(1, "dlg", "none", 1, 8),
    row(2, "dlg", "clipping", 0, 2),
    row(3, "linear_layer", "none", None),
    row(4, "linear_layer", "clipping", state="refused", error="does not fit", leaked=None, median=None, worst=None),
]


def test_pairs_are_pooled_over_examples_and_medians_over_trials() -> None:
    grid = facts.grid_of(ROWS)
    assert (grid.attacks, grid.defences) == (["dlg", "linear_layer"], ["none", "clipping"])
    assert grid.cells[("dlg", "none")] == facts.Cell(trials=2, share=3 / 10, median=5.0)
    assert grid.cells[("dlg", "clipping")] == facts.Cell(trials=1, share=0.0, median=20.0)
    assert grid.cells[("linear_layer", "none")] == facts.Cell(trials=0, share=None, median=30.0)
    assert ("linear_layer", "clipping") not in grid.cells
    assert (grid.metric, grid.unit) == ("psnr", "dB")


def test_medians_of_different_metrics_are_not_compared() -> None:
    grid = facts.grid_of([ROWS[0], row(1, "dlg", "none", metric="bleu", unit="")])
    assert grid.metric is None
    assert figures.medians(grid) is None
    assert figures.shares(grid) is not None


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_figures_hold_every_pairs_number(width: int) -> None:
    grid = facts.grid_of(ROWS)
    shares, medians = figures.shares(grid, width), figures.medians(grid, width)
    for number in ("30 %", "0 %", ">-<"):
        assert number in (shares or "")
    for number in (">5<", ">20<", ">30<"):
        assert number in (medians or "")
    assert figures.shares(grid, width) == shares
    for name in ("clipping", "none", "dlg"):
        assert f">{name}<" in (shares or "")


def test_nothing_is_drawn_of_nothing() -> None:
    for rows in ([], ROWS[4:]):
        grid = facts.grid_of(rows)
        assert figures.shares(grid) is None
        assert figures.medians(grid) is None
        assert "<svg" not in page.render(rows)


def test_the_page_holds_every_trial_and_says_what_limits_it() -> None:
    waiting = SweepRow(digest="w" * 64, number=9, attack="dlg", defence="none", state="waiting")
    text = page.render([*ROWS, row(5, "dlg", "none", torch="3", timed=1), waiting])
    assert "7 trials: 5 done, 1 refused, 1 waiting" in text
    assert text[text.index('id="trials"') :].count('<th scope="row">') == 6
    assert "2 of 2" in text
    assert "1 of 8" in text
    assert "does not fit" in text
    assert "1 of them were ended or shortened by their budget" in text
    assert "Trials were run by different versions" in text
    assert "different versions" not in page.render(ROWS)
    assert ">client.num_examples<" in text
    assert ">audit.attacks<" not in text  # a column of its own tells it


def test_what_stands_in_a_plan_is_never_read_as_html() -> None:
    failed = row(0, HOSTILE, HOSTILE, state="failed", error=HOSTILE, skipped=HOSTILE)
    read = Strict(page.render([failed, row(1, HOSTILE, HOSTILE)]))
    assert "script" not in {tag for tag, _ in read.tags}
    assert "<script>alert(1)</script>" in read.text


def test_long_names_take_no_more_lines_than_there_are() -> None:
    assert figures._lines("robbing_the_fed", 8, 3) == "robbing_\nthe_fed"
    assert figures._lines("x" * 30, 8, 3) == "xxxxxxxx\nxxxxxxxx\nxxxxxxxx .."
    assert figures._lines("a_" * 30, 4, 2) == "a_a_\na_a_ .."


def test_accuracy_has_a_column_where_a_trial_measured_it() -> None:
    assert "Accuracy" not in page.render([row(0, "dlg", "none")])
    text = page.render([row(0, "dlg", "none"), row(1, "dlg", "clipping", accuracy=0.425)])
    assert "42.5 %" in text
    assert text.count(">Accuracy") == 2  # of every trial, and of every defence


def knowing(number: int, knows: bool, mean: float, leaked: int, defence: str = "clipping", **more) -> SweepRow:
    made = row(number, "dlg", defence, leaked, 8, guessed=mean, **more)
    return made.model_copy(
        update={"values": {"server.knows_defence": knows, "defences": [defence], "audit.seeds": [number]}}
    )


def test_gains_are_of_pairs_that_differ_in_the_knowledge_alone() -> None:
    pairs = [(0, 20.0, 8, 15.0, 2), (1, 30.0, 7, 17.0, 3)]
    rows = [knowing(seed, True, more, hits) for seed, more, hits, _, _ in pairs]
    rows += [knowing(seed, False, less, hits) for seed, _, _, less, hits in pairs]
    alone = knowing(2, True, 99.0, 8)
    other = knowing(0, False, 1.0, 0, "none")
    (gain,) = gains_of([*rows, alone, other])
    assert (gain.attack, gain.defence, gain.pairs, gain.leaked, gain.examples) == ("dlg", "clipping", 2, 10, 16)
    assert gain.mean == pytest.approx(9.0)
    assert gain.spread == pytest.approx(stdev([5.0, 13.0]))
    assert "+9" in page.render(rows)
    assert "dlg, plain" in page.render(rows)


def test_nothing_is_gained_where_there_is_nothing_to_compare() -> None:
    assert gains_of([]) == []
    assert gains_of([knowing(0, True, 1.0, 0), knowing(0, False, 1.0, 0, metric="bleu")]) == []


def test_a_defence_is_priced_by_its_strongest_attack_and_all_that_was_learnt() -> None:
    rows = [
        row(0, "dlg", "none", 1, 8, accuracy=0.5),
        row(1, "linear_layer", "none", 8, 8, accuracy=0.6),
        row(2, "linear_layer", "none", 4, 8),
        row(3, "dlg", "local_dp", 0, 8, accuracy=0.25, epsilon=8.0),
        row(4, "dlg", "local_dp", 0, 8, epsilon=9.0),
        row(5, "dlg", "refused", state="refused", leaked=None),
    ]
    none, local_dp = prices_of(rows)
    assert (none.number, none.strongest, none.share, none.epsilon) == (1, "linear_layer", 12 / 16, None)
    assert none.accuracy == pytest.approx(0.55)
    assert none.spread == pytest.approx(stdev([0.5, 0.6]))
    assert (local_dp.share, local_dp.accuracy, local_dp.spread, local_dp.epsilon) == (0.0, 0.25, None, 9.0)
    assert local_dp.strongest is None  # of attacks that leaked nothing none is the strongest


def test_the_trade_off_has_a_dot_for_each_defence_and_marks_those_that_none_beats() -> None:
    prices = [Price(i, f"d{i}", "dlg", share, accuracy, None, None) for i, share, accuracy in
              [(1, 1.0, 0.5), (2, 0.0, 0.2), (3, 0.5, 0.1), (4, 0.5, 0.4)]]  # fmt: skip
    assert [p.number for p in trade_off._front(prices)] == [1, 2, 4]
    drawn = trade_off.trade_off(prices) or ""
    assert all(f">{p.number}<" in drawn for p in prices)
    assert trade_off.trade_off(prices[:1]) is None


def test_no_letter_of_a_long_name_is_lost_in_a_narrow_column() -> None:
    name = "softmax_disaggregation:paper(steps=3)"
    for letters in (6, 9, 18, 60):
        lines = figures._lines(name, letters, 9).split("\n")
        assert "".join(lines) == name
        assert max(map(len, lines)) <= letters
