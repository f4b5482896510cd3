from dataclasses import replace

import pytest
import torch
from torch import nn

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.rng import stream
from fedspill.zoo.models import build, listing
from fedspill.zoo.networks.registry import NETWORKS, has_unsaid_small_stem
from fedspill.zoo.networks.shufflenet import Unit
from tests.support.worlds import CIFAR


def _count(name, num_classes, **options):
    network = NETWORKS[name]
    with torch.device("meta"):
        module = network.make(CIFAR, num_classes, replace(network.options, **options))
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", [name for name, network in NETWORKS.items() if ImageSpec in network.accepts])
def test_logits_and_random_state(name):
    before = torch.get_rng_state()
    options = {"width": 4} if hasattr(NETWORKS[name].options, "width") else {}
    model = build(name, input_shape=(3, 16, 16), num_classes=7, options=options)
    assert torch.equal(before, torch.get_rng_state())
    assert model.logits(model.params, torch.zeros(2, 3, 16, 16)).shape == (2, 7)
    assert all(v.isfinite().all() for v in [*model.params.values(), *model.buffers.values()])
    *_, head = (m for m in model.module.modules() if isinstance(m, nn.Linear))
    assert head.out_features == 7


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("lenet", 15_826),  # 912 + 3612 + 3612 + 7690
        ("resnet20", 269_722),  # Idelbayev's table says 0.27 M, 0.46 M, 0.66 M, 0.85 M
        ("resnet32", 464_154),
        ("resnet44", 658_586),
        ("resnet56", 853_018),
        ("resnet18", 11_173_962),  # the widespread CIFAR ResNets
        ("resnet34", 21_282_122),
        ("resnet50", 23_520_842),
    ],
)
def test_parameter_counts(name, count):
    assert _count(name, 10) == count


@pytest.mark.parametrize(
    ("name", "count"), [("resnet18", 11_689_512), ("resnet34", 21_797_672), ("resnet50", 25_557_032)]
)
def test_imagenet_stem_has_torchvisions_parameters(name, count):
    assert _count(name, 1000, stem="imagenet") == count


def test_shufflenet_has_torchvisions_parameters_and_shuffles_what_it_passes_on():
    assert _count("shufflenet_v2", 1000) == 2_278_604
    unit = Unit(8, 8, 1).eval()
    x = torch.randn(2, 8, 4, 4, generator=stream(0, "unit"))
    out = unit(x)
    assert torch.equal(out[:, 0::2], x[:, :4]), "one half passes unchanged, to every second channel"
    assert torch.allclose(out[:, 1::2], unit.convolved(x[:, 4:]))
    assert not torch.equal(unit(torch.cat([x[:, :4], x[:, 4:] + 1], 1))[:, 1::2], out[:, 1::2])


def test_convnet_has_eight_convolutions_and_36_widths_of_features():
    model = build("convnet", input_shape=CIFAR, num_classes=10, options={"width": 16})
    convolutions = [m for m in model.module.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels // 16 for c in convolutions] == [1, 2, 2, 4, 4, 4, 4, 4]
    assert list(model.params.values())[-2].shape == (10, 36 * 16)


def test_lenet_is_drawn_from_half_uniform():
    values = torch.cat([v.flatten() for v in build("lenet", input_shape=CIFAR, num_classes=10).params.values()])
    assert values.abs().max() <= 0.5
    assert abs(values.std() - 1 / 12**0.5) < 0.01


def test_convnet_is_drawn_as_pytorch_draws():
    model = build("convnet", input_shape=CIFAR, num_classes=10, options={"width": 16})
    weights = model.params["0.3.0.weight"]
    bound = 1 / (9 * 32) ** 0.5
    assert 0.98 * bound < weights.abs().max() <= bound


def test_resnet_is_drawn_by_fan_out():
    weights = build("resnet20_4", input_shape=CIFAR, num_classes=10).params["layer2.0.conv1.weight"]
    assert float(weights.std()) == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)


def test_same_seed_same_weights():
    first, again, other = (build("resnet20", input_shape=CIFAR, num_classes=10, seed=s) for s in (3, 3, 4))
    assert all(torch.equal(first.params[k], again.params[k]) for k in first.params)
    assert not torch.equal(first.params["conv1.weight"], other.params["conv1.weight"])


@pytest.mark.parametrize(
    ("name", "side", "shift", "options"),
    [
        ("resnet20_4", 16, 4, {"width": 4}),
        ("resnet18", 16, 8, {"width": 4}),
        ("resnet50", 16, 8, {"width": 2}),
        ("resnet18", 64, 32, {"width": 4, "stem": "imagenet"}),
    ],
)
def test_circular_padding_makes_logits_blind_to_shifts(name, side, shift, options):
    images = torch.randn((2, 3, side, side), generator=stream(0, "images"), dtype=torch.float64)
    for padding in ("circular", "zeros"):
        given = {**options, "padding": padding}
        model = build(name, input_shape=(3, side, side), num_classes=10, options=given, dtype=torch.float64)
        moved = model.logits(model.params, images.roll((shift, -shift), (2, 3)))
        same = torch.allclose(model.logits(model.params, images), moved, atol=1e-9)
        assert same == (padding == "circular")


