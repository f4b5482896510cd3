"""From trials to a conclusion, and to what limits it."""

from collections.abc import Sequence

from fedspill.auditing.evaluation import Evaluation
from fedspill.auditing.judge import rate
from fedspill.plan.sections import PolicySection
from fedspill.report.schema import Verdict, VerdictName, WorstExample
from fedspill.report.trial import Rate, Trial


def worst_examples(evaluation: Evaluation, trials: Sequence[Trial]) -> list[WorstExample]:
    """The closest that any attack came to each private example, the closest example first."""
    best = dict[tuple[int, int], WorstExample]()
    ascending = True
    for trial in trials:
        for score in (s for s in trial.scores if s.metric == evaluation.main_metric):
            ascending = not score.higher_is_closer
            for place, value in enumerate(score.values):
                if value is None:
                    continue
                key = (trial.update, place)
                held = best.get(key)
                leaked = leaks_at(evaluation, trial, place) or (held is not None and held.leaked)
                if held is None or ((value < held.value) == ascending and value != held.value):
                    held = WorstExample(
                        example=trial.examples[place],
                        update=trial.update,
                        trial=trial.name,
                        metric=score.metric,
                        unit=score.unit,
                        value=value,
                        leaked=leaked,
                    )
                best[key] = held.model_copy(update={"leaked": leaked})
    return sorted(best.values(), key=lambda w: w.value, reverse=not ascending)


def leaks_at(evaluation: Evaluation, trial: Trial, place: int) -> bool:
    """Whether the trial's reconstruction of one example meets every threshold."""
    limits = evaluation.thresholds
    scores = {s.metric: s for s in trial.scores if s.not_computed is None}
    if not limits or any(name not in scores for name in limits):
        return False
    return all(
        _meets(scores[name].values[place], limit, scores[name].higher_is_closer) for name, limit in limits.items()
    )


def _meets(value: float | None, limit: float, higher_is_closer: bool) -> bool:
    return value is not None and (value >= limit if higher_is_closer else value <= limit)


def overall_rate(trials: Sequence[Trial], worst: Sequence[WorstExample]) -> Rate | None:
    """The share of private examples that any trial leaked."""
    named = next((t.leakage_rate.criterion for t in trials if t.leakage_rate is not None), None)
    examples = {(t.update, place) for t in trials if t.skipped is None for place in range(len(t.examples))}
    if named is None or not examples:
        return None
    return rate(named, sum(w.leaked for w in worst), len(examples))


def verdict(policy: PolicySection, evaluation: Evaluation, trials: Sequence[Trial], share: Rate | None) -> Verdict:
    """The conclusion of docs/design.md: leaks, or not shown (bounds are not computed yet)."""
    broken = list[str]()
    if share is not None and share.rate > policy.max_leakage_rate:
        broken.append(
            f"{share.hits} of {share.n} private examples leaked ({share.criterion}); the policy allows"
            f" {policy.max_leakage_rate:.0%}"
        )
    best = max(
        (v for t in trials for s in t.scores if s.metric == "psnr" for v in s.values if v is not None),
        default=None,
    )
    if policy.max_psnr is not None and best is not None and best > policy.max_psnr:
        broken.append(f"an example was rebuilt at {best:.1f} dB; the policy allows {policy.max_psnr:g} dB")
    if broken:
        return Verdict(name=VerdictName.LEAKS, sentence="This setting leaks: " + "; ".join(broken) + ".", exit_code=1)
    return _not_shown(policy, evaluation, trials, share)


def _not_shown(policy: PolicySection, evaluation: Evaluation, trials: Sequence[Trial], share: Rate | None) -> Verdict:
    ran = [t for t in trials if t.skipped is None]
    why = list[str]()
    if not any(t.converged for t in ran):
        why.append("no attack converged")
    elif left := {t.update for t in trials} - {t.update for t in ran if t.converged}:
        why.append(f"no attack converged on {len(left)} of the updates")
    if evaluation.thresholds and share is None:
        why.append("the leak thresholds could not be judged")
    if any(t.ended_by_budget for t in ran):
        why.append("the budget ended before the attacks did")
    if policy.require_bound:
        why.append("the policy requires a bound and none was computed")
    shown = "No leak above the thresholds was shown" if evaluation.thresholds else "No leak threshold was set"
    sentence = f"{shown}, and no bound was computed: this is not evidence of safety"
    if why:
        return Verdict(name=VerdictName.NOT_SHOWN, sentence=f"{sentence} ({'; '.join(why)}).", exit_code=3)
    return Verdict(name=VerdictName.NOT_SHOWN, sentence=f"{sentence}.", exit_code=0)
