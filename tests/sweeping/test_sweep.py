"""A whole sweep: complete, without doubles, and the same, whatever is killed and however many run it."""

import csv
import json
import os
import signal
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

import fedspill
from fedspill.core.errors import BadInput
from fedspill.report.sweep import RESULTS, Outcome
from fedspill.sweeping import exporting, running
from fedspill.sweeping.driving import Shard, parse_shard
from fedspill.sweeping.exporting import columns, csv_text, export, parquet_bytes
from fedspill.sweeping.ledger import LEDGER_FILE, Ledger
from fedspill.sweeping.merging import merge
from fedspill.sweeping.running import run_trial
from tests.support.sweeps import SMALL, TABLE, in_a_child, made_up, noted, swept


@pytest.fixture(autouse=True)
def _without_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "render", lambda rows: "<html></html>")  # its figures take longer than all the rest


def rows_of(folder: Path) -> list:
    with closing(Ledger(folder)) as ledger:
        return ledger.rows()


def results(folder: Path) -> dict:
    """Each trial's results; a trial that is there twice would be an error."""
    rows = rows_of(folder)
    found = {row.digest: [getattr(row.outcome, name) for name in RESULTS] for row in rows if row.state == "done"}
    assert len(found) == len(rows)
    return found


def wait_for(condition, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_killed_three_times_and_run_by_two_at_once_it_gives_what_it_gives_unbroken(tmp_path: Path) -> None:
    swept(tmp_path / "whole")
    folder, notes = tmp_path / "broken", tmp_path / "notes.txt"
    notes.touch()

    def begun() -> int:
        return len(notes.read_text().splitlines())

    for kill in range(3):
        child = in_a_child(lambda: swept(folder, noted(notes, 0.02)))
        wait_for(lambda seen=6 * kill + 3: begun() >= seen)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with closing(Ledger(folder)) as ledger:
        ledger.add([])
    assert 0 < sum(row.state == "done" for row in rows_of(folder)) < 24
    children = [in_a_child(lambda: swept(folder, noted(notes, 0.02))) for _ in range(2)]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    assert results(folder) == results(tmp_path / "whole")
    counted = Counter(line.split(" ", 1)[1] for line in notes.read_text().splitlines())
    assert len(counted) == 24
    assert sum(counted.values()) <= 24 + 3  # what a kill interrupted, and nothing else, was begun again
    assert len({line.split()[0] for line in notes.read_text().splitlines()}) == 5
    assert (folder / "sweep.csv").read_text() == (tmp_path / "whole" / "sweep.csv").read_text()
    assert not list(folder.glob("*.partial")) + list(folder.glob(".*"))


def test_what_is_done_is_not_run_again(tmp_path: Path) -> None:
    def never(plan: str, device: str) -> Outcome:
        raise AssertionError

    first = swept(tmp_path)
    again = swept(tmp_path, never)
    assert (first.counts, first.others) == (again.counts, again.others) == (again.counts, 0)
    more = {**TABLE, "sweep": {"model": {"seed": [0, 99]}}}
    grown = swept(tmp_path, table=more)
    assert (grown.counts.done, grown.others) == (2, 23)
    assert len(rows_of(tmp_path)) == 25
    fresh = swept(tmp_path, table=more, fresh=True)
    assert (fresh.counts.done, fresh.others) == (2, 0)


def test_an_interrupted_sweep_gives_its_trial_back(tmp_path: Path) -> None:
    def interrupts(plan: str, device: str) -> Outcome:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        swept(tmp_path, interrupts)
    assert {row.state for row in rows_of(tmp_path)} == {"waiting"}


def test_what_failed_is_run_again_on_request_alone(tmp_path: Path) -> None:
    def fails(plan: str, device: str) -> Outcome:
        bad = json.loads(plan)["model"]["seed"] == 3
        return Outcome(state="failed", error="out of luck") if bad else made_up(plan, device)

    assert swept(tmp_path, fails).counts.failed == 2
    assert swept(tmp_path).counts.failed == 2
    counts = swept(tmp_path, retry=True).counts
    assert (counts.failed, counts.done) == (0, 24)


def test_a_row_is_the_audit_that_it_names() -> None:
    for place, seed in ((0, 0), (1, 1)):
        defence = SMALL["sweep"]["defences"][place]
        table = {k: v for k, v in SMALL.items() if k != "sweep"}
        table = {**table, "defences": defence, "model": {**table["model"], "seed": seed}}
        outcome, report = run_trial(json.dumps(table), "cpu"), fedspill.audit(table, device="cpu").report
        values = [v for trial in report.trials for score in trial.scores for v in score.values]
        assert len(values) == 2
        assert outcome.worst == max(values)
        assert outcome.mean == outcome.guessed == outcome.median == pytest.approx(sum(values) / 2, rel=1e-12)
        assert (outcome.leaked, outcome.examples) == (report.leakage_rate.hits, report.leakage_rate.n)
        assert (outcome.verdict, outcome.timed, outcome.scored) == (report.verdict.name.value, 0, 2)
        assert (outcome.metric, outcome.unit, outcome.epsilon) == ("psnr", "dB", None)
        assert (outcome.fedspill, outcome.device) == (fedspill.__version__, "cpu")
        assert outcome.seconds > 0


def test_what_was_not_rebuilt_counts_as_a_guess_in_the_mean_over_all() -> None:
    table = {k: v for k, v in TABLE.items() if k != "sweep"} | {"audit": {"attacks": ["nex"], "metrics": ["psnr"]}}
    table |= {"model": {"name": "mlp", "hidden": [4]}, "client": {"num_examples": 2}}
    outcome, report = run_trial(json.dumps(table), "cpu"), fedspill.audit(table, device="cpu").report
    (trial,) = report.trials
    (read,), (blank,) = trial.scores, trial.baselines[0].scores
    assert None in read.values
    expected = [guess if value is None else value for value, guess in zip(read.values, blank.values, strict=True)]
    assert outcome.guessed == pytest.approx(sum(expected) / len(expected))
    assert outcome.scored < len(expected)


def test_a_proven_epsilon_is_in_the_row() -> None:
    private = {"name": "local_dp", "clip": 1.0, "epsilon": 8.0}
    table = {k: v for k, v in TABLE.items() if k != "sweep"} | {"defences": [private]}
    outcome = run_trial(json.dumps(table), "cpu")
    assert outcome.epsilon == pytest.approx(8.0)
    assert 0 < (outcome.delta or 0) < 1


@pytest.mark.parametrize(
    ("change", "state", "words"),
    [
        ({"model": {"name": "mlp", "weights": "none.safetensors"}}, "refused", "none.safetensors"),
        ({"data": {"name": "photos", "indices": "0:1"}, "client": {"num_examples": 2}}, "refused", "2"),
        ({"model": {"name": "tests.sweeping.test_sweep:broken"}}, "refused", "a network of nobody"),
    ],
)
def test_what_cannot_be_run_is_a_row_with_its_reason(change: dict, state: str, words: str) -> None:
    table = {k: v for k, v in TABLE.items() if k != "sweep"} | change
    outcome = run_trial(json.dumps(table), "cpu")
    assert outcome.state == state
    assert words in (outcome.error or "")


def test_a_defect_is_a_row_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args, **given):
        raise RuntimeError("shapes\nof nobody " + "x" * 1000)

    monkeypatch.setattr(running, "run_audit", fails)
    outcome = run_trial(json.dumps({k: v for k, v in TABLE.items() if k != "sweep"}), "cpu")
    assert outcome.state == "failed"
    assert (outcome.error or "").startswith("RuntimeError: shapes of nobody xxx")
    assert len(outcome.error or "") == 500


