"""The report's figures: every example beside what a guess scores, and how the searches went."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from fedspill.rendering import facts
from fedspill.rendering.drawing import canvas
from fedspill.rendering.drawing.canvas import BLUE, FAINT, INK, VERMILION
from fedspill.rendering.facts import AttackGroup, MetricInfo, Spread
from fedspill.rendering.numbers import count, metric_name
from fedspill.report.leakage import thresholds_of
from fedspill.report.schema import AuditReport
from fedspill.report.trial import Score, Trial

WIDE, NARROW = 1080, 340
"""Pixels of the page; a figure is drawn for desktops and once more for phones."""

_LABELS = 240
"""Pixels to the left of the dots that hold the names of the rows, where there is room for them."""


@dataclass(frozen=True)
class _Row:
    name: str
    values: tuple[float, ...]
    leaked: tuple[bool, ...]
    spread: Spread
    is_guess: bool


PANEL_LETTERS = 44
"""Of an attack's name over a panel of 320 pixels: many changed fields would leave the panel no room."""
MOST_LETTERS = 30
"""Letters of a name on one line beside its row, at most; the table of attacks has it whole."""


def distribution(report: AuditReport, width: int = WIDE) -> str | None:
    """The main metric per attack, one dot per value, above what guesses without the update score.

    Returns:
        An SVG element; None if nothing was scored.
    """
    metric = facts.main_metric(report)
    rows = [] if metric is None else _rows(report, metric)
    if metric is None or not rows:
        return None
    wide = width >= 2 * _LABELS
    drawn = canvas.figure(width, (46 if wide else 56) * len(rows) + 70)
    axes = canvas.axes(drawn, left=_LABELS if wide else 12, right=14, bottom=48, top=22)
    limit = _limit(report, metric)
    _draw_axes(axes, rows, metric, limit)
    for y, row in enumerate(reversed(rows)):
        _draw_row(axes, y - (0.0 if wide else 0.16), row)
        _name(axes, y, row, wide)
    axes.xaxis.set_major_locator(MaxNLocator(8 if wide else 5))
    return canvas.svg(drawn, f"distribution-{width}")


def _rows(report: AuditReport, metric: MetricInfo) -> list[_Row]:
    """Attacks, the closest first, then the guesses; rows without a value are left out."""
    sign = -1 if metric.higher_is_closer else 1
    ran = [t for t in report.trials if t.skipped is None]
    attacks = [_attack_row(g, metric) for g in facts.attack_groups(report)]
    guesses = [_guess_row(name, s, metric) for name, s in facts.baseline_scores(ran, metric.name).items()]
    rows = [row for row in attacks + guesses if row is not None]
    return sorted(rows, key=lambda row: (row.is_guess, sign * row.spread.worst))


def _attack_row(group: AttackGroup, metric: MetricInfo) -> _Row | None:
    dots: list[tuple[float, bool]] = []
    for trial in group.ran:
        score, flags = facts.score_of(trial.scores, metric.name), trial.leaked
        for place, value in enumerate(score.values if score else []):
            dots += [] if value is None else [(value, bool(flags and flags[place]))]
    spread = facts.spread(facts.trial_scores(group.ran, metric.name), metric.higher_is_closer)
    if spread is None:
        return None
    return _Row(group.label, tuple(v for v, _ in dots), tuple(hit for _, hit in dots), spread, is_guess=False)


def _guess_row(name: str, scores: Sequence[Score], metric: MetricInfo) -> _Row | None:
    spread = facts.spread(scores, metric.higher_is_closer)
    values = tuple(v for s in scores for v in s.values if v is not None)
    return _Row(name, values, (False,) * len(values), spread, is_guess=True) if spread else None


def _limit(report: AuditReport, metric: MetricInfo) -> float | None:
    """The leak threshold of the metric, in its unit; None if nothing was judged by it."""
    return thresholds_of(report.plan).get(metric.name) if report.leakage_rate else None


def _draw_axes(axes: Axes, rows: Sequence[_Row], metric: MetricInfo, limit: float | None) -> None:
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_yticks([])
    axes.margins(x=0.03)
    attacks = sum(not row.is_guess for row in rows)
    if 0 < attacks < len(rows):
        axes.axhline(len(rows) - attacks - 0.5, color=FAINT, linewidth=1)
    if limit is not None:
        axes.axvline(limit, color=VERMILION, linewidth=1.3, dashes=(4, 3))
        where = axes.get_xaxis_transform()
        canvas.write(axes, limit, 1.02, "threshold", transform=where, ha="center")
    if not metric.higher_is_closer:
        axes.invert_xaxis()
    unit = f", {metric.unit}" if metric.unit else ""
    axes.set_xlabel(f"{metric_name(metric.name)}{unit} (further right is closer)", labelpad=8)


