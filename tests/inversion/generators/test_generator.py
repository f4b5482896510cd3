"""Anybody's generator: what is asked of it, its images by weights of each one's own, the linear one, its file."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.rng import rand, randn, stream
from fedspill.core.tensor_files import write_tensors
from fedspill.inversion.generators.components import components_generator
from fedspill.inversion.generators.files import generator_metadata, read_generator
from fedspill.inversion.generators.generator import Generator, checked
from fedspill.inversion.generators.own import own_generator
from fedspill.inversion.representations.images.decoder import DecoderShape, decoder_metadata, fresh_decoder
from tests.support.worlds import SPEC, draw_weights

LIKE = torch.zeros((), dtype=torch.float64)
SHAPE = (3, 8, 8)


class Small(nn.Module):
    """Latents (n, 5) to images (n, 3, 8, 8) in (0, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(5, 48), nn.BatchNorm2d(12), nn.Conv2d(12, 3, 3, padding=1)

    def forward(self, latents):
        x = self.norm(self.first(latents).view(-1, 12, 2, 2)).relu()
        return self.last(functional.interpolate(x, scale_factor=4.0)).sigmoid()


def small() -> nn.Module:
    with torch.random.fork_rng():
        return draw_weights(Small(), scale=0.5)


def generator(module: nn.Module | None = None, latent: tuple[int, ...] = (5,)) -> Generator:
    return Generator.of(module or small(), latent, SHAPE, "'mine'")


def test_images_by_own_weights_are_those_of_networks_that_hold_them() -> None:
    made = checked(generator(), SPEC, LIKE)
    latents = randn((3, 5), stream(0), LIKE)
    weights = [w + 0.1 * randn(tuple(w.shape), stream(1, k), LIKE) for k, w in enumerate(made.stacked_weights(3))]
    got = made.images_by(weights, latents)
    for i in range(3):
        plain = small().double().eval()
        plain.load_state_dict({k: w[i] for k, w in zip(made.params, weights, strict=True)}, strict=False)
        torch.testing.assert_close(got[i], plain(latents[i : i + 1])[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(made.images_by(made.stacked_weights(3), latents), made.images(latents))


def test_a_users_module_is_left_as_it_was() -> None:
    module = small()
    assert module.training
    before = {k: v.clone() for k, v in module.state_dict().items()}
    made = checked(generator(module), SPEC, LIKE)
    made.images(randn((2, 5), stream(0), LIKE)).sum()
    assert module.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in module.parameters())
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


class Changed(Small):
    """The same, with something done to the images."""

    def __init__(self, change) -> None:
        super().__init__()
        self.change = change

    def forward(self, latents):
        return self.change(super().forward(latents))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :1], r"gives \(4, 1, 8, 8\) for 4 latents; images of shape \(4, 3, 8, 8\) are needed"),
        (lambda x: (x, x), "gives tuple for 4 latents"),
        (lambda x: 2 * x - 1, r"values from -0\.\d+ to .*; they must lie between 0 and 1"),
        (lambda x: x / 0 * 0, "NaN or infinite"),
        (lambda x: x * x.mean(0, keepdim=True), "depend on the others of their batch"),
        (lambda x: (x + 0.5 * torch.rand_like(x)).clamp(0, 1), "draws random numbers"),
        (lambda x: x.detach(), "no gradient of its images reaches the latents"),
        (lambda x: x * 0 + 0.5, "do not follow the latents"),
    ],
)
def test_what_a_search_could_not_use_is_refused_in_one_line(change, message: str) -> None:
    with torch.random.fork_rng():
        module = draw_weights(Changed(change), scale=0.5)
    with pytest.raises(BadInput, match=message) as error:
        checked(generator(module), SPEC, LIKE)
    assert "\n" not in str(error.value)


