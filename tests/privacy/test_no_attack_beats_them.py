"""Every attack of the catalogue that reads a picture's gradient, and guesses without the update, against the bounds.

The pictures are drawn of the very prior that the bounds assume, each with noise of its own, so that the number of
successes is binomial with the bound as its probability at most. An attack beats the bound where the lower end of the
Clopper-Pearson interval at 1 - `ALARM` lies above it: by chance once in 1 / `ALARM` comparisons.
"""

from dataclasses import replace
from functools import cache

import pytest
import torch
from scipy.stats import binomtest

from fedspill import BadInput, FedSGD, NotApplicable, ServerKnowledge, catalogue
from fedspill.core.local_training.update import local_update
from fedspill.core.model import Model
from fedspill.core.rng import randn, stream
from fedspill.core.roles import ClientContext, known_defence
from fedspill.core.settings import flat_fields, with_fields
from fedspill.core.types import Batch
from fedspill.defences.local_dp import LocalDP
from fedspill.privacy.fisher import error_floor
from fedspill.privacy.jacobian import UpdateOfInputs
from fedspill.privacy.reconstruction import GaussianPrior, psnr_ceiling, psnr_success, robustness
from fedspill.privacy.release import chained
from fedspill.testing.worlds import SPEC, mlp, relu_mlp

IMAGES, SPREAD, SOME = 24, 0.1, 8
PRIOR = GaussianPrior(192, SPREAD)
ALARM = 1e-6
LEVELS = (19.0, 20.0, 20.5, 21.0, 22.0, 24.0, 30.0)
"""PSNR in dB from which a picture counts as rebuilt; the guess of the mean has 20 dB in the mean."""
LEFT_OUT = {
    "dager": "reads sentences",
    "gias": "needs a trained generator's file",
    "grad_inversion": "needs BatchNorm, whose batch statistics the bound is not of",
    "imprint_bins": "reads a layer that somebody planted bins in; this network has none",
    "learned_inversion": "needs public examples: tests/inversion/learned",
    "logistic_regression": "reads networks of one linear layer",
    "tableak": "reads rows of tables",
}
"""Attacks that do not run in this world, and why."""
SHORT = {"steps": 20, "restarts": 1, "seeds": 1, "starts": 1, "guesses": 2, "rounds": 1}
"""Fields of searches, as small as they may be: what a bound says holds of any number."""
OUTER = {"dlg": 2, "idlg": 2}
"""Steps of L-BFGS, each of 20 evaluations."""
RUN = sorted(set(catalogue.attacks()) - set(LEFT_OUT))
SEARCHES = ["cocktail_party", "dlg", "idlg", "inverting_gradients"]


def private() -> torch.Tensor:
    """Drawn of the prior itself, so that the bounds are about them."""
    return 0.5 + SPREAD * randn((IMAGES, *SPEC.shape), stream(0, "private"), torch.zeros(1))


@cache
def network(name: str) -> Model:
    return {"relu": relu_mlp, "smooth": mlp}[name]()


def mu_of(defence: LocalDP) -> float:
    release = chained([("local_dp", defence.step(1))], size=1).release
    assert release is not None
    mu = robustness(release, 0.1).mu
    assert mu is not None
    return mu


def psnr(rebuilt: torch.Tensor, image: torch.Tensor) -> float:
    """Of the first candidate; -inf of none."""
    errors = (rebuilt.reshape(-1, 192) - image.flatten()).square().mean(1)
    return max((float(-10 * e.clamp_min(1e-12).log10()) for e in errors), default=float("-inf"))


