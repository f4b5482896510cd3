"""Trials of one attack and one seed at once, for attacks that take independent updates together."""

import time
from collections.abc import Sequence

from fedspill.auditing.servers import Servers
from fedspill.auditing.trial import JUDGING, Finished, Posed, Priors, Task, given_up, judged, pose
from fedspill.auditing.watch import TrialWatch
from fedspill.core.errors import NotApplicable
from fedspill.core.roles import ReconstructsMany
from fedspill.core.types import Reconstruction
from fedspill.core.watching.clock import OutOfTime, until


def run_jointly(
    servers: Servers, group: Sequence[Task], unfinished: Sequence[Task], watch: TrialWatch, priors: Priors
) -> list[Finished] | None:
    """What `run_trial` gives for each that is left of a group, up to rounding; None if the attack does not fit one.

    Seconds are those of all by the number of those that were attacked. The budget ends all of them or none: had it
    ended before the last was done, all are on record as ended by it and go on together. A broken run's state is of
    all that it attacked, so these are attacked again even where some are on record by now; that takes no search.
    """
    began = time.perf_counter()
    names = [task.name for task in unfinished]
    try:
        with until(None if watch.hard is None else watch.last_moment):
            posed = _posed(servers, group, {*names, *watch.attacked_before()}, watch)
            asked = [p for p in posed.values() if isinstance(p, Posed)]
            if watch.trials:  # what is skipped takes no time of the forecast
                watch.trials -= sum(isinstance(posed[name], Finished) for name in names)
            watch.attacked = tuple(p.task.name for p in asked)
            watch.leave(JUDGING * sum(p.seconds for p in asked))
            returned = dict(zip(watch.attacked, _returned(asked, watch), strict=True))
    except NotApplicable:
        return None
    except OutOfTime:
        return [given_up(servers.scenario, task, watch) for task in unfinished]
    if watch.useless is not None:
        return [given_up(servers.scenario, task, watch) for task in unfinished]
    seconds = (time.perf_counter() - began) / max(1, len(asked))
    done = [posed[name] for name in names]
    return [
        p if isinstance(p, Finished) else judged(servers, p, returned[p.task.name], seconds, watch, priors)
        for p in done
    ]


def _posed(servers: Servers, group: Sequence[Task], names: set[str], watch: TrialWatch) -> dict[str, Posed | Finished]:
    return {task.name: pose(servers, task, watch) for task in group if task.name in names}


def _returned(asked: list[Posed], watch: TrialWatch) -> list[Reconstruction]:
    if not asked:
        return []
    attack = asked[0].served.attack
    assert isinstance(attack, ReconstructsMany), "only such attacks are grouped"
    return attack.reconstruct_many([p.job for p in asked], watch)
