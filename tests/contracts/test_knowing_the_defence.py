"""Who knows the clients' defence reads no worse than who does not, for every defence that changes an update.

Attacks that adapt, on small fixed worlds, each on the same updates with the same draws: the mean over a few of PSNR.
Defences that change the network or the data (PRECODE, GroupNorm, MixUp) have worlds of their own.
"""

from collections.abc import Callable, Mapping
from statistics import mean, stdev

import pytest
import torch

from fedspill import catalogue
from fedspill.attacks.dlg import DLG
from fedspill.attacks.inverting_gradients import CARD as INVERTING
from fedspill.attacks.linear_layer import LinearLayer
from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import KnownDefence, ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import Attack, Known
from fedspill.core.settings import with_fields
from fedspill.core.types import Batch, Update
from fedspill.defences.clipping import Clipping
from fedspill.defences.dp_sgd import DPSGD
from fedspill.defences.gradient_noise import GradientNoise
from fedspill.defences.local_dp import LocalDP
from fedspill.defences.percentile_privacy import PercentilePrivacy
from fedspill.defences.pruning import Pruning
from fedspill.defences.quantisation import Quantisation
from fedspill.defences.soteria import Soteria
from fedspill.defences.svt_privacy import SVTPrivacy
from fedspill.federation.client import Client
from fedspill.inversion.labels.known import known_labels
from fedspill.scoring.baselines import mean_image
from fedspill.scoring.metrics import PSNR
from fedspill.scoring.score import score_all
from fedspill.testing.worlds import SPEC, batch, mlp, relu_mlp

ELSEWHERE = {"precode", "group_norm", "mixup", "gating"}
"""They change the network or the data, or send an update as it is or not at all: tests/defences."""
DEFENCES: Mapping[str, tuple[Callable[[float, float], Known], ...]] = {
    "clipping": (lambda norm, rms: Clipping(0.1 * norm),),
    "gradient_noise": tuple(
        lambda norm, rms, s=s: GradientNoise(s, relative=True, distribution="gaussian") for s in (0.1, 2.0, 20.0)
    ),
    "local_dp": (lambda norm, rms: LocalDP(clip=norm, noise_multiplier=0.5 * rms / norm),),
    "dp_sgd": (lambda norm, rms: DPSGD(clip=0.5 * norm, noise_multiplier=rms / norm),),
    "pruning": (lambda norm, rms: Pruning(0.7), lambda norm, rms: Pruning(0.8, whole=True)),
    "quantisation": tuple(lambda norm, rms, b=b: Quantisation(b) for b in (8, 3, 1)),
    "percentile_privacy": (
        lambda norm, rms: PercentilePrivacy(10.0, 0.5 * rms),
        lambda norm, rms: PercentilePrivacy(90.0, rms),
    ),
    "svt_privacy": (
        lambda norm, rms: SVTPrivacy(0.9, 10.0, 1e3, 10 * rms, 0.1 * rms),
        lambda norm, rms: SVTPrivacy(0.1, 10.0, 10.0, 10 * rms, 0.1 * rms),
    ),
    "soteria": (lambda norm, rms: Soteria(60.0),),
}
"""Strengths relative to the update's norm and root mean square."""
ATTACKS: Mapping[str, tuple[Callable[[], Model], Attack, int, float]] = {
    "linear_layer": (relu_mlp, LinearLayer(), 4, 0.1),
    "inverting_gradients": (mlp, with_fields(INVERTING.presets["quick"], analytic=False, steps=20), 2, 1.0),
    "dlg": (mlp, DLG(labels="granted", steps=2, restarts=1), 2, 1.0),
}
"""Network, attack, how many updates, and by how many dB the mean of them may lie below beyond their spread."""


def test_every_defence_that_changes_an_update_is_asked() -> None:
    assert set(DEFENCES) | ELSEWHERE == set(catalogue.defences())


@pytest.mark.parametrize(
    ("name", "strength"), [(name, strength) for name, made in DEFENCES.items() for strength in range(len(made))]
)
@pytest.mark.parametrize("attack", ATTACKS)
def test_who_knows_the_defence_reads_no_worse(name: str, strength: int, attack: str) -> None:
    make, (_, _, updates, margin) = DEFENCES[name][strength], ATTACKS[attack]
    gains = [gain(make, attack, seed) for seed in range(updates)]
    assert mean(gains) >= -stdev(gains) - margin, gains


SEVERAL = 8


@pytest.mark.parametrize(
    ("name", "strength"), [(name, strength) for name, made in DEFENCES.items() for strength in range(len(made))]
)
def test_of_several_examples_neither(name: str, strength: int) -> None:
    gains = [gain(DEFENCES[name][strength], "linear_layer", seed, SEVERAL) for seed in range(3)]
    assert mean(gains) >= -stdev(gains) - 0.1, gains


def gain(make: Callable[[float, float], Known], attack: str, seed: int, count: int = 1) -> float:
    """In dB, of one update."""
    model, private = ATTACKS[attack][0](), batch(count, seed=seed)
    plain = local_update(model, private, FedSGD())
    defence = make(plain.norm(), plain.norm() / sum(v.numel() for v in plain.values.values()) ** 0.5)
    sent = Client(private, FedSGD(), [defence.stages()]).respond(model, stream(seed, "client"))
    assert sent is not None
    without, knowing = (read(attack, model, private, sent, known) for known in (None, defence.known(model)))
    return knowing - without


def read(attack: str, model: Model, private: Batch, sent: Update, known: KnownDefence | None) -> float:
    knowledge = ServerKnowledge(
        model, num_examples=len(private), labels=private.labels, local_training=FedSGD(), defence=known
    )
    # What was not read counts as a guess without the update. DLG has neither bounds nor a prior: what is further off
    # than that guess it did not read, by whatever amount.
    greys = PSNR()(mean_image(SPEC, len(private)).to(private.inputs), private.inputs).double()
    try:
        got = ATTACKS[attack][1].reconstruct(sent, knowledge, stream(0, "attack")).inputs
    except NotApplicable:  # nothing was left to read
        return float(greys.mean())
    shown = got.clamp(0, 1).nan_to_num(0.5).to(private.inputs)
    grey = float(greys.mean())
    found = score_all(shown[: len(private)], private.inputs, [PSNR()]).metrics[0].values
    score = float(torch.where(found.isnan(), greys, found).mean())
    return max(score, grey) if attack == "dlg" else score


def test_a_label_whose_bias_was_not_sent_is_read_from_the_rest_of_the_head() -> None:
    model, right = relu_mlp(), {False: 0, True: 0}
    for seed in range(8):
        private = batch(1, seed=seed)
        plain = local_update(model, private, FedSGD())
        rms = plain.norm() / sum(v.numel() for v in plain.values.values()) ** 0.5
        defence = SVTPrivacy(0.5, 10.0, 100.0, 10 * rms, 0.1 * rms)
        sent = Client(private, FedSGD(), [defence.stages()]).respond(model, stream(seed, "client"))
        for knows in right:
            known = defence.known(model) if knows else None
            got = known_labels(sent, ServerKnowledge(model, num_examples=1, defence=known), stream(0, "labels"), 1)
            right[knows] += int(got is not None and torch.equal(got.values, private.labels))
    assert right[True] == 8 > right[False]