def test_circular_convnet_shifts_its_features():
    model = build(
        "convnet",
        input_shape=(3, 27, 27),
        num_classes=10,
        options={"width": 4, "padding": "circular"},
        dtype=torch.float64,
    )
    features = model.module.eval().double()[0]
    features.load_state_dict({k[2:]: v for k, v in {**model.params, **model.buffers}.items() if k[:2] == "0."})
    images = torch.randn((1, 3, 27, 27), generator=stream(0, "images"), dtype=torch.float64)
    assert torch.allclose(features(images.roll(9, 2)), features(images).roll(1, 2), atol=1e-9)


def test_mlp_options():
    options = {"hidden": [20], "bias": False, "activation": "tanh"}
    model = build("mlp", input_shape=(1, 4, 5), num_classes=3, options=options)
    assert [tuple(v.shape) for v in model.params.values()] == [(20, 20), (3, 20)]
    linear = build("mlp", input_shape=(1, 4, 5), num_classes=3, options={"hidden": []})
    assert [tuple(v.shape) for v in linear.params.values()] == [(3, 20), (3,)]


def test_lenet_fits_odd_sizes():
    model = build("lenet", input_shape=(1, 29, 31), num_classes=4, options={"activation": "relu"})
    assert model.logits(model.params, torch.zeros(1, 1, 29, 31)).shape == (1, 4)


def test_train_mode_and_dtype():
    model = build("resnet20", input_shape=CIFAR, num_classes=10, mode="train", dtype=torch.float64)
    assert model.training
    assert model.like.dtype == torch.float64
    assert model.buffers["bn1.num_batches_tracked"].dtype == torch.long


@pytest.mark.parametrize(
    ("normalise", "mean"), [(True, (0.1, 0.2, 0.3)), (False, (0.0,)), ("imagenet", (0.485, 0.456, 0.406))]
)
def test_normalisation(normalise, mean):
    options = {"normalise": normalise}
    model = build(
        "lenet", input_shape=CIFAR, num_classes=10, options=options, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)
    )
    assert isinstance(model.input, ImageSpec)
    assert model.input.mean == mean


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("lenett", {}, "unknown model 'lenett'; there are lenet"),
        ("lenet", {"options": {"width": 3}}, "lenet has no option 'width'; it has activation"),
        ("lenet", {"options": {"activation": "gelu"}}, "must be 'sigmoid' or 'relu'"),
        ("convnet", {"options": {"width": 0}}, "must be a whole number from 1"),
        ("convnet", {"options": {"width": True}}, "must be a whole number from 1"),
        ("mlp", {"options": {"hidden": [8, 0]}}, "a list, each a whole number"),
        ("mlp", {"options": {"bias": 1}}, "must be true or false"),
        ("resnet20", {"options": {"depth": 3}}, "it has no options"),
        ("lenet", {"options": {"normalise": "cifar"}}, "must be true, false, or one of"),
        ("convnet", {"input_shape": (3, 8, 8)}, "at least 9x9"),
        ("lenet", {"mode": "training"}, '"eval" or "train" is needed'),
        ("lenet", {"mean": (0.1, 0.2)}, "has 2 values; the data has 3 channels"),
        ("lenet", {"std": (0.1, 0.0, 0.1)}, "must be above 0"),
        ("lenet", {"device": "cuda:99"}, "device 'cuda:99' cannot be used"),
        ("lenet", {"dtype": torch.int64}, "a floating dtype is needed"),
        ("no.such.module:net", {}, "`package.module:factory` is needed"),
        ("torch:no_such_net", {}, "`package.module:factory` is needed"),
    ],
)
def test_bad_input(name, change, said):
    with pytest.raises(BadInput, match=said) as caught:
        build(name, **{"input_shape": CIFAR, "num_classes": 10, **change})
    assert "\n" not in str(caught.value)


def test_listing_names_every_network():
    entries = {e.name: e for e in listing()}
    assert set(NETWORKS) < set(entries)
    assert "width = 160" in entries["resnet32_10"].options
    assert "hf:NAME" in entries


def test_the_stem_is_the_same_at_every_size_and_said_to_be_on_large_pictures():
    for size in (32, 224):
        built = build("resnet18", input_shape=(3, size, size), num_classes=7, options={"width": 2}).module
        assert built.conv1.kernel_size == (3, 3)
    assert has_unsaid_small_stem("resnet18", {"width": 2}, (3, 224, 224))
    assert not has_unsaid_small_stem("resnet18", {"stem": "cifar"}, (3, 224, 224))
    assert not has_unsaid_small_stem("resnet18", {}, (3, 64, 64))
    assert not has_unsaid_small_stem("convnet", {}, (3, 224, 224))
    assert not has_unsaid_small_stem("torchvision:resnet18", {}, (3, 224, 224))
