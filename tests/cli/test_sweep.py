"""`fedspill sweep` as a user runs it."""

import csv
import io
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from fedspill.cli.exits import BAD_INPUT, exit_code_of
from fedspill.cli.main import app
from fedspill.cli.sweep import display
from fedspill.cli.sweep.choices import bytes_of, chosen_engine
from fedspill.cli.sweep.display import TerminalFollower
from fedspill.core.errors import BadInput
from fedspill.plan.tables import table_of
from fedspill.rendering.html.plan_text import plan_text
from fedspill.report.sweep import RESULTS, Outcome
from fedspill.sweeping import exporting
from fedspill.sweeping.engines.here import Here
from fedspill.sweeping.engines.local import FIRST_GUESS, Local
from fedspill.sweeping.ledger import Counts
from tests.support.sweeps import SMALL


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(exporting, "render", lambda rows: "<html></html>")
    (tmp_path / "plan.toml").write_text(plan_text(SMALL))
    return tmp_path / "plan.toml"


def sweep(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["sweep", *words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout


def rows(folder: str) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(folder, "sweep.csv").read_text().splitlines()))


def test_shards_merged_are_the_whole_and_the_folder_is_gone_on_with(plan: Path) -> None:
    assert table_of(plan) == SMALL
    code, told = sweep("plan.toml", "--workers", "0", "--device", "cpu")
    assert (code, told.splitlines()[0]) == (0, "4 trials: 4 done, 0 refused, 0 failed")
    for part in ("1/2", "2/2"):
        code, told = sweep("plan.toml", "--workers", "0", "--device", "cpu", "--shard", part)
        assert (code, told.splitlines()[0]) == (0, "2 trials: 2 done, 0 refused, 0 failed")
    code, told = sweep("merge", "fedspill-sweep-plan-1of2", "fedspill-sweep-plan-2of2", "--out", "all")
    assert (code, told.splitlines()[0]) == (0, "4 trials: 4 done, 0 refused, 0 failed")
    whole, merged = rows("fedspill-sweep-plan"), rows("all")
    assert [[r[k] for k in ("digest", *RESULTS)] for r in whole] == [
        [r[k] for k in ("digest", *RESULTS)] for r in merged
    ]
    assert sorted(r["defence"] for r in whole) == ["gradient_noise(sigma=0.1)"] * 2 + ["none"] * 2
    assert {r["worst"] for r in whole if r["defence"] == "none"} == {"100.0"}


def test_a_key_of_the_plan_is_changed_for_one_run_and_refusals_are_rows(plan: Path) -> None:
    one = ["plan.toml", "--workers", "0", "--set", "sweep.model.seed=[0]"]
    code, told = sweep("run", *one, "--set", "data.indices=0:1")
    assert (code, told.splitlines()[0]) == (0, "2 trials: 2 done, 0 refused, 0 failed")
    code, told = sweep(*one, "--set", "client.num_examples=9")
    assert code == 0
    assert told.splitlines()[0] == (
        "2 trials: 0 done, 2 refused, 0 failed; 2 of other plans or shards stay in the folder"
    )
    assert [bool(r["error"]) for r in rows("fedspill-sweep-plan")].count(True) == 2


BAD = [
    (["none.toml"], "plan file 'none.toml' does not exist"),
    (["plan.toml", "--shard", "3/2"], "--shard '3/2': write i/n with i from 1 to n, such as 2/8"),
    (["plan.toml", "--shard", "9/9"], "this shard holds no trial: there are fewer trials than shards"),
    (["plan.toml", "--memory", "much"], "--memory 'much' is no size; write for example 500MB or 2GB"),
    (["plan.toml", "--gpus", "0.5"], "--gpus is of --engine ray; leave it out, or give both"),
    (["plan.toml", "--device", "tpu"], "--device 'tpu' is unknown; it is auto, cpu or cuda"),
    (["plan.toml", "--set", "sweep.defences=[['dlg']]"], "unknown defence 'dlg'; there are "),
    (["plan.toml", "--set", "sweep.audit.attacks=['dgl']"], "unknown attack 'dgl'; there are "),
    (["plan.toml", "--set", "sweep.client.nonsense=[1]"], "plan key 'client.nonsense' is unknown; "),
    (["plan.toml", "--set", "sweep.client.epochs=[2]"], "plan key 'client': "),
    (["plan.toml", "--set", "sweep.model.seed=3"], "plan key 'sweep.model.seed': a list of the values "),
    (["bare.toml"], "the plan has no table [sweep] with keys of the plan and lists of their values"),
    (["merge", "nothing", "--out", "all"], "'nothing' holds no sweep.sqlite; give the output folder of a sweep"),
]


