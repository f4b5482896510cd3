"""From trials to a conclusion, and to what limits it."""

from collections.abc import Sequence

from fedspill.auditing.judge import rate
from fedspill.auditing.resolve import metric_names, thresholds
from fedspill.core.errors import BadInput
from fedspill.plan.sections import AuditPlan
from fedspill.report.schema import Verdict, VerdictName, WorstExample
from fedspill.report.trial import Rate, Trial

"""Of the predicted examples; below it the report says that the readout falls short of its own measurement."""


def main_metric(plan: AuditPlan) -> str:
    """The metric that examples are ranked by: the first with a threshold, else the first."""
    return next(iter(thresholds(plan)), metric_names(plan)[0])


def worst_examples(plan: AuditPlan, trials: Sequence[Trial]) -> list[WorstExample]:
    """The closest that any attack came to each private example, the closest example first."""
    best = dict[tuple[int, int], WorstExample]()
    ascending = True
    for trial in trials:
        for score in (s for s in trial.scores if s.metric == main_metric(plan)):
            ascending = not score.higher_is_closer
            for place, value in enumerate(score.values):
                if value is None:
                    continue
                key = (trial.update, place)
                held = best.get(key)
                leaked = leaks_at(plan, trial, place) or (held is not None and held.leaked)
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


def leaks_at(plan: AuditPlan, trial: Trial, place: int) -> bool:
    """Whether the trial's reconstruction of one example meets every threshold."""
    limits = thresholds(plan)
    scores = {s.metric: s for s in trial.scores if s.not_computed is None}
    if not limits or any(name not in scores for name in limits):
        return False
    return all(
        _meets(scores[name].values[place], limit, scores[name].higher_is_closer) for name, limit in limits.items()
    )


def _meets(value: float | None, limit: float, higher_is_closer: bool) -> bool:
    return value is not None and (value >= limit if higher_is_closer else value <= limit)


def overall_rate(plan: AuditPlan, trials: Sequence[Trial], worst: Sequence[WorstExample]) -> Rate | None:
    """The share of private examples that any trial leaked."""
    named = next((t.leakage_rate.criterion for t in trials if t.leakage_rate is not None), None)
    examples = {(t.update, place) for t in trials if t.skipped is None for place in range(len(t.examples))}
    if named is None or not examples:
        return None
    return rate(named, sum(w.leaked for w in worst), len(examples))


def verdict(plan: AuditPlan, trials: Sequence[Trial], worst: Sequence[WorstExample], share: Rate | None) -> Verdict:
    """The conclusion of docs/design.md: leaks, or not shown (bounds are not computed yet)."""
    broken = list[str]()
    if share is not None and share.rate > plan.policy.max_leakage_rate:
        broken.append(
            f"{share.hits} of {share.n} private examples leaked ({share.criterion}); the policy allows"
            f" {plan.policy.max_leakage_rate:.0%}"
        )
    best = max(
        (v for t in trials for s in t.scores if s.metric == "psnr" for v in s.values if v is not None),
        default=None,
    )
    if plan.policy.max_psnr is not None and best is not None and best > plan.policy.max_psnr:
        broken.append(f"an example was rebuilt at {best:.1f} dB; the policy allows {plan.policy.max_psnr:g} dB")
    if broken:
        return Verdict(name=VerdictName.LEAKS, sentence="This setting leaks: " + "; ".join(broken) + ".", exit_code=1)
    return _not_shown(plan, trials, share)


def _not_shown(plan: AuditPlan, trials: Sequence[Trial], share: Rate | None) -> Verdict:
    ran = [t for t in trials if t.skipped is None]
    why = list[str]()
    if not any(t.converged for t in ran):
        why.append("no attack converged")
    elif left := {t.update for t in trials} - {t.update for t in ran if t.converged}:
        why.append(f"no attack converged on {len(left)} of the updates")
    if thresholds(plan) and share is None:
        why.append("the leak thresholds could not be judged")
    if any(t.ended_by_budget for t in ran):
        why.append("the budget ended before the attacks did")
    if plan.policy.require_bound:
        why.append("the policy requires a bound and none was computed")
    shown = "No leak above the thresholds was shown" if thresholds(plan) else "No leak threshold was set"
    sentence = f"{shown}, and no bound was computed: this is not evidence of safety"
    if why:
        return Verdict(name=VerdictName.NOT_SHOWN, sentence=f"{sentence} ({'; '.join(why)}).", exit_code=3)
    return Verdict(name=VerdictName.NOT_SHOWN, sentence=f"{sentence}.", exit_code=0)


def check_policy(plan: AuditPlan) -> None:
    """Raises BadInput for a policy that this plan could never be judged by, as far as its metrics are known yet."""
    metrics = plan.audit.metrics
    if plan.policy.max_psnr is not None and metrics is not None and "psnr" not in metrics:
        raise BadInput("policy.max_psnr is set, but audit.metrics does not hold 'psnr'")
