"""A budget is shared out by what gains most, planned for, and kept; what it left out is named."""

import math
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fedspill
from fedspill.auditing import parse_plan, trial
from fedspill.auditing.judge import judge
from fedspill.auditing.resolving.scenario import prepare
from fedspill.auditing.scheduling.schedule import is_certain
from fedspill.auditing.scheduling.shares import FIRST, hopeless, in_turn, is_fully_connected, refuses, share
from fedspill.auditing.trial import Task
from fedspill.auditing.watch import Silent, TrialWatch
from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import rand, seeded_globals, stream
from fedspill.core.types import Reconstruction
from fedspill.core.watching.clock import unhurried, until
from fedspill.report.trial import Trial
from fedspill.zoo.data import from_tensors
from fedspill.zoo.models import of_module
from tests.support.audits import EXACT, audit
from tests.support.watches import Heard
from tests.support.worlds import batch, conv_bn

CPU = torch.device("cpu")
POOL = from_tensors(rand((1, 3, 8, 8), stream(0, "pool"), torch.zeros(())), torch.tensor([3]))


def tasks_of(attacks: list[str], updates: int = 3, seeds: tuple[int, ...] = (0,)) -> list[Task]:
    table = {
        "audit": {"attacks": attacks},
        "model": {"name": "mlp"},
        "data": {"name": "photos", "indices": f"0:{updates}", "size": 8},
    }
    scenario = prepare(parse_plan(table), CPU)
    return [Task(world, u, s) for world in scenario.worlds for u in range(updates) for s in seeds]


def test_standard_takes_closed_forms_first_and_every_update_gets_a_first_answer() -> None:
    turns = in_turn(tasks_of(["standard"]))
    names = [task.world.name for task in turns]
    assert list(dict.fromkeys(names)) == [
        "dager",
        "imprint_bins",
        "linear_layer",
        "logistic_regression",
        "softmax_disaggregation",
        "spear",
        "nex",
        "tableak",
        "disaggregated_inversion",
        "cocktail_party",
        "inverting_gradients",
        "idlg",
        "dlg",
        "gias",
        "grad_inversion",
        "rgap",
    ]
    assert [task.update for task in turns] == [0, 1, 2] * 16


def test_fully_connected_networks_have_an_order_of_their_own() -> None:
    turns = in_turn(tasks_of(["standard"], 1), fully_connected=True)
    assert [t.world.name for t in turns][6:] == [
        "nex",
        "tableak",
        "disaggregated_inversion",
        "cocktail_party",
        "idlg",
        "inverting_gradients",
        "rgap",
        "dlg",
        "gias",
        "grad_inversion",
    ]
    assert is_fully_connected(nn.Sequential(nn.Flatten(), nn.Linear(8, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 2)))
    assert not is_fully_connected(conv_bn().module)
    assert not is_fully_connected(nn.Sequential(nn.Embedding(4, 2), nn.Linear(2, 4)))
    assert not is_fully_connected(nn.Flatten())


def test_named_attacks_share_equally_and_keep_their_order() -> None:
    tasks = tasks_of(["dlg:quick", "inverting_gradients:quick"])
    assert in_turn(tasks) == tasks
    assert share(1, tasks) == pytest.approx(1 / 6)
    assert share(3, tasks[3:]) == 1


def test_the_first_search_gets_the_most_and_the_last_gets_all_that_is_left() -> None:
    turns = in_turn(tasks_of(["standard"]))
    first = next(i for i, task in enumerate(turns) if task.world.name == "inverting_gradients")
    assert share(3, turns[first:]) == pytest.approx(FIRST)
    assert share(1, turns[first:]) == pytest.approx(FIRST / 3)
    # What one of several updates leaves goes to the next of the same attack.
    assert share(1, turns[first + 2 :]) == pytest.approx(FIRST)
    assert share(1, turns[-1:]) == 1
    left = 1.0
    for i in range(len(turns)):
        taken = left * share(1, turns[i:])
        assert 0 < taken <= left
        left -= taken
    assert left == pytest.approx(0)