@pytest.mark.parametrize(("words", "told"), BAD, ids=[" ".join(words)[:60] for words, _ in BAD])
def test_mistakes_are_one_line(plan: Path, capfd: pytest.CaptureFixture[str], words: list[str], told: str) -> None:
    Path("bare.toml").write_text("[model]\nseed = 1\n")
    code = exit_code_of(partial(app, ["sweep", *words], standalone_mode=False))
    said = capfd.readouterr().err
    assert (code, said.count("\n")) == (BAD_INPUT, 1)
    assert said.startswith(f"fedspill: {told}")
    assert not list(Path().glob("fedspill-sweep*/*"))


def test_a_plan_of_a_sweep_is_no_plan_of_an_audit(plan: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(partial(app, ["audit", "plan.toml"], standalone_mode=False)) == BAD_INPUT
    assert capfd.readouterr().err == (
        "fedspill: the plan has a table [sweep], which is run by: fedspill sweep plan.toml\n"
    )


@pytest.mark.parametrize("words", [["sweep", "--help"], ["sweep", "merge", "--help"]], ids=" ".join)
def test_help_has_an_example_within_80_columns_and_imports_nothing_heavy(words: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "fedspill", *words]
    environment = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "Example" in done.stdout
    assert "fedspill sweep merge" in " ".join(done.stdout.split())
    assert max(map(len, done.stdout.splitlines())) <= 80
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "pydantic", "matplotlib", "ray", "sqlite3"}


def test_sizes_are_read() -> None:
    assert [bytes_of(text) for text in ("1B", "2 kb", "1.5GB", "500MB")] == [1, 2000, 1_500_000_000, 500_000_000]
    for text in ("", "0GB", "1", "-1GB", "1PB", "1e3MB"):
        with pytest.raises(BadInput, match="is no size"):
            bytes_of(text)


def test_the_engine_is_the_one_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"memory": None, "gpus": 0.0, "address": None}
    assert isinstance(chosen_engine("local", "cpu", workers=0, **given)(), Here)
    engine = chosen_engine("local", "cpu", workers=3, **given)()
    assert isinstance(engine, Local)
    assert (engine._most, engine._hungriest) == (3, FIRST_GUESS)
    sized = chosen_engine("local", "cpu", workers=None, **{**given, "memory": "2GB"})()
    assert isinstance(sized, Local)
    assert sized._hungriest == 2 * 10**9


def test_progress_says_what_runs_where_and_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: clock[0])
    console = Console(file=io.StringIO(), force_terminal=False, width=80)
    with TerminalFollower(console) as follower:
        follower.counts(Counts(waiting=20, running=3, done=1), 2)
        for second, done in ((10, 2), (20, 3), (40, 5)):
            clock[0] = 100.0 + second
            follower.counts(Counts(waiting=21 - done, running=3, done=done), 2)
        follower.ended("a" * 64, Outcome(state="failed", error="out of luck"))
        follower.ended("b" * 64, Outcome(state="done"))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "3 of 24 trials, 2 running, 1 in other processes, about 4 min left",
        "5 of 24 trials, 2 running, 1 in other processes, about 3 min left",
        "trial aaaaaaaaaaaa failed: out of luck",
    ]
