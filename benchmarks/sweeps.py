"""A sweep that is killed, shared by two processes, and run by Ray, against the same sweep unbroken in one process.

"kills": the sweep is killed with SIGKILL three times, then ended by two processes at once; every row is compared with
the unbroken run's. "ray" (needs fedspill[ray]): the same trials by local processes and by Ray, a worker of each killed
in the middle; the cost of a trial is the processor time of the whole tree of processes from the 10th end to the last.

    python -m benchmarks.sweeps kills --trials 200
    python -m benchmarks.sweeps ray --trials 200 --workers 2
"""

import argparse
import os
import signal
import sqlite3
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import places
from benchmarks.common.records import conditions, write
from fedspill.report.sweep import RESULTS as COMPARED
from fedspill.report.sweep import Outcome
from fedspill.sweeping.driving import Unwatched
from fedspill.sweeping.engines.engine import Engine
from fedspill.sweeping.engines.here import Here
from fedspill.sweeping.engines.local import Local
from fedspill.sweeping.engines.on_ray import OnRay
from fedspill.sweeping.ledger import LEDGER_FILE, Counts, Ledger
from fedspill.sweeping.whole import run_sweep

RESULTS = places.RESULTS / "sweeps"
KILLS = 3
WARM = 10
"""Trials that have ended before the cost of one is measured."""
TICKS = os.sysconf("SC_CLK_TCK")


