"""Encoders in a network's own layers against bare PyTorch: principal components, training, files."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model
from fedspill.core.rng import rand, stream
from fedspill.core.tensor_files import write_tensors
from fedspill.inversion.network.layers import layer_inputs, reaching
from fedspill.inversion.representations.autoencoder.components import component_encoder
from fedspill.inversion.representations.autoencoder.encoder import encoder_names, latents_of, with_encoder
from fedspill.inversion.representations.autoencoder.files import autoencoder_tensors, read_autoencoder
from fedspill.inversion.representations.autoencoder.training import AutoencoderTraining, train_autoencoder
from fedspill.inversion.representations.images.decoder import DecoderShape, decoder_metadata
from fedspill.plan.file import read_as
from fedspill.training.autoencoder import train_autoencoder_file
from fedspill.training.plan import AutoencoderPlan
from tests.support.places import PLANS
from tests.support.watches import BreakingWatch, Broken
from tests.support.worlds import CLASSES, SPEC, draw_weights, relu_mlp

DOUBLE = torch.float64
QUICK = AutoencoderTraining(DecoderShape((8, 6)), epochs=2, minibatch=8, lr=1e-2)


def model_of(*layers: nn.Module, features: int, training: bool = False, spec: ImageSpec = SPEC) -> Model:
    """The layers, then a linear one, a ReLU and another linear one."""
    with torch.random.fork_rng():
        net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 24), nn.ReLU(), nn.Linear(24, CLASSES))
    return Model.of(draw_weights(net), spec, training=training).to("cpu", DOUBLE)


def at_of(model: Model) -> str:
    """The name of the first linear layer."""
    return next(name for name, layer in model.module.named_modules() if isinstance(layer, nn.Linear))


def smooth(n: int, seed: int = 0) -> Tensor:
    """Pictures whose neighbouring pixels are alike, so that some components hold more than others."""
    coarse = rand((n, 3, 4, 4), stream(seed, "smooth"), torch.zeros((), dtype=DOUBLE))
    noise = rand((n, 3, 8, 8), stream(seed, "noise"), coarse)
    return (functional.interpolate(coarse, scale_factor=2, mode="bilinear") * 0.9 + 0.1 * noise).clamp(0, 1)


def twice(kept: int) -> Model:
    """Two strided convolutions; the second one drops components where `kept` is less than 48."""
    convolutions = nn.Conv2d(3, 12, 4, 2, 1), nn.ReLU(), nn.Conv2d(12, kept, 4, 2, 1), nn.ReLU()
    return model_of(*convolutions, features=4 * kept)


WHOLE: dict[str, Callable[[], Model]] = {
    "strided": lambda: model_of(nn.Conv2d(3, 12, 4, 2, 1), nn.ReLU(), features=192),
    "more channels than components": lambda: model_of(nn.Conv2d(3, 14, 2, 2), nn.LeakyReLU(0.1), features=224),
    "unstrided": lambda: model_of(nn.Conv2d(3, 3, 3, 1, 1), nn.ReLU(), features=192),
    "BatchNorm": lambda: model_of(nn.Conv2d(3, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), features=192),
    "BatchNorm behind a bias": lambda: model_of(nn.Conv2d(3, 3, 5, 1, 2), nn.BatchNorm2d(3), nn.ReLU(), features=192),
    "two": lambda: twice(48),
    "none": lambda: relu_mlp(dtype=DOUBLE),
}
"""Networks in which no component need be dropped."""


@pytest.mark.parametrize("name", WHOLE)
def test_an_encoder_that_drops_nothing_gives_every_picture_back(name: str) -> None:
    """Latents of the written model, in bare PyTorch, come back as the pictures; and it computes what it says."""
    model, public, private = WHOLE[name](), smooth(40), smooth(5, seed=1)
    at = at_of(model)
    changed, view = component_encoder(model, at, public)
    net = changed.own_module().eval()
    inside = [layer for layer in net if not isinstance(layer, nn.Linear)]
    latents = nn.Sequential(*inside[: int(at)])(SPEC.encode(private)).flatten(1)
    assert torch.allclose(view.inputs(latents.detach()), private, atol=1e-9)
    assert {k: v.shape for k, v in changed.params.items()} == {k: v.shape for k, v in model.params.items()}
    kept = set(model.params) - set(encoder_names(model, at))
    assert kept
    assert all(torch.equal(changed.params[k], model.params[k]) for k in kept)


def test_what_is_dropped_are_the_smallest_components_in_bare_pytorch() -> None:
    """The error of public images is the sum of the smallest eigenvalues of the second moments of their blocks."""
    model, public = model_of(nn.Conv2d(3, 5, 2, 2), nn.ReLU(), features=80), smooth(60)
    changed, view = component_encoder(model, "3", public)
    z = SPEC.encode(public)
    latents = layer_inputs(changed, "3", z).flatten(1)
    maps = latents.view(60, 5, 4, 4)
    back = view.stages[0].back(maps)
    blocks = functional.unfold(z, 2, stride=2).transpose(1, 2).flatten(0, 1)
    values = torch.linalg.eigvalsh((blocks - blocks.mean(0)).T @ (blocks - blocks.mean(0)) / len(blocks))
    assert float((back - z).square().sum() / len(blocks)) == pytest.approx(float(values[:7].sum()), rel=1e-9)


def test_no_relu_cuts_a_public_component_off() -> None:
    model, public = twice(20), smooth(60)
    changed, _ = component_encoder(model, "5", public)
    for at in ("1", "3"):
        before = layer_inputs(changed, at, SPEC.encode(public))
        assert float(before.amin()) > 0


def test_pictures_beyond_the_range_of_public_ones_lose_no_more_than_what_is_below_zero() -> None:
    """A ReLU may cut them off, but what comes back stays a picture."""
    model, public = twice(20), smooth(60) * 0.2 + 0.4
    changed, view = component_encoder(model, "5", public)
    extremes = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)]).double()
    back = view.inputs(layer_inputs(changed, "5", SPEC.encode(extremes)).flatten(1))
    assert bool(((back >= 0) & (back <= 1)).all())


def _residual() -> Model:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 3, 3, padding=1)
            self.act, self.flat = nn.ReLU(), nn.Flatten()
            self.head = nn.Sequential(nn.Linear(192, 24), nn.ReLU(), nn.Linear(24, CLASSES))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.flat(self.act(self.convolution(x) + x)))

    with torch.random.fork_rng():
        return Model.of(draw_weights(Sum()), SPEC).to("cpu", DOUBLE)


def _shared() -> Model:
    layer = nn.Conv2d(3, 3, 3, 1, 1)
    return model_of(layer, nn.ReLU(), layer, nn.ReLU(), features=192)


def _frozen() -> Model:
    layer = nn.Conv2d(3, 3, 3, 1, 1).requires_grad_(False)
    return model_of(layer, nn.ReLU(), features=192)


REFUSED: dict[str, tuple[Callable[[], Model], str]] = {
    "an activation that bends": (
        lambda: model_of(nn.Conv2d(3, 3, 3, 1, 1), nn.Sigmoid(), features=192),
        "does not hand",
    ),
    "a pool": (lambda: model_of(nn.Conv2d(3, 3, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2), features=48), "does not hand"),
    "no bias": (lambda: model_of(nn.Conv2d(3, 3, 3, 1, 1, bias=False), nn.ReLU(), features=192), "no bias"),
    "a kernel with gaps": (lambda: model_of(nn.Conv2d(3, 3, 1, 2), nn.ReLU(), features=48), "do not cover"),
    "an edge left out": (lambda: model_of(nn.Conv2d(3, 3, 3), nn.ReLU(), features=108), "do not cover"),
    "groups": (lambda: model_of(nn.Conv2d(3, 3, 3, 1, 1, groups=3), nn.ReLU(), features=192), "groups"),
    "padding by a word": (lambda: model_of(nn.Conv2d(3, 3, 3, padding="same"), nn.ReLU(), features=192), "by a word"),
    "batch statistics": (
        lambda: model_of(nn.Conv2d(3, 3, 3, 1, 1), nn.BatchNorm2d(3), nn.ReLU(), features=192, training=True),
        "statistics of a batch",
    ),
    "no running statistics": (
        lambda: model_of(
            nn.Conv2d(3, 3, 3, 1, 1), nn.BatchNorm2d(3, track_running_stats=False), nn.ReLU(), features=192
        ),
        "statistics of a batch",
    ),
    "a residual sum": (_residual, "is not what the layer before"),
    "a layer called twice": (_shared, "called twice"),
    "frozen": (_frozen, "is frozen"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_layers_that_hand_no_components_on_are_refused(name: str) -> None:
    make, said = REFUSED[name]
    model = make()
    with pytest.raises(NotApplicable, match=said):
        component_encoder(model, at_of(model), smooth(40))


def test_too_few_public_images_and_a_layer_that_is_not_there_are_refused() -> None:
    with pytest.raises(NotApplicable, match="at least 8 public images, got 7"):
        component_encoder(twice(20), "5", smooth(7))
    with pytest.raises(NotApplicable, match="does not call"):
        component_encoder(twice(20), "wrong", smooth(40))


def test_what_reaches_a_layer_can_be_differentiated() -> None:
    """The gradient by parameters and input is that of the layers cut out by hand."""
    model, z = twice(20), SPEC.encode(smooth(3)).requires_grad_()
    params = {k: v.clone().requires_grad_() for k, v in model.params.items()}
    got = torch.autograd.grad(reaching(model, "5")(params, z).square().sum(), [params["0.weight"], z])
    first = functional.conv2d(z, params["0.weight"], params["0.bias"], 2, 1).relu()
    cut = functional.conv2d(first, params["2.weight"], params["2.bias"], 2, 1).relu()
    expected = torch.autograd.grad(cut.square().sum(), [params["0.weight"], z])
    assert all(torch.allclose(a, b) for a, b in zip(got, expected, strict=True))
    assert torch.equal(latents_of(model, "5")(z), cut.flatten(1))


def test_training_moves_the_encoder_alone_and_comes_closer() -> None:
    model, public = twice(20), smooth(40)
    settings = AutoencoderTraining(DecoderShape((8, 6)), epochs=25, minibatch=8, lr=2e-2)
    made = train_autoencoder(model, "5", public, settings, stream(0))
    assert set(made.encoder) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert all(not torch.equal(v, model.params[k]) for k, v in made.encoder.items())
    latents = latents_of(with_encoder(model, made.encoder), "5").of(public)
    error = float((made.decoder(latents) - public).square().mean())
    assert error < 0.7 * float((public - public.mean(0)).square().mean())
    made.decoder.check(latents_of(with_encoder(model, made.encoder), "5"))


def test_an_encoder_that_stays_is_given_a_decoder_only() -> None:
    made = train_autoencoder(twice(20), "5", smooth(40), QUICK, stream(0), moved=False)
    assert made.encoder == {}
    made.decoder.check(latents_of(twice(20), "5"))


def test_a_training_that_was_broken_off_goes_on_as_if_it_had_not_been() -> None:
    whole = train_autoencoder(twice(20), "5", smooth(40), QUICK, stream(0))
    first = BreakingWatch(break_after=7)
    with pytest.raises(Broken):
        train_autoencoder(twice(20), "5", smooth(40), QUICK, stream(0), first)
    resumed = train_autoencoder(twice(20), "5", smooth(40), QUICK, stream(0), BreakingWatch(kept=first.kept))
    assert all(torch.equal(v, resumed.encoder[k]) for k, v in whole.encoder.items())
    state = resumed.decoder.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in whole.decoder.state_dict().items())


@pytest.mark.parametrize("change", [{"epochs": 0}, {"minibatch": 1}, {"lr": 0.0}, {"weight_decay": -1.0}])
def test_settings_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="needed"):
        AutoencoderTraining(**change)


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(BadInput, match="7 images were got"):
        train_autoencoder(twice(20), "5", smooth(7), QUICK, stream(0))
    with pytest.raises(NotApplicable, match="no parameter"):
        train_autoencoder(relu_mlp(dtype=DOUBLE), "1", smooth(40), QUICK, stream(0))


def test_a_file_gives_the_autoencoder_back_and_knows_another_network(tmp_path) -> None:
    made, path = train_autoencoder(twice(20), "5", smooth(40), QUICK, stream(0)), tmp_path / "made.safetensors"
    facts = decoder_metadata(made.decoder)
    write_tensors(path, autoencoder_tensors(made), facts)
    read = read_autoencoder(path, twice(20), "5")
    assert all(torch.equal(v, read.encoder[k]) for k, v in made.encoder.items())
    latents = rand((3, 80), stream(1), torch.zeros((), dtype=DOUBLE))
    assert torch.equal(made.decoder(latents), read.decoder(latents))
    with pytest.raises(BadInput, match="no parameters of a layer before"):
        read_autoencoder(path, WHOLE["strided"](), "3")
    with pytest.raises(BadInput, match="has shape"):
        read_autoencoder(path, twice(24), "5")
    with pytest.raises(BadInput, match="does not exist"):
        read_autoencoder(tmp_path / "none.safetensors", twice(20), "5")
    write_tensors(path, autoencoder_tensors(made), facts | {"bounds": "[-1.0, 1.0]"})
    with pytest.raises(BadInput, match="inside"):
        read_autoencoder(path, twice(20), "5")
    write_tensors(path, {"a": latents})
    with pytest.raises(BadInput, match="holds no decoder"):
        read_autoencoder(path, twice(20), "5")


def test_the_command_writes_what_the_tampering_reads(tmp_path) -> None:
    table = {
        "model": {"name": "strided_cnn", "channels": [4, 6], "hidden": [12, 8]},
        "data": {"name": "photos", "size": 8, "split": "public", "indices": "0:40"},
        "autoencoder": {"widths": [6, 4], "epochs": 1, "minibatch_size": 8, "held_out": 10},
    }
    out = tmp_path / "made.safetensors"
    report = train_autoencoder_file(AutoencoderPlan.model_validate(table), out, device=torch.device("cpu"))
    assert (report.public, report.examples, report.at) == (30, 10, "head.0")
    assert report.psnr > 0
    assert out.with_suffix(".json").is_file()
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name or "state" in p.name] == []
    few = {**table, "data": {**table["data"], "indices": "0:17"}}
    with pytest.raises(BadInput, match="17 examples"):
        train_autoencoder_file(AutoencoderPlan.model_validate(few), out, device=torch.device("cpu"))


def test_the_plan_of_the_documents_is_read() -> None:
    plan = read_as(AutoencoderPlan, PLANS / "train" / "strided_cnn_autoencoder.toml")
    assert plan.autoencoder.training() == AutoencoderTraining()
    assert plan.model.name == "strided_cnn"
