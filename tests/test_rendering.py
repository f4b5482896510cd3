"""Every view of synthetic reports in several states: complete, escaped, self-contained, redacted."""

import base64
import io
import re
import tomllib
from functools import cache
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image
from rich.console import Console

from fedspill.audit.report import AuditReport, VerdictName
from fedspill.rendering import facts, figures, numbers, pictures, view
from fedspill.rendering.html import render
from fedspill.rendering.junit import breaches, junit
from fedspill.rendering.pictures import Pair, sheet, strip
from fedspill.rendering.plan_text import plan_text
from fedspill.rendering.redact import redact
from fedspill.rendering.terminal import summary
from tests.report_factory import State, pairs, plan, report

HOSTILE = "<script>alert(1)</script> \"quoted\" 'name' & $x_{$ ]]> --> \x0b"
VOID = {"meta", "img", "br", "link", "hr"}

STATES = {
    "leaks": State(),
    "bounded": State(updates=1, num_examples=1, verdict=VerdictName.BOUNDED),
    "no threshold": State(limit=None, verdict=VerdictName.NOT_SHOWN),
    "all skipped": State(all_skipped=True, verdict=VerdictName.NOT_SHOWN),
    "not scored": State(scored=False, verdict=VerdictName.NOT_SHOWN),
    "two seeds": State(seeds=(0, 1)),
    "many examples": State(num_examples=100, updates=1),
    "hostile": State(data=HOSTILE),
}


class Strict(HTMLParser):
    """Collects tags and text; complains of tags that do not close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


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


@pytest.mark.parametrize(("channels", "side", "expected"), [(3, 32, 192), (1, 28, 168), (4, 5, 190), (3, 300, 256)])
def test_a_strip_is_three_tiles(channels: int, side: int, expected: int) -> None:
    pair = Pair("t", 0, torch.rand(channels, side, side), torch.rand(channels, side, side))
    assert Image.open(io.BytesIO(strip(pair))).size == (3 * expected + 8, expected)


def test_pixels_are_enlarged_exactly() -> None:
    private = torch.rand(3, 4, 4)
    big = pictures.enlarge(pictures.image(private))
    assert big.size == (192, 192)
    small = big.resize((4, 4), Image.Resampling.NEAREST)
    assert small.tobytes() == pictures.image(private).tobytes()


def test_difference_is_black_only_where_equal() -> None:
    private = torch.zeros(3, 2, 2)
    rebuilt = private.clone()
    rebuilt[:, 0, 0] = 1.0
    drawn = pictures.difference(Pair("t", 0, private, rebuilt))
    dark, light = drawn.getpixel((1, 1)), drawn.getpixel((0, 0))
    assert isinstance(dark, tuple)
    assert isinstance(light, tuple)
    assert max(dark) < 8
    assert min(light) > 150


def test_pictures_survive_values_that_are_no_pixels() -> None:
    odd = torch.full((3, 4, 4), float("nan"))
    odd[0] = 7.0
    assert strip(Pair("t", 0, torch.rand(3, 4, 4), odd))


def test_a_contact_sheet_holds_every_pair() -> None:
    some = [Pair("t", i, torch.rand(3, 32, 32), None) for i in range(5)]
    width, height = Image.open(io.BytesIO(sheet(some, columns=2))).size
    assert (width, height) == (2 * (3 * 96 + 8) + 16, 3 * 96 + 2 * 8)


def test_a_sheet_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 image pair is needed"):
        sheet([Pair("t", 0, torch.rand(7), None)])


def test_figures_are_the_same_every_time() -> None:
    audit = report()
    assert figures.distribution(audit) == figures.distribution(audit)
    assert figures.curves(audit) == figures.curves(audit)


def test_there_is_no_figure_of_nothing() -> None:
    skipped = report(STATES["all skipped"])
    assert figures.distribution(skipped) is None
    assert figures.curves(skipped) is None


def test_an_example_leaked_by_two_seeds_counts_once() -> None:
    audit = report(State(seeds=(0, 1, 2)))
    group = facts.attack_groups(audit)[0]
    share = facts.leaked_share(group.ran)
    assert share is not None
    assert (share.hits, share.n) == (8, 8)
    assert (share.low, share.high) == pytest.approx((0.6756, 1.0), abs=1e-4)


def test_every_threshold_must_be_met() -> None:
    trial = next(t for t in report().trials if t.leakage_rate and t.leakage_rate.hits)
    assert trial.leakage_rate is not None
    both = trial.leakage_rate.model_copy(update={"criterion": "psnr >= 20 dB and ssim >= 2"})
    assert facts.leak_flags(trial.model_copy(update={"leakage_rate": both})) == [False] * len(trial.examples)
    flags = facts.leak_flags(trial)
    assert flags is not None
    assert sum(flags) == trial.leakage_rate.hits


def test_a_share_without_a_readable_criterion_adds_up() -> None:
    trials = [
        t.model_copy(update={"leakage_rate": t.leakage_rate.model_copy(update={"criterion": "a and b"})})
        for t in report().trials
        if t.leakage_rate
    ]
    share = facts.leaked_share(trials)
    assert share is not None
    assert share.n == sum(t.leakage_rate.n for t in trials if t.leakage_rate)


def test_guesses_are_counted_once_per_update() -> None:
    audit = report(State(seeds=(0, 1)))
    scores = facts.baseline_scores(audit.trials, "psnr")
    assert {name: sum(len(s.values) for s in found) for name, found in scores.items()} == {
        "mean image": 8,
        "best public image": 8,
        "TV only": 8,
    }


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        ("psnr >= 20 dB", (facts.Threshold("psnr", True, 20.0),)),
        ("lpips <= 0.3", (facts.Threshold("lpips", False, 0.3),)),
        (
            "psnr >= 20 dB and ssim >= 0.5",
            (facts.Threshold("psnr", True, 20.0), facts.Threshold("ssim", True, 0.5)),
        ),
        ("psnr >= 20 dB and a face", ()),
    ],
)
def test_criteria_are_read_back(criterion: str, expected: tuple[facts.Threshold, ...]) -> None:
    assert facts.thresholds(criterion) == expected


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (19.42, "dB", "19.4 dB"),
        (100.0, "dB", "100 dB"),
        (0.1234, "", "0.123"),
        (None, "dB", "–"),
        (2e-7, "", "2.00e-07"),
    ],
)
def test_numbers_carry_their_units(value: float | None, unit: str, text: str) -> None:
    assert numbers.number(value, unit) == text


def test_a_plan_is_written_as_toml() -> None:
    written = plan(State(data=HOSTILE.replace("\x0b", "")))
    del written["model"]["weights"]  # type: ignore[attr-defined]
    assert tomllib.loads(plan_text(plan(State(data=HOSTILE.replace("\x0b", ""))))) == written
