"""Private and rebuilt sentences or table rows as text, with what differs marked."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from fedspill.report.schema import AuditReport
from fedspill.report.store import Texts

FIELD = re.compile(r"([^=,]+) = ")
NEXT_FIELD = re.compile(r", (?=[^=,]+ = )")


@dataclass(frozen=True)
class Piece:
    """A run of text that stands on both sides, or on this side only."""

    text: str
    same: bool


@dataclass(frozen=True)
class TextPair:
    """A private example as text beside the reconstruction that was matched to it, if any.

    Attributes:
        trial: the trial's name.
        example: index within the data split.
        values: score by metric name.
    """

    trial: str
    example: int
    private: str
    rebuilt: str | None
    values: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def pieces(self) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
        """The private and the rebuilt text in pieces; the second is empty without a reconstruction."""
        if self.rebuilt is None:
            return (Piece(self.private, same=True),), ()
        return compared(self.private, self.rebuilt)


def text_pairs_of(report: AuditReport, texts: Texts) -> list[TextPair]:
    """Every private example of every trial beside what was rebuilt of it; none from a redacted report."""
    pairs = list[TextPair]()
    for trial in () if report.redacted else report.trials:
        rebuilt = texts.get(f"rebuilt/{trial.name}", [])
        for place, (example, match) in enumerate(zip(trial.examples, trial.matched, strict=False)):
            private = texts.get(f"private/{example}")
            if not private:
                continue
            values = {s.metric: v for s in trial.scores if s.values and (v := s.values[place]) is not None}
            shown = rebuilt[match] if match is not None and match < len(rebuilt) else None
            pairs.append(TextPair(trial.name, example, private[0], shown, values))
    return pairs


def worst_texts(report: AuditReport, pairs: Sequence[TextPair]) -> list[TextPair]:
    """The pairs of the report's worst examples, in its order."""
    by_place = {(p.trial, p.example): p for p in pairs}
    return [p for w in report.worst if (p := by_place.get((w.trial, w.example))) is not None]


def compared(first: str, second: str) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """Both texts in pieces: columns side by side if both are rows of one table, else words in their order."""
    rows = NEXT_FIELD.split(first), NEXT_FIELD.split(second)
    names = [[m[1] for cell in row if (m := FIELD.match(cell))] for row in rows]
    if names[0] == names[1] and len(names[0]) == len(rows[0]) == len(rows[1]) > 1:
        return _columns(*rows), _columns(*reversed(rows))
    return _words(first, second)


def _columns(row: Sequence[str], other: Sequence[str]) -> tuple[Piece, ...]:
    ends = [", "] * (len(row) - 1) + [""]
    return _joined([Piece(a + end, a == b) for a, b, end in zip(row, other, ends, strict=True)])


def _words(first: str, second: str) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    a, b = (re.findall(r"\S+\s*|\s+", text) for text in (first, second))
    steps = SequenceMatcher(None, [w.strip() for w in a], [w.strip() for w in b], autojunk=False).get_opcodes()
    pieces = [Piece("".join(a[i:j]), kind == "equal") for kind, i, j, _, _ in steps if i < j]
    other = [Piece("".join(b[i:j]), kind == "equal") for kind, _, _, i, j in steps if i < j]
    return _joined(pieces), _joined(other)


def _joined(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Neighbours of one sort as one piece."""
    joined = list[Piece]()
    for piece in pieces:
        if joined and joined[-1].same == piece.same:
            joined[-1] = Piece(joined[-1].text + piece.text, piece.same)
        else:
            joined.append(piece)
    return tuple(joined)