@cache
def read(name: str, net: str, epsilon: float, images: int = IMAGES) -> tuple[float, ...]:
    """PSNR of one attack on each image's update; the attack knows the defence. -inf where noise made it give up."""
    model, training, found, defence = network(net), FedSGD(), list[float](), LocalDP(epsilon=epsilon)
    attack = catalogue.attacks()[name].presets["paper"]
    short = {**SHORT, "steps": OUTER.get(name, SHORT["steps"])}
    attack = with_fields(attack, **{k: v for k, v in short.items() if k in flat_fields(attack)})
    for number, image in enumerate(private()[:images]):
        batch = Batch(image[None], torch.tensor([number % 10]))
        context = ClientContext(model, batch, training)
        sent = defence.stages().protect(local_update(model, batch, training), context, stream(number, "noise"))
        assert sent is not None
        knowledge = ServerKnowledge(model, num_examples=1, labels=batch.labels, local_training=training)
        knowledge = replace(knowledge, defence=known_defence([defence], model))
        try:
            found.append(psnr(attack.reconstruct(sent, knowledge, stream(number, "attack")).inputs[:1], image))
        except NotApplicable:
            found.append(float("-inf"))
    return tuple(found)


def beats(values: tuple[float, ...], mu: float) -> list[float]:
    """The levels at which more succeed than the bound allows."""
    found = list[float]()
    for level in LEVELS:
        hits = sum(v >= level for v in values)
        interval = binomtest(hits, len(values), alternative="greater").proportion_ci(1 - ALARM, method="exact")
        found += [level] if interval.low > psnr_success(level, PRIOR, mu) else []
    return found


@pytest.mark.parametrize("name", RUN)
@pytest.mark.parametrize("epsilon", [8.0, 1000.0])
def test_no_attack_beats_the_bound_on_success(name: str, epsilon: float) -> None:
    values = read(name, "relu", epsilon)
    assert len(values) == IMAGES
    mu = mu_of(LocalDP(epsilon=epsilon))
    assert beats(values, mu) == []
    assert max(values) <= psnr_ceiling(PRIOR, mu, chance=1e-6)


@pytest.mark.parametrize("name", ["linear_layer", *SEARCHES])
def test_no_attack_beats_the_floor_on_the_error(name: str) -> None:
    defence, model = LocalDP(epsilon=1000.0), network("smooth")
    batch = Batch(private()[:1], torch.tensor([0]))
    floor = error_floor(
        UpdateOfInputs(model, batch, FedSGD(), defence.clip), PRIOR, defence.noise(), stream(0, "floor"), draws=2
    )
    errors = torch.tensor([10 ** (-v / 10) for v in read(name, "smooth", 1000.0, SOME)])
    assert 0 < floor.mse < SPREAD**2
    assert errors.mean() + 5 * errors.std() / SOME**0.5 >= floor.mse


def test_the_list_of_attacks_that_do_not_run_is_not_stale() -> None:
    assert set(LEFT_OUT) <= set(catalogue.attacks())
    assert set(SEARCHES) <= set(RUN)


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_left_out_is_refused_without_noise_too(name: str) -> None:
    model, batch = network("relu"), Batch(private()[:1], torch.tensor([0]))
    knowledge = ServerKnowledge(model, num_examples=1, labels=batch.labels, local_training=FedSGD())
    attack = catalogue.attacks()[name].presets["paper"]
    with pytest.raises((NotApplicable, BadInput)):
        attack.reconstruct(local_update(model, batch, FedSGD()), knowledge, stream(0))


def test_without_noise_the_same_attacks_are_far_above_it() -> None:
    # so that the tests above could fail
    model, training, found = relu_mlp(), FedSGD(), list[float]()
    attack = catalogue.attacks()["linear_layer"].presets["paper"]
    for image in private():
        batch = Batch(image[None], torch.tensor([0]))
        knowledge = ServerKnowledge(model, num_examples=1, labels=batch.labels, local_training=training)
        rebuilt = attack.reconstruct(local_update(model, batch, training), knowledge, stream(0))
        found.append(psnr(rebuilt.inputs[:1], image))
    mu = mu_of(LocalDP(epsilon=8.0))
    assert min(found) > psnr_ceiling(PRIOR, mu, chance=1e-4) + 20
    assert 30.0 in beats(tuple(found), mu)


@pytest.mark.parametrize("shade", [0.5, 0.45])
def test_neither_does_a_grey_image(shade: float) -> None:
    grey = tuple(psnr(torch.full((1, *SPEC.shape), shade), image) for image in private())
    assert beats(grey, 0.0) == []
    assert max(grey) < psnr_ceiling(PRIOR, 0.0, chance=1e-6)
