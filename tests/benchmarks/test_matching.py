"""The benchmark of gradient matching: what a table says of curves, and what a curve says of an attack."""

import json
import math
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks.common import clock
from benchmarks.common.clock import Probe, Stopwatch, Ticks
from benchmarks.common.records import told
from benchmarks.matching import __main__ as matching
from benchmarks.matching import curves
from benchmarks.matching.curves import Curve, Task, record
from benchmarks.matching.kept import Kept, timed
from benchmarks.matching.ours import Preset, Watched, fedspill_run, presets
from benchmarks.matching.table import rows_of, summary
from benchmarks.matching.times import NEVER, Timed, compared, geometric_mean
from benchmarks.matching.world import World, of

from fedspill.core.errors import BadInput
from fedspill.core.local_training.update import FedSGD
from fedspill.core.rng import stream
from fedspill.core.settings import with_fields
from fedspill.core.types import Reconstruction
from fedspill.scoring.metrics import PSNR
from tests.support.worlds import batch, conv_bn

KEY = ("case", 9000, 0)
PEER = Timed((10.0, 20.0, 40.0), (9.0, 16.0, 15.0))
"""Falls at the end, as the objective knows nothing of the PSNR."""
STEPS = 12


def test_psnr_is_that_of_the_last_point_before_a_time() -> None:
    assert PEER.at(9.9) == -math.inf
    assert (PEER.at(10.0), PEER.at(39.9), PEER.at(1e9)) == (9.0, 16.0, 15.0)


def test_a_level_is_reached_at_the_first_point_that_has_it() -> None:
    assert (PEER.reach(9.0), PEER.reach(9.1), PEER.reach(15.0)) == (10.0, 20.0, 20.0)
    assert PEER.reach(16.1) == NEVER


def test_a_run_is_held_against_the_whole_and_the_needed_time_of_the_peer() -> None:
    row = compared(KEY, "strong", Timed((1.0, 4.0, 8.0), (12.0, 15.0, 17.5)), PEER)
    assert (row.peer_psnr, row.peer_seconds, row.psnr, row.seconds) == (15.0, 40.0, 17.5, 4.0)
    assert row.share == pytest.approx(0.1)
    assert row.strict_share == pytest.approx(0.2)  # the peer was at 15 dB after 20 s


def test_what_comes_after_the_peers_time_does_not_count_at_equal_time() -> None:
    row = compared(KEY, "slow", Timed((30.0, 50.0), (14.0, 99.0)), PEER)
    assert (row.psnr, row.share) == (14.0, pytest.approx(50 / 40))


def test_a_run_that_never_gets_there_is_not_left_out_of_the_mean() -> None:
    assert geometric_mean([0.1, 0.4]) == pytest.approx(0.2)
    assert geometric_mean([0.1, NEVER]) == NEVER
    assert math.isnan(geometric_mean([]))


def test_summary_counts_runs_that_never_get_there() -> None:
    other = (KEY[0], 9100, 0)
    good, bad = Timed((4.0,), (20.0,)), Timed((4.0,), (14.0,))
    peers = [Kept("breaching", key, PEER) for key in (KEY, other)]
    kept = [*peers, Kept("strong", KEY, good), Kept("strong", other, bad), Kept("strong", ("lonely", 1, 0), good)]
    cells = [c.strip() for c in summary(rows_of(kept, "breaching", None)).splitlines()[-1].split("|")[1:-1]]
    assert cells == ["strong", "all", "2", "15.00", "17.00", "+2.00", "1/2", "never", "0.100", "never"]


def test_quiet_time_is_setup_and_iterations_by_their_median_price() -> None:
    points = {"iteration": [1, 10], "seconds": [7.0, 70.0], "cpu_seconds": [6.0, 60.0], "psnr": [8.0, 9.0]}
    found = {"case": "c", "tool": "paper+lr=0.3", "points": points}
    costs = {"c": {"paper": {"seconds": [0.5, 0.1, 0.2], "setup": 3.0}}}
    assert timed(found, "quiet", costs) == Timed((3.2, 5.0), (8.0, 9.0))
    assert timed(found, "wall", {}).seconds == (7.0, 70.0)
    assert timed(found, "cpu", {}).seconds == (6.0, 60.0)
    with pytest.raises(BadInput, match=r"cost of paper\+lr=0.3 on c is lacking"):
        timed(found, "quiet", {"c": {"breaching": costs["c"]["paper"]}})


def test_a_stopwatch_that_stands_still_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([(0.0, 0.0), (5.0, 4.0), (5.0, 4.0), (105.0, 84.0), (107.0, 85.0)])
    monkeypatch.setattr(Stopwatch, "_now", staticmethod(lambda: next(now)))
    watch = Stopwatch(torch.device("cpu"))
    watch.start()
    with watch.stopped() as reading:
        assert reading == (5.0, 4.0)
    assert watch.read() == (7.0, 5.0)


