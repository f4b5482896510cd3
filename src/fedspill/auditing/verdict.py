"""The conclusion from the trials: the worst examples, and the verdict."""

from collections.abc import Sequence

from fedspill.auditing.resolving.evaluation import Evaluation
from fedspill.plan.sections import PolicySection
from fedspill.report.leakage import example_of
from fedspill.report.schema import Verdict, VerdictName, WorstExample
from fedspill.report.trial import Rate, Score, Trial


def worst_examples(metric: str, trials: Sequence[Trial]) -> list[WorstExample]:
    """The closest that any attack came to each private example by one metric, the closest example first.

    An example is marked as leaked if any trial leaked it, though another one came closer by this metric.
    """
    best, ascending = dict[tuple[int, int], WorstExample](), True
    for trial in trials:
        for score in (s for s in trial.scores if s.metric == metric):
            ascending = not score.higher_is_closer
            for place, value in enumerate(score.values):
                if value is not None:
                    example = _example(trial, score, place, value)
                    held = best.setdefault(example_of(trial, place), example)
                    best[example_of(trial, place)] = _closer(held, example, ascending)
    return sorted(best.values(), key=lambda w: w.value, reverse=not ascending)


def _example(trial: Trial, score: Score, place: int, value: float) -> WorstExample:
    return WorstExample(
        example=trial.examples[place],
        update=trial.update,
        trial=trial.name,
        metric=score.metric,
        unit=score.unit,
        value=value,
        leaked=trial.leaked is not None and trial.leaked[place],
    )


def _closer(held: WorstExample, example: WorstExample, ascending: bool) -> WorstExample:
    """The closer of two reconstructions of one example, the earlier one if they are equal."""
    closer = example.value < held.value if ascending else example.value > held.value
    return (example if closer else held).model_copy(update={"leaked": held.leaked or example.leaked})


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
    if not ran:
        return _nothing_tested(trials)
    why = list[str]()
    if not any(t.converged for t in ran):
        why.append("no attack converged")
    elif unconverged := {t.update for t in trials} - {t.update for t in ran if t.converged}:
        why.append(f"no attack converged on {len(unconverged)} of the updates")
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


def _nothing_tested(trials: Sequence[Trial]) -> Verdict:
    reasons = list(dict.fromkeys(t.skipped for t in trials if t.skipped is not None))
    more = f"; and {len(reasons) - 1} more reasons" if len(reasons) > 1 else ""
    sentence = f"Nothing was tested: every one of {len(trials)} trials was skipped ({reasons[0]}{more})."
    return Verdict(name=VerdictName.NOT_SHOWN, sentence=sentence, exit_code=3)
