"""What to change first, from what leaked to which kind of server; nothing is promised that was not measured."""

from collections import Counter
from dataclasses import dataclass

from fedspill import catalogue
from fedspill.core.types import ServerRole
from fedspill.rendering import numbers
from fedspill.rendering.headline.story import section
from fedspill.report.schema import AuditReport, VerdictName
from fedspill.report.trial import Trial

AUDIT = "fedspill audit PLAN.toml"
FIRST = "local_dp"
"""The defence that is advised first: something is proven of it."""
FEW = 8
"""Examples in an update up to which more of them are advised."""
MANY = 16
"""Clients that are advised to be added up."""
SHOWN = (VerdictName.LEAKS, VerdictName.RECOGNISABLE)


@dataclass(frozen=True)
class Advice:
    """One thing to do.

    Attributes:
        command: that measures whether it helps, or what of the plan does; empty if there is none.
    """

    title: str
    text: str
    command: str = ""


def advice(report: AuditReport) -> list[Advice]:
    """What to do, the first first; never empty."""
    leaking = _leaking(report)
    honest = _honest(report) if ServerRole.HONEST_BUT_CURIOUS.value in leaking else []
    every = [*_feeding(report), *_planted(report, leaking), *honest, *([_defend(report)] if leaking else [])]
    every += [] if leaking else _unshown(report)
    return every or [Advice("Measure again when anything changes", _AGAIN, AUDIT)]


_AGAIN = "Leakage depends on the model, its stage of training, the batch and the protocol."


def _leaking(report: AuditReport) -> list[str]:
    """The kinds of server that something leaked to; in a report of before there were such, by its trials."""
    if report.verdict.by_role:
        return [v.role for v in report.verdict.by_role if v.name in SHOWN]
    hit = [t.role for t in report.trials if t.leaked is not None and any(t.leaked)]
    return list(dict.fromkeys(hit)) if report.verdict.name in SHOWN else []


def _feeding(report: AuditReport) -> list[Advice]:
    if report.feeding is None or report.feeding.warning is None:
        return []
    return [Advice("Check what the network is fed, and audit again", report.feeding.warning)]


def _planted(report: AuditReport, leaking: list[str]) -> list[Advice]:
    advised = list[Advice]()
    if ServerRole.MALICIOUS_ARCHITECTURE.value in leaking:
        added = max((t.added_parameters for t in report.trials), default=0)
        size = f" Here {added:,} parameters were added." if added else ""
        advised.append(
            Advice(
                "Agree on the network, and refuse any other",
                "Let clients build the network from their own code and take only weights from the server: layers that"
                f" it adds then have nowhere to go.{size}",
                "fedspill vet --model NETWORK --weights RECEIVED.safetensors",
            )
        )
    if ServerRole.MALICIOUS_PARAMETERS.value in leaking:
        advised.append(
            Advice(
                "Let clients look at the weights before they train on them",
                "fedspill vet looks for weights that were written by hand. That it finds nothing is no proof: a little"
                " noise passes it, and so do weights that were trained to leak.",
                "fedspill vet --model NETWORK --weights RECEIVED.safetensors",
            )
        )
    return advised


def _honest(report: AuditReport) -> list[Advice]:
    """What a server that keeps to the protocol sees less by."""
    client, advised = section(report, "client"), list[Advice]()
    sizes = [len(t.examples) for t in report.trials if t.skipped is None]
    clients, alone = client.get("clients") or 1, not section(report, "federation")
    if sizes and clients == 1 and alone:
        advised.append(
            Advice(
                "Add updates up before the server sees them (secure aggregation)",
                "Here it saw each client's update by itself. A sum over many clients is harder to take apart for a"
                " server that keeps to the protocol; one that plants layers can read through it.",
                f"{AUDIT} --set client.clients={MANY} --set client.num_examples={MANY * max(sizes)}",
            )
        )
    if sizes and max(sizes) <= FEW:
        advised.append(
            Advice(
                "Compute each update on more examples",
                f"Here it was {numbers.count(max(sizes), 'example')}; few are the easiest to rebuild. How much more of"
                " them help here must be measured.",
                f"{AUDIT} --set client.num_examples={FEW * max(sizes)}" if alone else "",
            )
        )
    return advised


def _defend(report: AuditReport) -> Advice:
    used = [d.name for d in report.defences]
    left = [name for name in catalogue.defences() if name not in used]
    if not left:
        return Advice(
            "Strengthen the clients' defences",
            "What they applied did not keep the examples private. More noise costs accuracy: measure both.",
        )
    already = f" {', '.join(used)} did not suffice here." if used else ""
    return Advice(
        "Try a defence of the clients, and measure what it buys",
        f"This version has {', '.join(left)}.{already} It costs accuracy. The attacks adapt to what the"
        " server knows of it; one that was made for it alone may still do better.",
        f'[[defences]]\nname = "{FIRST if FIRST in left else left[0]}"',
    )


def _unshown(report: AuditReport) -> list[Advice]:
    if report.verdict.name is VerdictName.BOUNDED:
        return []  # more time for an attack changes no bound
    ran = [t for t in report.trials if t.skipped is None]
    advised = [*_skips(report)] if not ran or report.verdict.name is VerdictName.NOT_TESTED else []
    cut = [t for t in ran if t.ended_by_budget or not t.converged]
    if cut:
        advised.append(
            Advice("Give the attacks more time before you conclude anything", _stuck(cut), f"{AUDIT} --budget 1h")
        )
    return advised


def _stuck(trials: list[Trial]) -> str:
    names = dict.fromkeys(f"{t.attack}:{t.preset}" for t in trials)
    return f"{numbers.count(len(trials), 'run')} did not come to an end of their own: {numbers.listing(names, 4)}."


def _skips(report: AuditReport) -> list[Advice]:
    reasons = Counter(t.skipped for t in report.trials if t.skipped is not None)
    if not reasons:
        return []
    (reason, _), more = reasons.most_common(1)[0], len(reasons) - 1
    others = f" (and {numbers.count(more, 'more reason')}, in the table of attacks)" if more else ""
    return [Advice("Let the attacks run", f"They were skipped: {reason}{others}.")]
