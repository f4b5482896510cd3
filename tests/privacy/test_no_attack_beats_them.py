"""Every closed form of the catalogue, and guesses without the update, against the ceilings on private images."""

import pytest
import torch

from fedspill import FedSGD, NotApplicable, ServerKnowledge, catalogue
from fedspill.core.inputs import ImageSpec
from fedspill.core.local_training.update import local_update
from fedspill.core.rng import randn, stream
from fedspill.core.roles import ClientContext
from fedspill.core.types import Batch
from fedspill.defences.local_dp import LocalDP
from fedspill.privacy.reconstruction import GaussianPrior, psnr_ceiling, psnr_success, robustness
from fedspill.privacy.release import chained
from fedspill.testing.worlds import SPEC, relu_mlp

IMAGES, SPREAD = 24, 0.1
PRIOR = GaussianPrior(192, SPREAD)
CLOSED = [n for n, c in catalogue.attacks().items() if not c.iterative and ImageSpec in c.accepts]


def private() -> torch.Tensor:
    """Drawn of the prior itself, so that the ceilings are about them."""
    return 0.5 + SPREAD * randn((IMAGES, *SPEC.shape), stream(0, "private"), torch.zeros(1))


def mu_of(defence: LocalDP) -> float:
    release = chained([("local_dp", defence.step(1))], size=1).release
    assert release is not None
    mu = robustness(release, 0.1).mu
    assert mu is not None
    return mu


def psnr(rebuilt: torch.Tensor, image: torch.Tensor) -> float:
    """Of the best of all candidates, with the truth at hand; -inf of none."""
    errors = (rebuilt.reshape(-1, 192) - image.flatten()).square().mean(1)
    return max((float(-10 * e.clamp_min(1e-12).log10()) for e in errors), default=float("-inf"))


def read(name: str, defence: LocalDP) -> list[float]:
    """PSNR of one attack on each image's update."""
    model, training, found = relu_mlp(), FedSGD(), list[float]()
    attack = catalogue.attacks()[name].presets["paper"]
    for number, image in enumerate(private()):
        batch = Batch(image[None], torch.tensor([number % 10]))
        context = ClientContext(model, batch, training)
        sent = defence.stages().protect(local_update(model, batch, training), context, stream(number, "noise"))
        assert sent is not None
        knowledge = ServerKnowledge(model, num_examples=1, labels=batch.labels, local_training=training)
        try:
            rebuilt = attack.reconstruct(sent, knowledge, stream(number, "attack"))
        except NotApplicable:
            continue
        found.append(psnr(rebuilt.inputs[:1], image))
    return found


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("epsilon", [8.0, 1000.0])
def test_no_closed_form_beats_the_ceiling(name: str, epsilon: float) -> None:
    defence = LocalDP(epsilon=epsilon)
    ceiling = psnr_ceiling(PRIOR, mu_of(defence), chance=1e-4)
    assert all(value <= ceiling for value in read(name, defence))


def test_without_noise_the_same_attack_is_far_above_it() -> None:
    # so that the test above could fail
    model, training, image = relu_mlp(), FedSGD(), private()[0]
    batch = Batch(image[None], torch.tensor([0]))
    knowledge = ServerKnowledge(model, num_examples=1, labels=batch.labels, local_training=training)
    attack = catalogue.attacks()["linear_layer"].presets["paper"]
    rebuilt = attack.reconstruct(local_update(model, batch, training), knowledge, stream(0))
    assert psnr(rebuilt.inputs[:1], image) > psnr_ceiling(PRIOR, mu_of(LocalDP(epsilon=8.0)), chance=1e-4) + 20


def test_neither_does_a_grey_image() -> None:
    grey = [psnr(torch.full((1, *SPEC.shape), 0.5), image) for image in private()]
    for level in (20.0, 20.5, 21.0):
        share = sum(value >= level for value in grey) / len(grey)
        assert share <= psnr_success(level, PRIOR, 0.0) + 0.2  # of 24 images
    assert max(grey) < psnr_ceiling(PRIOR, 0.0, chance=1e-4)
