"""`matching curves`: PSNR and objective against iterations and seconds, one file per run.

For both tools the PSNR is that of the image which the tool would return if it ended at that iteration: of the lowest
value of its own objective so far, by its own book-keeping. It is scored here, outside the attack, while the clocks
stand still; the attack never hears of it. A run that was killed leaves no file and is made again; one that is on disk
with the same settings is not.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.common import records
from benchmarks.common.clock import Probe, Snapshot, Stopwatch
from benchmarks.matching.cost import PEER
from benchmarks.matching.ours import Preset, fedspill_run, presets
from benchmarks.matching.world import QUALITY, World, world
from fedspill.core.roles import Metric

COLUMNS = ("iteration", "seconds", "cpu_seconds", "psnr", "psnr_current", "objective")


def is_due(done: int) -> bool:
    """Every iteration at first, then about every hundredth part of what is done: times are known to 1 %."""
    return done % max(1, done // 100) == 0


def _psnr() -> Metric:
    """Imported where it is used: its libraries would stand in the memory that `cost` measures."""
    from benchmarks.common.cpu_torchvision import DECLARED  # noqa: F401
    from fedspill.scoring.metrics import PSNR

    return PSNR()


@dataclass
class Curve(Probe):
    """Scores the iterates of one attack.

    Attributes:
        given: the world, with the private images.
        points: rows of COLUMNS; the last one is what the attack returned, when it returned it.
    """

    given: World
    points: list[tuple[float, ...]] = field(default_factory=list[tuple[float, ...]])
    scoring = True

    def __post_init__(self) -> None:
        self.clock, self.psnr = Stopwatch(self.given.device), _psnr()

    def start(self) -> None:
        """The attack begins now."""
        self.clock.start()

    def seen(self, done: int, snapshot: Callable[[], Snapshot]) -> None:
        """Scores some of the iterations."""
        if not is_due(done):
            return
        with self.clock.stopped() as (wall, cpu):
            shown = snapshot()
            best, current = self._of_z(shown.best), self._of_z(shown.current)
            self.points.append((done, wall, cpu, best, current, shown.objective))

    def end(self, done: int, pixels: Tensor, objective: float) -> None:
        """Scores what was returned."""
        with self.clock.stopped() as (wall, cpu):
            found = self._of_pixels(pixels)
            self.points.append((done, wall, cpu, found, found, objective))

    def _of_z(self, z: Tensor) -> float:
        return self._of_pixels(self.given.spec.decode(z.detach()))

    def _of_pixels(self, pixels: Tensor) -> float:
        private = self.given.private.inputs
        return float(self.psnr(pixels.detach().to(private), private).mean())

    def columns(self) -> dict[str, list[float]]:
        """The points by column, rounded to what is meant."""
        digits = (0, 4, 4, 3, 3, 7)
        return {
            name: [int(v) if not digit else round(v, digit) for v in values]
            for name, digit, values in zip(COLUMNS, digits, zip(*self.points, strict=True), strict=True)
        }


@dataclass(frozen=True)
class Task:
    """One run: a tool with its settings on one image of one case.

    Attributes:
        preset: of fedspill; None is the peer.
        iterations: of the peer.
    """

    case: str
    image: int
    seed: int
    preset: Preset | None
    iterations: int

    @property
    def tool(self) -> str:
        """The peer, or the preset."""
        return PEER if self.preset is None else self.preset.name

    def path(self, folder: Path) -> Path:
        """Of its record."""
        return folder / f"curve-{self.case}-{self.image}-{self.seed}-{self.tool}.json"

    def settings(self, given: World) -> dict[str, Any]:
        """Everything that the attack was told."""
        if self.preset is not None:
            return self.preset.settings()
        from benchmarks.matching.peer import settings

        return settings(given, self.iterations)

    def run(self, given: World) -> Curve:
        """The attack from start to end."""
        curve = Curve(given)
        if self.preset is not None:
            fedspill_run(given, self.preset.attack, curve, self.seed)
            return curve
        from benchmarks.matching.peer import peer_run

        peer_run(given, self.iterations, curve, self.seed)
        return curve


def record(task: Task, given: World, folder: Path, args: argparse.Namespace) -> bool:
    """Makes the run unless it is on disk; whether it was made.

    Raises:
        BadInput: it is on disk with other settings.
    """
    settings, path = task.settings(given), task.path(folder)
    if records.is_done(path, settings, redo=args.redo):
        return False
    before, curve = records.conditions(args), task.run(given)
    kept = {k: getattr(task, k) for k in ("tool", "case", "image", "seed")} | {"loss": round(given.loss, 4)}
    told = {**before, "load_after": records.conditions(args)["load"]}
    records.write(path, {**kept, "settings": settings, "conditions": told, "points": curve.columns()})
    iteration, wall, _, psnr, _, objective = curve.points[-1]
    print(
        f"{path.stem}: {psnr:.2f} dB, objective {objective:.4f}, {iteration:.0f} iterations, {wall:.1f} s", flush=True
    )
    return True


def tasks(case: str, image: int, seed: int, args: argparse.Namespace) -> list[Task]:
    """Of all the tools that are asked for."""
    chosen = presets(args.preset, args.set) if "fedspill" in args.tools else []
    if args.quick:
        chosen = [p.of(steps=args.iterations) for p in chosen]
    sides: list[Preset | None] = [*([None] if PEER in args.tools else []), *chosen]
    return [Task(case, image, seed, side, args.iterations) for side in sides]


def run(args: argparse.Namespace) -> None:
    """All runs that are missing."""
    for seed in args.seeds:
        for case in args.cases:
            for image in QUALITY[case].images[: args.images]:
                given = world(QUALITY[case], (image,), seed, args.device)
                for task in tasks(case, image, seed, args):
                    record(task, given, records.folder(args), args)
