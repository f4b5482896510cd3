"""One verdict for each kind of server: the strongest attack, what was planted, what was known, what came out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedspill.auditing.resolving.scenario import Scenario
from fedspill.auditing.verdict.levels import Rules, leaked_examples, level
from fedspill.auditing.verdict.worst import worst_examples
from fedspill.core.types import ServerRole
from fedspill.report.bounds import Bounds
from fedspill.report.schema import RoleVerdict, VerdictName, WorstExample
from fedspill.report.trial import Trial

STRENGTH = [VerdictName.LEAKS, VerdictName.RECOGNISABLE, VerdictName.NOT_SHOWN, VerdictName.NOT_TESTED]
"""The strongest first."""


@dataclass(frozen=True)
class Circumstances:
    """What stands beside the trials of an audit.

    Attributes:
        assumed: what the server is taken to know, in the words of the grants.
        planted: by "attack:preset", what the server changed in the model that it sent, without how many parameters.
        warnings: why the numbers may not mean what they seem to.
        looker: the client that looks on; None is the server.
        bounds: what no attack beats; None if that was not computed.
    """

    assumed: Sequence[str] = ()
    planted: Mapping[str, str] = field(default_factory=dict[str, str])
    warnings: Sequence[str] = ()
    looker: int | None = None
    bounds: Bounds | None = None


def planted_by(scenario: Scenario) -> dict[str, str]:
    """By "attack:preset" what is planted, in the words of the cards."""
    tampering = scenario.tampering
    if tampering is not None:
        return {w.label: f"{tampering.card.title}: {tampering.card.summary}" for w in scenario.worlds}
    malicious = (w for w in scenario.worlds if w.card.role is not ServerRole.HONEST_BUT_CURIOUS)
    return {w.label: f"{w.card.title}: {w.card.summary}" for w in malicious}


def by_role(trials: Sequence[Trial], rules: Rules, known: Circumstances) -> list[RoleVerdict]:
    """What came out against every kind of server that was tried, the least demanding first."""
    roles = [role.value for role in ServerRole if any(t.role == role.value for t in trials)]
    return [_of(role, [t for t in trials if t.role == role], rules, known) for role in roles]


def _of(role: str, trials: list[Trial], rules: Rules, known: Circumstances) -> RoleVerdict:
    reached, strongest = level(trials, rules), _strongest(trials, rules)
    found = RoleVerdict(
        role=role,
        name=reached.name,
        assumed=list(known.assumed),
        share=reached.leaked,
        seconds=sum(t.seconds for t in trials),
    )
    if strongest is None:
        return found
    return found.model_copy(
        update={
            "attack": f"{strongest.attack}:{strongest.preset}",
            "trial": strongest.name,
            "planted": _planted(strongest, known),
            "worst": _worst([strongest], rules),
        }
    )


def _strongest(trials: Sequence[Trial], rules: Rules) -> Trial | None:
    """The trial of the highest level; of these the one that came closest to an example, of equals the one of most."""
    ran = [t for t in trials if t.skipped is None]
    if not ran:
        return None
    ranks = [STRENGTH.index(level([t], rules).name) for t in ran]
    best = [t for t, rank in zip(ran, ranks, strict=True) if rank == min(ranks)]
    worst = _worst(best, rules)
    if worst is None:
        return best[0]
    closest = [t for t in best if (own := _worst([t], rules)) is not None and own.value == worst.value]
    return max(closest, key=lambda t: (len(leaked_examples([t])), sum(t.recognisable or [])))


def _worst(trials: Sequence[Trial], rules: Rules) -> WorstExample | None:
    return next(iter(worst_examples(rules.metric, trials)), None)


def _planted(trial: Trial, known: Circumstances) -> str | None:
    what = known.planted.get(f"{trial.attack}:{trial.preset}")
    if what is None and not trial.added_parameters:
        return None
    added = f"{trial.added_parameters:,} parameters added" if trial.added_parameters else "no parameter added"
    added += ", another model for each client" if trial.different_models else ""
    return f"{what or trial.title} ({added})"
