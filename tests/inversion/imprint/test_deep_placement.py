"""An imprint module deep inside a ResNet reads what a transparent front hands on."""

import pytest
import torch

from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.rng import rand, stream
from fedspill.core.types import Batch
from fedspill.inversion.imprint.making import Bins
from fedspill.inversion.network.layers import layer_inputs
from fedspill.tamperings.robbing_the_fed import Placement, RobbingTheFed
from fedspill.zoo.models import build


def smooth(n: int, seed: int) -> Batch:
    """Smooth pictures, of which few pixels tell much."""
    coarse = rand((n, 3, 4, 4), stream(seed, "deep"), torch.zeros(()))
    images = torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic", align_corners=False).clamp(0, 1)
    return Batch(images, torch.arange(n) % 10)


@pytest.mark.parametrize("bypass", ["shift", "remove"])
@pytest.mark.parametrize(("lanes", "worst"), [("three", 15.0), ("all", 60.0)])
def test_whoever_is_alone_is_read_at_the_resolution_that_is_left(lanes: str, worst: float, bypass: str) -> None:
    model = build("resnet18", input_shape=(3, 32, 32), num_classes=10, options={"width": 16})
    private, public = smooth(12, 0), smooth(300, 1)
    tampering = RobbingTheFed(
        Bins(40, ("random",), cutoffs="auto"), place=Placement(at="layer3", lanes=lanes, bypass=bypass)
    )
    tampered = tampering.tamper(model, public, 0, stream(0, "server"))
    kept = [
        k for k, v in model.params.items() if k in tampered.model.params and torch.equal(v, tampered.model.params[k])
    ]
    assert "fc.weight" in kept
    assert "conv1.weight" not in kept
    update = local_update(tampered.model, private, FedSGD())
    known = ServerKnowledge(tampered.model, num_examples=12)
    found = tampered.readout.reconstruct(update, known, stream(0, "attack"))
    z = model.input.encode(private.inputs)
    bins = tampered.readout.imprint.bins(layer_inputs(tampered.model, "layer3", z).flatten(1))[:, 0]
    alone = (bins[:, None] == bins).sum(1) == 1
    assert int(alone.sum()) > 4
    gap = torch.cdist(found.inputs.flatten(1), private.inputs.flatten(1)) / 3072**0.5
    psnr = -20 * gap.amin(0)[alone].log10()
    assert float(psnr.min()) > worst
    assert not bool(tampered.readout.predict(tampered.model, z).recoverable.any()), "no exactness is promised"
