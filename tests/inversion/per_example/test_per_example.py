"""A bank of sub-models against the plain twin of one linear model an example, and what its gradients show."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.optimizers import Adam
from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining, aggregate_update, local_update
from fedspill.core.model import Model
from fedspill.core.probing.mean import is_mean_of_examples
from fedspill.core.rng import rand, stream
from fedspill.core.types import Batch, LossFn, Reconstruction, Update
from fedspill.inversion.per_example.bank import BIAS, OUT, SEEN, SHIFT, WEIGHT, banked
from fedspill.inversion.per_example.reading import read_bank, read_slots
from fedspill.testing.worlds import draw_weights

SPEC = ImageSpec((1, 3, 3), mean=(0.5,), std=(0.25,))
DOUBLE = torch.zeros((), dtype=torch.float64)
GAIN = 0.01


def model_of(loss_fn: LossFn = functional.cross_entropy, classes: int = 5) -> Model:
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.Sigmoid(), nn.Linear(6, classes))
    return Model.of(draw_weights(net), SPEC, loss_fn).to("cpu", torch.float64)


def sent(model: Model, slots: int = 8, *, counts: bool = False) -> Model:
    return banked(model, slots, 3, GAIN, stream(0, "server"), counts=counts)


def batch(n: int, labels: list[int] | None = None) -> Batch:
    return Batch(rand((n, *SPEC.shape), stream(1, "data"), DOUBLE), torch.tensor(labels or [i % 5 for i in range(n)]))


def read(model: Model, private: Batch, training: LocalTraining | None = None, **known: Any) -> Reconstruction:
    training = training or FedSGD()
    update = local_update(model, private, training)
    held = ServerKnowledge(model, num_examples=len(private), local_training=training)
    return read_bank(update, replace(held, **known), GAIN)


def exact(got: Tensor, private: Tensor) -> None:
    torch.testing.assert_close(got, private, rtol=0, atol=1e-9)


def test_logits_and_gradients_are_those_of_one_linear_model_an_example() -> None:
    base, private = model_of(), batch(3)
    model = sent(base, slots=2)
    z = SPEC.encode(private.inputs)
    params = {k: rand(tuple(v.shape), stream(3, k), v).requires_grad_() for k, v in model.params.items()}
    logits = model.logits(params, z)
    kept = {k.removeprefix("base."): v for k, v in params.items() if k.startswith("base.")}
    plain = [
        base.logits(kept, z[i : i + 1])[0]
        + (params[WEIGHT][s] @ (GAIN * z[i].flatten()) + params[BIAS][s] + model.buffers[SHIFT][s]) @ params[OUT]
        for i, s in enumerate((0, 1, 0))
    ]
    torch.testing.assert_close(logits, torch.stack(plain))
    got = torch.autograd.grad(functional.cross_entropy(logits, private.labels), list(params.values()))
    loss = functional.cross_entropy(torch.stack(plain), private.labels)
    torch.testing.assert_close(got, torch.autograd.grad(loss, list(params.values())))


def test_the_network_answers_nearly_as_before_and_all_can_see_that_places_matter() -> None:
    base, private = model_of(), batch(4)
    model, z = sent(base), SPEC.encode(private.inputs)
    before, after = base.logits(base.params, z), model.logits(model.params, z)
    assert 0 < float((after - before).norm()) < 0.5 * float(before.norm())
    assert is_mean_of_examples(base, private.labels)
    assert not is_mean_of_examples(model, private.labels)


@pytest.mark.parametrize("n", [1, 2, 8])
@pytest.mark.parametrize("granted", [True, False])
def test_every_example_of_a_batch_is_exact_and_certified(n: int, granted: bool) -> None:
    private = batch(n, [2] * n)
    got = read(sent(model_of()), private, num_examples=n if granted else None)
    exact(got.inputs, private.inputs)
    assert got.converged
    assert got.labels is not None
    assert got.labels.tolist() == [2] * n
    assert got.marks == ("alone",) * n
    assert got.origins[-1] == f"sub-model {n - 1}"
    assert got.confidence is not None
    assert got.confidence.tolist() == [1.0] * n


def test_local_steps_on_the_whole_batch_change_nothing() -> None:
    private, training = batch(8), FedAvg(epochs=3, lr=0.1, momentum=0.9, weight_decay=0.01)
    got = read(sent(model_of()), private, training)
    exact(got.inputs, private.inputs)
    assert got.converged
    assert got.labels is not None
    assert got.labels.tolist() == private.labels.tolist()


def test_examples_that_share_a_sub_model_are_called_a_mixture() -> None:
    private = batch(5)
    got = read(sent(model_of(), slots=4), private)
    assert got.marks == ("mixture", "alone", "alone", "alone")
    exact(got.inputs[1:], private.inputs[1:4])
    assert not got.converged
    assert got.confidence is not None
    assert got.confidence[0] < 0.2
    halves = read(sent(model_of()), batch(8), FedAvg(lr=0.1, minibatch_size=4))
    assert set(halves.marks) == {"mixture"}
    assert not halves.converged


def test_several_clients_share_sub_models_and_are_simulated_so() -> None:
    model, private = sent(model_of()), batch(4)
    z = SPEC.encode(private.inputs)
    update = aggregate_update(model, z, private.labels, FedSGD(), 2)
    assert int((update.values[BIAS].norm(dim=1) > 0).sum()) == 2
    got = read_bank(update, ServerKnowledge(model, num_clients=2, num_examples=4), GAIN)
    assert set(got.marks) == {"mixture"}
    assert not got.converged


def test_with_two_classes_rows_agree_whatever_they_saw_so_the_whole_update_decides() -> None:
    model = sent(model_of(classes=2), slots=1)
    private = Batch(batch(2).inputs, torch.tensor([1, 1]))
    mixed = read(model, private, num_examples=None)
    assert mixed.marks == ("alone",), "the rows cannot tell"
    assert not mixed.converged
    assert mixed.confidence is not None
    assert mixed.confidence[0] <= 0.5
    alone = read(model, private[:1], num_examples=None)
    exact(alone.inputs, private.inputs[:1])
    assert alone.converged


def test_places_that_are_counted_go_on_over_local_steps() -> None:
    private, training = batch(6), FedAvg(epochs=2, lr=0.01, minibatch_size=2)
    model = sent(model_of(), slots=12, counts=True)
    assert int(model.buffers[SEEN]) == 0
    got = read(model, private, training)
    assert got.marks == ("alone",) * 6 + ("duplicate",) * 6
    exact(got.inputs[:6], private.inputs)
    exact(got.inputs[6:], private.inputs)
    assert int(model.buffers[SEEN]) == 0, "what was sent stays as it is"
    assert got.confidence is not None
    assert not got.confidence[6:].any()
    one = read(model, private)
    exact(one.inputs, private.inputs)
    assert one.converged


def test_targets_that_are_no_classes_are_read_too() -> None:
    def squared(logits: Tensor, targets: Tensor) -> Tensor:
        return functional.mse_loss(logits, targets)

    model, private = sent(model_of(squared)), Batch(batch(3).inputs, rand((3, 5), stream(2, "targets"), DOUBLE))
    blind = read(model, private)
    exact(blind.inputs, private.inputs)
    told = read(model, private, labels=private.labels)
    assert told.converged
    assert told.confidence is not None
    assert told.confidence.tolist() == [1.0] * 3


def test_what_cannot_be_read_is_refused_in_one_line() -> None:
    model, private = sent(model_of()), batch(2)
    update = local_update(model, private, FedSGD())
    without = Update(update.kind, {k: v for k, v in update.values.items() if k != BIAS})
    silent = Update(update.kind, {k: torch.zeros_like(v) for k, v in update.values.items()})
    knowledge = ServerKnowledge(model, num_examples=2)
    for got, reason in ((without, "was not trained"), (silent, "no model of the bank saw an example")):
        with pytest.raises(NotApplicable, match=reason):
            read_slots(got, knowledge, GAIN)
    training = FedAvg(lr=1e-3, optimizer=Adam())
    adam = local_update(model, private, training)
    with pytest.raises(NotApplicable, match="Adam"):
        read_slots(adam, replace(knowledge, local_training=training), GAIN)
