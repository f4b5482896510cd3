"""From a plan to advice: what leaks, what stops it under the searching seeds and fresh ones, and what that costs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

import fedspill
from fedspill.advising.bounding import bound_of
from fedspill.advising.judging import counted, judged, leaks, leaks_of
from fedspill.advising.ladders import Ladder, facts_of, ladders_of
from fedspill.advising.measuring import Measured, Measurer
from fedspill.advising.searching import walk
from fedspill.advising.settings import Settings, laid_over, texts
from fedspill.advising.spending import Purse
from fedspill.auditing.resolving.scenario import prepare
from fedspill.core.errors import BadInput
from fedspill.plan.build import pick_device
from fedspill.plan.file import parse_plan
from fedspill.plan.sections import AuditPlan
from fedspill.report.advice import Advice, Change, Counted, LadderWalk, Price, Tried
from fedspill.report.schema import AuditReport, Utility
from fedspill.report.sweep import Outcome

BUDGET = 180.0
"""Seconds."""
SEEDS = 3
FRESH = 1000
"""Added to the largest searching seed for the first fresh one."""
OTHERS = (4, 1)
"""Times the plan's examples that follow them and are tried, too: as many as there are enough for."""
HELD_OUT = (200, 20)
"""Examples by which accuracy is counted: as many as there are enough for."""
ALONE = (
    "changes were tried one at a time, each against every attack of the plan; other attacks were not tried",
    "accuracy is of one short training each: differences of a few examples are chance",
)
NO_OTHERS = "the plan's source has no other examples to try a change on: with few of them it may fail on others"
PLANTED = (
    "some of this leaks to a server that alters the model: clients that refuse what `fedspill vet` finds stop it before"
    " they answer; only changes of the protocol were tried here"
)


@runtime_checkable
class Watcher(Protocol):
    """Whoever shows how far the search is."""

    def begins(self, what: str, spent: float, limit: float) -> None:
        """What is measured next, and the seconds that are spent of all."""
        ...


class Unwatching:
    """Shows nothing."""

    def begins(self, what: str, spent: float, limit: float) -> None:
        """Shows nothing."""


def advise_plan(
    table: Mapping[str, Any],
    out: Path,
    *,
    budget: float = BUDGET,
    seeds: int = SEEDS,
    device: str = "auto",
    watcher: Watcher | None = None,
) -> Advice:
    """The smallest changes of a plan that stop what leaks.

    Args:
        table: a plan as it was read.
        out: folder of what is measured; what it holds is not measured again.
        budget: seconds of all measurements.
        seeds: fresh ones, by which a change is confirmed.
        device: "auto", "cpu" or "cuda".
        watcher: shows progress.

    Raises:
        BadInput: the plan cannot be resolved or attacked as it is, or a value is out of range.
    """
    if seeds < 1:
        raise BadInput(f"seeds={seeds}: at least one fresh seed is needed")
    purse = Purse(budget)
    prepare(parse_plan(dict(table)), pick_device(device))  # what is no plan is told before anything is kept

    def told(outcome: Outcome) -> None:
        purse.spent += outcome.seconds

    with Measurer(out, device, told) as measurer:
        return _Search(table, measurer, purse, seeds, watcher or Unwatching()).advice()


_Walked = list[tuple[Settings, Tried]]


def _stops(walked: _Walked) -> bool:
    return walked[-1][1].found == "stops"


