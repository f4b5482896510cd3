"""Inverting Gradients with the analytic part, as users run it."""

import time
from dataclasses import replace

import pytest
import torch

from fedspill.attacks.inverting_gradients import CARD, InvertingGradients
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.rng import randn, stream
from fedspill.core.settings import with_fields
from fedspill.core.types import Batch, Reconstruction
from fedspill.core.watching.clock import OutOfTime, until
from fedspill.inversion.matching import recursive_reading
from fedspill.zoo import models

STRONG = CARD.presets["strong"]
assert isinstance(STRONG, InvertingGradients)
SHORT = with_fields(STRONG, steps=3)


def attacked(
    network: str, count: int, *, noise: float = 0.0, attack: InvertingGradients = SHORT
) -> tuple[Batch, Reconstruction]:
    model = models.build(network, input_shape=(3, 16, 16), num_classes=10)
    images = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    private = Batch(images, torch.arange(count))
    update = local_update(model, private, FedSGD())
    noisy = {k: v + noise * v.abs().max() * randn(v.shape, stream(0, k), v) for k, v in update.values.items()}
    knowledge = ServerKnowledge(model, num_examples=count, labels=private.labels)
    return private, attack.reconstruct(replace(update, values=noisy), knowledge, stream(0, "test"))


def test_a_sigmoid_network_needs_no_search() -> None:
    private, found = attacked("lenet", 1)
    assert float((found.inputs - private.inputs).pow(2).mean()) < 1e-5  # 50 dB
    assert found.converged
    assert len(found.objective) == 1
    assert any("layer by layer" in note for note in found.notes)


def test_a_residual_network_needs_no_search() -> None:
    private, found = attacked("resnet18", 1)
    assert float((found.inputs - private.inputs).pow(2).mean()) < 1e-4  # 40 dB
    assert len(found.objective) == 1


@pytest.mark.parametrize(("count", "noise", "note"), [(2, 0.0, "single example"), (1, 0.1, "no layer's input")])
def test_what_cannot_be_read_is_searched(count: int, noise: float, note: str) -> None:
    _, found = attacked("lenet", count, noise=noise)
    assert len(found.objective) == SHORT.search.steps + 1
    assert any(note in n for n in found.notes)


def test_known_activations_are_a_part_of_the_objective() -> None:
    _, without = attacked("resnet20", 1, attack=replace(SHORT, analytic=False))
    _, found = attacked("resnet20", 1)
    assert len(found.objective) == SHORT.search.steps + 1
    assert found.objective[0] > without.objective[0]


def test_several_examples_of_one_class_are_not_taken_for_one() -> None:
    """Their mean features look like those of one example, so that only a proven picture may rule them out."""
    model = models.build("lenet", input_shape=(3, 16, 16), num_classes=10)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    update = local_update(model, Batch(images, torch.tensor([3, 3])), FedSGD())
    found = {
        a: replace(SHORT, analytic=a).reconstruct(update, ServerKnowledge(model), stream(0, "test"))
        for a in (False, True)
    }
    assert len(found[True].inputs) == len(found[False].inputs)
    assert torch.equal(found[True].inputs, found[False].inputs)
    assert recursive_reading.UNPROVEN in found[True].notes


def test_nothing_in_the_analytic_part_ends_an_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("singular")

    monkeypatch.setattr(recursive_reading, "known_activations", broken)
    _, found = attacked("lenet", 1)
    assert len(found.objective) == SHORT.search.steps + 1
    assert any("RuntimeError: singular" in note for note in found.notes)


def test_the_analytic_part_leaves_time_to_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recursive_reading, "READING", 0.0)
    with until(time.monotonic() + 1000):
        _, ended_between = attacked("resnet18", 1)
        monkeypatch.setattr(recursive_reading, "LEEWAY", 0.0)
        _, ended_at_once = attacked("resnet18", 1)
    for found in (ended_between, ended_at_once):
        assert len(found.objective) == SHORT.search.steps + 1
    assert recursive_reading.CUT in ended_at_once.notes
    with until(time.monotonic() + 1000):  # half of this suffices
        monkeypatch.undo()
        _, read = attacked("lenet", 1)
    assert len(read.objective) == 1


def test_where_all_time_is_up_the_analytic_part_does_not_hide_it() -> None:
    with pytest.raises(OutOfTime), until(time.monotonic()):
        attacked("lenet", 1)
