"""What `standard` is for one captured update: everything that reads exactly, until one has, and then a search.

A whole schedule of searches is an audit's (`auditing.scheduling`); here one answer is wanted, and soon.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fedspill import catalogue
from fedspill.auditing.certifying.doubts import unsure
from fedspill.auditing.resolving.components import configure, misfit
from fedspill.auditing.scheduling.shares import CLOSED, IN_ORDER, READS
from fedspill.auditing.watch import TrialWatch
from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.rng import stream
from fedspill.core.roles import Attack, Card, Job
from fedspill.core.types import Reconstruction, ServerRole
from fedspill.core.watching.clock import OutOfTime
from fedspill.plan.sections import AttackEntry

STANDARD = "standard"
MOST = 60.0
"""Seconds that each attack that reads has where no budget is given."""


@dataclass(frozen=True)
class Try:
    """One attack of those that are tried.

    Attributes:
        last: a search, which is not cut short for what follows.
    """

    entry: AttackEntry
    attack: Attack
    last: bool = True


@dataclass(frozen=True)
class Answer:
    """What came out, and of which attack."""

    by: Try
    rebuilt: Reconstruction


def entry_of(attack: str, settings: Mapping[str, Any], search: str) -> AttackEntry:
    """The entry of a name, or "name:preset", and fields to change; fields without an attack are those of the search."""
    named = search if attack == STANDARD and settings else attack
    name, _, preset = named.partition(":")
    return AttackEntry.model_validate({"name": name, **({"preset": preset} if preset else {}), **settings})


def check_entry(entry: AttackEntry, knowledge: ServerKnowledge) -> Attack:
    """The attack that an entry names.

    Raises:
        BadInput: unknown attack, preset or field, or needs that are not met.
    """
    name, _, card = catalogue.pick(catalogue.attacks(), f"{entry.name}:{entry.preset}", "attack")
    missing = knowledge.missing(card.needs)
    if missing:
        raise BadInput(f"attack {name!r} needs {sorted(k.value for k in missing)}; give them as options")
    if (reason := misfit(card, knowledge.model.input)) is not None:
        raise BadInput(f"attack {name!r} does not apply: {reason}")
    return configure(card, entry, "attack")


def tries_of(entry: AttackEntry, knowledge: ServerKnowledge) -> list[Try]:
    """The attacks to be tried in turn: the one that is named, or what `standard` is.

    Raises:
        BadInput: unknown attack, preset or field, needs that are not met, or `standard` with fields of its own.
    """
    if entry.name != STANDARD:
        return [Try(entry, check_entry(entry, knowledge))]
    if entry.overrides:
        raise BadInput(f"'standard' has no fields of its own, got {', '.join(entry.overrides)}")
    wanted = entry.preset if entry.preset in ("paper", "quick") else "strong"
    return list(_standard(knowledge, wanted))


def _standard(knowledge: ServerKnowledge, preset: str) -> Iterator[Try]:
    fitting = {n: c for n, c in catalogue.attacks().items() if _fits(c, knowledge)}
    searches = sorted((n for n, c in fitting.items() if c.iterative and n in IN_ORDER), key=IN_ORDER.index)
    reads = [n for n, c in fitting.items() if not c.iterative] + [n for n in searches if n in READS]
    for name in [*reads, *(n for n in searches if n not in READS)]:
        card = fitting[name]
        entry = AttackEntry(name=name, preset=preset if preset in card.presets else "paper")
        yield Try(entry, configure(card, entry, "attack"), last=name not in reads)


def _fits(card: Card[Attack], knowledge: ServerKnowledge) -> bool:
    honest, held = card.role is ServerRole.HONEST_BUT_CURIOUS, not knowledge.missing(card.needs)
    return card.in_standard and honest and held and misfit(card, knowledge.model.input) is None


def answered(tries: list[Try], job: Job, seed: int, watch: TrialWatch) -> Answer:
    """What the first attack returned that has read every example, by its own certificate; else the search's.

    Args:
        seed: from which every attack draws by its own name, whatever came before.

    Raises:
        NotApplicable: none of them fits.
        OutOfTime: nothing came out within the budget.
    """
    reasons, best = list[str](), list[Answer]()
    for one in tries:
        try:
            rng = stream(seed, "attack", one.entry.label, 0)
            returned = one.attack.reconstruct(job.update, job.knowledge, rng, _watch(one, watch))
            rebuilt = unsure(returned, job.knowledge)
        except NotApplicable as error:
            if len(tries) == 1:
                raise
            reasons.append(f"{one.entry.name}: {error}")
            continue
        except OutOfTime:
            if one.last and not best:
                raise
            reasons.append(f"{one.entry.name}: its share of the time ended before a first result")
            continue
        best.append(Answer(one, rebuilt))
        if rebuilt.converged or one.last:
            break
    if not best:
        raise NotApplicable(f"no attack fits this update. {' '.join(f'{r}.' for r in reasons)}")
    return best[-1] if len(tries) == 1 else _noted(best[-1], best[:-1], reasons)


def _watch(one: Try, watch: TrialWatch) -> TrialWatch:
    """The whole time for one that is named, or that is the last; a share of it for one that reads."""
    if one.last:
        return watch
    now = time.monotonic()
    until = now + (MOST if watch.deadline is None else CLOSED * max(0.0, watch.deadline - now))
    return replace(watch, deadline=until, checkpoint=None, fits=False, trials=0)


def _noted(answer: Answer, others: list[Answer], reasons: list[str]) -> Answer:
    said = [f"{answer.by.entry.label} of what 'standard' tries."]
    for other in others:
        said.append(f"{other.by.entry.label} had read less than all, by its own certificate.")
    if reasons:
        said.append(f"Others did not fit ({'; '.join(reasons)}).")
    return replace(answer, rebuilt=replace(answer.rebuilt, notes=(*answer.rebuilt.notes, " ".join(said))))
