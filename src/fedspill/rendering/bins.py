"""What a readout read, bin by bin: which candidates are exact copies, mixtures, duplicates or nothing."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fedspill.rendering.numbers import percent
from fedspill.report.schema import AuditReport
from fedspill.report.store import Texts
from fedspill.report.trial import Reading, Trial

MOST_TILES = 256

Sort = Literal["exact", "mixture", "duplicate", "other", "empty"]

WORDS: Mapping[Sort, str] = {
    "exact": "exact copy",
    "mixture": "mixture of several examples",
    "duplicate": "duplicate",
    "other": "not a copy, or noise",
    "empty": "holds no example",
}
"""What the page and the legend call each sort."""

REPRESENTATION_WORDS: Mapping[Sort, str] = {
    **WORDS,
    "exact": "its representation was read exactly",
    "other": "no example's representation",
}
"""What the sorts are called where representations were read, which are inverted to pictures."""


@dataclass(frozen=True)
class Tile:
    """One candidate in the order of the bins.

    Attributes:
        holds: private examples that its bin holds by the readout's own measurement, as indices of the data split.
        exact: the private example that it is an exact copy of, likewise.
        picture: of images, in [0, 1].
        text: of sentences and tables.
    """

    origin: str
    sort: Sort
    holds: tuple[int, ...]
    exact: int | None
    picture: Tensor | None = None
    text: str | None = None


@dataclass(frozen=True)
class Owner:
    """Which rows leaked which example.

    Attributes:
        example: index of the data split.
        rows: that show it and it alone, the strongest first, as the attack names them.
        certified: the attack itself holds it for one example.
    """

    example: int
    rows: str
    certified: bool


@dataclass(frozen=True)
class BinsRead:
    """One trial's bins.

    Attributes:
        label: attack, update and seed.
        facts: what the numbers are called, and the numbers.
        tiles: at most `MOST_TILES`, in the order of their bins, without empty ones; none from a redacted report.
        notes: what the attack says, the paper's expectation among it.
        of_representations: what was read was inverted to what is shown.
        owners: of representations: each example that was read, in the words of its rows; none from a redacted report.
    """

    trial: str
    label: str
    counts: Mapping[Sort, int]
    facts: tuple[tuple[str, str], ...]
    tiles: tuple[Tile, ...]
    notes: tuple[str, ...]
    of_representations: bool = False
    owners: tuple[Owner, ...] = ()

    @property
    def words(self) -> Mapping[Sort, str]:
        """What each sort is called."""
        return REPRESENTATION_WORDS if self.of_representations else WORDS

    @property
    def line(self) -> str:
        """The numbers in one sentence."""
        return "; ".join(f"{name}: {value}" for name, value in self.facts) + "."

    @property
    def left_out(self) -> int:
        """Candidates that are neither drawn nor empty."""
        return sum(n for sort, n in self.counts.items() if sort != "empty") - len(self.tiles)


def bins_read(report: AuditReport, tensors: Mapping[str, Tensor], texts: Texts) -> list[BinsRead]:
    """What was read in bins, trial by trial."""
    return [_read(report, t, tensors, texts) for t in report.trials if t.readings]


def _read(report: AuditReport, trial: Trial, tensors: Mapping[str, Tensor], texts: Texts) -> BinsRead:
    sorts = sorted_out(trial)
    order = sorted(range(len(sorts)), key=lambda k: _natural(trial.readings[k].origin))
    shown = [] if report.redacted else [k for k in order if sorts[k] != "empty"]
    tiles = [_tile(trial, trial.readings[k], sorts[k], tensors, texts) for k in shown]
    drawn = [t for t in tiles if t.picture is not None or t.text is not None][:MOST_TILES]
    counts = Counter(sorts)
    label = f"{trial.attack}:{trial.preset}, update {trial.update}, seed {trial.seed}"
    of_representations = trial.predicted is not None and trial.predicted.what == "representations"
    name_facts = _representation_facts if of_representations else _facts
    facts = name_facts(trial, counts, report.environment.parameters)
    owners = () if report.redacted or not of_representations else _owners(trial, sorts)
    return BinsRead(trial.name, label, counts, facts, tuple(drawn), tuple(trial.notes), of_representations, owners)


def _owners(trial: Trial, sorts: Sequence[Sort]) -> tuple[Owner, ...]:
    read = [r for r, sort in zip(trial.readings, sorts, strict=True) if sort == "exact"]
    owners = [Owner(trial.examples[r.exact], r.origin, r.mark == "alone") for r in read if r.exact is not None]
    return tuple(sorted(owners, key=lambda o: o.example))


def sorted_out(trial: Trial) -> list[Sort]:
    """The sort of every reading; of several copies of one example the one that was scored is the exact one."""
    first = dict[int, int]()
    ranked = sorted(range(len(trial.readings)), key=lambda k: (trial.readings[k].scored is None, k))
    for k in ranked:
        exact = trial.readings[k].exact
        if exact is not None:
            first.setdefault(exact, k)
    return [_sort(r, k, first, trial.predicted is not None) for k, r in enumerate(trial.readings)]


def _sort(reading: Reading, k: int, first: Mapping[int, int], measured: bool) -> Sort:
    if reading.exact is not None:
        return "exact" if first[reading.exact] == k else "duplicate"
    if measured and not reading.holds:
        return "empty"
    if len(reading.holds) > 1 or (not measured and reading.mark == "mixture"):
        return "mixture"
    return "duplicate" if reading.mark == "duplicate" else "other"


def _tile(trial: Trial, reading: Reading, sort: Sort, tensors: Mapping[str, Tensor], texts: Texts) -> Tile:
    index, kind = (reading.scored, "rebuilt") if reading.scored is not None else (reading.unscored, "unscored")
    key = f"{kind}/{trial.name}"
    stored, lines = tensors.get(key), texts.get(key, [])
    kept = index is not None and stored is not None and index < len(stored) and stored.ndim == 4
    picture = stored[index] if kept and stored is not None and index is not None else None
    text = lines[index] if index is not None and index < len(lines) else None
    names = trial.examples
    exact = None if reading.exact is None else names[reading.exact]
    return Tile(reading.origin, sort, tuple(names[i] for i in reading.holds), exact, picture, text)


def _facts(trial: Trial, counts: Mapping[Sort, int], size: int | None) -> tuple[tuple[str, str], ...]:
    n, copies = len(trial.examples), len({r.exact for r in trial.readings if r.exact is not None})
    rows = [("bins read", f"{len(trial.readings):,}"), ("exact copies", f"{copies} of n = {n}")]
    if trial.predicted is not None:
        p = trial.predicted
        rows += [
            ("predicted by the measurement alone", f"{p.predicted} of n = {p.n}"),
            ("predicted and exact", f"{p.both} of {p.predicted}"),
        ]
    rows += [("mixtures", str(counts.get("mixture", 0))), ("duplicates", str(counts.get("duplicate", 0)))]
    rows += [("not a copy, or noise", str(counts.get("other", 0)))]
    if trial.predicted is not None:
        rows += [("read although they hold no example", str(counts.get("empty", 0)))]
    rows += [("models sent", "another one to each client")] if trial.different_models else []
    share = f" ({percent(trial.added_parameters / size)} of the model's {size:,})" if size else ""
    return (*rows, ("added parameters", f"{trial.added_parameters:,}{share}"))


def _representation_facts(trial: Trial, counts: Mapping[Sort, int], size: int | None) -> tuple[tuple[str, str], ...]:
    n, p = len(trial.examples), trial.predicted
    assert p is not None, "asked of representations only"
    sure = sum(r.mark == "alone" for r in trial.readings)
    rows = [
        ("representations read exactly", f"{p.exact} of n = {n}"),
        ("IR leakage rate (examples that own a row)", percent(p.alone / n)),
        ("predicted from the examples", f"{p.predicted} of n = {n}"),
        ("certified without the truth", f"{sure}, {p.certified} of them rightly"),
        ("candidates that are no example's", str(counts.get("other", 0) + counts.get("mixture", 0))),
    ]
    share = f" ({percent(trial.added_parameters / size)} of the model's {size:,})" if size else ""
    return (*rows, ("parameters that the new head adds", f"{trial.added_parameters:,}{share}"))


def _natural(origin: str) -> tuple[tuple[int, int, str], ...]:
    """Bin 9 before bin 10."""
    return tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in re.split(r"(\d+)", origin) if p)


def embedded(trials_read: Sequence[BinsRead], most: int) -> tuple[Sequence[BinsRead], Sequence[BinsRead]]:
    """Those that the page shows whole, the ones with the most exact copies first, and the others, in their order."""
    best = sorted(trials_read, key=lambda b: -b.counts.get("exact", 0))[:most]
    return best, [b for b in trials_read if b not in best]
