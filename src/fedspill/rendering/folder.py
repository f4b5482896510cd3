"""Every view of an audit, written beside its report.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from fedspill.core.tensor_files import write_whole
from fedspill.rendering.bins import BinsRead, bins_read
from fedspill.rendering.drawing.bin_sheet import bin_sheet
from fedspill.rendering.drawing.pictures import Pair, sheet, strip
from fedspill.rendering.html.page import render
from fedspill.rendering.junit import junit
from fedspill.rendering.texts import text_pairs_of
from fedspill.report.schema import AuditReport, Pictures
from fedspill.report.store import REPORT_FILE, Texts

HTML_FILE = "report.html"
STRIP_FILE = "worst.png"
MOST_ON_A_SHEET = 64


def pairs_of(report: AuditReport, tensors: Mapping[str, Tensor]) -> list[Pair]:
    """Every private example of every trial beside what was rebuilt of it."""
    pairs = list[Pair]()
    for trial in report.trials:
        rebuilt = tensors.get(f"rebuilt/{trial.name}")
        for place, (example, match) in enumerate(zip(trial.examples, trial.matched, strict=False)):
            private = tensors.get(f"private/{example}")
            if private is None:
                continue
            values = {s.metric: v for s in trial.scores if s.values and (v := s.values[place]) is not None}
            shown = None if rebuilt is None or match is None else rebuilt[match]
            pairs.append(Pair(trial.name, example, private, shown, values))
    return pairs


def write_views(
    folder: Path, report: AuditReport, tensors: Mapping[str, Tensor], texts: Texts | None = None
) -> AuditReport:
    """Writes report.html, junit.xml and the pictures; returns the report with the pictures' names in it."""
    pairs = [] if report.redacted else [p for p in pairs_of(report, tensors) if p.drawable]
    bins = bins_read(report, tensors, texts or {})
    named = _pictures(folder, report, pairs).model_copy(update={"bins": _sheets(folder, bins)})
    report = report.model_copy(update={"pictures": named})
    write_whole(folder / REPORT_FILE, report.model_dump_json(indent=1))
    write_whole(folder / "junit.xml", junit(report))
    write_whole(folder / HTML_FILE, render(report, pairs, text_pairs_of(report, texts or {}), bins))
    return report


def page_of(report: AuditReport, tensors: Mapping[str, Tensor], texts: Texts | None = None) -> str:
    """The HTML report alone, with its pictures in it; a redacted report shows none."""
    pairs = [] if report.redacted else [p for p in pairs_of(report, tensors) if p.drawable]
    return render(report, pairs, text_pairs_of(report, texts or {}), bins_read(report, tensors, texts or {}))


def _sheets(folder: Path, bins: Sequence[BinsRead]) -> dict[str, str]:
    """One contact sheet for each trial whose readings are images; a redacted report has none."""
    sheets = dict[str, str]()
    for read in bins:
        if any(tile.picture is not None for tile in read.tiles):
            sheets[read.trial] = f"pictures/{read.trial}.bins.png"
            write_whole(folder / sheets[read.trial], bin_sheet(read))
    return sheets


def _pictures(folder: Path, report: AuditReport, pairs: list[Pair]) -> Pictures:
    if not pairs:
        return Pictures()
    sheets = dict[str, str]()
    for trial in dict.fromkeys(p.trial for p in pairs):
        name = f"pictures/{trial}.png"
        write_whole(folder / name, sheet([p for p in pairs if p.trial == trial][:MOST_ON_A_SHEET]))
        sheets[trial] = name
    by_place = {(p.trial, p.example): p for p in pairs}
    worst = next((p for w in report.worst if (p := by_place.get((w.trial, w.example))) is not None), None)
    if worst is None or worst.rebuilt is None:
        return Pictures(trials=sheets)
    write_whole(folder / STRIP_FILE, strip(worst))
    return Pictures(strip=STRIP_FILE, trials=sheets)
