"""One time for the whole of a command, whatever its parts say."""

import io

import pytest
from rich.console import Console

from fedspill.cli import progress
from fedspill.cli.progress import TerminalListener, WholeTime


def test_the_time_left_follows_from_the_share_that_is_done() -> None:
    whole = WholeTime(began=100.0)
    assert whole.left(110.0) is None
    whole.done = 0.25
    assert whole.left(110.0) == pytest.approx(30)
    assert whole.words(110.0) == "about 30 s left"


def test_it_is_never_beyond_the_budgets_end() -> None:
    whole = WholeTime(end=120.0, began=100.0, done=0.25)
    assert whole.left(110.0) == pytest.approx(10)
    assert whole.left(130.0) == 0
    assert WholeTime(end=120.0, began=100.0).left(105.0) == pytest.approx(15)


def test_it_counts_all_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_SECONDS", -1.0)
    told = io.StringIO()
    listener = TerminalListener(Console(file=told))
    listener._whole.began -= 30.0
    listener.trial(2, 4, "dlg")
    listener.progress(50, 100, 0.5)
    # One trial and a half of four took 30 s.
    assert listener._whole.done == pytest.approx(1.5 / 4)
    assert "trial 2 of 4: dlg: 50 of 100 iterations, objective 0.5, about 50 s left" in " ".join(
        told.getvalue().split()
    )


@pytest.mark.parametrize("several", [False, True])
def test_only_one_bar_shows_it(several: bool) -> None:
    told = io.StringIO()
    listener = TerminalListener(Console(file=told, force_terminal=True, width=120))
    with listener:
        listener.trial(1, 3 if several else 1, "dlg")
        listener.progress(50, 100, 0.5)
        listener.drawn.refresh()
        shown = listener.drawn.get_renderable()
        console = Console(file=io.StringIO(), width=120)
        with console.capture() as capture:
            console.print(shown)
    assert capture.get().count("left") == 1
