"""One linear layer gives one picture per class away."""

import pytest
import torch

from fedspill.attacks.logistic_regression import LogisticRegression
from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.types import Batch
from fedspill.defences.gradient_noise import GradientNoise
from tests.support.worlds import SPEC, batch, linear, mlp


def read(private: Batch, granted: bool, model: Model):
    update = local_update(model, private, FedSGD())
    known = ServerKnowledge(model, num_examples=len(private), labels=private.labels if granted else None)
    return LogisticRegression().reconstruct(update, known, stream(0, "a"))


@pytest.mark.parametrize("granted", [True, False])
def test_each_row_is_the_weighted_mean_of_eq_3(granted: bool) -> None:
    model, private = linear(40, dtype=torch.float64), batch(6, dtype=torch.float64)
    found = read(private, granted, model)
    assert found.labels.tolist() == list(range(6))
    assert found.converged
    assert set(found.marks) == {"alone"}
    z = SPEC.encode(private.inputs).flatten(1)
    delta = model.logits(model.params, SPEC.encode(private.inputs)).softmax(1) - torch.eye(40)[:6]
    wanted = (delta.T @ z)[:6] / delta.sum(0)[:6, None]
    assert torch.allclose(SPEC.decode(wanted.view(-1, *SPEC.shape)), found.inputs, atol=1e-9)
    worst = (found.inputs - private.inputs).square().flatten(1).mean(1).sqrt().max()
    assert float(worst) < 0.06


def test_examples_of_one_class_come_back_as_their_mean() -> None:
    private = batch(5, dtype=torch.float64)
    private = Batch(private.inputs, torch.full((5,), 3))
    found = read(private, True, linear(40, dtype=torch.float64))
    assert found.origins == ("class 3",)
    assert found.marks == ("mixture",)
    assert not found.converged
    assert float((found.inputs[0] - private.inputs.mean(0)).abs().max()) < 0.02


@pytest.mark.parametrize("granted", [True, False])
def test_noise_is_not_taken_for_pictures(granted: bool) -> None:
    model, private = linear(40), batch(6)
    update = GradientNoise(sigma=10.0, relative=True).noised(local_update(model, private, FedSGD()), stream(0, "noise"))
    signs = Batch(private.inputs, (update.values["1.bias"] < 0).nonzero()[:6, 0])
    known = ServerKnowledge(model, num_examples=6, labels=signs.labels if granted else None)
    found = LogisticRegression().reconstruct(update, known, stream(0, "a"))
    assert len(found.inputs) > 1
    assert not found.converged
    assert "alone" not in found.marks


def test_a_class_for_every_example_leaves_nothing_of_them() -> None:
    found = read(batch(10, dtype=torch.float64), True, linear(10, dtype=torch.float64))
    assert len(found.inputs) == 10
    assert not found.converged


def test_more_layers_are_told() -> None:
    with pytest.raises(NotApplicable, match="one linear layer with a bias is needed; this one has 3 layers"):
        read(batch(2), True, mlp())
