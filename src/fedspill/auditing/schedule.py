"""All trials of an audit in turn: closed forms first, those that share a search together, and none twice."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedspill.auditing.by_round.ledger import Ledger
from fedspill.auditing.joint_trials import run_jointly
from fedspill.auditing.judge import prior_only
from fedspill.auditing.resolving.scenario import Scenario
from fedspill.auditing.servers import Servers
from fedspill.auditing.trial import Finished, Task, refusal, run_trial
from fedspill.auditing.watch import Listener, TrialWatch
from fedspill.core.roles import ReconstructsMany
from fedspill.core.tensor_files import sha256
from fedspill.report.leakage import with_leak_flags
from fedspill.report.store import Store
from fedspill.report.trial import Baseline


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

    def run(self) -> list[Finished]:
        """What every task gave, in the order of the tasks.

        Raises:
            NotApplicable: an attack that the plan names fits none of the updates; told when its last one was tried.
        """
        finished, servers = dict[str, Finished](), Servers(self.scenario, self.ledger)
        # Closed forms first: what they leave of the budget goes to the searches.
        in_turn = groups(sorted(self.tasks, key=lambda task: task.world.card.iterative), self.scenario.limits.at_once)
        for number, group in enumerate(in_turn):
            finished |= {task.name: held for task in group if (held := self._held(task)) is not None}
            unfinished = [task for task in group if task.name not in finished]
            if unfinished:
                later = [task for after in in_turn[number + 1 :] for task in after]
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

    def _held(self, task: Task) -> Finished | None:
        held = None if self.store is None else self.store.finished(task.name)
        if held is None or held[0].ended_by_budget:
            return None
        record, tensors = held
        return Finished(with_leak_flags(record, self.scenario.evaluation.thresholds), tensors)

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
        deadline = self._deadline(len(tasks), len(coming))
        return TrialWatch(self.listener, state, deadline, self.scenario.limits.quality, self._alike(coming))

    def _keep(self, tasks: list[Task], done: list[Finished], watch: TrialWatch) -> None:
        """Keeps what tasks gave, if anything, and their state only if the budget ended them."""
        if watch.forecasted is not None:
            self._told.add(tasks[0].world.label)
        if self.store is not None:
            for one in done:
                if one.unfit:  # tried again by whoever goes on: only all updates together tell whether this is an error
                    continue
                self.store.keep(one.record, one.tensors if self.keep_tensors else {})
        if watch.checkpoint is not None and not (done and watch.ended):
            watch.checkpoint.unlink(missing_ok=True)

    def _deadline(self, count: int, coming: int) -> float | None:
        """When `count` of the trials that are coming must end, by `time.monotonic()`; all share the rest equally.

        None if the audit has no budget.
        """
        budget = self.scenario.limits.budget
        if budget is None:
            return None
        now = time.monotonic()
        return now + max(0.0, self.began + budget - now) * count / coming

    def _alike(self, coming: list[Task]) -> int:
        """How many trials of the first one's attack are coming; 0 if its forecast was told."""
        label = coming[0].world.label
        return 0 if label in self._told else sum(task.world.label == label for task in coming)

    @functools.cached_property
    def _priors(self) -> Callable[[int, int], list[Baseline]]:
        scenario = self.scenario
        return functools.cache(lambda update, seed: prior_only(scenario, scenario.private(update), seed))


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