def test_standard_takes_the_strongest_presets_and_its_number_stands_in_the_report() -> None:
    assert {t.world.label for t in tasks_of(["standard"], 1)} >= {"inverting_gradients:strong", "dlg:paper"}
    assert {t.world.label for t in tasks_of(["standard:paper"], 1)} >= {"inverting_gradients:paper"}
    read = parse_plan({"audit": {"attacks": ["standard"]}})
    assert read == parse_plan({"audit": {"attacks": ["standard:2"]}})
    assert read.model_dump(mode="json")["audit"]["attacks"] == [{"name": "standard", "preset": "2"}]
    with pytest.raises(BadInput, match="'standard' has 2, paper, quick, strong"):
        tasks_of(["standard:best"], 1)


def watch(left: float) -> TrialWatch:
    return TrialWatch(Silent(), deadline=time.monotonic() + left, fits=True)


def test_a_search_is_planned_for_what_its_time_allows() -> None:
    assert watch(1000).planned(480, 2, 1.0) == (480, 2)
    assert watch(700.5).planned(480, 2, 1.0) == (480, 1)
    shorter = watch(100.5)
    assert shorter.planned(480, 1, 1.0) == (100, 1)
    assert shorter.plan is not None
    assert "fewer than the 480 iterations of its preset" in shorter.plan
    # Asked again in the midst, nothing is too short to be gone on with.
    shorter.deadline = time.monotonic() + 2.5
    assert shorter.planned(60, 1, 1.0) == (2, 1)
    assert not shorter.out_of_time()
    assert shorter.useless is None
    assert TrialWatch(Silent()).planned(480, 2, 1e9) == (480, 2)


def test_a_search_that_could_make_no_useful_share_is_given_up_and_says_what_it_needs() -> None:
    useless = watch(20)
    useless.planned(480, 1, 1.0)
    assert useless.out_of_time()
    assert useless.useless is not None
    assert "48 of 480 iterations" in useless.useless
    assert "48 s" in useless.useless


def test_searches_that_cannot_be_of_use_leave_their_share_to_those_that_can() -> None:
    turns = in_turn(tasks_of(["standard"], 1))
    coming = turns[next(i for i, task in enumerate(turns) if task.world.name == "inverting_gradients") :]
    # A tenth of 480 evaluations in 48 s: one takes a second, a tenth of 300 iterations of L-BFGS 30 * 21 of them.
    assert hopeless(coming, 48.0, 629.0) == {"idlg:paper": pytest.approx(630), "dlg:paper": pytest.approx(630)}
    assert hopeless(coming, 48.0, 631.0) == {}
    turns = in_turn(tasks_of(["standard"], 2))
    coming = turns[next(i for i, task in enumerate(turns) if task.world.name == "inverting_gradients") :]
    assert hopeless(coming, 48.0, 1259.0).keys() == {"idlg:paper", "dlg:paper"}
    taking = watch(100)
    taking.share, taking.more = 100.0, lambda useful: useful
    assert taking.planned(480, 1, 1.0)[0] in (147, 148)
    assert taking.share == 148
    # What gives up even a single evaluation waits as much longer, though the attack runs already.
    taking = watch(1)
    taking.share, taking.hard, taking.more = 1.0, time.monotonic() - 1, lambda useful: 1000.0
    with until(taking.last_moment):
        with unhurried():
            taking.planned(480, 1, 1.0)
        torch.zeros(1) + 1


def test_no_time_is_kept_for_what_refuses_so_many_examples() -> None:
    tasks = {task.world.name: task for task in tasks_of(["standard"], 1)}
    assert refuses(tasks["rgap"], 8)
    assert not refuses(tasks["rgap"], 1)
    assert not refuses(tasks["rgap"], None), "it may be one"
    assert not refuses(tasks["inverting_gradients"], 8)


def test_where_no_search_can_be_of_use_the_first_one_runs_and_says_that_it_is_short() -> None:
    last = watch(20.5)
    last.alone = True
    assert last.planned(480, 1, 1.0) == (20, 1)
    assert last.useless is None
    assert last.poor == pytest.approx(20 / 480)
    shortest = watch(3.5)
    shortest.alone = True
    shortest.planned(480, 1, 1.0)
    assert shortest.useless is not None


class Slow(nn.Module):
    """A network of many operations."""

    def __init__(self, links: int) -> None:
        super().__init__()
        self.first, self.links, self.calls = nn.Linear(192, 8), links, 0
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.flatten(1))
        for _ in range(self.links):
            h = (h * 1.0001).tanh()
        return self.head(h)


def slow(links: int = 3) -> Model:
    with seeded_globals(stream(0, "slow")):
        return of_module(Slow(links), ImageSpec((3, 8, 8)), training=False)


