"""A report as one HTML file that needs nothing else: no script, no network, no fonts."""

from collections.abc import Callable, Sequence
from typing import Any, cast

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fedspill.rendering import facts, numbers
from fedspill.rendering.bins import BinsRead, embedded
from fedspill.rendering.defences import defence_rows, utility_sentence, who_knows
from fedspill.rendering.drawing import figures, history
from fedspill.rendering.drawing.pictures import DIFFERENCE_RANGE, Pair
from fedspill.rendering.headline.advice import advice
from fedspill.rendering.headline.guarantees import blocks
from fedspill.rendering.headline.story import meaning, tried
from fedspill.rendering.headline.words import WORDS
from fedspill.rendering.html import cards, view
from fedspill.rendering.html.plan_text import plan_text
from fedspill.rendering.ranks import rank_table
from fedspill.rendering.rounds import round_rows
from fedspill.rendering.texts import TextPair
from fedspill.report.schema import AuditReport
from fedspill.report.trial import Rate

MOST_SHEETS = 4
"""Trials whose bins are drawn in the page; the pictures of the others lie beside it."""

_FILTERS = (
    numbers.number,
    numbers.plain,
    numbers.score,
    numbers.percent,
    numbers.rate,
    numbers.criterion,
    numbers.duration,
    numbers.brief,
    numbers.listing,
)


def render(
    report: AuditReport, pairs: Sequence[Pair], texts: Sequence[TextPair] = (), bins: Sequence[BinsRead] = ()
) -> str:
    """The whole report for a browser.

    Args:
        report: what the audit found.
        pairs: pictures to show; those of `report.worst` are drawn, none if the report is redacted.
        texts: the same of sentences and tables.
        bins: what was read bin by bin.
    """
    return environment().get_template("template.html.j2").render(_context(report, pairs, texts, bins))


def environment() -> Environment:
    """The templates with their filters."""
    loader = PackageLoader("fedspill.rendering.html", ".")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    filters = cast("dict[str, Any]", made.filters)
    filters.update({f.__name__: f for f in _FILTERS}, metric=numbers.metric_name, ends=_ends)
    return made


def _ends(rate: Rate) -> str:
    return numbers.interval(rate.low, rate.high)


def _context(
    report: AuditReport, pairs: Sequence[Pair], texts: Sequence[TextPair], bins: Sequence[BinsRead]
) -> dict[str, Any]:
    shown, others = embedded(bins, MOST_SHEETS)
    metric, labels = facts.main_metric(report), view.label_rows(report)
    return {
        "report": report,
        "environment": report.environment,
        "verdict": WORDS[report.verdict.name],
        "roles": cards.role_cards(report, pairs, texts),
        "tried": tried(report),
        "meaning": meaning(report),
        "blocks": blocks(report),
        "advice": advice(report),
        "tiles": view.tiles(report),
        "cards": view.cards(report, pairs),
        "texts": cards.text_cards(report, texts),
        "overview": cards.overview(report, pairs),
        "bins": [cards.bins_card(read, report) for read in shown],
        "other_bins": others,
        "metric": metric,
        "attacks": view.attack_rows(report, metric),
        "metric_rows": view.metric_rows(report),
        "capped": _capped(report),
        "distributions": _both(figures.distribution, report),
        "curves": _both(figures.curves, report),
        "histories": _both(history.history, report),
        "rounds": round_rows(report),
        "defences": defence_rows(report),
        "learnt": utility_sentence(report),
        "who_knows": who_knows(report),
        "ranks": rank_table(report),
        "labels": labels,
        "granted_labels": any(row.source == "granted" for row in labels),
        "identification": view.identification_rows(report),
        "unconverged": facts.unconverged(report),
        "ran": [t for t in report.trials if t.skipped is None],
        "plan": plan_text(report.plan),
        "difference_range": DIFFERENCE_RANGE,
    }


def _both(draw: Callable[[AuditReport, int], str | None], report: AuditReport) -> tuple[tuple[str, Markup], ...]:
    """One figure for wide pages and one for narrow ones; empty if there is nothing to draw."""
    drawn = (("wide", draw(report, figures.WIDE)), ("narrow", draw(report, figures.NARROW)))
    return tuple((name, Markup(svg)) for name, svg in drawn if svg is not None)


def _capped(report: AuditReport) -> tuple[int, int]:
    """How many PSNR values stand at the cap, and of how many."""
    scores = [s for t in report.trials for s in t.scores if s.metric == "psnr"]
    return sum(s.capped for s in scores), sum(v is not None for s in scores for v in s.values)
