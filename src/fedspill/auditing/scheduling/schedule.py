"""All trials of an audit in turn: closed forms first, those that share a search together, and none twice."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedspill.auditing.by_round.ledger import Ledger
from fedspill.auditing.judge import prior_only
from fedspill.auditing.resolving.scenario import Scenario
from fedspill.auditing.scheduling.joint_trials import run_jointly
from fedspill.auditing.scheduling.shares import hopeless, in_turn, is_fully_connected, least_useful, refuses, share
from fedspill.auditing.servers import Servers
from fedspill.auditing.trial import Finished, Task, blank, refusal, run_trial
from fedspill.auditing.watch import Listener, TrialWatch, duration
from fedspill.core.knowledge import Knows
from fedspill.core.roles import ReconstructsMany
from fedspill.core.tensor_files import sha256
from fedspill.core.types import ServerRole
from fedspill.report.leakage import with_leak_flags
from fedspill.report.store import Store
from fedspill.report.trial import Baseline, Trial

SLACK = 0.04
"""Of the budget, for what follows a search that took longer than was foreseen."""
AT_LEAST = 1.0
"""Seconds of that, of the last one of a budget too short for anything."""
MORE = 1.5
"""Times the time that a search was planned for, from which on it is worth another one."""
SURE = 1 - 1e-3
"""Confidence of an attack that holds a certificate."""


@dataclass
class Schedule:
    """Runs tasks.

    Attributes:
        began: `time.monotonic()` from which on the budget counts.
        keep_tensors: False for a redacted audit, which keeps no candidate and so no checkpoint.
        ledger: that the rounds of a federation are measured for.
    """

    scenario: Scenario
    tasks: Sequence[Task]
    store: Store | None
    listener: Listener
    began: float
    keep_tensors: bool
    ledger: Ledger | None = None
    _told: set[str] = field(default_factory=set[str])
    _hopeless: dict[str, float] = field(default_factory=dict[str, float])
    _leaked: set[tuple[int, int]] = field(default_factory=set[tuple[int, int]])
    _heard: bool = False

    def run(self) -> list[Finished]:
        """What every task gave, in the order of the tasks.

        Raises:
            NotApplicable: an attack that the plan names fits none of the updates; told when its last one was tried.
        """
        finished, servers = dict[str, Finished](), Servers(self.scenario, self.ledger)
        kind = is_fully_connected(self.scenario.model.module)
        turns = groups(in_turn(self.tasks, fully_connected=kind), self.scenario.limits.at_once)
        for number, group in enumerate(turns):
            later = [task for after in turns[number + 1 :] for task in after]
            finished |= {task.name: held for task in group if (held := self._held(task, later)) is not None}
            finished |= {task.name: done for task in group if (done := self._needless(task, finished)) is not None}
            finished |= {task.name: done for task in group if (done := self._too_long(task, finished)) is not None}
            unfinished = [task for task in group if task.name not in finished]
            if unfinished:
                done = self._run(servers, group, unfinished, later)
                finished |= {task.name: one for task, one in zip(unfinished, done, strict=True)}
                self._check_fits(group[0], finished)
        return [finished[task.name] for task in self.tasks]

    def _check_fits(self, task: Task, finished: Mapping[str, Finished]) -> None:
        """Raises NotApplicable if all tasks of this one's attack are done, none was run, and one did not fit."""
        names = [other.name for other in self.tasks if other.world.label == task.world.label]
        done = [finished[name] for name in names if name in finished]
        unfit = [one for one in done if one.unfit]
        if unfit and len(done) == len(names) and all(one.record.skipped is not None for one in done):
            raise refusal(task, unfit[0].record.skipped)

    def _needless(self, task: Task, finished: Mapping[str, Finished]) -> Finished | None:
        """A search of `standard` on what was read and certified already: skipped."""
        if task.world.explicit or not task.world.card.iterative or task.name in finished:
            return None
        others = [finished[t.name].record for t in self.tasks if t.name in finished and t.update == task.update]
        by = next((one for one in others if is_certain(one) and _no_more(one.role, task)), None)
        if by is None:
            return None
        reason = f"not needed: {by.attack}:{by.preset} has read every example of this update, by its own certificate"
        return Finished(blank(self.scenario, task, skipped=reason), {})

    def _too_long(self, task: Task, finished: Mapping[str, Finished]) -> Finished | None:
        """A search that what is left does not suffice for, as an earlier one's evaluations told: not started."""
        need, left = self._hopeless.get(task.world.label), self._left()
        if need is None or left is None or task.name in finished or need <= left:
            return None
        reason = (
            f"not started: the least of its iterations that is of use would take about {duration(need)}, as the"
            f" searches before it were timed; the budget leaves {duration(left)}"
        )
        record = blank(self.scenario, task, skipped=reason)
        return Finished(record.model_copy(update={"ended_by_budget": True}), {})

    def _held(self, task: Task, later: Sequence[Task] = ()) -> Finished | None:
        """What a broken run left, unless it was cut by a budget, or planned for a much smaller one."""
        held = None if self.store is None else self.store.finished(task.name)
        if held is None or held[0].ended_by_budget or self._had_less(held[0], [task, *later]):
            return None
        record, tensors = held
        return Finished(with_leak_flags(record, self.scenario.evaluation.thresholds), tensors)

    def _had_less(self, record: Trial, coming: Sequence[Task]) -> bool:
        if record.planned is None:
            return False
        left = self._left()
        return left is None or left * share(1, coming) > MORE * record.planned

    def _run(self, servers: Servers, group: list[Task], unfinished: list[Task], later: list[Task]) -> list[Finished]:
        """Runs what is left of a group: at once, or one by one where the attack does not take them so."""
        state = self._file(_checkpoint(group))
        if not self._apart(group, unfinished, state):
            watch = self._watch(unfinished, [*unfinished, *later], state)
            done = run_jointly(servers, group, unfinished, watch, self._priors)
            self._keep(unfinished, done or [], watch)
            if done is not None:
                return done
        return [self._alone(servers, task, [*unfinished[i:], *later]) for i, task in enumerate(unfinished)]

    def _apart(self, group: list[Task], unfinished: list[Task], state: Path | None) -> bool:
        """Whether tasks are run one by one from the start: a broken run of the group took them so, or one is left."""
        if len(group) == 1:
            return True
        if state is not None and state.is_file():
            return False
        begun = any(file is not None and file.is_file() for file in (self._file(task.name) for task in unfinished))
        held = [one for task in group if task not in unfinished and (one := self._held(task)) is not None]
        return len(unfinished) == 1 or (begun and any(one.record.skipped is not None for one in held))

    def _alone(self, servers: Servers, task: Task, coming: list[Task]) -> Finished:
        watch = self._watch([task], coming, self._file(task.name))
        done = run_trial(servers, task, watch, self._priors)
        self._keep([task], [done], watch)
        return done

    def _file(self, name: str) -> Path | None:
        return None if self.store is None or not self.keep_tensors else self.store.checkpoint(name)

    def _watch(self, tasks: list[Task], coming: list[Task], state: Path | None) -> TrialWatch:
        """A watch over tasks that are about to be run, the first of those that are coming."""
        name, total = tasks[0].name, len(self.tasks)
        more = f" and {len(tasks) - 1} more" if len(tasks) > 1 else ""
        self.listener.trial(total - len(coming) + 1, total, f"{name}{more}")
        left, limits = self._left(), self.scenario.limits
        watch = TrialWatch(self.listener, state, None, limits.quality, self._alike(coming))
        if left is not None and limits.budget is not None:
            watch.share = left * share(len(tasks), coming)
            watch.deadline = time.monotonic() + watch.share
            slack = SLACK * limits.budget + AT_LEAST
            watch.hard = min(watch.deadline, self.began + limits.budget) + slack
            watch.fits, watch.useful = not tasks[0].world.explicit, least_useful(tasks[0].world.name)
            watch.more = (lambda useful: self._more(tasks, coming, useful, watch)) if watch.fits else None
        return watch

    def _more(self, tasks: list[Task], coming: list[Task], useful: float, watch: TrialWatch) -> float:
        """Seconds that running tasks get besides their share, as others that come later cannot use theirs."""
        left = self._left() or 0.0
        before = share(len(tasks), coming)
        needs = hopeless(coming, useful / len(tasks), left * (1 - before))
        self._hopeless |= needs
        others = [task for task in coming if task.world.label not in needs and not refuses(task, self._granted(task))]
        watch.alone = all(task.world.label == tasks[0].world.label for task in others)
        return left * (share(len(tasks), others) - before)

    def _granted(self, task: Task) -> int | None:
        """Examples behind a task's update, where the server knows them."""
        return len(self.scenario.groups[task.update]) if Knows.NUM_EXAMPLES in self.scenario.knows else None

    def _keep(self, tasks: list[Task], done: list[Finished], watch: TrialWatch) -> None:
        """Keeps what tasks gave, if anything, and their state only if the budget ended them."""
        if watch.forecasted is not None:
            self._told.add(tasks[0].world.label)
        self._tell([one.record for one in done])
        if self.store is not None:
            for one in done:
                if one.unfit:  # tried again by whoever goes on: only all updates together tell whether this is an error
                    continue
                self.store.keep(one.record, one.tensors if self.keep_tensors else {})
        if watch.checkpoint is not None and not (done and watch.ended):
            watch.checkpoint.unlink(missing_ok=True)

    def _tell(self, records: Sequence[Trial]) -> None:
        """What came out first is told while the rest runs: the first result, and every further example that leaked."""
        for record in records:
            leaked = {(record.update, i) for i, flag in enumerate(record.leaked or []) if flag}
            if record.skipped is None and (not self._heard or leaked - self._leaked):
                self._leaked |= leaked
                self._heard = True
                self.listener.found(self._so_far(record))

    def _so_far(self, record: Trial) -> str:
        total = sum(len(group) for group in self.scenario.groups)
        said = f"{len(self._leaked)} of {total} examples leaked" if self._leaked else "no example leaked"
        return f"after {duration(time.monotonic() - self.began)}: {said} so far ({record.attack}:{record.preset})"

    def _left(self) -> float | None:
        """Seconds that are left of the budget; None if the audit has none."""
        budget = self.scenario.limits.budget
        return None if budget is None else max(0.0, self.began + budget - time.monotonic())

    def _alike(self, coming: list[Task]) -> int:
        """How many trials of the first one's attack are coming; 0 if its forecast was told."""
        label = coming[0].world.label
        return 0 if label in self._told else sum(task.world.label == label for task in coming)

    @functools.cached_property
    def _priors(self) -> Callable[[int, int], list[Baseline]]:
        scenario = self.scenario
        return functools.cache(lambda update, seed: prior_only(scenario, scenario.private(update), seed))


