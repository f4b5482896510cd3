"""ResNets as identities: every feature is one pixel, and the pictures come back."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.interpolate import griddata
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec, TokenSpec
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.inversion.identity.offsets import balanced, thinned
from fedspill.inversion.identity.pixel_map import pictures, pixel_map
from fedspill.inversion.identity.pixels import between, interpolation
from fedspill.inversion.identity.transparent import Lanes, Relu, linearised
from fedspill.inversion.network.layers import layer_inputs
from fedspill.zoo import data
from fedspill.zoo.models import build

LANES: tuple[Lanes, ...] = ("three", "all")
RELUS: tuple[Relu, ...] = ("shift", "remove")
NETWORKS = {
    "cifar": ("resnet18", {"width": 12}),
    "imagenet": ("resnet18", {"width": 16, "stem": "imagenet"}),
    "bottleneck": ("resnet50", {"width": 8}),
    "circular": ("resnet18", {"width": 12, "padding": "circular"}),
    "option_a": ("resnet20", {}),
}


def network(name: str, side: int = 32, mode: str = "eval") -> Model:
    kind, options = NETWORKS[name]
    model = build(kind, input_shape=(3, side, side), num_classes=5, options=options, mode=mode, dtype=torch.float64)
    rng = stream(0, "test", "linearised", name)
    # Running statistics and scales as training leaves them; at their initial values any mistake in them is unseen.
    buffers = {k: torch.rand(v.shape, generator=rng).to(v) + 0.3 for k, v in model.buffers.items()}
    params = {k: torch.rand(v.shape, generator=rng).to(v) if v.ndim == 1 else v for k, v in model.params.items()}
    return model.with_params(params, buffers)


def photographs(side: int = 32) -> Tensor:
    return data.load("photos", size=side, indices="0:4").batch.inputs.double()


def psnr(model: Model, at: str, private: Tensor) -> Tensor:
    features = layer_inputs(model, at, model.input.encode(private)).flatten(1)
    assert isinstance(model.input, ImageSpec)
    got = pictures(pixel_map(model, at), features, model.input)
    assert float(got.min()) >= 0
    assert float(got.max()) <= 1
    return -10 * (got - private).square().flatten(1).mean(1).clamp_min(1e-20).log10()


def seen_pixels(model: Model, at: str, side: int) -> list[Tensor]:
    """For every feature the inputs that change it, by brute force: one pixel at a time."""
    z = model.input.encode(torch.full((1, 3, side, side), 0.5).double())
    changed = z + 0.1 * torch.eye(z.numel()).to(z).view(-1, *z.shape[1:])
    difference = layer_inputs(model, at, changed).flatten(1) - layer_inputs(model, at, z).flatten(1)
    return [row.nonzero()[:, 0] for row in (difference.abs() > 1e-9).T]


# Of 16 x 16 pixels: all, or with strides as many per 2^k x 2^k cell as a third of the channels can show.
@pytest.mark.parametrize(
    ("name", "at", "three", "every"),
    [
        ("cifar", "layer1", 256, 256),
        ("cifar", "layer2.1", 64, 256),
        ("cifar", "layer4", 16, 256),
        ("cifar", "avgpool", 4, 5 * 6 * 4),
        ("circular", "avgpool", 4, 5 * 6 * 4),
        ("imagenet", "pool", 64, 256),
        ("bottleneck", "layer2", 256, 256),
        ("bottleneck", "layer3", 64, 256),
        ("option_a", "avgpool", 16, 256),
    ],
)
def test_every_feature_is_one_pixel_and_as_many_are_seen_as_channels_allow(
    name: str, at: str, three: int, every: int
) -> None:
    model, private = network(name, 16), photographs(16)
    reached = list[Tensor]()
    for lanes, expected in zip(LANES, (three, every), strict=True):
        sent = linearised(model, at, lanes=lanes, relu="shift")
        shown = seen_pixels(sent, at, 16)
        assert max(len(pixel) for pixel in shown) == 1
        assert [sum(int(p) // 256 == c for p in torch.cat(shown).unique()) for c in range(3)] == 3 * [expected]
        assert pixel_map(sent, at).resolution() == expected
        z = model.input.encode(private)
        mixed, parts = layer_inputs(sent, at, 0.3 * z[:1] + 0.7 * z[1:2]), layer_inputs(sent, at, z[:2])
        torch.testing.assert_close(mixed, 0.3 * parts[:1] + 0.7 * parts[1:])
        reached.append(psnr(sent, at, private))
    assert every < 256 or float(reached[1].min()) > 120
    assert every == three or bool((reached[1] > reached[0] + 2).all())


@pytest.mark.parametrize("at", ["layer1", "layer3", "avgpool"])
def test_behind_a_maximum_pool_both_ends_of_the_windows_are_seen(at: str) -> None:
    model, private = network("imagenet", 64), photographs(64)
    three = psnr(linearised(model, at, lanes="three", relu="shift"), at, private)
    every = psnr(linearised(model, at, lanes="all", relu="shift"), at, private)
    assert bool((every > three + 2).all())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("lanes", LANES)
def test_removed_activations_change_nothing_before_the_place(name: str, lanes: Lanes) -> None:
    model, z = network(name), network(name).input.encode(photographs())
    shift, remove = (linearised(model, "layer3", lanes=lanes, relu=relu) for relu in RELUS)
    assert {k: v.shape for k, v in shift.params.items()} == {k: v.shape for k, v in model.params.items()}
    assert list(remove.params) == list(model.params)
    assert torch.equal(layer_inputs(shift, "layer3", z), layer_inputs(remove, "layer3", z))
    for sent in (shift, remove):
        assert bool(sent.logits(sent.params, z).isfinite().all())
        behind = [k for k in model.params if k.startswith(("layer3", "layer4", "fc", "linear"))]
        assert all(torch.equal(sent.params[k], model.params[k]) for k in behind)
    left = [k for k, m in remove.module.named_modules() if isinstance(m, nn.ReLU)]
    assert left
    assert all(k.startswith(("layer3", "layer4")) for k in left)
    assert sum(isinstance(m, nn.ReLU) for m in shift.module.modules()) > len(left)


def test_the_template_that_was_given_keeps_its_activations() -> None:
    model = network("cifar")
    before = repr(model.module)
    linearised(model, "avgpool", lanes="all", relu="remove")
    assert repr(model.module) == before


class Torchvision(nn.Module):
    """One stage named, and called, as torchvision does it; the first convolution of a block strides."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 24, 7, 2, 3, bias=False), nn.BatchNorm2d(24)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Block(24, 24, 1))
        self.layer2 = nn.Sequential(Block(24, 48, 2))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x))))))
        return self.fc(self.avgpool(x).flatten(1))


