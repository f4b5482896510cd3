"""Cocktail Party: whitening and contrast as the paper's formulas say; pictures come out of mixtures, unvouched for."""

import functools
import math

import pytest
import torch
from sklearn.decomposition import FastICA
from torch import Tensor, nn
from torch.nn import functional

from fedspill.attacks.cocktail_party import CocktailParty, by_bias_scale, stretched
from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining, local_update
from fedspill.core.model import Model
from fedspill.core.rng import rand, randn, stream
from fedspill.core.types import Batch, Reconstruction
from fedspill.inversion.low_rank.unmixing import Contrast, whitened
from fedspill.zoo import data
from tests.support.exclusivity import D64, drawn, mlp, pictures

SPEC = ImageSpec((3, 16, 16), mean=(0.5, 0.4, 0.45), std=(0.25, 0.2, 0.3))
MILD = Contrast(apart=0.1, temperature=5.0)
QUICK = CocktailParty(steps=80, lr=5e-2, contrast=MILD, scale="bias")


@functools.cache
def all_photographs() -> Tensor:
    return data.load("photos", indices="0:40").batch.inputs.double()


def photographs(n: int) -> Batch:
    """Small ones."""
    shown = all_photographs()[:: 40 // n][:n]
    return Batch(functional.interpolate(shown, (16, 16), mode="area"), torch.arange(n) % 10)


def dense(*hidden: int, bias: bool = True, activation: type[nn.Module] = nn.ReLU) -> Model:
    layers: list[nn.Module] = [nn.Flatten()]
    for inside, outside in zip((768, *hidden), (*hidden, 10), strict=True):
        layers += [nn.Linear(inside, outside, bias=bias, device="meta"), activation()]
    return drawn(nn.Sequential(*layers[:-1]), SPEC)


def read(attack: CocktailParty, model: Model, batch: Batch, training: LocalTraining | None = None) -> Reconstruction:
    training = training or FedSGD()
    held = ServerKnowledge(model, num_examples=len(batch), local_training=training)
    return attack.reconstruct(local_update(model, batch, training), held, stream(0, "attack"))


def errors(got: Reconstruction, batch: Batch) -> Tensor:
    """(n,), root mean squared, of each example's nearest candidate."""
    return (batch.inputs[:, None] - got.inputs[None]).flatten(2).square().mean(2).sqrt().amin(1)


def test_whitened_mixtures_are_uncorrelated_and_sources_undo_it() -> None:
    gradient = randn((12, 5), stream(0, "mix"), D64) @ rand((5, 300), stream(1, "mix"), D64)
    white = whitened(gradient, 5)
    torch.testing.assert_close(white.mixtures @ white.mixtures.T / 299, torch.eye(5).double())
    torch.testing.assert_close(white.turn @ (gradient - gradient.mean(1, keepdim=True)), white.mixtures)
    torch.testing.assert_close(white.sources(3 * torch.eye(5).double()), white.turn @ gradient)


def test_the_loss_is_the_papers() -> None:
    """Against plain PyTorch, term by term; the pairs of a row with itself are left out, as they are constant."""
    white = whitened(randn((6, 4), stream(0, "mix"), D64) @ rand((4, 768), stream(1, "mix"), D64), 4)
    unmixing, weights = randn((4, 4), stream(2, "mix"), D64), Contrast(0.7, 1.3, 4.0, 2.0)
    u = functional.normalize(unmixing, dim=1)
    s = u @ white.mixtures
    negentropy = s.cosh().log().mean(1).square().mean()
    cosine = (u @ u.T).abs()
    apart = ((4.0 * cosine).exp() - 1).sum() / 16 - math.expm1(4.0) / 4
    x = (u @ white.turn @ (white.mean[:, None])) + s
    x = x.view(4, 3, 16, 16)
    variation = (x[..., 1:] - x[..., :-1]).abs().mean() + (x[..., 1:, :] - x[..., :-1, :]).abs().mean()
    torch.testing.assert_close(
        weights.loss(white, unmixing, SPEC.shape), -0.7 * negentropy + 1.3 * apart + 2.0 * variation
    )
    assert Contrast().loss(white, 1e3 * unmixing, SPEC.shape).isfinite()


def test_the_search_separates_as_well_as_fast_ica() -> None:
    batch = photographs(4)
    x = batch.inputs.flatten(1)
    mixed = randn((20, 4), stream(0, "mix"), D64) @ x
    white = whitened(mixed, 4)
    unmixing = torch.eye(4).double().requires_grad_()
    rule = torch.optim.Adam([unmixing], lr=5e-2)
    for _ in range(80):
        rule.zero_grad()
        MILD.loss(white, unmixing, SPEC.shape).backward()
        rule.step()
    ica = FastICA(4, whiten="unit-variance", random_state=0, max_iter=1000, tol=1e-3).fit_transform(mixed.numpy().T).T
    ours, theirs = (_correlation(x, s) for s in (white.sources(unmixing.detach()), torch.from_numpy(ica)))
    assert ours > 0.95
    assert ours > theirs


def _correlation(x: Tensor, sources: Tensor) -> float:
    """Mean over inputs of the largest one with a source, whatever its sign."""
    a, b = (functional.normalize(v - v.mean(1, keepdim=True)) for v in (x, sources))
    return float((a @ b.T).abs().amax(1).mean())


def test_the_bias_tells_scale_and_sign() -> None:
    batch = photographs(3)
    z = SPEC.encode(batch.inputs).flatten(1)
    factor = torch.tensor([-4.0, 0.1, 2.0]).double()
    torch.testing.assert_close(by_bias_scale(SPEC, factor[:, None] * z, factor), batch.inputs)
    turned = stretched(SPEC, factor[:, None] * z, factor)
    torch.testing.assert_close(turned, stretched(SPEC, z, None))
    assert float(turned.flatten(1).amin(1).max()) == 0.0
    assert float(turned.flatten(1).amax(1).min()) == 1.0


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("training", [FedSGD(), FedAvg(3, 2, lr=0.01)], ids=["gradient", "local steps"])
def test_pictures_come_out_of_one_gradient_or_of_many(activation: type[nn.Module], training: LocalTraining) -> None:
    model, batch = dense(40, activation=activation), photographs(4)
    got = read(QUICK, model, batch, training)
    assert not got.converged
    assert got.confidence is not None
    assert float(got.confidence.max()) <= 0.5
    flat = (batch.inputs - batch.inputs.mean((0, 2, 3), keepdim=True)).flatten(1).square().mean(1).sqrt()
    assert float(errors(got, batch).mean()) < 0.5 * float(flat.mean())


def test_without_a_bias_or_a_number_there_are_pictures_all_the_same() -> None:
    batch = photographs(3)
    assert read(CocktailParty(steps=2, scale="bias"), dense(30, bias=False), batch).inputs.shape == (3, 3, 16, 16)
    model = dense(30)
    update = local_update(model, batch, FedSGD())
    assert len(CocktailParty(steps=2).reconstruct(update, ServerKnowledge(model), stream(0, "a")).inputs) == 3
    twice = Batch(torch.cat([batch.inputs, batch.inputs[:1]]), torch.arange(4))
    got = read(CocktailParty(steps=2), model, twice)
    assert len(got.inputs) == 3
    assert any("3 of 4 examples differ" in note for note in got.notes)


def test_what_it_does_not_fit_is_refused() -> None:
    conv = nn.Sequential(nn.Conv2d(3, 4, 3, device="meta"), nn.Flatten(), nn.Linear(64, 10, device="meta"))
    with pytest.raises(NotApplicable, match="reads features"):
        read(QUICK, drawn(conv), pictures(2))
    with pytest.raises(NotApplicable, match="was not trained"):
        read(QUICK, mlp(20, 10), pictures(2), FedSGD(trainable=("5.*",)))
    with pytest.raises(BadInput, match="steps=0"):
        CocktailParty(steps=0)
