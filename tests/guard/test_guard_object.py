"""The guard inside a client: what it keeps between calls, what it refuses, and that no ended time is silent."""

from dataclasses import replace

import pytest
import torch

import fedspill
from fedspill import catalogue
from fedspill.auditing import exposure
from fedspill.core.errors import BadInput
from fedspill.core.local_training.update import FedAvg, FedSGD, local_update
from fedspill.core.roles import Incoming
from fedspill.core.types import Batch
from fedspill.rendering.vetting import words
from fedspill.vetting.inspection import inspected
from fedspill.vetting.own_data import fitting
from fedspill.vetting.policy import Policy
from fedspill.vetting.verdict import vetted
from tests.support.worlds import CLASSES, batch, conv_bn, relu_mlp

READ = Policy(checks=("measured_exposure", "change"))
LONG = 3600.0


@pytest.fixture
def one_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    card = catalogue.attacks()["linear_layer"]
    monkeypatch.setattr(exposure.catalogue, "attacks", lambda: {"linear_layer": card})


@pytest.mark.usefixtures("one_attack")
def test_an_update_of_one_example_is_not_to_be_sent() -> None:
    model, data = relu_mlp(), batch(1)
    guard = fedspill.Guard(READ, seconds=LONG)
    assert guard.before_training(model).alarms == ()
    done = guard.before_sending(local_update(model, data, FedSGD()), data)
    (alarm,) = done.alarms
    assert alarm.finding.rule_id == "measured_exposure.read"
    assert (done.exit_code, done.examples, done.checks) == (1, 1, ("measured_exposure",))
    assert done.seconds > 0
    assert done.memory is None or done.memory >= 0


@pytest.mark.usefixtures("one_attack")
def test_named_tensors_are_a_gradient_and_a_delta_says_so_itself() -> None:
    model, data = relu_mlp(), batch(1)
    guard = fedspill.Guard(READ, seconds=LONG)
    guard.before_training(model)
    values = local_update(model, data, FedSGD()).values
    assert guard.before_sending(values, data).alarms
    once = FedAvg(epochs=1, minibatch_size=1, lr=0.1)
    assert guard.before_sending(local_update(model, data, once), data, once).alarms


def test_the_model_of_the_round_before_is_kept() -> None:
    model = relu_mlp()
    head = model.params["5.weight"].roll(1, 0)
    guard = fedspill.Guard(READ)
    assert guard.before_training(model).compared == ()
    jumped = replace(model, params={**model.params, "5.weight": head, "5.bias": model.params["5.bias"].roll(1, 0)})
    done = guard.before_training(jumped)
    assert {j.finding.check for j in done.alarms} == {"change"}
    assert "the model of the round before" in done.compared


def test_without_the_exposure_the_update_is_not_attacked() -> None:
    guard = fedspill.Guard(exposure=False)
    guard.before_training(relu_mlp())
    done = guard.before_sending(local_update(relu_mlp(), batch(6), FedSGD()), batch(6))
    assert done.findings == ()
    assert {"isolated_gradients", "lone_examples", "dominated_gradients"} <= set(done.checks)
    assert "parallel_rows" not in done.checks


def test_time_that_ends_is_a_finding_of_every_check_that_was_not_done() -> None:
    found = inspected(Incoming(relu_mlp(), own_data=batch(4)), Policy(checks=("isolated_gradients",)), 1e-9).findings
    assert [(f.rule_id, f.where, f.severity) for f in found] == [("not_examined.time", "isolated_gradients", 1.0)]


def test_checks_of_data_are_not_run_without_any_and_that_is_said() -> None:
    done = vetted(Incoming(relu_mlp()), "net")
    assert "isolated_gradients" not in done.checks
    assert "the client's own examples" in done.missing
    assert "no data was used" in words.scope(done)
    assert words.scope(done).count("it wants the client's own data") == 1
    beside = vetted(Incoming(relu_mlp(), own_data=batch(6)), "net")
    assert "6 examples were used" in words.scope(beside)
    assert "isolated_gradients" in beside.checks
    (required,) = inspected(Incoming(relu_mlp()), Policy(checks=("change",), require=("own_data",))).findings
    assert required.rule_id == "not_examined.own_data"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (batch(2).inputs, "a fedspill.Batch"),
        (Batch(torch.rand(2, 3, 9, 9), torch.arange(2)), r"\(3, 9, 9\), the model takes \(3, 8, 8\)"),
        (Batch(torch.full((2, 3, 8, 8), torch.nan), torch.arange(2)), "NaN"),
        (Batch(batch(2).inputs, torch.tensor([0, CLASSES])), "classes are 0 to 9"),
    ],
)
def test_examples_that_do_not_fit_are_refused(data: object, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        fitting(conv_bn(), data)
    if isinstance(data, Batch):
        with pytest.raises(BadInput, match=said):
            fedspill.vet(conv_bn(), own_data=data)


def test_what_cannot_be_asked_is_refused() -> None:
    guard, update = fedspill.Guard(), local_update(relu_mlp(), batch(1), FedSGD())
    with pytest.raises(BadInput, match="before_training"):
        guard.before_sending(update, batch(1))
    guard.before_training(conv_bn())
    with pytest.raises(BadInput, match="none of the model's parameters"):
        guard.before_sending(update, batch(1))
    with pytest.raises(BadInput, match="own_data"):
        fedspill.vet(relu_mlp(), exposure=True)
    for seconds in (0, -1.0, True):
        with pytest.raises(BadInput, match="seconds"):
            fedspill.Guard(seconds=seconds)
        with pytest.raises(BadInput, match="seconds"):
            fedspill.vet(relu_mlp(), seconds=seconds)