class Block(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int, extra: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside)
        self.relu, self.downsample = nn.ReLU(inplace=True), None
        self.conv2, self.bn2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside)
        if stride > 1:
            beside = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.downsample = nn.Sequential(beside, nn.BatchNorm2d(outside))
        if extra is not None:
            self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


def model_of(make: type[nn.Module], spec: ImageSpec | TokenSpec = ImageSpec((3, 32, 32))) -> Model:
    with torch.device("meta"):
        module = make()
    module = module.to_empty(device="cpu").double()
    rng = stream(0, "test", "linearised")
    params = {k: torch.rand(v.shape, generator=rng).double() for k, v in module.named_parameters()}
    buffers = {k: torch.rand(v.shape, generator=rng).to(v) + 0.3 for k, v in module.named_buffers()}
    return Model(module, params, buffers, functional.cross_entropy, spec)


@pytest.mark.parametrize("relu", RELUS)
def test_networks_named_as_torchvisions(relu: Relu) -> None:
    model, private = model_of(Torchvision), photographs()
    for at in ("maxpool", "layer1", "layer2", "avgpool"):
        three, every = (psnr(linearised(model, at, lanes=k, relu=relu), at, private) for k in LANES)
        assert bool((every > three + 3).all()), at


def test_plain_stacks_are_handed_on_too() -> None:
    model = build("convnet", input_shape=(3, 32, 32), num_classes=5, options={"width": 8}, dtype=torch.float64)
    for relu in RELUS:
        sent = linearised(model, "0.3", lanes="three", relu=relu)
        assert float(psnr(sent, "0.3", photographs()).min()) > 100
        assert torch.equal(sent.params["0.3.0.weight"], model.params["0.3.0.weight"])


class Squeezed(Torchvision):
    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(Block(24, 24, 1, nn.Conv2d(24, 24, 1)))


class Grouped(Torchvision):
    def __init__(self) -> None:
        super().__init__()
        self.layer2[0].conv2 = nn.Conv2d(48, 48, 3, 1, 1, groups=4, bias=False)