def test_what_the_budget_ended_a_larger_one_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"audit": {"attacks": ["standard"], "budget": 0.001, "metrics": ["psnr"], "leak_threshold": {"psnr": 99.0}}}
    table["client"] = {"num_examples": 4}  # as many as classes, so that nothing is read without a search
    report = audit(table, n=4, model=slow(), out=tmp_path / "out").report
    searches = {t.attack: t for t in report.trials if t.attack in ("inverting_gradients", "idlg", "dlg")}
    assert all(t.ended_by_budget for t in searches.values())
    larger = {**table, "audit": {**table["audit"], "budget": "none"}}
    monkeypatch.setattr(TrialWatch, "planned", lambda self, steps, restarts, seconds: (3, 1))
    again = audit(larger, n=4, model=slow(), out=tmp_path / "out").report
    assert not any(t.ended_by_budget for t in again.trials)
    assert {t.attack: t.iterations for t in again.trials if t.attack in searches} == dict.fromkeys(searches, 3)


def certain(**changes: object) -> Trial:
    values = {
        "name": "a",
        "attack": "a",
        "preset": "paper",
        "title": "A",
        "role": "honest-but-curious",
        "seed": 0,
        "update": 0,
        "examples": [0, 1],
        "converged": True,
        "confidence": [1.0, 0.9999],
    }
    return Trial.model_validate(values | changes)


def test_only_what_was_read_whole_without_a_search_is_certain() -> None:
    assert is_certain(certain())
    assert not is_certain(certain(confidence=[1.0, 0.9]))
    assert not is_certain(certain(confidence=[1.0]))
    assert not is_certain(certain(iterations=20))
    assert not is_certain(certain(converged=False))
    assert not is_certain(certain(skipped="no"))


def test_what_was_read_exactly_is_not_searched_for() -> None:
    listener = Heard()
    report = audit(
        {"audit": {"attacks": ["standard"], "budget": "60s", "metrics": ["psnr"]}}, n=1, listener=listener
    ).report
    by_name = {t.attack: t for t in report.trials}
    assert by_name["linear_layer"].skipped is None
    assert (by_name["inverting_gradients"].skipped or "").startswith("not needed: linear_layer:strong has read every")
    assert any("1 of 1 examples leaked so far (linear_layer:strong)" in m for m in listener.results)


def test_without_a_budget_it_is_ten_minutes() -> None:
    listener = Heard()
    assert audit({"audit": EXACT}, n=1, listener=listener).report.plan["audit"]["budget"] == 600
    assert listener.results[0].startswith("no budget was set: 10 min")
    endless = parse_plan({"audit": {**EXACT, "budget": "none"}})
    assert endless.audit.budget == math.inf
    assert prepare(endless, CPU, model=conv_bn(), pool=POOL).limits.budget is None


def test_clients_answer_once_for_all_attacks_on_the_honest_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, collect = list[int](), trial.collect
    monkeypatch.setattr(trial, "collect", lambda *given: asked.append(1) or collect(*given))
    attacks = ["linear_layer", {"name": "inverting_gradients", "steps": 2}, {"name": "idlg", "steps": 1, "restarts": 1}]
    audit({"audit": {"attacks": attacks, "metrics": ["psnr"]}}, n=2)
    assert len(asked) == 2


def test_a_captured_update_whose_budget_ends_in_the_first_evaluation_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fedspill.core.watching.clock.LONG", 0.0)
    model, private = conv_bn(), batch(2)
    update = local_update(model, private, FedSGD())
    with pytest.raises(BadInput, match="ended before 'inverting_gradients:paper' had a first result; give more time"):
        fedspill.attack(update, model, num_examples=2, attack="inverting_gradients:paper", budget=1e-6, device="cpu")


def test_what_is_recognisable_is_not_asked_after_the_time_is_up() -> None:
    scenario = prepare(parse_plan({"audit": {"metrics": ["psnr"]}}), CPU, model=conv_bn(), pool=POOL)
    private = scenario.private(0)
    blurred = Reconstruction(0.5 * private.inputs + 0.25)
    asked, late = (judge(scenario, blurred, private, hard=hard) for hard in (None, time.monotonic() - 1))
    assert (asked.cut, late.cut, late.recognisable) == (False, True, None)
    assert asked.recognisable is not None
    assert [s.values for s in asked.scores] == [s.values for s in late.scores]
