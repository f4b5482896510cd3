"""What both sides of `imprint_peer` are given, and fedspill's own side."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common.cpu_torchvision import DECLARED
from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import Predicts
from fedspill.core.types import Batch
from fedspill.inversion.imprint.making import Bins
from fedspill.inversion.imprint.measurement import Cutoffs
from fedspill.scoring.metrics import PSNR
from fedspill.scoring.score import score_all
from fedspill.tamperings.robbing_the_fed import RobbingTheFed
from fedspill.zoo import data, models

TORCHVISION = DECLARED
"""Kept alive."""
EXACT = 60.0
"""PSNR in dB from which an image counts as exact: an error of a quarter of one of 255 levels."""
EXAMPLES = 64
DRAWS = 12


@dataclass(frozen=True)
class Case:
    """Where images come from, and how large the attack is.

    Attributes:
        data: as in `fedspill.zoo.data.load`.
        classes: of the network's head.
        rows: of the imprint module.
        peer_data: name of the peer's data configuration.
    """

    data: str
    stem: str
    classes: int
    rows: int
    peer_data: str


CASES = {
    "cifar": Case("cifar10", "cifar", 10, 300, "CIFAR10"),
    "imagenet": Case("folder:imagenet128", "imagenet", 1000, 128, "ImageNet"),
}


@dataclass(frozen=True)
class Variant:
    """One linear function with its cutoffs, in both tools' words."""

    function: str
    cutoffs: Cutoffs
    peer_function: str
    peer_mode: int = 0


VARIANTS = {
    "mean/normal": Variant("mean", "normal", "avg"),
    "DCT32/Laplace": Variant("dct:32", "laplace", "fourier", 32),
    "random/normal": Variant("random", "normal", "randn"),
}


@dataclass(frozen=True)
class World:
    """The honest network and the private images; the same for both sides."""

    case: Case
    model: Model
    spec: ImageSpec
    private: Batch
    seed: int


@dataclass(frozen=True)
class Run:
    """One attack from the honest network to images.

    Attributes:
        rebuilt: candidates as pixels in [0, 1], at most as many as examples, on the CPU.
        update: seconds of the client's gradient.
        readout: seconds from the gradient to pixels.
        whole: seconds of all, with planting.
    """

    rebuilt: Tensor
    update: float
    readout: float
    whole: float


def world(name: str, seed: int) -> World:
    """A seeded choice of images, and untrained weights of the same seed."""
    case = CASES[name]
    everything = data.load(case.data)
    batch = everything.batch
    chosen = torch.randperm(len(batch), generator=stream(seed, "pictures"))[:EXAMPLES]
    private = Batch(batch.inputs[chosen].clone(), batch.labels[chosen].clone())
    c, h, w = private.inputs.shape[1:]
    large = case.stem == "imagenet"
    model = models.build(
        "resnet18",
        input_shape=(c, h, w),
        num_classes=case.classes,
        seed=seed,
        options={"stem": case.stem, "normalise": "imagenet"} if large else {"stem": case.stem},
        mean=everything.mean,
        std=everything.std,
    )
    assert isinstance(model.input, ImageSpec)
    return World(case, model, model.input, private, seed)


def fedspill_run(given: World, variant: Variant) -> Run:
    """fedspill: plants, computes the gradient, reads."""
    tampering = RobbingTheFed(Bins(given.case.rows, (variant.function,), cutoffs=variant.cutoffs))
    start = time.perf_counter()
    tampered = tampering.tamper(given.model, None, 0, stream(given.seed, "server"))
    assert tampered.readout is not None
    planted = time.perf_counter()
    update = local_update(tampered.model, given.private, FedSGD())
    sent = time.perf_counter()
    known = ServerKnowledge(tampered.model, num_examples=len(given.private), local_training=FedSGD())
    found = tampered.readout.reconstruct(update, known, stream(given.seed, "attack"))
    read = time.perf_counter()
    assert found.confidence is not None
    # The peer keeps as many candidates as there are examples; so do we, the surest.
    best = found.confidence.argsort(descending=True, stable=True)[: len(given.private)]
    return Run(found.inputs[best], sent - planted, read - sent, read - start)


def predicted(given: World, variant: Variant) -> list[int]:
    """Images alone in a bin by the measurement itself, for several draws of a random vector."""
    z, counts = given.spec.encode(given.private.inputs), list[int]()
    for draw in range(DRAWS):
        tampering = RobbingTheFed(Bins(given.case.rows, (variant.function,), cutoffs=variant.cutoffs))
        tampered = tampering.tamper(given.model, None, 0, stream(draw, "server"))
        assert isinstance(tampered.readout, Predicts)
        counts.append(int(tampered.readout.predict(tampered.model, z).recoverable.sum()))
    return sorted(counts)


def psnr(run: Run, given: World) -> Tensor:
    """PSNR of every private image after the best assignment; one without a candidate is held to the mean colour."""
    missing = len(given.private) - len(run.rebuilt)
    grey = given.spec.decode(torch.zeros(max(0, missing), *given.spec.shape))
    return score_all(torch.cat([run.rebuilt, grey]), given.private.inputs, [PSNR()]).metrics[0].values


def resident(field: str) -> float:
    """VmRSS or VmHWM of this process in MB; getrusage would count what the parent held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