def _draw_row(axes: Axes, y: float, row: _Row) -> None:
    """One dot per value, spread out in height by the golden ratio so that equal values stay apart."""
    values = np.array(row.values)
    heights = y + 0.34 * ((np.arange(len(values)) * 0.618034 + 0.5) % 1 - 0.5)
    hit = np.array(row.leaked)
    size = 36 if len(values) <= 40 else 18
    colour, alpha = (INK, 0.35 if len(values) <= 40 else 0.2) if row.is_guess else (BLUE, 0.7)
    axes.scatter(values[~hit], heights[~hit], s=size, color=colour, alpha=alpha, linewidths=0)
    axes.scatter(values[hit], heights[hit], s=size, color=VERMILION, alpha=0.8, linewidths=0, marker="D")
    if row.spread.n > 1:
        _draw_box(axes, y, row.spread)


def _draw_box(axes: Axes, y: float, spread: Spread) -> None:
    """10-90 % as a line, 25-75 % as a box, the median as a bar."""
    axes.plot([spread.q10, spread.q90], [y, y], color=INK, linewidth=1, alpha=0.6)
    axes.fill_between([spread.q25, spread.q75], y - 0.2, y + 0.2, color=INK, alpha=0.13, linewidth=0)
    axes.plot([spread.median] * 2, [y - 0.25, y + 0.25], color=INK, linewidth=2.2)


def _name(axes: Axes, y: int, row: _Row, wide: bool) -> None:
    """Writes the row's name to its left where there is room, else above it."""
    where = axes.get_yaxis_transform()
    weight = "normal" if row.is_guess else "bold"
    detail = f"guess, n = {row.spread.n}" if row.is_guess else f"n = {row.spread.n}"
    if wide:
        name, colon, preset = row.name.partition(":")
        if len(row.name) > MOST_LETTERS and colon:  # the preset goes to the second line
            detail = f"{preset[: MOST_LETTERS - len(detail)]}, {detail}"
        else:
            name = row.name
        canvas.write(axes, -0.02, y + 0.05, name, transform=where, ha="right", fontweight=weight)
        canvas.write(axes, -0.02, y - 0.3, detail, transform=where, ha="right", alpha=0.7)
    else:
        canvas.write(axes, 0.0, y + 0.22, f"{row.name}, {detail}", transform=where, fontweight=weight)


def curves(report: AuditReport, width: int = WIDE) -> str | None:
    """The objective of every searching attack's trials over its iterations, a panel per attack, log y.

    Returns:
        An SVG element; None if no attack searched.
    """
    groups = [g for g in facts.attack_groups(report) if any(len(t.objective) > 1 for t in g.ran)]
    if not groups:
        return None
    columns = min(3, max(1, width // 320))
    lines = -(-len(groups) // columns)
    drawn = canvas.figure(width, 230 * lines, layout="constrained")
    panels = drawn.subplots(lines, columns, squeeze=False).flatten().tolist()
    for axes, group in zip(panels, groups, strict=False):
        _draw_curves(canvas.dress(axes), group)
    for axes in panels[len(groups) :]:
        axes.set_visible(False)
    return canvas.svg(drawn, f"curves-{width}")


def _draw_curves(axes: Axes, group: AttackGroup) -> None:
    trials = [t for t in group.ran if len(t.objective) > 1]
    for trial in trials:
        _draw_curve(axes, trial)
    if all(v > 0 for t in trials for _, v in t.objective):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_xlabel("iteration")
    name = group.label if len(group.label) <= PANEL_LETTERS else f"{group.label[: PANEL_LETTERS - 3]}..."
    title = f"{name}, {count(len(trials), 'run')}"
    canvas.write(axes, 0.0, 1.05, title, transform=axes.transAxes, fontweight="bold")


def _draw_curve(axes: Axes, trial: Trial) -> None:
    steps, values = zip(*trial.objective, strict=True)
    colour, dashes = (BLUE, "-") if trial.converged else (VERMILION, "--")
    axes.plot(steps, values, color=colour, linestyle=dashes, linewidth=1.4, alpha=0.8)
