"""A delta of Adam is no combination of gradients: every attack of the catalogue refuses it, or searches."""

from dataclasses import replace

import pytest
import torch

from fedspill.core.errors import NotApplicable
from fedspill.core.local_training.optimizers import Adagrad, Adam, AdamW, Optimizer, RMSprop
from fedspill.core.local_training.update import FedAvg, aggregate_update, local_update
from fedspill.core.rng import stream
from fedspill.core.types import Batch, Reconstruction
from fedspill.inversion.objective.distances import DISTANCES
from fedspill.inversion.objective.matching import Matching
from fedspill.testing.components import Component
from fedspill.testing.contracts import worlds
from fedspill.testing.worlds import batch, mlp

OPTIMIZERS: list[Optimizer] = [Adam(), AdamW(), RMSprop(), Adagrad()]
SURE = 0.9
"""Confidence from which a candidate is held out as a private example."""


def assert_honest(found: Reconstruction, private: Batch) -> None:
    """What is said to be found is there."""
    if not len(found.inputs):
        return
    apart = torch.cdist(found.inputs.flatten(1).double(), private.inputs.flatten(1).double()).amin(1)
    wrong = apart > 0.05 * private.inputs[0].numel() ** 0.5
    assert not (found.converged and bool(wrong.any())), "converged on something else"
    if found.confidence is not None:
        assert not bool((wrong & (found.confidence.cpu() > SURE)).any()), "sure of something else"


@pytest.mark.fedspill_contract("reads")
@pytest.mark.parametrize("granted", [True, False], ids=["labels", "no labels"])
@pytest.mark.parametrize("n", [1, 2])
def test_nothing_is_silently_wrong_under_adam(fedspill_component: Component, n: int, granted: bool) -> None:
    searches, private = fedspill_component.card.iterative, batch(n)
    for attack, update, everything in list(worlds(fedspill_component, n))[: 2 if searches else None]:
        for optimizer in OPTIMIZERS[: 1 if searches else None]:
            training = FedAvg(lr=1e-3, trainable=tuple(update.values), optimizer=optimizer)
            sent = local_update(everything.model, private, training)
            knowledge = replace(everything, local_training=training)
            knowledge = knowledge if granted else replace(knowledge, labels=None)
            try:
                found = attack.reconstruct(sent, knowledge, stream(0, "attack"))
            except NotApplicable as reason:
                assert len(str(reason).splitlines()) == 1
                continue
            assert_honest(found, private)
            silent = not found.converged and (found.confidence is None or not bool(found.confidence.any()))
            assert searches or silent, f"{fedspill_component.name} read a delta of {type(optimizer).__name__}"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("clients", [1, 2])
def test_a_search_finds_nothing_to_better_at_the_truth(optimizer: Optimizer, clients: int) -> None:
    model, private = mlp(dtype=torch.float64), batch(4)
    z, training = model.input.encode(private.inputs.double()), FedAvg(2, 1, lr=1e-3, optimizer=optimizer)
    sent = aggregate_update(model, z, private.labels, training, clients)
    matching = Matching(model, sent, training, clients, DISTANCES["cosine"])
    assert abs(float(matching(z, private.labels))) < 1e-12
    assert float(matching(z.flip(0), private.labels)) > 1e-3
