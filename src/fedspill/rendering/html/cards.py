"""What the HTML report shows beside single pictures: texts, kinds of server, whole updates, and what bins held."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedspill.rendering import facts
from fedspill.rendering.bins import BinsRead, Tile
from fedspill.rendering.drawing import pictures
from fedspill.rendering.drawing.bin_sheet import bin_sheet
from fedspill.rendering.drawing.pictures import Pair
from fedspill.rendering.headline.roles import RoleRow, role_rows
from fedspill.rendering.html.view import MOST_CARDS, Card, attack_of, cards_of, shown_scores
from fedspill.rendering.texts import Piece, TextPair
from fedspill.report.schema import AuditReport, WorstExample
from fedspill.report.trial import Trial

MOST_PAIRS = 64
"""Pairs in the overview of one update, at most."""


@dataclass(frozen=True)
class TextCard:
    """One private sentence or row beside the closest reconstruction of it, in pieces that agree or differ."""

    worst: WorstExample
    attack: str
    scores: tuple[str, ...]
    private: tuple[Piece, ...]
    rebuilt: tuple[Piece, ...]


def text_cards(report: AuditReport, pairs: Sequence[TextPair]) -> list[TextCard]:
    """The worst examples that there is a text of; none from a redacted report."""
    return [] if report.redacted else _texts_of(report, report.worst, pairs)


def _texts_of(report: AuditReport, examples: Sequence[WorstExample], pairs: Sequence[TextPair]) -> list[TextCard]:
    by_place = {(p.trial, p.example): p for p in pairs}
    units = {info.name: info.unit for info in facts.metrics(report)}
    found = [(w, pair) for w in examples if (pair := by_place.get((w.trial, w.example))) is not None]
    return [
        TextCard(worst, attack_of(report, pair.trial), shown_scores(worst, pair.values, units), *pair.pieces)
        for worst, pair in found[:MOST_CARDS]
    ]


@dataclass(frozen=True)
class RoleCard:
    """The verdict against one kind of server, with what it came closest to, if it can be shown."""

    row: RoleRow
    picture: Card | None
    text: TextCard | None


def role_cards(report: AuditReport, pairs: Sequence[Pair], texts: Sequence[TextPair]) -> list[RoleCard]:
    """One for each kind of server; a redacted report shows no example in them."""
    return [_role_card(report, row, pairs, texts) for row in role_rows(report)]


def _role_card(report: AuditReport, row: RoleRow, pairs: Sequence[Pair], texts: Sequence[TextPair]) -> RoleCard:
    shown = [] if row.shown is None or report.redacted else [row.shown]
    picture, text = cards_of(report, shown, pairs), _texts_of(report, shown, texts)
    return RoleCard(row, next(iter(picture), None), next(iter(text), None))


@dataclass(frozen=True)
class Overview:
    """One update as a whole: every private picture beside its reconstruction."""

    picture: str
    attack: str
    trial: str
    update: int
    shown: int
    total: int


def overview(report: AuditReport, pairs: Sequence[Pair]) -> Overview | None:
    """The overview of the trial that leaked the most.

    None if its examples all have a card, or the report is redacted.
    """
    ran = [t for t in report.trials if t.skipped is None]
    best = max(ran, key=lambda t: (t.leakage_rate.hits if t.leakage_rate else 0, _is_worst(report, t)), default=None)
    if report.redacted or best is None or len(best.examples) <= MOST_CARDS:
        return None
    drawable = [p for p in pairs if p.trial == best.name and p.drawable]
    if not drawable:
        return None
    shown = drawable[:MOST_PAIRS]
    picture = pictures.data_uri(pictures.overview(shown))
    return Overview(picture, attack_of(report, best.name), best.name, best.update, len(shown), len(best.examples))


def _is_worst(report: AuditReport, trial: Trial) -> bool:
    return bool(report.worst) and report.worst[0].trial == trial.name


@dataclass(frozen=True)
class BinsCard:
    """What one trial read, bin by bin.

    Attributes:
        picture: the contact sheet, of images.
        rows: of sentences and tables.
    """

    read: BinsRead
    picture: str | None
    rows: tuple[tuple[Tile, str], ...]


def bins_card(read: BinsRead, report: AuditReport) -> BinsCard:
    """Picture or rows of one trial's bins; neither if the report is redacted."""
    tiles = () if report.redacted else read.tiles
    drawable = any(t.picture is not None for t in tiles)
    rows = tuple((t, read.words[t.sort]) for t in tiles if t.text is not None)
    return BinsCard(read, pictures.as_uri(bin_sheet(read)) if drawable else None, rows)
