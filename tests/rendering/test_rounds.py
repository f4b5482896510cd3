"""The rounds of a federation in every view."""

import io

import pytest
from rich.console import Console

from fedspill.rendering.html.page import render
from fedspill.rendering.rounds import round_rows
from fedspill.rendering.terminal import summary
from fedspill.report.leakage import rate
from fedspill.report.schema import AuditReport, RoundRecord
from tests.support.reports import HOSTILE, Strict, report


def federation(*, worlds: tuple[str | None, ...] = (None,), observer: str = "server") -> AuditReport:
    """Five rounds, the last of which was observed and leaked 3 of 4 examples; the model diverges after the third."""
    rounds = [_round(number, world, observer) for world in worlds for number in range(5)]
    whole = report()
    plan = {**whole.plan, "federation": {"rounds": 5, "observes": "mean"}}
    return whole.model_copy(update={"rounds": rounds, "plan": plan})


def _round(number: int, world: str | None, observer: str) -> RoundRecord:
    seen = {"observer": observer, "leakage": rate("psnr >= 20 dB", 3, 4)} if number == 4 else {}
    known = {"accuracy": 0.25 * number, "loss": 2.5 - number / 4} if number < 3 else {}
    return RoundRecord(number=number, world=world, clients=[0, 2], examples=4, n=8, **known, **seen)


def shown(audit: AuditReport) -> str:
    out = io.StringIO()
    summary(audit, Console(file=out, width=100))
    return out.getvalue()


def test_every_round_has_its_line() -> None:
    ((name, rows),) = round_rows(federation())
    assert name == ""
    assert [(r.number, r.accuracy, r.loss, r.leaked, r.hits) for r in rows] == [
        ("0", "0 %", "2.5", "–", 0), ("1", "25 %", "2.25", "–", 0), ("2", "50 %", "2", "–", 0),
        ("3", "–", "–", "–", 0), ("4", "–", "–", "3 of 4", 3),
    ]  # fmt: skip
    assert [r.note for r in rows] == ["not observed"] * 4 + [""]


@pytest.mark.parametrize(
    ("observer", "words"), [("server", "server, the mean"), ("client 2", "client 2, who sees two global models")]
)
def test_the_page_says_who_looked_on_and_what_leaked_when(observer: str, words: str) -> None:
    page = Strict(render(federation(observer=observer), []))
    assert "What leaked in which round" in page.text
    assert words in page.text
    assert "3 of 4" in page.text
    drawn = [a["aria-label"] for _, a in page.tags if (a.get("aria-label") or "").startswith("Accuracy of the global")]
    assert len(drawn) == 2, "for desktops and for phones"
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))


def test_worlds_are_told_apart_and_hostile_names_are_text() -> None:
    audit = federation(worlds=(None, HOSTILE))
    page = render(audit, [])
    assert "<script" not in page
    assert "The model as it is" in Strict(page).text
    assert shown(audit).count("Round by round") == 2


def test_the_terminal_has_every_round() -> None:
    lines = shown(federation()).splitlines()
    first = next(i for i, line in enumerate(lines) if "Round by round" in line)
    assert [line.split()[0] for line in lines[first + 2 : first + 7]] == ["0", "1", "2", "3", "4"]
    assert "3 of 4" in lines[first + 6]


def test_a_report_without_a_federation_has_no_rounds() -> None:
    assert round_rows(report()) == []
    assert "Round by round" not in shown(report())
    assert "What leaked in which round" not in render(report(), [])
