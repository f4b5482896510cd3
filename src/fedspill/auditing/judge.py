"""Opens the truth: scores of a reconstruction, and of guesses made without any update."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedspill.auditing.prior_only import tv_only
from fedspill.auditing.recognition import beyond_guesses, recognisable
from fedspill.auditing.resolving.evaluation import Evaluation
from fedspill.auditing.resolving.scenario import Scenario
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.rng import stream
from fedspill.core.tensor_files import sha256
from fedspill.core.types import Batch, Reconstruction
from fedspill.core.watching.clock import OutOfTime, until
from fedspill.report.leakage import leak_flags, rate
from fedspill.report.trial import Baseline, BaselineName, Identification, Labels, Rate, Score
from fedspill.scoring import baselines, identification
from fedspill.scoring.labels import overlap
from fedspill.scoring.pairs import NotComputed
from fedspill.scoring.score import MetricValues, Scored, score_all, score_pairs

MOST_REFERENCES = 2000
MOST_GUESSED = 1024
"""Private examples for which a guess without the update is scored, the first ones."""
MOST_SEARCHED = 64
"""Private examples for which a guess that is itself a search is made, the first ones."""


def as_score(values: MetricValues) -> Score:
    """One metric as report.json holds it."""
    summary = values.summary()
    return Score(
        metric=values.name,
        unit=values.unit,
        higher_is_closer=values.higher_is_closer,
        values=values.listed(),
        mean=summary.mean,
        median=summary.median,
        worst=summary.worst,
        quantiles=dict(summary.quantiles or {}),
        capped=summary.capped,
        not_computed=values.not_computed,
    )


@dataclass(frozen=True)
class Judged:
    """What the truth says of one reconstruction.

    Attributes:
        scores: per metric, as report.json holds them.
        matched: for each private example the index of its reconstruction, None if it got none.
        leaked: per private example: it meets the thresholds, and where a guess without the update does so too, it is
            clearly closer than that guess; None where a threshold could not be judged.
        recognisable: per private example; None where it could not be judged.
        cut: the time was up before that was known.
    """

    scores: list[Score]
    matched: list[int | None]
    leaked: list[bool] | None
    leakage_rate: Rate | None
    labels: Labels
    identification: list[Identification]
    recognisable: list[bool] | None = None
    cut: bool = False


def judge(
    scenario: Scenario,
    rebuilt: Reconstruction,
    private: Batch,
    guesses: Sequence[Baseline] = (),
    hard: float | None = None,
) -> Judged:
    """Matches, scores, and compares with the plan's thresholds.

    Args:
        guesses: what is scored without the update.
        hard: `time.monotonic()` from which on it is not asked any more what is recognisable; None never.
    """
    evaluation = scenario.evaluation
    scored = score_all(
        rebuilt.inputs, private.inputs, evaluation.metrics, rebuilt.labels, private.labels, evaluation.table
    )
    scores = [as_score(values) for values in scored.metrics]
    flags = _leaked(scenario, rebuilt, private, scored, leak_flags(scores, evaluation.thresholds), guesses)
    told, cut = None, False
    try:
        with until(hard):
            told = recognisable(scenario, rebuilt.inputs, private, scored.matched, flags)
    except OutOfTime:
        cut = True
    return Judged(
        scores=scores,
        matched=list(scored.matched),
        leaked=flags,
        leakage_rate=_leakage_rate(evaluation, flags),
        labels=_labels(rebuilt, private),
        identification=_identify(scenario, rebuilt, private, scored),
        recognisable=told,
        cut=cut,
    )


def _leaked(
    scenario: Scenario,
    rebuilt: Reconstruction,
    private: Batch,
    scored: Scored,
    flags: list[bool] | None,
    guesses: Sequence[Baseline],
) -> list[bool] | None:
    """What meets the thresholds, less what a guess without the update meets as well and is about as close to."""
    lax = [i for i, hit in enumerate(flags or []) if hit and _is_guessed(guesses, scenario.evaluation, i)]
    if flags is None or not lax:
        return flags
    clear = beyond_guesses(scenario, rebuilt.inputs, private, scored.matched, lax)
    drop = {i for i, far in zip(lax, clear, strict=True) if not far}
    return [hit and i not in drop for i, hit in enumerate(flags)]


def _is_guessed(guesses: Sequence[Baseline], evaluation: Evaluation, place: int) -> bool:
    """Whether a guess meets the thresholds for one example; choosing the best public example needs the truth."""
    every = [leak_flags(g.scores, evaluation.thresholds) for g in guesses if not g.name.startswith("best public")]
    return any(flags is not None and flags[place] for flags in every)


def _leakage_rate(evaluation: Evaluation, flags: list[bool] | None) -> Rate | None:
    return None if flags is None else rate(evaluation.criterion, sum(flags), len(flags))


def _labels(rebuilt: Reconstruction, private: Batch) -> Labels:
    if rebuilt.labels is None:
        return Labels(source="none")
    if rebuilt.label_method is None:
        return Labels(source="granted")
    share = overlap(rebuilt.labels.cpu(), private.labels.cpu())
    return Labels(source="inferred", method=rebuilt.label_method, overlap=share)


def _identify(scenario: Scenario, rebuilt: Reconstruction, private: Batch, scored: Scored) -> list[Identification]:
    if not isinstance(scenario.model.input, ImageSpec):
        return []  # its distances are between images
    where = [i for i, m in enumerate(scored.matched) if m is not None]
    picked = rebuilt.inputs[[m for m in scored.matched if m is not None]]
    total = len(private)
    private, where = _compared(private, where)
    others = _others(scenario, private)
    results = list[Identification]()
    for name in scenario.evaluation.identification:
        try:
            if others is None and len(private) < 2:
                raise NotComputed("the reference set would hold the target alone")
            hit = identification.identify(
                picked, torch.tensor(where, dtype=torch.long), private, others, _distance(scenario, name)
            )
            share = rate(f"nearest by {name} is the target", int(hit.hits.sum()), total)
            results.append(Identification(distance=name, reference=hit.reference, rate=share))
        except NotComputed as error:
            results.append(Identification(distance=name, reference="", not_computed=str(error)))
    return results


def _distance(scenario: Scenario, name: str) -> identification.Distance:
    if name == "pixel":
        return identification.pixel_distance()
    if name == "lpips":
        return identification.lpips_distance(scenario.evaluation.lpips_weights)
    return identification.feature_distance(identification.penultimate_features(scenario.model), scenario.model.input)


def _compared(private: Batch, where: list[int]) -> tuple[Batch, list[int]]:
    """The private examples to compare with, and where the targets stand among them.

    A large update is cut to its targets and its first `MOST_REFERENCES` examples.
    """
    if len(private) <= MOST_REFERENCES:
        return private, where
    kept = sorted({*where, *range(MOST_REFERENCES)})
    return private[kept], [kept.index(i) for i in where]


def _others(scenario: Scenario, private: Batch) -> Batch | None:
    """The rest of the pool, at most `MOST_REFERENCES` images that are not private in this update."""
    known, rest = {_digest(x) for x in private.inputs}, list[int]()
    for place, x in enumerate(scenario.pool.batch.inputs):
        if len(rest) < MOST_REFERENCES and _digest(x.to(private.inputs)) not in known:
            rest.append(place)
    return scenario.pool.batch[rest].to(private.inputs) if rest else None


def _digest(example: Tensor) -> str:
    return sha256(example + 0)  # -0.0 + 0 is 0.0


def prior_only(scenario: Scenario, private: Batch, seed: int) -> list[Baseline]:
    """What the same scores, and the same leakage rate, are without the update."""
    spec = scenario.model.input
    n, some, first = len(private), _some(len(private), MOST_GUESSED), private[:MOST_GUESSED]
    if isinstance(spec, ImageSpec):
        return _of_images(scenario, spec, first, n, seed)
    guesses, public = list[Baseline](), scenario.public_batch
    if isinstance(spec, TableSpec):
        words = "each column's commonest category or median in the public rows" if public else COLUMNS_ALONE
        guess = baselines.commonest_row(spec, len(first), public)
        guesses.append(_paired(scenario, "commonest row", words + some, guess, first, n))
    if isinstance(spec, TokenSpec) and public is not None:
        guess = baselines.commonest_token(public, len(first))
        words = "the commonest token of the public sentences in every position"
        guesses.append(_paired(scenario, "commonest token", words + some, guess, first, n))
    if public is not None:
        words = "the closest public example, chosen with the truth: an upper bound on guessing"
        guess = baselines.best_public(public, first.inputs, scenario.evaluation.table)
        guesses.append(_paired(scenario, "best public example", words + some, guess, first, n))
    return guesses


COLUMNS_ALONE = "each column's mean or first category: without public rows the columns are all that is known"


def _paired(scenario: Scenario, name: BaselineName, words: str, guess: Tensor, private: Batch, n: int) -> Baseline:
    scored = score_pairs(guess.to(private.inputs), private.inputs, scenario.evaluation.metrics)
    return _baseline(scenario, name, words, scored, n)


def _of_images(scenario: Scenario, spec: ImageSpec, private: Batch, n: int, seed: int) -> list[Baseline]:
    metrics, public, some = scenario.evaluation.metrics, scenario.public_batch, _some(n, MOST_GUESSED)
    mean = baselines.mean_image(spec, len(private), public)
    words = "the mean of the public images" if public else "one flat colour: the normalisation's mean, or grey"
    guesses = [_paired(scenario, "mean image", words + some, mean, private, n)]
    if public is not None:
        words = "the closest public image, chosen with the truth: an upper bound on guessing"
        best = baselines.best_public(public, private.inputs)
        guesses.append(_paired(scenario, "best public image", words + some, best, private, n))
    images, some = private.inputs[:MOST_SEARCHED], _some(n, MOST_SEARCHED)
    flat = tv_only(spec, len(images), scenario.model.like, stream(seed, "baseline", "tv"))
    words = "the search of Inverting Gradients from noise, with total variation and no update"
    return [*guesses, _baseline(scenario, "TV only", words + some, score_all(flat, images, metrics), n)]


def _some(n: int, most: int) -> str:
    return f"; for the first {most} of {n} examples only" if n > most else ""


def _baseline(scenario: Scenario, name: BaselineName, words: str, scored: Scored, n: int) -> Baseline:
    """Scores of a guess for the first examples of n; the others get none."""
    scores = [as_score(values) for values in scored.metrics]
    flags = leak_flags(scores, scenario.evaluation.thresholds)
    padded = [_padded(score, n) for score in scores]
    share = _leakage_rate(scenario.evaluation, flags)
    return Baseline(name=name, explanation=words, scores=padded, leakage_rate=share)


def _padded(score: Score, n: int) -> Score:
    if score.not_computed is not None:
        return score
    return score.model_copy(update={"values": score.values + [None] * (n - len(score.values))})
