"""From trials to a conclusion, and to what limits it."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedspill.audit.judge import rate
from fedspill.audit.plan import AuditPlan
from fedspill.audit.report import Caveat, Verdict, VerdictName, WorstExample
from fedspill.audit.resolve import metric_names, thresholds
from fedspill.audit.trial_record import Rate, Trial
from fedspill.core.errors import BadInput
from fedspill.core.types import ServerRole

EXPECTED_SHARE = 0.98
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


@dataclass(frozen=True)
class Conditions:
    """Of the model and the data that ran.

    Attributes:
        training: BatchNorm used batch statistics.
        untrained: the model's weights were random.
        labelled: the data came with labels.
        batch_norm: the network holds BatchNorm layers.
        private: a defence states what an update costs in privacy.
    """

    training: bool
    untrained: bool
    labelled: bool
    batch_norm: bool
    private: bool = False


def caveats(plan: AuditPlan, trials: Sequence[Trial], conditions: Conditions) -> list[Caveat]:
    """What limits the numbers, each with the trials that it concerns."""
    ran = [t for t in trials if t.skipped is None]
    found = [
        _about(
            ran,
            "not converged",
            "The attack did not converge by its own measure: its failure is not evidence of safety.",
            lambda t: not t.converged,
        ),
        _about(ran, "budget", "The budget ended before the attack did.", lambda t: t.ended_by_budget),
        _about(
            ran,
            "labels granted",
            "The attack was given the true labels; where the server must infer them, it may do worse.",
            lambda t: t.labels.source == "granted",
        ),
        _about(
            ran,
            "tiny gradient",
            "The update's norm is below 1e-5: in float32 there is next to nothing to"
            " invert. A model at an earlier stage of training may leak more.",
            lambda t: t.gradient_norm is not None and t.gradient_norm < 1e-5,
        ),
        _about(
            ran,
            "self-check",
            "At the true input the matching loss is not 0: attacker and client do not compute"
            " the same, so gradient matching is handicapped.",
            lambda t: t.self_check is not None and t.self_check > 1e-4,
        ),
        _about(ran, "notes", "The attack itself has remarks, listed with its trials.", lambda t: bool(t.notes)),
        _about(
            ran,
            "lax threshold",
            "A guess made without the update meets the leak thresholds too, so meeting them proves no leak here;"
            " compare with the baselines, or raise the thresholds.",
            lambda t: any(b.leakage_rate is not None and b.leakage_rate.hits > 0 for b in t.baselines),
        ),
        _about(
            ran,
            "prediction",
            "Fewer than 98 % of the examples that the readout's own measurement isolates were recovered exactly:"
            " something between the bins and the update (local training, rounding, a defence) stood in the way.",
            _falls_short,
        ),
        _about(ran, "failed to fall", "The objective did not fall during the search.", _did_not_fall),
    ]
    return [*(c for c in found if c is not None), *_general(plan, conditions)]


def _about(trials: Sequence[Trial], topic: str, text: str, concerns) -> Caveat | None:  # pyright: ignore[reportMissingParameterType]
    names = [t.name for t in trials if concerns(t)]
    return Caveat(topic=topic, text=text, trials=names) if names else None


def _falls_short(trial: Trial) -> bool:
    found = trial.predicted
    return found is not None and found.both < EXPECTED_SHARE * found.predicted


def _did_not_fall(trial: Trial) -> bool:
    values = [v for _, v in trial.objective]
    return len(values) > 1 and min(values) > 0.99 * values[0]


def _general(plan: AuditPlan, conditions: Conditions) -> list[Caveat]:
    mode, other = ("train", "running statistics (eval mode)") if conditions.training else ("eval", "batch statistics")
    said = {
        "batch normalisation": f"BatchNorm ran in {mode} mode; with {other} the result can differ.",
        "one seed": "One seed was run; a reconstruction moves with its random start, that of an image by several dB.",
        "untrained weights": "The model was untrained; leakage changes over training: audit the stages that you send.",
        "privacy cost": "The epsilon stated is of one update: every further one of the same data adds to it, and what"
        " the server is granted besides is not covered by it.",
        "no labels": "The data has no labels, so every example was given class 0; real labels can change the result.",
    }
    if len(plan.audit.seeds) > 1:
        del said["one seed"]
    if not conditions.untrained:
        del said["untrained weights"]
    if conditions.labelled:
        del said["no labels"]
    if not conditions.batch_norm:
        del said["batch normalisation"]
    if not conditions.private:
        del said["privacy cost"]
    return [Caveat(topic=topic, text=text) for topic, text in said.items()]


def not_tested(plan: AuditPlan, trials: Sequence[Trial]) -> list[str]:
    """What a reader might believe to be covered and is not."""
    roles = [role.value for role in ServerRole]
    boldest = max((roles.index(t.role) for t in trials if t.skipped is None), default=0)
    return [
        "Attacks that are not named in this report, and settings of the named ones that were not run.",
        *(["Attacks made for the clients' defences: those that ran know of none."] if plan.defences else []),
        "Updates of later rounds, and what several rounds tell together.",
        "Inference of membership or of properties: only reconstruction of inputs was tried.",
        "A bound on what any attack could reach: none was computed.",
        *(f"A server of {role}." for role in roles[boldest + 1 :]),
    ]
