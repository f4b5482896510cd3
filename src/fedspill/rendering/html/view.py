"""The rows, tiles and cards that the HTML report is laid out from."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedspill.rendering import facts, numbers
from fedspill.rendering.drawing import pictures
from fedspill.rendering.drawing.pictures import Pair
from fedspill.rendering.facts import AttackGroup, MetricInfo, Spread
from fedspill.report.leakage import leaked_share, rate
from fedspill.report.schema import AuditReport, Feeding, WorstExample
from fedspill.report.trial import Rate, Score, Trial

MOST_CARDS = 12


@dataclass(frozen=True)
class Tile:
    """One headline number with its conditions."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Card:
    """One private example beside the closest reconstruction of it."""

    worst: WorstExample
    attack: str
    scores: tuple[str, ...]
    private: str
    rebuilt: str | None
    difference: str
    small: bool


@dataclass(frozen=True)
class AttackRow:
    """One attack in the table of attacks."""

    group: AttackGroup
    spread: Spread | None
    share: Rate | None
    guess: tuple[str, Spread] | None
    beaten: tuple[int, int]
    iterations: str
    seconds: str
    converged: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class MetricRow:
    """One metric of one attack, or of one baseline."""

    name: str
    metric: MetricInfo
    spread: Spread | None
    reason: str | None


def tiles(report: AuditReport) -> list[Tile]:
    """The numbers that a reader wants first."""
    network = [] if report.feeding is None else [_network_tile(report.feeding)]
    return [_rate_tile(report), _worst_tile(report), _examples_tile(report), *network, _runs_tile(report)]


def _rate_tile(report: AuditReport) -> Tile:
    share = report.leakage_rate
    if share is None:
        return Tile("Leakage rate", "–", "not computed: the plan sets no leak threshold, or nothing was scored")
    counts = f"{share.hits} of {share.n} private examples at {numbers.criterion(share.criterion)}, by any attack"
    note = f"{counts}; 95 % interval {numbers.interval(share.low, share.high)} (Wilson)"
    return Tile("Leakage rate", numbers.percent(share.rate), note)


def _worst_tile(report: AuditReport) -> Tile:
    if not report.worst:
        return Tile("Worst example", "–", "no example was scored")
    first = report.worst[0]
    label = f"Worst example, {numbers.metric_name(first.metric)}"
    exact = "exact; " if numbers.score(first.metric, first.value).endswith("(exact)") else ""
    number = next((t.round for t in report.trials if t.name == first.trial), None)
    where = f"update {first.update}" if number is None else f"update {first.update} (round {number})"
    note = f"{exact}example {first.example} of {where}, {attack_of(report, first.trial)}"
    return Tile(label, numbers.number(first.value, first.unit), note)


def _examples_tile(report: AuditReport) -> Tile:
    n, updates = facts.private_examples(report), len({t.update for t in report.trials if t.skipped is None})
    return Tile("Private examples", str(n), f"n = {n}, in {numbers.count(updates, 'update')}")


def _runs_tile(report: AuditReport) -> Tile:
    ran = [t for t in report.trials if t.skipped is None]
    seeds = sorted({t.seed for t in report.trials})
    skipped = len(report.trials) - len(ran)
    attacks = len({(t.attack, t.preset) for t in ran})
    note = f"{numbers.count(attacks, 'attack')}; seed{'s' if len(seeds) != 1 else ''} {numbers.listing(seeds)}"
    return Tile("Trials run", str(len(ran)), note + (f"; {skipped} skipped" if skipped else ""))


def _network_tile(feeding: Feeding) -> Tile:
    """How good the network is on the private examples, and what they are normalised by."""
    value = "–" if feeding.accuracy is None else numbers.percent(feeding.accuracy)
    loss = "no loss" if feeding.loss is None else f"loss {feeding.loss:.3g}"
    statistics = ", batch statistics" if feeding.batch_statistics else ""
    return Tile("Accuracy on them", value, f"{loss}, n = {feeding.n}{statistics}{_normalised(feeding)}")


