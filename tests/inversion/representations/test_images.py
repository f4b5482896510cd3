"""Images from representations: generators that run side by side, the objective, and the search."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from torch.nn import functional

from fedspill.core.errors import BadInput
from fedspill.core.rng import rand, randn, stream
from fedspill.core.settings import with_fields
from fedspill.inversion.network.extractor import Extractor
from fedspill.inversion.priors.deep_image_prior import UNet
from fedspill.inversion.priors.total_variation import each_total_variation, total_variation
from fedspill.inversion.representations.images.candidates import Generated
from fedspill.inversion.representations.images.distance import divergence, relative_distance, scaled_mse
from fedspill.inversion.representations.images.search import match_representations
from fedspill.inversion.representations.images.settings import IRMatching
from tests.support.watches import Recorder
from tests.support.worlds import SPEC, batch, conv_bn

LIKE = torch.zeros((), dtype=torch.float64)
SMALL = UNet(widths=(4, 6), skip=2)
QUICK = with_fields(IRMatching(unet=SMALL), iterations=12, jitter=0.03, kick=0.1, kick_period=3)


def quick(prior: Literal["unet", "pixels", "decoder"]) -> IRMatching:
    return QUICK if prior == "unet" else with_fields(QUICK, prior=prior, jitter=0.0, kick=0.0)


def extractor(dtype=torch.float64) -> Extractor:
    return Extractor(conv_bn(dtype=dtype), "6")


def targets(n: int, dtype=torch.float64) -> torch.Tensor:
    return extractor(dtype).of(batch(n, dtype=dtype).inputs)


def one_by_one(unet: UNet, weights: dict, latent: torch.Tensor) -> torch.Tensor:
    """One generator written down with plain layers."""

    def layer(x, name, stride=1):
        kernel = weights[f"{name}.weight"]
        y = functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        y = functional.instance_norm(y, weight=weights[f"{name}.scale"], bias=weights[f"{name}.shift"])
        return functional.leaky_relu(y, 0.2)

    def scale(x, k):
        below = layer(layer(x, f"{k}.down", 2), f"{k}.deep")
        if k + 1 < len(unet.scales(SPEC.shape)):
            below = scale(below, k + 1)
        up = functional.interpolate(below, size=x.shape[2:], mode="nearest")
        return layer(layer(torch.cat([layer(x, f"{k}.skip"), up], 1), f"{k}.up"), f"{k}.mix")

    y = functional.conv2d(scale(latent[None], 0), weights["last.weight"], weights["last.bias"])
    return torch.sigmoid(y)[0]


def test_generators_side_by_side_are_those_one_by_one_with_their_gradients() -> None:
    drawn = [SMALL.draw(SPEC.shape, stream(k, "w"), LIKE) for k in range(3)]
    drawn = [{k: v + 0.1 * randn(tuple(v.shape), stream(n, k), v) for k, v in w.items()} for n, w in enumerate(drawn)]
    stacked = {k: torch.stack([w[k] for w in drawn]).requires_grad_() for k in drawn[0]}
    latents = rand((3, *SPEC.shape), stream(0, "z"), LIKE)
    images = SMALL.generate(stacked, latents)
    alone = [{k: v.clone().requires_grad_() for k, v in w.items()} for w in drawn]
    apart = torch.stack([one_by_one(SMALL, w, z) for w, z in zip(alone, latents, strict=True)])
    torch.testing.assert_close(images, apart, rtol=1e-10, atol=1e-12)
    weighting = randn(tuple(images.shape), stream(0, "g"), LIKE)
    (images * weighting).sum().backward()
    (apart * weighting).sum().backward()
    for name, value in stacked.items():
        torch.testing.assert_close(value.grad, torch.stack([w[name].grad for w in alone]), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 17, 30), (3, 224, 224), (3, 3, 4)])
def test_images_have_the_shape_of_the_latent_and_lie_in_the_unit_interval(shape: tuple[int, int, int]) -> None:
    unet = UNet(widths=(4,) * 5, skip=2)
    weights = {k: v[None] for k, v in unet.draw(shape, stream(0), torch.zeros(())).items()}
    made = unet.generate(weights, unet.latent(shape, stream(1), torch.zeros(()))[None])
    assert made.shape == (1, *shape)
    assert bool(((made > 0) & (made < 1)).all())
    assert min(shape[1:]) / 2 ** len(unet.scales(shape)) > 1


def test_too_small_an_image_is_refused() -> None:
    with pytest.raises(BadInput, match="at least 3"):
        UNet().scales((3, 2, 8))


def test_all_generators_of_a_search_begin_alike_whatever_their_number() -> None:
    one, many = (Generated.drawn(SMALL, SPEC, n, stream(0), LIKE) for n in (1, 3))
    torch.testing.assert_close(one.images(None).expand(3, -1, -1, -1), many.images(None), rtol=1e-12, atol=1e-12)


def test_distances_are_those_of_scipy_and_numpy() -> None:
    got, wanted = (3 * randn((5, 40), stream(0, name), LIKE) for name in ("got", "wanted"))
    g, w = got.numpy(), wanted.numpy()
    np.testing.assert_allclose(
        divergence(got, wanted).numpy(), rel_entr(softmax(w, axis=1), softmax(g, axis=1)).sum(1), rtol=1e-10
    )
    np.testing.assert_allclose(scaled_mse(got, wanted).numpy(), ((g - w) ** 2).mean(1) / np.var(w, axis=1), rtol=1e-12)
    np.testing.assert_allclose(
        relative_distance(got, wanted).numpy(), np.linalg.norm(g - w, axis=1) / np.linalg.norm(w, axis=1), rtol=1e-12
    )
    assert float(divergence(wanted + 2.0, wanted).abs().max()) < 1e-10, "blind to what is added to every feature"


def test_the_total_variation_of_each_is_that_of_all() -> None:
    images = rand((4, 3, 6, 5), stream(0), LIKE)
    torch.testing.assert_close(each_total_variation(images).mean(), total_variation(images))


@pytest.mark.parametrize("prior", ["unet", "pixels"])
def test_the_objective_falls_and_images_are_valid_and_repeatable(prior) -> None:
    settings = with_fields(quick(prior), iterations=40)
    first, second = (match_representations(extractor(), SPEC, targets(3), settings, stream(0)) for _ in range(2))
    assert torch.equal(first.inputs, second.inputs)
    assert first.complete
    assert len(first.objective) == 40
    assert min(first.objective[-5:]) < 0.7 * first.objective[0]
    assert first.inputs.shape == (3, *SPEC.shape)
    assert bool(((first.inputs >= 0) & (first.inputs <= 1)).all())
    again = relative_distance(extractor().of(first.inputs), targets(3))
    torch.testing.assert_close(first.distance, again, rtol=1e-9, atol=1e-12)


def test_a_search_from_the_true_images_stays_there() -> None:
    truth = batch(3, dtype=torch.float64).inputs
    settings = with_fields(IRMatching(prior="decoder"), iterations=8, tv=0.0)
    found = match_representations(extractor(), SPEC, targets(3), settings, stream(0), decoder=lambda _: truth)
    assert found.objective[0] < 1e-12
    torch.testing.assert_close(found.inputs, truth, rtol=0, atol=1e-5)
    assert float(found.distance.max()) < 1e-5


def test_a_linear_extractor_is_inverted_exactly_by_pixels() -> None:
    truth = batch(2, dtype=torch.float64).inputs
    mixing = torch.linalg.qr(randn((192, 192), stream(0, "mix"), LIKE)).Q

    class Linear(Extractor):
        def function(self):
            return lambda z: SPEC.decode(z).flatten(1) @ mixing.T

    exact = Linear(conv_bn(dtype=torch.float64), "6")
    settings = with_fields(IRMatching(prior="pixels"), iterations=300, lr=0.05, phases=6, kl=0.0, tv=0.0)
    found = match_representations(exact, SPEC, truth.flatten(1) @ mixing.T, settings, stream(0))
    assert float((found.inputs - truth).abs().max()) < 1e-3


@pytest.mark.parametrize("prior", ["unet", "pixels"])
def test_an_image_does_not_depend_on_its_batch(prior) -> None:
    settings, wanted = quick(prior), targets(4)
    whole = match_representations(extractor(), SPEC, wanted, settings, stream(0))
    order = torch.tensor([2, 0])
    part = match_representations(extractor(), SPEC, wanted[order], settings, stream(0))
    pieces = match_representations(extractor(), SPEC, wanted, replace(settings, together=3), stream(0))
    torch.testing.assert_close(part.inputs, whole.inputs[order], rtol=0, atol=1e-9)
    torch.testing.assert_close(pieces.inputs, whole.inputs, rtol=0, atol=1e-9)
    torch.testing.assert_close(pieces.distance, whole.distance, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("settings", [QUICK, replace(QUICK, together=2), replace(quick("pixels"), signed=True)])
def test_a_broken_search_goes_on_as_if_it_had_not_been(settings: IRMatching, tmp_path) -> None:
    wanted = targets(3, torch.float32)
    whole = match_representations(extractor(torch.float32), SPEC, wanted, settings, stream(0))
    broken = Recorder(end=7)
    early = match_representations(extractor(torch.float32), SPEC, wanted, settings, stream(0), broken)
    assert not early.complete
    assert broken.done == 7
    torch.save(dict(broken.state), tmp_path / "state")
    kept = torch.load(tmp_path / "state", weights_only=True)
    rest = Recorder(state=kept)
    found = match_representations(extractor(torch.float32), SPEC, wanted, settings, stream(0), rest)
    assert torch.equal(found.inputs, whole.inputs)
    assert found.objective == whole.objective
    assert torch.equal(found.distance, whole.distance)
    assert len(rest.told) == settings.schedule.iterations - 7


def test_what_is_returned_is_the_best_by_the_objective_alone() -> None:
    settings = with_fields(quick("pixels"), lr=0.5, decay=1.0)
    told = Recorder()
    found = match_representations(extractor(), SPEC, targets(1), settings, stream(0), told)
    assert told.told[-1] == pytest.approx(min(found.objective), rel=1e-12)
    assert told.told == sorted(told.told, reverse=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"iterations": 0}, "iterations=0"),
        ({"tv": -1.0}, "0 or more"),
        ({"kl": 0.0, "mse": 0.0}, "one of kl and mse"),
        ({"jitter": float("nan")}, "jitter=nan"),
        ({"prior": "pixels"}, "prior='pixels' searches pixels"),
        ({"signed": True}, "signed is for pixels"),
    ],
)
def test_settings_out_of_range_are_named(change, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        with_fields(QUICK, **change)


def test_representations_that_do_not_fit_are_named() -> None:
    for wrong in (torch.zeros(2, 31), torch.zeros(0, 32), torch.full((1, 32), torch.nan)):
        with pytest.raises(BadInput, match="32 finite numbers"):
            match_representations(extractor(), SPEC, wrong.double(), QUICK, stream(0))
    for settings in (quick("decoder"), with_fields(QUICK, anchor=1.0)):
        with pytest.raises(BadInput, match="need a decoder"):
            match_representations(extractor(), SPEC, targets(1), settings, stream(0))


@pytest.mark.parametrize("prior", ["unet", "pixels", "decoder"])
def test_an_anchor_ties_every_search_to_the_decoders_image(prior) -> None:
    guess = batch(2, seed=5, dtype=torch.float64).inputs
    settings, apart = with_fields(quick(prior), iterations=60, lr=0.03, tv=0.0), list[float]()
    for weight in (0.0, 100.0):
        tied = with_fields(settings, anchor=weight)
        found = match_representations(extractor(), SPEC, targets(2), tied, stream(0), decoder=lambda _: guess)
        apart.append(float((found.inputs - guess).square().mean()))
    assert apart[1] < 0.8 * apart[0]