def test_ticks_part_the_price_of_an_iteration_from_what_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 116.0, 150.0])  # 10 s of setup, then 2 s each
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(now))
    ticks = Ticks(torch.device("cpu"), warmup=3, last=20)
    ticks.start()
    for done in range(1, 25):
        ticks.tick(done)
    assert ticks.result() == (2.0, 10.0)


def test_recorded_commands_hold_no_path_of_the_machine() -> None:
    assert told(["curves", "--out", "/secret", "--threads", "1", "--out=/secret"]) == "curves --threads 1"


@pytest.fixture
def given() -> World:
    return of(conv_bn(), batch(1), FedSGD(), 0)


@pytest.fixture
def paper() -> Preset:
    return presets("paper", [f"steps={STEPS}", "tv=0.001"])[0]


def arguments(folder: Path, *words: str) -> Namespace:
    return matching.parse(["curves", "--out", str(folder), "--tools", "fedspill", *words])


class Ending(Watched):
    """Ends the attack after so many iterations."""

    at = 0

    def out_of_time(self) -> bool:
        return self.done >= self.at


def ended(given: World, preset: Preset, at: int) -> Reconstruction:
    watch = Ending(Probe())
    watch.at = at
    return preset.attack.reconstruct(given.update, given.knowledge(), stream(0, "matching"), watch)


def test_a_curve_shows_what_the_attack_would_return_at_each_iteration(given: World, paper: Preset) -> None:
    curve = Curve(given)
    fedspill_run(given, paper.attack, curve, 0)
    columns = curve.columns()
    assert columns["iteration"] == [*range(1, STEPS + 1), STEPS]
    assert all(a <= b for a, b in zip(columns["seconds"], columns["seconds"][1:], strict=False))
    for k in (1, 5, STEPS):
        expected = float(PSNR()(ended(given, paper, k).inputs, given.private.inputs).mean())
        assert columns["psnr"][k - 1] == pytest.approx(expected, abs=1e-3)


def test_scoring_does_not_touch_the_attack(given: World, paper: Preset) -> None:
    curve = Curve(given)
    fedspill_run(given, paper.attack, curve, 0)
    alone = paper.attack.reconstruct(given.update, given.knowledge(), stream(0, "matching"))
    assert curve.points[-1][3] == float(PSNR()(alone.inputs, given.private.inputs).mean())
    assert curve.points[-1][5] == min(alone.objective)


def test_a_killed_run_is_made_again_and_a_finished_one_is_kept(
    given: World, paper: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args, task = arguments(tmp_path), Task("case", 9000, 0, paper, 0)

    def killed(world: World, attack: object, probe: Probe, seed: int) -> None:
        probe.start()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(curves, "fedspill_run", killed)
        with pytest.raises(KeyboardInterrupt):
            record(task, given, tmp_path, args)
    assert not list(tmp_path.iterdir())
    assert record(task, given, tmp_path, args)
    [path] = tmp_path.iterdir()
    before = path.read_bytes()
    assert len(json.loads(before)["points"]["psnr"]) == STEPS + 1
    assert not record(task, given, tmp_path, args)
    assert path.read_bytes() == before


def test_a_run_of_other_settings_is_not_overwritten_unasked(given: World, paper: Preset, tmp_path: Path) -> None:
    task = Task("case", 9000, 0, paper, 0)
    other = replace(task, preset=Preset(paper.name, with_fields(paper.attack, lr=0.3)))
    assert record(task, given, tmp_path, arguments(tmp_path))
    with pytest.raises(BadInput, match=r"other settings \(lr\); --redo"):
        record(other, given, tmp_path, arguments(tmp_path))
    assert record(other, given, tmp_path, arguments(tmp_path, "--redo"))
    assert json.loads(next(tmp_path.iterdir()).read_text())["settings"]["lr"] == 0.3


@pytest.mark.parametrize(
    ("names", "changes", "message"), [("papre", [], "no preset 'papre'"), ("paper", ["tvv=1"], "no field tvv")]
)
def test_a_wrong_preset_or_field_is_named(names: str, changes: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        presets(names, changes)


def test_changes_are_told_in_the_name_and_take_the_fields_type() -> None:
    found = presets("paper,quick", ["tv=1", "steps=7"])
    assert [p.name for p in found] == ["paper+tv=1+steps=7", "quick+tv=1+steps=7"]
    assert all(isinstance(p.attack.prior.tv, float) and p.attack.search.steps == 7 for p in found)