def broken() -> None:
    raise RuntimeError("a network of nobody")


def test_refused_combinations_are_rows_beside_the_others(tmp_path: Path) -> None:
    table = {**TABLE, "sweep": {"client": {"protocol": ["fedsgd", "fedavg"], "epochs": [2]}}}
    assert swept(tmp_path, table=table).counts.refused == 1
    refused, done = rows_of(tmp_path)
    assert (refused.state, done.state, refused.attack) == ("refused", "done", "?")
    assert "use 'fedavg'" in refused.outcome.error


def test_shards_hold_every_trial_once_and_merge_to_the_whole(tmp_path: Path) -> None:
    swept(tmp_path / "whole")
    parts = [tmp_path / f"part{k}" for k in (1, 2, 3)]
    counts = [swept(folder, shard=Shard(k + 1, 3)).counts for k, folder in enumerate(parts)]
    assert [c.done for c in counts] == [8, 8, 8]
    before = [(folder / LEDGER_FILE).read_bytes() for folder in parts]
    merged = merge([*parts, parts[0]], tmp_path / "all")
    assert (merged.counts.done, merged.counts.total, merged.differing) == (24, 24, 0)
    assert results(tmp_path / "all") == results(tmp_path / "whole")
    assert (tmp_path / "all" / "sweep.csv").read_text() == (tmp_path / "whole" / "sweep.csv").read_text()
    assert [(folder / LEDGER_FILE).read_bytes() for folder in parts] == before
    with pytest.raises(BadInput, match="merged into itself"):
        merge([parts[0]], parts[0])