def is_certain(record: Trial) -> bool:
    """By its own certificate, without a search, the attack has read as many examples as are behind the update."""
    sure = sum(c >= SURE for c in record.confidence)
    return record.skipped is None and record.converged and not record.iterations and sure >= len(record.examples) > 0


def _no_more(role: str, task: Task) -> bool:
    """Whether a server of this role is asked for no more than this task's is."""
    roles = [r.value for r in ServerRole]
    return roles.index(role) <= roles.index(task.world.card.role.value)


def groups(tasks: Sequence[Task], at_once: int) -> list[list[Task]]:
    """Tasks that are run at once, in turn: updates under one attack that can take them, and one seed.

    They do not depend on what was finished earlier, so that a killed audit goes on with the same ones.
    """
    alike = dict[object, list[Task]]()
    for task in tasks:
        can = at_once > 1 and isinstance(task.world.component, ReconstructsMany)
        alike.setdefault((task.world.label, task.seed) if can else task.name, []).append(task)
    return [same[i : i + at_once] for same in alike.values() for i in range(0, len(same), at_once)]


def _checkpoint(tasks: list[Task]) -> str:
    """A name for the state of a group, whichever of its tasks are left; other groups have another one."""
    if len(tasks) == 1:
        return tasks[0].name
    digest = sha256("\n".join(task.name for task in tasks))
    return f"{tasks[0].name}.{len(tasks)}-at-once.{digest[:12]}"