class _Search:
    """One search: the plan as it is, its ladders, and what was spent."""

    def __init__(self, table: Mapping[str, Any], measurer: Measurer, purse: Purse, seeds: int, watcher: Watcher):
        self._measurer, self._purse, self._watcher = measurer, purse, watcher
        self._table = {k: v for k, v in table.items() if k != "utility"}
        self._said = parse_plan(dict(table)).utility
        self._priced = table.get("utility")
        plan = parse_plan(dict(self._table))
        self._more_time: Settings = ()
        if plan.audit.budget is None:
            self._table = laid_over(self._table, (("audit.budget", purse.attacks),))
            self._more_time = (("audit.budget", max(OTHERS) * purse.attacks),)
        self._plan: AuditPlan = parse_plan(dict(self._table))
        self._seeds = list(plan.audit.seeds)
        self._fresh = [max(self._seeds) + FRESH + k for k in range(seeds)]
        self._device = pick_device(measurer.device)
        self._before: AuditReport
        self._base: Counted | None = None
        self._tried_on_others = False

    def advice(self) -> Advice:
        """Attacks the plan as it is, and walks its ladders if it leaks."""
        self._before = self._report(self._attacked((), self._seeds, "the plan as it is"))
        walks, changes = list[LadderWalk](), list[Change]()
        leaking = leaks(self._before, self._plan.policy)
        if leaking:
            walks, found = self._walks()
            changes = self._priced_all(found)
        leaky = leaks_of(self._before) if leaking else []
        notes = [*ALONE, *([] if self._tried_on_others else [NO_OTHERS])] if leaking else []
        notes += [PLANTED] if any(leak.role.startswith("malicious") for leak in leaky) else []
        return Advice(
            sentence=self._before.verdict.sentence,
            verdict=self._before.verdict.name.value,
            leaking=leaking,
            complete=leaking or self._before.verdict.exit_code != 3,
            leaks=leaky,
            changes=changes,
            walks=walks,
            seeds=self._seeds,
            fresh_seeds=self._fresh,
            other_examples=self._tried_on_others,
            budget=self._purse.limit,
            seconds=self._purse.spent,
            fedspill=fedspill.__version__,
            torch=torch.__version__,
            notes=notes,
        )

    def _report(self, measured: Measured) -> AuditReport:
        if measured.report is None:
            raise BadInput(f"the plan as it is cannot be measured: {measured.reason}")
        return measured.report

    def _attacked(self, settings: Settings, seeds: Sequence[int], what: str) -> Measured:
        self._watcher.begins(what, self._purse.spent, self._purse.limit)
        table = laid_over(self._table, (*settings, ("audit.seeds", list(seeds))))
        return self._measurer(table, {**dict(settings), "audit.seeds": list(seeds)})

    def _walks(self) -> tuple[list[LadderWalk], list[tuple[Ladder, Settings, Tried]]]:
        ladders = ladders_of(facts_of(self._table, self._plan, prepare(self._plan, self._device)))
        walks = list[_Walked]()
        for place, ladder in enumerate(ladders):
            self._purse.next_ladder(len(ladders) - place)
            walks.append(walk(ladder.rungs, self._tried))
        if not any(map(_stops, walks)):
            walks = self._again(ladders, walks)
        told = [
            LadderWalk(what=ladder.what, kind=ladder.kind, tried=[tried for _, tried in walked])
            for ladder, walked in zip(ladders, walks, strict=True)
        ]
        return told, [(ladder, *walked[-1]) for ladder, walked in zip(ladders, walks, strict=True) if _stops(walked)]

    def _again(self, ladders: Sequence[Ladder], walks: Sequence[_Walked]) -> list[_Walked]:
        """Nothing was found: ladders that were broken off are gone on with, by what the others left."""
        again, short = list(walks), [k for k, walked in enumerate(walks) if walked[-1][1].found == "unmeasured"]
        for place, k in enumerate(short):
            self._purse.once_more(len(short) - place)
            again[k] = walk(ladders[k].rungs, self._tried)  # what was measured is not measured again
            if _stops(again[k]):
                break
        return again

    def _tried(self, settings: Settings) -> Tried:
        """One strength under the searching seeds and, as long as that stops, under fresh ones and on other examples."""
        tried = self._under(settings, self._seeds, "")
        if tried.found == "stops":
            tried = self._under(settings, self._fresh, "on fresh seeds")
        if tried.found == "stops" and (others := self._others(settings)):
            self._tried_on_others = True
            more = (*settings, *others, *self._more_time)
            elsewhere = self._under(more, self._fresh, "on other examples", chance=True)
            if elsewhere.found == "stops":
                return tried.model_copy(update={"elsewhere": elsewhere.counted})
            return elsewhere.model_copy(update={"settings": texts(settings)})
        return tried

    def _others(self, settings: Settings) -> Settings:
        """The examples that follow those of the plan with a change, more of them if there are; else nothing."""
        plan = parse_plan(laid_over(self._table, settings))
        if plan.data.indices is None:
            return ()
        places = prepare(plan, self._device).pool.indices
        first = max(places) + 1
        ways = [(("data.indices", f"{first}:{first + times * len(places)}"),) for times in OTHERS]
        return next((way for way in ways if self._can_be_prepared((*settings, *way))), ())

    def _can_be_prepared(self, settings: Settings) -> bool:
        try:
            prepare(parse_plan(laid_over(self._table, settings)), self._device)
        except BadInput:
            return False
        return True

    def _under(self, settings: Settings, seeds: Sequence[int], where: str, *, chance: bool = False) -> Tried:
        told = texts(settings)
        if not self._purse.open():
            return Tried(settings=told, found="unmeasured", why=where)
        measured = self._attacked(settings, seeds, f"{' '.join(told)} {where}".strip())
        if measured.report is None:
            return Tried(settings=told, found="refused", why=measured.reason)
        found, why = judged(measured.report, self._before, self._plan.policy, chance=chance)
        words = " ".join(filter(None, (why, where)))
        return Tried(settings=told, found=found, why=words, counted=counted(measured.report, seeds))

    def _priced_all(self, found: list[tuple[Ladder, Settings, Tried]]) -> list[Change]:
        """The changes, cheapest in accuracy first; those whose price is not known last."""
        if not found:
            return []
        self._purse.until = self._purse.limit
        again = self._attacked((), self._fresh, "the plan as it is, on fresh seeds")
        self._base = counted(self._report(again), self._fresh)
        changes = [self._change(*one) for one in found]
        return sorted(changes, key=lambda c: (c.price.cost is None, c.price.cost or 0.0))

    def _change(self, ladder: Ladder, settings: Settings, tried: Tried) -> Change:
        assert self._base is not None, "the caller measured it"
        assert tried.counted is not None, "what stops was counted"
        bound, why = bound_of(parse_plan(laid_over(self._table, settings)), self._device)
        return Change(
            what=ladder.what,
            kind=ladder.kind,
            settings=texts(settings),
            before=self._base,
            after=tried.counted,
            elsewhere=tried.elsewhere,
            price=self._price(settings),
            bound=bound,
            no_bound=None if bound is not None else why,
        )

    def _price(self, settings: Settings) -> Price:
        """Accuracy of the plan as it is and with the change, counted on the same examples."""
        reason = ""
        for held_out in (None,) if self._said is not None else HELD_OUT:
            before, after = self._learnt((), held_out), self._learnt(settings, held_out)
            if before.learnt is not None and after.learnt is not None:
                return _price(before.learnt, after.learnt)
            reason = before.reason or after.reason or reason
        return Price(reason=reason)

    def _learnt(self, settings: Settings, held_out: int | None) -> Measured:
        if not self._purse.open():
            return Measured(Outcome(state="refused"), None, None, "the budget was used up")
        what = " ".join(["accuracy of", *(texts(settings) or ["the plan as it is"])])
        self._watcher.begins(what, self._purse.spent, self._purse.limit)
        section = self._priced if self._said is not None else self._default_utility(held_out)
        return self._measurer(
            laid_over(self._table, (*settings, ("utility", section))), {**dict(settings), "utility": section}
        )

    def _default_utility(self, held_out: int | None) -> dict[str, Any]:
        """A short training on all that the plan's source has."""
        data = self._plan.data.model_dump(exclude_none=True, exclude={"indices"})
        return {"held_out": held_out, "data": data}


def _price(before: Utility, after: Utility) -> Price:
    return Price(
        before=before.accuracy,
        after=after.accuracy,
        guess=before.guess,
        held_out=before.held_out,
        rounds=before.rounds,
    )