def _normalised(feeding: Feeding) -> str:
    if feeding.mean is None or feeding.std is None:
        return ""
    mean, std = (", ".join(f"{v:.4g}" for v in values) for values in (feeding.mean, feeding.std))
    return f"; pixels less {mean}, over {std}" + (f" ({feeding.origin})" if feeding.origin else "")


def attack_of(report: AuditReport, trial: str) -> str:
    """The attack that a trial ran, as the plan writes it."""
    return next((f"{t.attack}:{t.preset}" for t in report.trials if t.name == trial), trial)


def cards(report: AuditReport, pairs: Sequence[Pair]) -> list[Card]:
    """The worst examples that there is a picture of; none from a redacted report."""
    if report.redacted:
        return []
    return cards_of(report, report.worst, pairs)


def cards_of(report: AuditReport, examples: Sequence[WorstExample], pairs: Sequence[Pair]) -> list[Card]:
    """The given examples, in their order, as far as there is a picture of them."""
    by_place = {(p.trial, p.example): p for p in pairs if p.drawable}
    units = {info.name: info.unit for info in facts.metrics(report)}
    candidates = ((w, by_place.get((w.trial, w.example))) for w in examples)
    drawn = [(w, pair) for w, pair in candidates if pair is not None][:MOST_CARDS]
    return [_card(w, pair, attack_of(report, w.trial), units) for w, pair in drawn]


def _card(worst: WorstExample, pair: Pair, attack: str, units: dict[str, str]) -> Card:
    private, rebuilt, gap = (pictures.data_uri(p) for p in pictures.tiles(pair))
    shown = None if pair.rebuilt is None else rebuilt
    small = max(pair.private.shape[-2:]) <= pictures.SIDE // 2
    return Card(worst, attack, shown_scores(worst, pair.values, units), private, shown, gap, small)


def shown_scores(worst: WorstExample, values: Mapping[str, float], units: Mapping[str, str]) -> tuple[str, ...]:
    """The main score first, each with its unit."""
    units = {worst.metric: worst.unit, **units}
    every = {worst.metric: worst.value, **values}
    return tuple(f"{numbers.metric_name(m)} {numbers.score(m, v, units.get(m, ''))}" for m, v in every.items())


def attack_rows(report: AuditReport, metric: MetricInfo | None) -> list[AttackRow]:
    """Every attack, the closest first and the skipped ones last."""
    rows = [_attack_row(group, metric) for group in facts.attack_groups(report)]
    sign = -1 if metric is None or metric.higher_is_closer else 1
    return sorted(rows, key=lambda r: (not r.group.ran, r.spread is None, sign * r.spread.worst if r.spread else 0))


def _attack_row(group: AttackGroup, metric: MetricInfo | None) -> AttackRow:
    scores = facts.trial_scores(group.ran, metric.name) if metric else []
    spread = facts.spread(scores, metric.higher_is_closer) if metric else None
    return AttackRow(
        group=group,
        spread=spread,
        share=leaked_share(group.ran),
        guess=_best_guess(group, metric) if metric else None,
        beaten=facts.beats_guesses(group.ran, metric) if metric else (0, 0),
        iterations=_range([t.iterations for t in group.ran]) if group.ran else "–",
        seconds=numbers.duration(sum(t.seconds for t in group.ran)) if group.ran else "–",
        converged=_converged(group),
        reasons=(*_skips(group), *([] if spread or not group.ran else _reasons(scores))),
    )


def _best_guess(group: AttackGroup, metric: MetricInfo) -> tuple[str, Spread] | None:
    every = [
        (name, spread)
        for name, scores in facts.baseline_scores(group.ran, metric.name).items()
        if (spread := facts.spread(scores, metric.higher_is_closer)) is not None
    ]
    sign = 1 if metric.higher_is_closer else -1
    return max(every, key=lambda guess: sign * guess[1].median, default=None)


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    if high == 0:
        return "closed form"
    return f"{low:,} iterations" if low == high else f"{low:,}–{high:,} iterations"


