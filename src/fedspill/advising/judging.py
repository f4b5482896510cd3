"""Whether a measured plan leaks, or was tested at all: nothing leaked is a stop only where every attack was run."""

from collections.abc import Sequence

from fedspill.plan.sections import PolicySection
from fedspill.report.advice import Counted, Found, Leak
from fedspill.report.leakage import example_of, leaked_share
from fedspill.report.schema import AuditReport, VerdictName
from fedspill.report.trial import Trial
from fedspill.scoring.recognition import DISTRACTORS

RARE = 0.01
"""Probability from which luck is taken to explain what was recognised."""
LEAST_SEARCHED = 0.5
"""Of the iterations that a search was given on the plan as it is; clocks differ from run to run."""


def leaks(report: AuditReport, policy: PolicySection) -> bool:
    """Whether a report shows what is to be stopped."""
    seen = report.verdict.name is VerdictName.RECOGNISABLE and "recognisable" in policy.fails
    return report.verdict.name is VerdictName.LEAKS or seen


def by_chance(report: AuditReport) -> bool:
    """Whether no more was recognisable than strangers' reconstructions would be, by a binomial test; nothing leaked."""
    flags = [flag for t in report.trials if t.skipped is None for flag in t.recognisable or []]
    return report.verdict.name is VerdictName.RECOGNISABLE and by_luck(sum(flags), len(flags))


def by_luck(hits: int, n: int) -> bool:
    """Whether that many of n may be told from others where nothing was rebuilt; either of two metrics may tell them."""
    from scipy.stats import binom

    return bool(binom.sf(hits - 1, n, 2 / (DISTRACTORS + 1)) > RARE)


def judged(
    report: AuditReport, before: AuditReport, policy: PolicySection, *, chance: bool = False
) -> tuple[Found, str]:
    """What a change came to, and why.

    Args:
        report: of the plan with the change.
        before: of the plan as it is.
        policy: of the plan.
        chance: does not count as a leak what is recognisable no more often than by luck.
    """
    if leaks(report, policy) and not (chance and by_chance(report)):
        return "leaks", report.verdict.name.value
    why = untested(report, before, policy)
    return ("untested", why) if why else ("stops", "")


def untested(report: AuditReport, before: AuditReport, policy: PolicySection) -> str:
    """Why that nothing leaked says nothing; "" if every attack did what it did before."""
    if report.verdict.name is VerdictName.NOT_TESTED:
        return "not tested: the budget ended, or every attack was skipped"
    for attack in _attacks(before):
        if reason := _not_run(attack, report, before):
            return f"{attack} {reason}"
    if report.leakage_rate is None:
        return "the thresholds could not be judged"
    if "recognisable" in policy.fails and _recognised(before) and not _recognised(report):
        return "whether examples are recognisable was not judged"
    return ""


def _attacks(report: AuditReport) -> list[str]:
    return list(dict.fromkeys(t.attack for t in report.trials if t.skipped is None))


def _not_run(attack: str, report: AuditReport, before: AuditReport) -> str:
    now, then = _of(report, attack), _of(before, attack)
    ran = [t for t in now if t.skipped is None]
    skipped = next((t.skipped for t in now if t.skipped is not None), None)
    if not ran or (skipped is not None and all(t.skipped is None for t in then)):
        return f"was skipped: {skipped or 'it was not run'}"
    if any(t.ended_by_budget for t in ran):
        return "was ended by the budget"
    given, once = _iterations(ran), _iterations([t for t in then if t.skipped is None])
    if given is not None and once is not None and given < LEAST_SEARCHED * once:
        return f"had {given:,} iterations in the time where it had {once:,} before"
    return ""


def _of(report: AuditReport, attack: str) -> list[Trial]:
    return [t for t in report.trials if t.attack == attack]


def _iterations(trials: Sequence[Trial]) -> int | None:
    """The fewest that any search was given."""
    return min((t.foreseen.iterations for t in trials if t.foreseen is not None), default=None)


def _recognised(report: AuditReport) -> bool:
    return any(t.recognisable is not None for t in report.trials if t.skipped is None)


def counted(report: AuditReport, seeds: Sequence[int]) -> Counted:
    """What leaked, over all seeds."""
    share = report.leakage_rate
    return Counted(
        leaked=None if share is None else share.hits,
        examples=None if share is None else share.n,
        verdict=report.verdict.name.value,
        seeds=list(seeds),
        converged=report.verdict.exit_code != 3,
    )


def leaks_of(report: AuditReport) -> list[Leak]:
    """What each attack showed, if it showed anything."""
    ran = [t for t in report.trials if t.skipped is None]
    groups = dict[tuple[str, str], list[Trial]]()
    for trial in ran:
        groups.setdefault((trial.role, f"{trial.attack}:{trial.preset}"), []).append(trial)
    found = [_leak(role, attack, trials) for (role, attack), trials in groups.items()]
    return [leak for leak in found if leak.leaked or leak.recognisable]


def _leak(role: str, attack: str, trials: Sequence[Trial]) -> Leak:
    share, every = leaked_share(trials), {example_of(t, k) for t in trials for k in range(len(t.examples))}
    seen = {example_of(t, k) for t in trials for k, hit in enumerate(t.recognisable or []) if hit}
    told = any(t.recognisable is not None for t in trials)
    hits = 0 if share is None else share.hits
    return Leak(attack=attack, role=role, leaked=hits, recognisable=len(seen) if told else None, examples=len(every))