def test_merging_prefers_what_is_done_and_counts_what_differs(tmp_path: Path) -> None:
    def otherwise(plan: str, device: str) -> Outcome:
        value = made_up(plan, device)
        seed = json.loads(plan)["model"]["seed"]
        if seed == 2:
            return Outcome(state="failed", error="here only")
        changed = {0: {"worst": 5.0}, 1: {"worst": 5.0, "timed": 1}}.get(seed, {})
        return value.model_copy(update=changed)

    swept(tmp_path / "a", otherwise)
    swept(tmp_path / "b")
    merged = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    assert (merged.counts.done, merged.differing) == (24, 2)
    first = [row for row in rows_of(tmp_path / "all") if row.values["model.seed"] == 0]
    assert {row.outcome.worst for row in first} == {5.0}


def test_a_merged_folder_is_gone_on_with(tmp_path: Path) -> None:
    def interrupts(plan: str, device: str) -> Outcome:
        if json.loads(plan)["model"]["seed"] == 6:
            raise KeyboardInterrupt
        return made_up(plan, device)

    with pytest.raises(KeyboardInterrupt):
        swept(tmp_path / "a", interrupts)
    merged = merge([tmp_path / "a"], tmp_path / "all")
    assert (merged.counts.done, merged.counts.waiting) == (12, 12)
    assert swept(tmp_path / "all").counts.done == 24


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "1/0", "a/b", "-1/3", "1/9999999999"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="write i/n"):
        parse_shard(text)
    assert parse_shard("3/8") == Shard(3, 8)


def test_a_shard_without_trials_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="fewer trials than shards"):
        swept(tmp_path, shard=Shard(25, 25))


def test_columns_are_of_one_type_and_the_csv_reads_back(tmp_path: Path) -> None:
    varied = {"model": {"seed": [0, 1], "width": [1, 2.5]}, "defences": [[], ["clipping"]], "model.mode": ["eval"]}
    swept(tmp_path, table={**TABLE, "sweep": varied})
    rows = rows_of(tmp_path)
    table = columns(rows)
    assert table["model.width"][:4] == [1.0, 1.0, 2.5, 2.5]
    assert table["defences"][:2] == ["[]", '["clipping"]']
    assert table["model.seed"] == [0] * 4 + [1] * 4
    assert set(table["model.mode"]) == {"eval"}
    read = list(csv.DictReader((tmp_path / "sweep.csv").read_text().splitlines()))
    assert [r["digest"] for r in read] == table["digest"]
    assert [float(r["worst"]) for r in read] == table["worst"]
    assert csv_text(table) == (tmp_path / "sweep.csv").read_text()


def test_parquet_holds_the_same_columns(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    swept(tmp_path)
    read = parquet.read_table(tmp_path / "sweep.parquet").to_pydict()
    assert read == columns(rows_of(tmp_path))


def test_without_pyarrow_the_other_views_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedspill.sweeping.exporting.PARQUET_LIBRARY", "a_library_of_nobody")
    assert parquet_bytes({"a": [1]}) is None
    assert [path.name for path in export(tmp_path, [])] == ["sweep.csv", "sweep.html"]
