"""MixUp undone, against mixtures made by hand."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedspill.attacks.spear import CARD
from fedspill.core.knowledge import KnownDefence, ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.rng import stream
from fedspill.core.types import Batch, Reconstruction, Update
from fedspill.defences.mixup import MixUp
from fedspill.inversion.low_rank.demixing import DEPENDENT, MIXTURES, REPEATED, UNDONE, demixed
from tests.support.traps import mlp, pictures

MODEL = mlp().to("cpu", torch.float64)
N, K = 4, 2


def mixed(labels: list[int], own: float = 0.6) -> tuple[Batch, Tensor, Update]:
    """The examples, their mixtures by a circulant of known shares, and cross-entropy's gradient on soft targets."""
    batch = Batch(pictures(N).inputs.double(), torch.tensor(labels))
    shares = own * torch.eye(N, dtype=torch.float64) + (1 - own) * torch.eye(N, dtype=torch.float64).roll(1, 1)
    classes = MODEL.logits(MODEL.params, MODEL.input.encode(batch.inputs)).shape[1]
    inputs = torch.tensordot(shares, batch.inputs, 1)
    targets = shares @ torch.eye(classes, dtype=torch.float64)[batch.labels]
    return batch, inputs, local_update(MODEL, Batch(inputs, targets), FedSGD())


def told(update: Update, inputs: Tensor, defence: KnownDefence | None = KnownDefence(mixed=K)) -> Reconstruction:
    knowledge = ServerKnowledge(MODEL, 1, N, local_training=FedSGD(), defence=defence)
    return demixed(Reconstruction(inputs, marks=("unsure",) * len(inputs)), update, knowledge)


def test_every_example_is_solved_for_where_each_has_a_class_of_its_own() -> None:
    batch, inputs, update = mixed([2, 0, 3, 1])
    got = told(update, inputs[[2, 0, 1, 3]])
    assert got.labels is not None
    assert got.labels.tolist() == [0, 1, 2, 3]
    order = [batch.labels.tolist().index(c) for c in got.labels.tolist()]
    torch.testing.assert_close(got.inputs, batch.inputs[order], rtol=1e-7, atol=1e-7)
    assert (got.converged, got.notes) == (True, (UNDONE,))


def test_where_classes_repeat_it_is_said() -> None:
    _, inputs, update = mixed([2, 0, 2, 1])
    got = told(update, inputs)
    assert (torch.equal(got.inputs, inputs), got.converged, got.notes) == (True, False, (REPEATED,))


def test_mixtures_that_leave_examples_open_stay_mixtures() -> None:
    """Halves of neighbours on a ring: every second one less every other one is 0."""
    _, inputs, update = mixed([2, 0, 3, 1], own=0.5)
    got = told(update, inputs)
    assert (torch.equal(got.inputs, inputs), got.converged, got.notes) == (True, False, (DEPENDENT,))


@pytest.mark.parametrize("wrong", ["one is off", "one is missing", "the update is another"])
def test_mixtures_that_do_not_explain_the_heads_gradient_stay_mixtures(wrong: str) -> None:
    _, inputs, update = mixed([2, 0, 3, 1])
    if wrong == "one is off":
        inputs = inputs.clone()
        inputs[1] = 1 - inputs[1]
    elif wrong == "one is missing":
        inputs = inputs[:3]
    else:
        update = replace(
            update,
            values={
                k: v * torch.linspace(0.5, 1.5, len(v)).view(-1, *[1] * (v.dim() - 1)) for k, v in update.values.items()
            },
        )
    got = told(update, inputs)
    assert (torch.equal(got.inputs, inputs), got.notes) == (True, (MIXTURES,))


@pytest.mark.parametrize("defence", [None, KnownDefence()])
def test_without_mixtures_nothing_is_changed(defence: KnownDefence | None) -> None:
    _, inputs, update = mixed([2, 0, 3, 1])
    assert torch.equal(told(update, inputs, defence).inputs, inputs)
    assert told(update, inputs, defence).notes == ()


def test_spear_that_knows_of_mixup_reads_the_examples_and_one_that_does_not_reads_mixtures() -> None:
    batch = Batch(pictures(N).inputs.double(), torch.tensor([2, 0, 3, 1]))
    update = local_update(MODEL, MixUp(K)._blend(batch, MODEL, stream(0, "mixup")), FedSGD())
    errors = []
    for defence in (MixUp(K).known(MODEL), None):
        knowledge = ServerKnowledge(MODEL, 1, N, local_training=FedSGD(), defence=defence)
        got = CARD.presets["strong"].reconstruct(update, knowledge, stream(0, "attack"))
        errors.append(float(torch.cdist(batch.inputs.flatten(1), got.inputs.flatten(1)).min(1).values.max()))
    assert errors[0] < 1e-4
    assert errors[1] > 0.5
