"""Groups of updates of which not all are attacked at once: withheld, on record already, or not taken together."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from fedspill.attacks.inverting_gradients import InvertingGradients
from fedspill.auditing import trial, watch
from fedspill.auditing.scheduling import schedule
from fedspill.core.errors import NotApplicable
from fedspill.core.roles import UNWATCHED, Job, Watch
from fedspill.core.types import Reconstruction, Update
from fedspill.report.store import Store
from fedspill.report.trial import Trial
from tests.support.joint_trials import alike, audit
from tests.support.watches import Heard, Killed


@pytest.fixture(autouse=True)
def _no_priors(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `tests.auditing.test_joint_trials`."""
    monkeypatch.setattr(schedule, "prior_only", lambda scenario, private, seed: [])


LONG = {"attacks": [{"name": "inverting_gradients", "steps": 30}]}


def withhold(monkeypatch: pytest.MonkeyPatch, *updates: int) -> None:
    def answer(scenario, sent, private, task, watch) -> Update | None:
        return None if task.update in updates else answered(scenario, sent, private, task, watch)

    answered = trial._answer
    monkeypatch.setattr(trial, "_answer", answer)


def foreseen(trials: Sequence[Trial]) -> list[int | None]:
    return [None if t.foreseen is None else t.foreseen.iterations for t in trials]


def test_updates_that_are_withheld_leave_their_group(monkeypatch: pytest.MonkeyPatch) -> None:
    withhold(monkeypatch, 1)
    heard = Heard()
    trials = audit(4, n=4, listener=heard).report.trials
    assert [t.skipped is None for t in trials] == [True, False, True, True]
    assert foreseen(trials) == [12, None, 12, 12]
    (message,) = heard.messages
    assert "so 36 of 3 trials at once take" in message
    assert "such trials" not in message


def test_the_forecast_is_told_of_the_first_that_is_attacked(monkeypatch: pytest.MonkeyPatch) -> None:
    withhold(monkeypatch, 0, 1, 3)
    heard = Heard()
    trials = audit(2, n=4, listener=heard).report.trials
    assert foreseen(trials) == [None, None, 12, None]
    (message,) = heard.messages
    assert "so 12 take" in message
    assert "such trials" not in message


def test_what_is_read_without_a_search_has_no_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(self: InvertingGradients, job: Job, watch: Watch) -> object:
        begun.append(job)
        read = Reconstruction(job.knowledge.model.like.new_full((1, 3, 8, 8), 0.5), objective=(0.0,))
        return read if len(begun) == 2 else began(self, job, watch)

    begun, began = list[Job](), InvertingGradients._begin
    monkeypatch.setattr(InvertingGradients, "_begin", begin)
    heard = Heard()
    assert foreseen(audit(3, n=3, listener=heard).report.trials) == [12, None, 12]
    assert "so 24 of 2 trials at once take" in heard.messages[0]


def test_a_group_with_a_withheld_update_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    withhold(monkeypatch, 1)
    monkeypatch.setattr(schedule, "AT_LEAST", 60.0)  # slow processors take longer than it for the clients alone
    out = tmp_path / "out"
    ended = audit(4, n=4, settings={**LONG, "budget": 0.001}, out=out).report.trials
    assert [t.ended_by_budget for t in ended] == [True, False, True, True]
    (state,) = (out / "checkpoints").iterdir()
    heard = Heard()
    audit(4, n=4, settings={**LONG, "budget": 0.001}, out=out, listener=heard)
    assert heard.messages[0] == f"going on from the checkpoint {state.name}"
    assert list((out / "checkpoints").iterdir()) == [state]
    whole = audit(4, n=4, settings=LONG, out=out).report.trials
    alike(whole, audit(4, n=4, settings=LONG).report.trials)
    assert not (out / "checkpoints").exists()


@pytest.mark.parametrize("kept_before", [1, 2])
def test_a_kill_between_the_records_of_a_group_loses_nothing(
    kept_before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep(self: Store, record: Trial, tensors) -> None:
        if record.update == kept_before:
            raise Killed
        kept(self, record, tensors)

    kept = Store.keep
    monkeypatch.setattr(Store, "keep", keep)
    with pytest.raises(Killed):
        audit(3, n=3, out=tmp_path / "out")
    monkeypatch.setattr(Store, "keep", kept)
    heard = Heard()
    found = audit(3, n=3, out=tmp_path / "out", listener=heard).report.trials
    assert heard.steps == [], "all was found before"
    alike(found, audit(3, n=3).report.trials)


def test_the_state_of_other_updates_is_not_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit(3, n=3, settings={**LONG, "budget": 0.001}, out=tmp_path / "out")
    withhold(monkeypatch, 0)  # as no audit does
    heard = Heard()
    found = audit(3, n=3, settings=LONG, out=tmp_path / "out", listener=heard).report.trials
    assert heard.messages[0].endswith("is of other trials; starting anew")
    alike(found, audit(3, n=3, settings=LONG).report.trials)


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    def reconstruct_many(self, jobs: Sequence[Job], watch: Watch = UNWATCHED) -> list[Reconstruction]:
        raise NotApplicable("one of them")

    monkeypatch.setattr(InvertingGradients, "reconstruct_many", reconstruct_many)


def test_an_attack_that_does_not_fit_one_update_is_run_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch)
    heard = Heard()
    trials = audit(3, listener=heard).report.trials
    assert all(t.skipped is None for t in trials)
    assert [t.partition(" ")[0] for t in heard.trials] == ["1/5", "1/5", "2/5", "3/5", "4/5", "4/5", "5/5"]
    (message,) = heard.messages
    assert "so 12 take" in message
    assert "and 5 such trials" in message


def killed_apart(out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ends the process's work in the third of a group of four that is run one by one; gives its state."""
    monkeypatch.setattr(watch, "CHECKPOINT_SECONDS", 0.0)

    class Listening(Heard):
        def progress(self, done: int, total: int, objective: float) -> None:
            if ".u2." in self.trials[-1] and done == 6:
                raise Killed

    with pytest.raises(Killed):
        audit(4, n=4, out=out, listener=Listening())
    assert len(list((out / "trials").glob("*.json"))) == 2
    (state,) = (out / "checkpoints").iterdir()
    assert ".u2.s0.pt" in state.name
    return state


@pytest.mark.parametrize("fits", [False, True])
def test_a_group_that_is_run_one_by_one_is_kept_so(fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as own:
        refuse(own)
        if fits:  # without the one that is skipped
            withhold(own, 0)
        state = killed_apart(tmp_path / "out", own)
    if not fits:
        refuse(monkeypatch)
    heard = Heard()
    found = audit(4, n=4, out=tmp_path / "out", listener=heard).report.trials
    assert f"going on from the checkpoint {state.name}" in heard.messages
    alike(found[1:], audit(1, n=4).report.trials[1:])
    assert not (tmp_path / "out/checkpoints").exists()