def plan(trials: int) -> dict[str, Any]:
    """Small trials of all kinds: two defences and none, batches of one and of two, and one network a seed."""
    defences = [[], [{"name": "clipping", "norm": 0.5}], [{"name": "gradient_noise", "sigma": 0.01}]]
    seeds = list(range(-(-trials // 6)))
    swept = {"model.seed": seeds, "client.num_examples": [1, 2], "defences": defences}
    return {
        "audit": {"attacks": ["linear_layer"], "metrics": ["psnr"]},
        "model": {"name": "mlp", "hidden": [4]},
        "data": {"name": "photos", "size": 4, "indices": "0:2"},
        "sweep": swept,
    }


def results(folder: Path) -> dict[str, list[Any]]:
    """What each trial came to, by its digest; raises if one is wanting, or is there twice."""
    with closing(Ledger(folder)) as ledger:
        rows = ledger.rows()
    found = {r.digest: [getattr(r.outcome, name) for name in COMPARED] for r in rows if r.state == "done"}
    if len(found) != len(rows):
        raise SystemExit(f"{len(rows)} rows, {len(found)} trials done")
    return found


def done(folder: Path) -> int:
    """Trials of a folder that are done."""
    if not (folder / LEDGER_FILE).exists():
        return 0
    with closing(sqlite3.connect(folder / LEDGER_FILE, timeout=60)) as sql:
        return int(sql.execute("SELECT count(*) FROM trials WHERE state = 'done'").fetchone()[0])


def kills(args: argparse.Namespace) -> None:
    """Killed three times, then two at once."""
    table = plan(args.trials)
    with tempfile.TemporaryDirectory() as place:
        whole, broken = Path(args.state or place) / "whole", Path(args.state or place) / "broken"
        run_sweep(table, whole, lambda: Here("cpu"))
        wanted, at = results(whole), list[int]()
        for kill in range(KILLS):
            process = started(table, broken)
            while done(broken) < (kill + 1) * len(wanted) // 5:
                time.sleep(0.5)
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            at.append(done(broken))
            print(f"killed at {at[-1]} of {len(wanted)}", flush=True)
        both = [started(table, broken) for _ in range(2)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in both]
        found = results(broken)
    same = sum(found.get(digest) == values for digest, values in wanted.items())
    record = {"trials": len(wanted), "killed_at": at, "exit_codes": codes}
    record |= {"rows": len(found), "same_results": same, "lost": len(wanted.keys() - found.keys())}
    write(RESULTS / "kills.json", {**record, "conditions": conditions(args)})
    print(record)


def started(table: dict[str, Any], folder: Path) -> int:
    """A process that runs the sweep's trials itself, forked so that PyTorch is loaded once; its number."""
    process = os.fork()
    if not process:
        try:
            run_sweep(table, folder, lambda: Here("cpu"))
            os._exit(0)
        finally:
            os._exit(1)
    return process


@dataclass
class Costs(Unwatched):
    """Notes at each end of a trial how long all took so far, and kills a worker once half is done.

    Attributes:
        victim: words in the command line, or the title, of a process that runs trials.
        ends: wall and processor seconds of the tree of processes.
    """

    victim: str
    half: int
    ends: list[tuple[float, float]] = field(default_factory=list)
    killed: int = 0
    warnings: list[str] = field(default_factory=list)

    def ended(self, digest: str, outcome: Outcome) -> None:
        """One more."""
        self.ends.append((time.monotonic(), processor_seconds()))
        if len(self.ends) >= self.half and not self.killed:
            self._kill()

    def _kill(self) -> None:
        mine = [pid for pid in family() if self.victim in told(pid)]
        if mine:
            os.kill(mine[0], signal.SIGKILL)
            self.killed = 1

    def message(self, text: str) -> None:
        """Notes it."""
        self.warnings.append(text)


def parents() -> dict[int, int]:
    """Every process of the machine and who started it."""
    found = dict[int, int]()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (values := stat(int(entry.name))):
            found[int(entry.name)] = int(values[1])
    return found


def stat(pid: int) -> list[str]:
    """What the kernel says of a process after its name; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def told(pid: int) -> str:
    """Its command line, which Ray rewrites to what a worker does."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def family() -> list[int]:
    """This process and all that it or they started."""
    every, found = parents(), [os.getpid()]
    for pid in found:
        found += [child for child, parent in every.items() if parent == pid]
    return found


def processor_seconds() -> float:
    """Of the family, also of those of it that have ended and were asked about."""
    return sum(sum(int(v) for v in values[11:15]) for pid in family() if (values := stat(pid))) / TICKS


@dataclass(frozen=True)
class Cost:
    """One engine.

    Attributes:
        counts: of the trials, by state.
        first: wall seconds to the first end.
        wall: of one trial, from the 10th end to the last, on a shared machine.
        processor: likewise, processor seconds of all processes.
        inside: the mean of the seconds that the trials themselves count.
    """

    engine: str
    counts: Mapping[str, int]
    killed: int
    told: list[str]
    first: float
    wall: float
    processor: float
    inside: float


def measured(name: str, make: Callable[[], Engine], victim: str, trials: int, folder: Path) -> Cost:
    """The sweep by one engine."""
    costs, began = Costs(victim, trials // 2), time.monotonic()
    counts: Counts = run_sweep(plan(trials), folder, make, follower=costs).counts
    (wall, processor), (last_wall, last_processor) = costs.ends[WARM - 1], costs.ends[-1]
    each = len(costs.ends) - WARM
    with closing(Ledger(folder)) as ledger:
        inside = [row.outcome.seconds for row in ledger.rows() if row.outcome]
    return Cost(
        engine=name,
        counts=asdict(counts),
        killed=costs.killed,
        told=costs.warnings,
        first=costs.ends[0][0] - began,
        wall=(last_wall - wall) / each,
        processor=(last_processor - processor) / each,
        inside=sum(inside) / len(inside),
    )


def against_ray(args: argparse.Namespace) -> None:
    """The same trials by local processes and by Ray."""
    trials, workers = args.trials, args.workers
    with tempfile.TemporaryDirectory() as place:
        one, other = Path(place) / "local", Path(place) / "ray"
        costs = [measured("local", lambda: Local("cpu", workers), "spawn_main", trials, one)]
        print(costs[0], flush=True)
        costs.append(measured("ray", lambda: OnRay("cpu", cpus=workers), "ray::run_trial", trials, other))
        print(costs[1], flush=True)
        first, second = results(one), results(other)
    same = sum(second.get(digest) == values for digest, values in first.items())
    record = {"trials": len(first), "workers": workers, "same_results": same, "engines": [asdict(c) for c in costs]}
    record["overhead_processor"] = costs[1].processor / costs[0].processor - 1
    record["overhead_wall"] = costs[1].wall / costs[0].wall - 1
    write(RESULTS / "ray.json", {**record, "conditions": conditions(args)})
    print(record)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kills", "ray"))
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2, help="of the two engines")
    parser.add_argument("--state", help="where `kills` keeps its sweeps, to go on from there")
    args = parser.parse_args()
    args.device, args.benchmark, args.threads = "cpu", "sweeps", 1
    (kills if args.what == "kills" else against_ray)(args)


if __name__ == "__main__":
    main()
