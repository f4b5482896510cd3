"""One bin of the right size, and how often it holds one example."""

import pytest
import torch

from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.rng import stream
from fedspill.core.types import Batch
from fedspill.tamperings.one_shot import OneShot
from tests.support.imprints import read, stored
from tests.support.worlds import SPEC, batch, mlp


@pytest.mark.parametrize("sparse", [False, True])
def test_one_shot_reads_its_one_example_and_its_frequency_is_the_theory(sparse: bool) -> None:
    tampering = OneShot(expected=20, function="random", sparse=sparse)
    public = stored(3000, 1)
    tampered = tampering.tamper(mlp(), public, 0, stream(3, "server"))
    bins = tampered.readout.imprint.bins(SPEC.encode(stored(20 * 400, 7).inputs).flatten(1))[:, 0]
    hits = [(part == 0).sum() == 1 for part in bins.split(20)]
    chance = (1 - 1 / 20) ** 19
    assert abs(sum(map(int, hits)) / 400 - chance) < 4 * (chance * (1 - chance) / 400) ** 0.5
    lucky = next(i for i, hit in enumerate(hits) if hit)
    private = Batch(stored(20 * 400, 7).inputs[20 * lucky : 20 * lucky + 20], batch(20).labels)
    found, expected, exact, _ = read(tampering, mlp(), private, public=public)
    assert len(found.inputs) == 1
    assert found.converged
    assert torch.equal(exact, expected.recoverable)
    empty = next(i for i, part in enumerate(bins.split(20)) if not bool((part == 0).any()))
    private = Batch(stored(20 * 400, 7).inputs[20 * empty : 20 * empty + 20], batch(20).labels)
    found, _, _, _ = read_empty(tampering, private, public)
    assert len(found.inputs) == 0
    assert any("empty" in note for note in found.notes)


def read_empty(tampering, private: Batch, public: Batch):
    tampered = tampering.tamper(mlp(), public, 0, stream(3, "server"))
    update = local_update(tampered.model, private, FedSGD())
    return tampered.readout.reconstruct(update, ServerKnowledge(tampered.model), stream(0, "a")), None, None, None