def _converged(group: AttackGroup) -> str:
    if not group.ran:
        return "not run"
    if len(group.ran) == 1:
        text = "converged" if group.converged else "did not converge"
    else:
        text = f"{group.converged} of {len(group.ran)} converged"
    cut = sum(t.ended_by_budget and not t.converged for t in group.ran)
    early = sum(t.ended_by_budget and t.converged for t in group.ran)
    told = [f"{early} before the budget ended the search"] if early else []
    return "; ".join([text, *told, *([f"{cut} ended by the budget"] if cut else [])])


def _skips(group: AttackGroup) -> list[str]:
    counted = Counter(t.skipped for t in group.skipped)
    some = f" ({len(group.skipped)} of {len(group.ran) + len(group.skipped)})" if group.ran else ""
    return [f"skipped{some}: {reason}" for reason in counted]


def _reasons(scores: Sequence[Score]) -> list[str]:
    why = dict.fromkeys(s.not_computed for s in scores if s.not_computed)
    return [f"not computed: {reason}" for reason in why] or ["no reconstruction was matched to any example"]


def metric_rows(report: AuditReport) -> list[MetricRow]:
    """Every metric of every attack and of every baseline."""
    rows: list[MetricRow] = []
    ran = [t for t in report.trials if t.skipped is None]
    for metric in facts.metrics(report):
        for group in facts.attack_groups(report):
            scores = facts.trial_scores(group.ran, metric.name)
            rows += [_metric_row(group.label, metric, scores)] if scores else []
        for name, scores in facts.baseline_scores(ran, metric.name).items():
            rows.append(_metric_row(f"{name} (guess)", metric, scores))
    return rows


def _metric_row(name: str, metric: MetricInfo, scores: Sequence[Score]) -> MetricRow:
    spread = facts.spread(scores, metric.higher_is_closer)
    return MetricRow(name, metric, spread, None if spread else "; ".join(_reasons(scores)))


@dataclass(frozen=True)
class LabelRow:
    """Where one attack's labels came from and how many were right."""

    attack: str
    source: str
    method: str
    overlap: float | None
    trials: int


def label_rows(report: AuditReport) -> list[LabelRow]:
    """The labels by attack, by where they came from."""
    by_source: dict[tuple[str, str, str], list[Trial]] = {}
    for group in facts.attack_groups(report):
        for trial in group.ran:
            by_source.setdefault((group.label, trial.labels.source, trial.labels.method or ""), []).append(trial)
    return [LabelRow(*key, _overlap(trials), len(trials)) for key, trials in by_source.items()]


def _overlap(trials: Sequence[Trial]) -> float | None:
    known = [t.labels.overlap for t in trials if t.labels.overlap is not None]
    return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class IdentificationRow:
    """How often one attack's reconstructions name their target within a reference set.

    Attributes:
        rate: over all runs; without an interval worth showing if examples were attacked with several seeds.
    """

    attack: str
    distance: str
    reference: str
    rate: Rate | None
    seeds: int
    reasons: tuple[str, ...]


def identification_rows(report: AuditReport) -> list[IdentificationRow]:
    """Image identification precision by attack, distance and reference set."""
    rows: list[IdentificationRow] = []
    for group in facts.attack_groups(report):
        kinds = dict.fromkeys((i.distance, i.reference) for t in group.ran for i in t.identification)
        rows += [_identification_row(group, *kind) for kind in kinds]
    return rows


def _identification_row(group: AttackGroup, distance: str, reference: str) -> IdentificationRow:
    entries = [
        (trial.seed, entry)
        for trial in group.ran
        for entry in trial.identification
        if (entry.distance, entry.reference) == (distance, reference)
    ]
    rates = [entry.rate for _, entry in entries if entry.rate]
    n = sum(r.n for r in rates)
    total = rate("IIP", sum(r.hits for r in rates), n) if n else None
    reasons = tuple(dict.fromkeys(e.not_computed for _, e in entries if e.not_computed))
    seeds = len({seed for seed, entry in entries if entry.rate})
    return IdentificationRow(group.label, distance, reference, total, seeds, reasons)
