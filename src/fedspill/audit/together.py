"""Trials of one attack and one seed at once, for attacks that take independent updates together."""

import time
from collections.abc import Sequence
from dataclasses import replace

from fedspill.audit.servers import Servers
from fedspill.audit.trial import Finished, Posed, Priors, Task, judged, pose, run_trial
from fedspill.audit.watch import TrialWatch
from fedspill.core.errors import NotApplicable
from fedspill.core.roles import ReconstructsMany
from fedspill.core.types import Reconstruction


def run_together(servers: Servers, tasks: Sequence[Task], watch: TrialWatch, priors: Priors) -> list[Finished]:
    """What `run_trial` gives for each, up to rounding.

    Seconds are those of all by their number. The budget ends all of them or none: had it ended before the last was
    done, all are on record as ended by it and go on together.

    Raises:
        NotApplicable: the plan named an attack that does not fit.
    """
    if len(tasks) == 1:
        return [run_trial(servers, tasks[0], watch, priors)]
    began = time.perf_counter()
    try:
        posed = [pose(servers, task, watch) for task in tasks]
        asked = [p for p in posed if isinstance(p, Posed)]
        returned = _returned(asked, watch)
    except NotApplicable:  # of one of them at least
        return [run_trial(servers, task, replace(watch, checkpoint=None, together=1), priors) for task in tasks]
    seconds = (time.perf_counter() - began) / max(1, len(asked))
    found = iter([judged(servers, p, r, seconds, watch, priors) for p, r in zip(asked, returned, strict=True)])
    return [p if isinstance(p, Finished) else next(found) for p in posed]


def _returned(asked: list[Posed], watch: TrialWatch) -> list[Reconstruction]:
    if not asked:
        return []
    attack = asked[0].served.attack
    assert isinstance(attack, ReconstructsMany), "only such attacks are grouped"
    return attack.reconstruct_many([p.job for p in asked], watch)