def test_latents_and_images_of_other_shapes_are_refused() -> None:
    with pytest.raises(BadInput, match=r"generator 'mine' takes no latents of shape \(4, 7\): "):
        checked(generator(latent=(7,)), SPEC, LIKE)
    other = Generator.of(small(), (5,), (3, 16, 16), "'mine'")
    with pytest.raises(BadInput, match=r"makes images of shape \(3, 16, 16\); the network takes \(3, 8, 8\)"):
        checked(other, SPEC, LIKE)


def no_network() -> int:
    return 3


def fails() -> nn.Module:
    raise OSError("no such file")


def test_a_factory_is_called_and_what_is_none_is_refused() -> None:
    place = __name__
    latents = randn((2, 5), stream(0), LIKE)
    made = checked(own_generator(f"{place}:small", (5,), SHAPE), SPEC, LIKE)
    torch.testing.assert_close(made.images(latents), small().double().eval()(latents))
    with pytest.raises(BadInput, match="returns int; an nn.Module from latents to images is needed"):
        own_generator(f"{place}:no_network", (5,), SHAPE)
    with pytest.raises(BadInput, match="the call failed with OSError: no such file"):
        own_generator(f"{place}:fails", (5,), SHAPE)
    with pytest.raises(BadInput, match="AttributeError"):
        own_generator(f"{place}:not_there", (5,), SHAPE)


def test_the_linear_generator_has_the_mean_and_the_covariance_of_public_images() -> None:
    public = 0.4 + 0.2 * rand((40, *SHAPE), stream(0), LIKE)
    made = checked(components_generator(public, 100), SPEC, LIKE)
    assert made.latent_shape == (39,)
    flat = public.flatten(1)
    torch.testing.assert_close(
        made.images(torch.zeros(1, 39, dtype=torch.float64))[0], public.mean(0), rtol=1e-6, atol=0
    )
    spread = made.params["spread"]
    torch.testing.assert_close(spread.T @ spread, flat.T.cov(correction=0), rtol=1e-4, atol=1e-7)
    few = components_generator(public, 3).params["spread"].double()
    values = torch.linalg.svdvals((flat - flat.mean(0)) / 40**0.5)
    torch.testing.assert_close(few.norm(dim=1), values[:3], rtol=1e-5, atol=0)


def test_the_linear_generator_needs_images_that_differ() -> None:
    with pytest.raises(NotApplicable, match="7 public images were granted; at least 8"):
        components_generator(torch.rand(7, *SHAPE, generator=stream(0)), 4)
    with pytest.raises(NotApplicable, match="all alike"):
        components_generator(torch.full((9, *SHAPE), 0.5), 4)


def test_a_file_gives_back_the_generator_and_others_are_refused(tmp_path) -> None:
    made = fresh_decoder(DecoderShape((6, 4)), 5, SHAPE, (0.0, 1.0), stream(0), torch.zeros(())).eval()
    file = tmp_path / "g.safetensors"
    write_tensors(file, made.state_dict(), generator_metadata(made))
    latents = randn((2, 5), stream(1), torch.zeros(()))
    read = checked(read_generator(file), SPEC, torch.zeros(()))
    torch.testing.assert_close(read.images(latents), made(latents))
    with pytest.raises(BadInput, match="does not exist; `fedspill train generator` writes one"):
        read_generator(tmp_path / "nowhere.safetensors")
    write_tensors(file, made.state_dict(), decoder_metadata(made))
    with pytest.raises(BadInput, match="holds no generator"):
        read_generator(file)
    state = made.state_dict()
    write_tensors(file, {k: v for k, v in state.items() if k != "last.bias"}, generator_metadata(made))
    with pytest.raises(BadInput, match="broken generator"):
        read_generator(file)
    write_tensors(file, {**state, "last.bias": state["last.bias"] * torch.nan}, generator_metadata(made))
    with pytest.raises(BadInput, match="NaN or infinite weights"):
        read_generator(file)
    file.write_bytes(b"nothing")
    with pytest.raises(BadInput, match="no whole safetensors file"):
        read_generator(file)
