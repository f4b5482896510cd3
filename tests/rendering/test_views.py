"""Every view of synthetic reports in several states: complete, escaped, self-contained, redacted."""

import base64
import io
import re
from functools import cache
from xml.etree import ElementTree

import pytest
from PIL import Image
from rich.console import Console

from fedspill.rendering import facts
from fedspill.rendering.html import view
from fedspill.rendering.html.page import render
from fedspill.rendering.junit import breaches, junit
from fedspill.rendering.terminal import summary
from fedspill.report.schema import AuditReport, redact
from tests.support.reports import HOSTILE, STATES, State, Strict, pairs, report


@cache
def parsed(state: str) -> Strict:
    audit = report(STATES[state])
    return Strict(render(audit, pairs(audit, side=8)[:3]))


@pytest.fixture(params=STATES, scope="module")
def state(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def audit(state: str) -> AuditReport:
    return report(STATES[state])


@pytest.fixture(scope="module")
def page(state: str) -> Strict:
    return parsed(state)


@pytest.mark.parametrize(
    ("ended", "converged", "wanted"),
    [
        ([True], [False], "did not converge; 1 ended by the budget"),
        ([True], [True], "converged; 1 before the budget ended the search"),
        ([False], [True], "converged"),
        (
            [True, True, False],
            [False, True, True],
            "2 of 3 converged; 1 before the budget ended the search; 1 ended by",
        ),
    ],
)
def test_what_the_budget_ended_is_told_from_what_converged_before(ended, converged, wanted) -> None:
    audit = report(STATES["leaks"])
    first = audit.trials[0]
    trials = [
        first.model_copy(update={"ended_by_budget": e, "converged": c}) for e, c in zip(ended, converged, strict=True)
    ]
    (row,) = view.attack_rows(audit.model_copy(update={"trials": trials}), facts.main_metric(audit))
    assert row.converged.startswith(wanted)
    assert len(ended) > 1 or row.converged == wanted


def test_the_page_is_well_formed_and_needs_nothing_else(audit: AuditReport, page: Strict) -> None:
    assert audit.verdict.sentence in page.text
    assert "script" not in {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "object", "base"}
        assert not any(name.startswith("on") for name in attributes)
        source = attributes.get("src") or attributes.get("href") or attributes.get("xlink:href") or "#"
        assert source.startswith(("#", "data:image/png;base64,")), (tag, source)


def test_identifiers_are_unique(page: Strict) -> None:
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))


def test_every_picture_has_words(page: Strict) -> None:
    assert all(a.get("alt") for tag, a in page.tags if tag == "img")
    assert sum(a.get("role") == "img" and bool(a.get("aria-label")) for _, a in page.tags) in (0, 2, 4)


def test_hostile_names_are_text() -> None:
    audit = report(STATES["hostile"])
    page = render(audit, [])
    assert "<script" not in page
    assert HOSTILE.split("\x0b")[0].strip() in Strict(page).text


def text_of(state: str) -> str:
    return parsed(state).text


def test_a_state_without_safety_says_so() -> None:
    for name in ("no threshold", "all skipped", "not scored"):
        assert "not evidence of safety" in text_of(name).lower()


def test_the_reason_stands_where_a_number_is_missing() -> None:
    assert "skipped: the model has no linear layer" in text_of("all skipped")
    assert "not computed: the reconstructions were not kept" in text_of("not scored")
    assert "no leak threshold" in text_of("no threshold")


def test_pictures_in_the_page_decode_to_their_size() -> None:
    audit = report()
    page = Strict(render(audit, pairs(audit, side=32)))
    shown = [str(a["src"]).partition(",")[2] for tag, a in page.tags if tag == "img"]
    assert len(shown) == 3 * len(audit.worst) - 2  # the last example got no reconstruction
    for data in shown:
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (192, 192)


def test_at_most_twelve_pictures_the_worst_first() -> None:
    audit = report(State(num_examples=30))
    cards = view.cards(audit, list(reversed(pairs(audit, side=8))))
    assert [c.worst for c in cards] == audit.worst[:12]


def test_redacted_views_hold_no_picture() -> None:
    audit = report()
    redacted = redact(audit)
    page = render(redacted, pairs(audit))
    assert "data:image" not in page
    assert "<img" not in page
    assert "redacted" in Strict(page).text
    assert redacted.pictures.strip is None
    assert redacted.pictures.trials == {}
    assert redacted.trials == audit.trials
    assert redacted.worst == audit.worst


def test_redacting_a_redacted_report_changes_nothing() -> None:
    assert redact(redact(report())) == redact(report())


def test_junit_counts_match(audit: AuditReport) -> None:
    suite = ElementTree.fromstring(junit(audit))[0]
    cases = suite.findall("testcase")
    skipped = sum(t.skipped is not None for t in audit.trials)
    broken = sum(t.skipped is None and bool(breaches(audit, t)) for t in audit.trials)
    assert len(cases) == int(suite.attrib["tests"]) == len(audit.trials) + 1
    assert len(suite.findall("testcase/skipped")) == int(suite.attrib["skipped"]) == skipped
    failures = broken + (audit.verdict.exit_code != 0)
    assert len(suite.findall("testcase/failure")) == int(suite.attrib["failures"]) == failures


def test_junit_takes_any_text() -> None:
    audit = report()
    trial = audit.trials[0].model_copy(update={"name": HOSTILE, "notes": [HOSTILE]})
    hostile = audit.model_copy(update={"trials": [trial]})
    case = ElementTree.fromstring(junit(hostile))[0][1]
    assert case.attrib["name"] == HOSTILE.replace("\x0b", "\ufffd")


def test_the_policy_decides_what_fails() -> None:
    audit = report()
    leaky = next(t for t in audit.trials if t.leakage_rate and t.leakage_rate.hits)
    lenient = audit.model_copy(update={"plan": {"policy": {"max_leakage_rate": 1.0}}})
    strict = audit.model_copy(update={"plan": {"policy": {"max_leakage_rate": 1, "max_psnr": 5}}})
    assert breaches(audit, leaky)
    assert breaches(lenient, leaky) == []
    assert "worst PSNR" in breaches(strict, leaky)[0]
    seen = leaky.model_copy(update={"leakage_rate": None, "recognisable": [True, *[False] * (len(leaky.examples) - 1)]})
    assert f"1 of {len(leaky.examples)} recognisable" in breaches(audit, seen)[0]
    assert breaches(lenient, seen) == []
    assert breaches(audit.model_copy(update={"plan": {"policy": {"fails": ["leaks"]}}}), seen) == []


def test_the_terminal_tells_the_essentials(audit: AuditReport) -> None:
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    summary(audit, console)
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    flat = " ".join(re.sub("[│╭╮╰╯─]", " ", printed).split())
    assert max(map(len, printed.splitlines())) <= 80
    assert audit.verdict.sentence in flat
    assert all(c.topic in flat for c in audit.caveats)
    assert all(item in flat for item in audit.not_tested)
    assert all(facts.attack_groups(audit)[i].attack in flat for i in range(3))
