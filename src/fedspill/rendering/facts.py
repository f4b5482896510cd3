"""What every view of a report says: the trials gathered by attack, and what their scores come to."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fedspill.report.leakage import example_of
from fedspill.report.schema import AuditReport
from fedspill.report.trial import Score, Trial


@dataclass(frozen=True)
class MetricInfo:
    """A metric as the report's scores describe it."""

    name: str
    unit: str
    higher_is_closer: bool


@dataclass(frozen=True)
class Spread:
    """One metric over n values; `total` also counts the examples that got no reconstruction."""

    n: int
    total: int
    mean: float
    median: float
    worst: float
    q10: float
    q25: float
    q75: float
    q90: float
    capped: int = 0


@dataclass(frozen=True)
class AttackGroup:
    """All trials of one attack with one preset."""

    attack: str
    preset: str
    title: str
    role: str
    ran: tuple[Trial, ...]
    skipped: tuple[Trial, ...]

    @property
    def origin(self) -> str | None:
        """The package that the attack comes from, if it is not fedspill's own."""
        return next((t.origin for t in (*self.ran, *self.skipped) if t.origin), None)

    @property
    def label(self) -> str:
        """The attack as the plan writes it."""
        return f"{self.attack}:{self.preset}" if self.preset else self.attack

    @property
    def converged(self) -> int:
        """How many of its trials say that they converged."""
        return sum(t.converged for t in self.ran)


def attack_groups(report: AuditReport) -> list[AttackGroup]:
    """The trials by attack and preset, in the order of the plan."""
    gathered: dict[tuple[str, str], list[Trial]] = {}
    for trial in report.trials:
        gathered.setdefault((trial.attack, trial.preset), []).append(trial)
    return [_group(trials) for trials in gathered.values()]


def _group(trials: list[Trial]) -> AttackGroup:
    first = trials[0]
    ran = tuple(t for t in trials if t.skipped is None)
    skipped = tuple(t for t in trials if t.skipped is not None)
    return AttackGroup(first.attack, first.preset, first.title, first.role, ran, skipped)


def metrics(report: AuditReport) -> list[MetricInfo]:
    """Every metric of the report, the main one first."""
    infos = {s.metric: MetricInfo(s.metric, s.unit, s.higher_is_closer) for t in report.trials for s in t.scores}
    main = _main_name(report)
    return sorted(infos.values(), key=lambda info: info.name != main)


def main_metric(report: AuditReport) -> MetricInfo | None:
    """The metric by which the worst examples are ordered; None if nothing was scored."""
    return next(iter(metrics(report)), None)


def _main_name(report: AuditReport) -> str:
    """The metric that the audit ranked by; where nothing could be ranked, the first one that was computed."""
    if report.worst:
        return report.worst[0].metric
    computed = (s.metric for t in report.trials for s in t.scores if not s.not_computed)
    return next(computed, "")


def score_of(scores: Iterable[Score], metric: str) -> Score | None:
    """The scores of one metric."""
    return next((s for s in scores if s.metric == metric), None)


def spread(scores: Sequence[Score], higher_is_closer: bool) -> Spread | None:
    """What several trials' values of one metric come to; None if there are none."""
    values = [v for s in scores for v in s.values]
    known = np.array([v for v in values if v is not None], dtype=float)
    if known.size == 0:
        return None
    q10, q25, median, q75, q90 = (float(q) for q in np.quantile(known, [0.1, 0.25, 0.5, 0.75, 0.9]))
    worst = float(known.max() if higher_is_closer else known.min())
    capped = sum(s.capped for s in scores)
    return Spread(known.size, len(values), float(known.mean()), median, worst, q10, q25, q75, q90, capped)


def trial_scores(trials: Iterable[Trial], metric: str) -> list[Score]:
    """One metric of every trial that has it."""
    return [s for t in trials if (s := score_of(t.scores, metric)) is not None]


def baseline_scores(trials: Iterable[Trial], metric: str) -> dict[str, list[Score]]:
    """One metric of every baseline by its name; each update counts once, whatever was run on it."""
    first: dict[tuple[str, int], Score] = {}
    for trial in trials:
        for baseline in trial.baselines:
            score = score_of(baseline.scores, metric)
            if score is not None and score.not_computed is None:
                first.setdefault((baseline.name, trial.update), score)
    named: dict[str, list[Score]] = {}
    for (name, _), score in first.items():
        named.setdefault(name, []).append(score)
    return named


def private_examples(report: AuditReport) -> int:
    """How many different private examples were attacked."""
    ran = [t for t in report.trials if t.skipped is None]
    return len({example_of(t, place) for t in ran for place in range(len(t.examples))})


def unconverged(report: AuditReport) -> list[AttackGroup]:
    """The attacks of which at least one trial did not converge."""
    return [g for g in attack_groups(report) if g.converged < len(g.ran)]


def beats_guesses(trials: Iterable[Trial], metric: MetricInfo) -> tuple[int, int]:
    """The number of values on which the attack beat every baseline on the same example, and of how many."""
    better, compared = 0, 0
    for trial in trials:
        score = score_of(trial.scores, metric.name)
        priors = [s for b in trial.baselines if (s := score_of(b.scores, metric.name)) and not s.not_computed]
        for place, value in enumerate(score.values if score and priors else []):
            guesses = [g for s in priors if place < len(s.values) and (g := s.values[place]) is not None]
            compared += bool(guesses)
            best = max(guesses, default=None) if metric.higher_is_closer else min(guesses, default=None)
            if value is not None and best is not None:
                better += value > best if metric.higher_is_closer else value < best
    return better, compared
