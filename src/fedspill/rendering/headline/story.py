"""What was tried, and what it means, in plain words for whoever does not train models in a federation."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedspill.rendering import facts, numbers
from fedspill.rendering.defences import who_knows
from fedspill.rendering.headline.roles import title_of
from fedspill.report.schema import AuditReport, RoleVerdict, VerdictName, WorstExample
from fedspill.report.trial import Trial

COPY = 60.0
"""dB of PSNR from which a reconstruction is called a copy, as everywhere in a report."""
MOST_NAMED = 6
"""Attacks that are named in a sentence."""


def tried(report: AuditReport) -> list[str]:
    """What was done, a sentence or two in each text."""
    ran = [trial for trial in report.trials if trial.skipped is None]
    return [
        "In federated learning the data stay with the clients. They send only updates of a model: numbers that say how"
        " to change it. This audit asks what a server can tell of the data from them.",
        _updates(report, ran) if ran else _nothing_ran(report),
        *_defences(report),
    ]


def _updates(report: AuditReport, ran: Sequence[Trial]) -> str:
    updates, examples = len({t.update for t in ran}), facts.private_examples(report)
    sizes = sorted({len(t.examples) for t in ran})
    each = "one in each" if sizes == [1] else f"{' to '.join(map(str, dict.fromkeys((sizes[0], sizes[-1]))))} in each"
    titles = [f"{g.title}" for g in facts.attack_groups(report) if g.ran]
    named = numbers.listing(dict.fromkeys(titles), MOST_NAMED)
    return (
        f"It took the part of the server and tried to rebuild {numbers.count(examples, 'private example')} from"
        f" {numbers.count(updates, 'update')} ({each}), by these methods: {named}. No method saw the originals; they"
        f" were opened when it was done, to compare. All of it took {numbers.duration(report.environment.seconds)}."
    )


def _nothing_ran(report: AuditReport) -> str:
    reasons = dict.fromkeys(t.skipped for t in report.trials if t.skipped is not None)
    why = f": {next(iter(reasons))}" if reasons else ""
    more = f" (and {numbers.count(len(reasons) - 1, 'more reason')})" if len(reasons) > 1 else ""
    return f"It could run none of the attacks that were asked for{why}{more}."


def _defences(report: AuditReport) -> list[str]:
    if not report.defences:
        return []
    named = numbers.listing([d.title for d in report.defences], MOST_NAMED)
    return [f"Before they sent, the clients protected their updates by: {named}. {who_knows(report)}"]


def meaning(report: AuditReport) -> list[str]:
    """What follows from the verdicts, a kind of server in each text, and what does not follow."""
    roles = report.verdict.by_role
    said = [_against(verdict, report) for verdict in roles] or [_overall(report)]
    return [*said, "All of this holds for the model, the data and the settings that were audited, and for no others."]


def _against(verdict: RoleVerdict, report: AuditReport) -> str:
    who = title_of(verdict.role)
    match verdict.name:
        case VerdictName.LEAKS:
            return f"To {who} private data leaked: {_how_many(verdict)}{_closeness(verdict.worst)}."
        case VerdictName.RECOGNISABLE:
            return (
                f"To {who} the updates told more of the private examples than any guess made without them, though not"
                " enough to count as leaked. Take it for a leak."
            )
        case VerdictName.BOUNDED:
            return f"Against {who} no leak was shown. {_any_attack(report)}"
        case VerdictName.NOT_SHOWN:
            return (
                f"Against {who} no leak was shown: these attacks did not succeed in the time that they had. That is not"
                " evidence of safety; another attack, or more time, may succeed."
            )
        case VerdictName.NOT_TESTED:
            return f"Against {who} nothing was tested that could tell, so nothing is known."


def _how_many(verdict: RoleVerdict) -> str:
    share = verdict.share
    if share is None:
        return "an example was rebuilt past what the policy allows"
    return f"{share.hits} of {share.n} examples came back close enough to count as leaked"


def _closeness(worst: WorstExample | None) -> str:
    exact = worst is not None and worst.metric == "psnr" and worst.value >= COPY
    return ", the closest as a copy that no eye tells from the original" if exact else ""


def _any_attack(report: AuditReport) -> str:
    """A bound in plain words, with what it rests on."""
    bounds = report.bounds
    if bounds is None or bounds.policy_success is None:
        return "A bound was computed that lies under the policy."
    return (
        "More than that: by the noise that the clients add, no attack, also none that nobody knows yet, rebuilds an"
        f" example with a probability above {bounds.policy_success:.3g}. That rests on what the plan declares: that"
        f" without any update a guess is right with {bounds.prior:g} at most, and that the defences do what they say."
    )


def _overall(report: AuditReport) -> str:
    match report.verdict.name:
        case VerdictName.LEAKS:
            share = report.leakage_rate
            many = "" if share is None else f": {share.hits} of {share.n} examples came back close enough to count"
            return f"Whoever runs the server, or reads what it receives, can have private data{many}."
        case VerdictName.RECOGNISABLE:
            return "What was rebuilt tells more of the private examples than any guess made without the updates."
        case VerdictName.BOUNDED:
            return _any_attack(report)
        case VerdictName.NOT_SHOWN | VerdictName.NOT_TESTED:
            return "No leak was shown. That is not evidence of safety; another attack, or more time, may succeed."


def section(report: AuditReport, name: str) -> Mapping[str, Any]:
    """One section of the report's plan; empty if it has none."""
    held = report.plan.get(name)
    return held if isinstance(held, Mapping) else {}
