"""An audit that takes updates together is the audit that takes them one by one."""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from fedspill.attacks.inverting_gradients import InvertingGradients
from fedspill.auditing import parse_plan, watch
from fedspill.auditing.scheduling import schedule
from fedspill.auditing.watch import forecast_sentence
from fedspill.core.errors import BadInput
from fedspill.core.roles import UNWATCHED, Forecast, Job, Watch
from fedspill.core.types import Reconstruction
from fedspill.inversion.search.batched import BatchedSearch
from tests.support.joint_trials import BRIEF, alike, audit
from tests.support.watches import Heard, Killed


@pytest.fixture(autouse=True)
def _no_priors(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is scored without an update takes longest and is the same however the updates are taken."""
    monkeypatch.setattr(schedule, "prior_only", lambda scenario, private, seed: [])


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many jobs the attack was asked for at a time; 1 where it was asked for one."""
    sizes = list[int]()
    many, one = InvertingGradients.reconstruct_many, InvertingGradients.reconstruct

    def reconstruct_many(self, jobs: Sequence[Job], watch: Watch = UNWATCHED) -> list[Reconstruction]:
        sizes.append(len(jobs))
        return many(self, jobs, watch)

    def reconstruct(self, update, knowledge, rng, watch: Watch = UNWATCHED) -> Reconstruction:
        sizes.append(1)
        return one(self, update, knowledge, rng, watch)

    monkeypatch.setattr(InvertingGradients, "reconstruct_many", reconstruct_many)
    monkeypatch.setattr(InvertingGradients, "reconstruct", reconstruct)
    return sizes


def test_updates_at_once_give_the_records_of_one_by_one(taken: list[int]) -> None:
    seeds, heard = {"seeds": [0, 1]}, Heard()
    wanted = audit(1, n=3, settings=seeds)
    assert taken == [1] * 6
    taken.clear()
    found = audit(2, n=3, settings=seeds, listener=heard)
    assert taken == [2, 1, 2, 1]
    alike(found.report.trials, wanted.report.trials)
    for name, tensor in wanted.tensors.items():
        torch.testing.assert_close(found.tensors[name], tensor, rtol=1e-6, atol=1e-6)
    assert heard.trials == [
        "1/6 inverting_gradients-paper-steps=12.u0.s0 and 1 more",
        "3/6 inverting_gradients-paper-steps=12.u2.s0",
        "4/6 inverting_gradients-paper-steps=12.u0.s1 and 1 more",
        "6/6 inverting_gradients-paper-steps=12.u2.s1",
    ]


def test_an_attack_that_takes_one_update_at_a_time_is_asked_so(taken: list[int]) -> None:
    heard, other = Heard(), {"name": "dlg", "steps": 1, "restarts": 1}
    audit(2, n=3, settings={"attacks": [other, {**BRIEF, "steps": 1}]}, listener=heard)
    assert [t.partition(".")[2] for t in heard.trials] == ["u0.s0", "u1.s0", "u2.s0", "u0.s0 and 1 more", "u2.s0"]
    assert taken == [2, 1]


def test_time_and_forecast_are_each_ones_share() -> None:
    heard = Heard()
    began = time.perf_counter()
    trials = audit(3, listener=heard).report.trials
    assert 0 < sum(t.seconds for t in trials) < time.perf_counter() - began
    assert trials[0].seconds == trials[1].seconds == trials[2].seconds != trials[3].seconds
    assert [t.foreseen.iterations for t in trials if t.foreseen] == [12] * 5
    (message,) = heard.messages
    assert "so 36 of 3 trials at once take" in message
    assert "and 5 such trials" in message
    assert heard.steps[-1][0] <= heard.steps[-1][1]
    assert forecast_sentence(Forecast(30, 1.0, jobs=3), 6, None).endswith("take 30 s, and 6 such trials 60 s")
    assert forecast_sentence(Forecast(30, 1.0, jobs=3), 3, None).endswith("so 30 of 3 trials at once take 30 s")


def kill_in(monkeypatch: pytest.MonkeyPatch, stack: int, step: int) -> None:
    """Writes every state, and ends the process's work in that step of that stack."""
    monkeypatch.setattr(watch, "CHECKPOINT_SECONDS", 0.0)
    stacks, run_many = [0], BatchedSearch.run_many

    def counted(self, problem, rngs, watch):
        stacks[0] += 1
        return run_many(self, problem, rngs, watch)

    class Listening(Heard):
        def progress(self, done: int, total: int, objective: float) -> None:
            if stacks[0] == stack and done >= total * step / 12:
                raise Killed

    monkeypatch.setattr(BatchedSearch, "run_many", counted)
    with pytest.raises(Killed):
        audit(2, out=Path("out"), listener=Listening())


def test_a_killed_audit_goes_on_in_the_middle_of_a_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: list[int]
) -> None:
    monkeypatch.chdir(tmp_path)
    kill_in(monkeypatch, stack=2, step=6)
    held = sorted(p.name for p in Path("out/trials").glob("*.json"))
    assert [name.split(".")[1] for name in held] == ["u0", "u1"]
    (state,) = Path("out/checkpoints").iterdir()
    assert ".u2.s0.2-at-once." in state.name
    taken.clear()
    heard = Heard()
    found = audit(2, out=Path("out"), listener=heard)
    assert taken == [2, 1]
    assert any("going on from the checkpoint" in m for m in heard.messages)
    assert len(heard.steps) < 12 + 12
    alike(found.report.trials, audit(1).report.trials)
    assert not Path("out/checkpoints").exists()


def test_a_group_of_others_starts_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: list[int]) -> None:
    monkeypatch.chdir(tmp_path)
    kill_in(monkeypatch, stack=2, step=6)
    taken.clear()
    heard = Heard()
    found = audit(4, out=Path("out"), listener=heard)
    assert taken == [2, 1]  # of the first four, two were done
    assert not any("going on" in m for m in heard.messages)
    again = audit(3, out=Path("again"), listener=Heard())
    alike(found.report.trials, again.report.trials)
    assert not Path("out/checkpoints").exists()


def test_a_group_with_fewer_left_starts_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kill_in(monkeypatch, stack=2, step=6)
    heard = Heard()
    found = audit(3, out=Path("out"), listener=heard)
    assert not any("going on" in m for m in heard.messages)
    assert heard.trials[0].startswith("3/5 ")
    alike(found.report.trials, audit(1).report.trials)
    assert not Path("out/checkpoints").exists()


def test_the_budget_ends_a_group_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    long = {"attacks": [{"name": "inverting_gradients", "steps": 30}]}
    ended = audit(2, n=3, settings={**long, "budget": 0.001}, out=tmp_path / "out").report
    assert all(t.ended_by_budget for t in ended.trials)
    assert ended.verdict.exit_code == 3
    assert list((tmp_path / "out" / "checkpoints").iterdir())
    whole = audit(2, n=3, settings=long, out=tmp_path / "out").report
    alike(whole.trials, audit(1, n=3, settings=long).report.trials)
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_what_cannot_be_taken_together_is_refused() -> None:
    with pytest.raises(BadInput, match=r"'audit\.at_once': audit\.quality .* leave out one of the two \(got 3\)"):
        parse_plan({"audit": {"at_once": 3, "quality": "20dB"}})
    with pytest.raises(BadInput, match=r"'audit\.at_once'.*greater than or equal to 1"):
        parse_plan({"audit": {"at_once": 0}})
    assert parse_plan({}).audit.at_once == 1
