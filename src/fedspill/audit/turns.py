"""All trials of an audit in turn: closed forms first, those that share a search together, and none twice."""

import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fedspill.audit.judge import prior_only
from fedspill.audit.scenario import Scenario
from fedspill.audit.servers import Servers
from fedspill.audit.store import Store
from fedspill.audit.together import run_together
from fedspill.audit.trial import Finished, Task
from fedspill.audit.trial_record import Baseline
from fedspill.audit.watch import Listener, TrialWatch
from fedspill.core.roles import ReconstructsMany


@dataclass
class Turns:
    """Runs tasks.

    Attributes:
        began: `time.monotonic()` from which on the budget counts.
        keep_tensors: False for a redacted audit, which keeps no candidate and so no checkpoint.
    """

    scenario: Scenario
    tasks: Sequence[Task]
    store: Store | None
    listener: Listener
    began: float
    keep_tensors: bool
    _told: set[str] = field(default_factory=set[str])

    def run(self) -> list[Finished]:
        """What every task gave, in the order of the tasks."""
        finished, servers = dict[str, Finished](), Servers(self.scenario)
        # Closed forms first: what they leave of the budget goes to the searches.
        in_turn = groups(
            sorted(self.tasks, key=lambda task: task.world.card.iterative), self.scenario.plan.audit.at_once
        )
        for number, group in enumerate(in_turn):
            finished |= {task.name: held for task in group if (held := self._held(task)) is not None}
            left = [task for task in group if task.name not in finished]
            if left:
                later = [task for after in in_turn[number + 1 :] for task in after]
                done = self._run(servers, left, [*left, *later])
                finished |= {task.name: one for task, one in zip(left, done, strict=True)}
        return [finished[task.name] for task in self.tasks]

    def _held(self, task: Task) -> Finished | None:
        held = None if self.store is None else self.store.finished(task.name)
        return None if held is None or held[0].ended_by_budget else Finished(*held)

    def _run(self, servers: Servers, tasks: list[Task], coming: list[Task]) -> list[Finished]:
        """Runs tasks at once, the first of those that are coming, and keeps what they gave."""
        store, name, total = self.store, tasks[0].name, len(self.tasks)
        more = f" and {len(tasks) - 1} more" if len(tasks) > 1 else ""
        self.listener.trial(total - len(coming) + 1, total, f"{name}{more}")
        kept = None if store is None or not self.keep_tensors else store.checkpoint(_checkpoint(tasks))
        quality, alike = self.scenario.plan.audit.quality, self._alike(coming)
        watch = TrialWatch(self.listener, kept, self._deadline(len(tasks), len(coming)), quality, alike, len(tasks))
        done = run_together(servers, tasks, watch, self._priors)
        if store is not None:
            for one in done:
                store.keep(one.record, one.tensors if self.keep_tensors else {})
        if kept is not None and not watch.ended:
            kept.unlink(missing_ok=True)
        return done

    def _deadline(self, count: int, coming: int) -> float | None:
        """Of so many of the trials that are coming, to which what is left of the budget is shared out equally."""
        budget = self.scenario.plan.audit.budget
        if budget is None:
            return None
        now = time.monotonic()
        return now + max(0.0, self.began + budget - now) * count / coming

    def _alike(self, coming: list[Task]) -> int:
        """How many trials of the first one's attack are coming; 0 if its forecast was told."""
        label = coming[0].world.label
        told = label in self._told
        self._told.add(label)
        return 0 if told else sum(task.world.label == label for task in coming)

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
    """A name for the state of these tasks together; other tasks have another one."""
    if len(tasks) == 1:
        return tasks[0].name
    digest = hashlib.sha256("\n".join(task.name for task in tasks).encode()).hexdigest()
    return f"{tasks[0].name}.{len(tasks)}-at-once.{digest[:12]}"
