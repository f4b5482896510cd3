"""Batches of an honest server, whole."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fedspill.attacks.softmax_disaggregation import SoftmaxDisaggregation
from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining, local_update
from fedspill.core.model import Model
from fedspill.core.rng import rand, stream
from fedspill.core.types import Batch, Reconstruction, Update
from tests.inversion.recursion.test_batches import blocks
from tests.support.worlds import SPEC, batch, conv_bn, draw_weights, linear, mlp, relu_mlp

MIXED = Batch(batch(4, dtype=torch.float64).inputs, torch.tensor([3, 8, 8, 0]))


def attacked(
    model: Model,
    private: Batch = MIXED,
    *,
    granted: bool = True,
    training: LocalTraining = FedSGD(),
    update: Update | None = None,
    count: bool = True,
) -> Reconstruction:
    known = ServerKnowledge(
        model,
        num_examples=len(private) if count else None,
        labels=private.labels if granted else None,
        local_training=training,
    )
    return SoftmaxDisaggregation(starts=4, guesses=20, rounds=0).reconstruct(
        update or local_update(model, private, training), known, stream(0, "attack")
    )


def worst(found: Reconstruction, private: Batch = MIXED) -> float:
    apart = torch.cdist(private.inputs.flatten(1), found.inputs.double().flatten(1))
    return float(apart.min(1).values.max()) / private.inputs[0].numel() ** 0.5


def check(found: Reconstruction, within: float) -> None:
    assert found.converged
    assert found.confidence is not None
    assert found.labels is not None
    assert found.confidence.tolist() == [1.0] * 4
    assert set(found.marks) == {"alone"}
    assert sorted(found.labels.tolist()) == [0, 3, 8, 8]
    assert worst(found) < within


@pytest.mark.parametrize("granted", [True, False])
@pytest.mark.parametrize("make", [relu_mlp, mlp, linear], ids=["relu", "sigmoid", "logistic regression"])
def test_a_batch_is_read_whole(make, granted: bool) -> None:
    found = attacked(make(dtype=torch.float64), granted=granted)
    check(found, 1e-4)
    assert found.label_method == (None if granted else "equations of the head")


def test_float32_is_enough() -> None:
    model, private = relu_mlp(), Batch(MIXED.inputs.float(), MIXED.labels)
    check(attacked(model, private), 1e-3)


def test_one_step_of_fedavg_is_a_gradient() -> None:
    check(attacked(relu_mlp(dtype=torch.float64), training=FedAvg(lr=0.1)), 1e-4)


def test_several_steps_of_a_protocol_that_is_not_known_are_refused() -> None:
    model = relu_mlp(dtype=torch.float64)
    update = local_update(model, MIXED, FedAvg(epochs=2, lr=0.1))
    with pytest.raises(NotApplicable, match="the protocol and the number of examples are known"):
        attacked(model, update=update)


def test_a_clipped_gradient_is_read_and_its_factor_told() -> None:
    model = relu_mlp(dtype=torch.float64)
    update = local_update(model, MIXED, FedSGD())
    clipped = Update(update.kind, {k: 0.01 * v for k, v in update.values.items()})
    found = attacked(model, update=clipped)
    check(found, 1e-4)
    assert any("0.01 times" in note for note in found.notes)


def test_the_number_of_examples_may_be_unknown() -> None:
    found = attacked(relu_mlp(dtype=torch.float64), granted=False, count=False)
    assert worst(found) < 1e-4
    assert not found.converged


def test_nothing_wrong_is_certified_under_noise() -> None:
    model = relu_mlp(dtype=torch.float64)
    update = local_update(model, MIXED, FedSGD())
    for share in (1e-4, 1e-2, 0.3):
        noised = {
            k: v + share * v.square().mean().sqrt() * (rand(tuple(v.shape), stream(1, k), v) - 0.5)
            for k, v in update.values.items()
        }
        found = attacked(model, update=Update(update.kind, noised))
        assert found.confidence is not None
        sure = found.inputs[found.confidence == 1].double().flatten(1)
        apart = torch.cdist(sure, MIXED.inputs.flatten(1)).min(1).values / 192**0.5
        assert bool((apart < 1e-2).all())


def test_behind_convolutions_it_says_how_far_it_could_read_and_makes_up_no_picture() -> None:
    # Whether the second layer's equations leave anything open hangs on rounding: processors without AVX-512 say not.
    told = r"^Features and probabilities of 4 of 4 .* inputs of [12] of 3 layers\. That"
    with pytest.raises(NotApplicable, match=told):
        attacked(conv_bn(dtype=torch.float64))


def test_a_batch_is_read_through_convolutions_and_a_residual_block() -> None:
    model, private = blocks(), MIXED[:2]
    found = attacked(model, private)
    assert found.converged
    assert set(found.marks) == {"alone"}
    assert worst(found, private) < 1e-3


def test_as_many_examples_as_classes_are_refused() -> None:
    with pytest.raises(NotApplicable, match="10 examples are behind a head of 10 classes"):
        attacked(relu_mlp(dtype=torch.float64), batch(10, dtype=torch.float64))


def test_a_loss_of_another_kind_is_refused() -> None:
    def squared(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (logits - nn.functional.one_hot(labels, 10)).square().mean()

    with pytest.raises(NotApplicable, match="the loss is another"):
        attacked(replace(relu_mlp(dtype=torch.float64), loss_fn=squared))


def test_a_network_that_begins_with_a_layer_of_many_inputs_and_smoothed_labels() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 20), nn.Tanh(), nn.Linear(20, 10))
    model = Model.of(draw_weights(net), SPEC, nn.CrossEntropyLoss(label_smoothing=0.1)).to("cpu", torch.float64)
    check(attacked(model), 1e-4)


def test_settings_that_try_nothing_are_refused() -> None:
    with pytest.raises(BadInput, match="starts=0"):
        SoftmaxDisaggregation(starts=0)