class Normless(Torchvision):
    def __init__(self) -> None:
        super().__init__()
        self.layer2[0].bn2 = nn.GroupNorm(4, 48)


@pytest.mark.parametrize(
    ("make", "at", "reason"),
    [
        (Torchvision, "layer2.0.conv2", "inside the stem or a block"),
        (Torchvision, "relu", "inside the stem or a block"),
        (Torchvision, "layer9", "no layer 'layer9'"),
        (Squeezed, "layer2", "layer1.0.extra is Conv2d"),
        (Grouped, "avgpool", "'layer2.0.conv2' is Conv2d, not a convolution without groups"),
        (Normless, "avgpool", "'layer2.0.bn2' is GroupNorm"),
    ],
)
def test_what_is_no_resnet_is_named(make: type[nn.Module], at: str, reason: str) -> None:
    with pytest.raises(NotApplicable, match=reason):
        linearised(model_of(make), at, lanes="all", relu="shift")


def test_batch_statistics_and_other_inputs_do_not_fit() -> None:
    model = model_of(Torchvision)
    with pytest.raises(NotApplicable, match="train mode"):
        linearised(replace(model, training=True), "layer2", lanes="all", relu="shift")
    with pytest.raises(NotApplicable, match="takes TokenSpec"):
        linearised(replace(model, input=TokenSpec(8, 100)), "layer2", lanes="all", relu="shift")
    with pytest.raises(NotApplicable, match="pixel of every colour"):
        pixel_map(
            linearised(model_of(Torchvision, ImageSpec((3, 32, 32))), "layer1", lanes="three", relu="shift"), "fc"
        )


def test_interpolation_agrees_with_scipy() -> None:
    rng = stream(0, "test", "interpolation")
    places, values = torch.rand(40, 2, generator=rng).double() * 15, torch.rand(3, 40, generator=rng).double()
    got = interpolation(places, (16, 12))(values)
    grid = tuple(np.mgrid[0:16, 0:12].astype(float))
    for picture, known in zip(got, values, strict=True):
        linear, nearest = (griddata(places.numpy(), known.numpy(), grid, method=m) for m in ("linear", "nearest"))
        expected = torch.from_numpy(np.where(np.isnan(linear), nearest, linear))
        torch.testing.assert_close(picture, expected)


def test_bounds_from_windows_by_brute_force() -> None:
    rng = stream(0, "test", "windows")
    image = torch.rand(2, 8, 8, generator=rng).double()
    corners = torch.tensor([[y, x] for y in range(0, 6, 2) for x in range(6)] * 2)
    brightest = torch.arange(len(corners)) < len(corners) // 2
    parts = [image[:, y : y + 3, x : x + 3].flatten(1) for y, x in corners.tolist()]
    values = torch.stack([p.amax(1) if m else p.amin(1) for p, m in zip(parts, brightest, strict=True)], 1)
    places, got = between(corners.double(), corners.double() + 2, brightest, values, (8, 8))
    assert len(places) == 7 * 8
    for (y, x), middle in zip(places.long().tolist(), got.T, strict=True):
        held = ((corners <= torch.tensor([y, x])) & (torch.tensor([y, x]) <= corners + 2)).all(1)
        upper, lower = values[:, held & brightest].amin(1), values[:, held & ~brightest].amax(1)
        assert bool((lower <= image[:, y, x]).all())
        assert bool((image[:, y, x] <= upper).all())
        torch.testing.assert_close(middle, (upper + lower) / 2)


@pytest.mark.parametrize(("places", "cell", "count"), [(range(8), 8, 6), (range(0, 16, 2), 16, 5), (range(12), 12, 5)])
def test_thinned_places_are_nearly_as_even_as_possible(places: range, cell: int, count: int) -> None:
    def unevenness(chosen: tuple[int, ...]) -> int:
        return sum(((b - a) % cell) ** 2 for a, b in zip(chosen, (*chosen[1:], chosen[0]), strict=True))

    got = thinned(places, cell, count)
    assert len(got) == count
    assert unevenness(got) <= 1.2 * min(unevenness(c) for c in combinations(places, count))
    assert set(thinned(places, cell, 3, keep=places[:4])) == set(places[:4])


def test_balanced_grids_fit_and_no_larger_square_one_does() -> None:
    for room in range(1, 60):
        rows, columns = balanced(6, 8, room)
        assert rows * columns <= room
        assert min(rows, columns) >= min(6, int(room**0.5))
