"""What a network's images are normalised by: as somebody says, in words that equal a plain training script's."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.tensor_files import write_tensors
from fedspill.plan.build import described_network, of_data, said
from fedspill.plan.file import parse_plan
from fedspill.zoo.data import DataPool, from_tensors, load
from fedspill.zoo.measured_statistics import measured
from fedspill.zoo.models import built, surely_untrained
from fedspill.zoo.models.normalising import _preprocessor
from fedspill.zoo.statistics import CIFAR10, CIFAR100, IMAGENET, PLAIN, Statistics, stated

SHAPE = (3, 8, 8)
USERS = """
import torch
from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model

def net():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10))

def model():
    return Model.of(net(), ImageSpec((3, 8, 8), mean=(0.25,)))
"""


@pytest.mark.parametrize(
    ("mean", "std", "ends"),
    [
        ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), None),
        ((0.5,), (0.25,), (0.0, 1.0)),
        ((0.1,), (2.0,), (-1.0, 1.0)),
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), (0.0, 255.0)),
        (None, None, (-1.0, 1.0)),
        (None, None, None),
    ],
)
def test_every_way_of_saying_it_is_what_a_script_computes(mean, std, ends) -> None:
    images = torch.rand(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = stated(mean, std, ends)
    low, high = ends or (0.0, 1.0)
    plain = low + (high - low) * images
    for c in range(3):
        of = [None if v is None else v[c % len(v)] for v in (mean, std)]
        plain[:, c] = (plain[:, c] - (of[0] or 0.0)) / (of[1] or 1.0)
    assert torch.allclose(ImageSpec(SHAPE, mean=found.mean, std=found.std).encode(images), plain, atol=1e-12)


@pytest.mark.parametrize(
    ("mean", "std", "ends", "told"),
    [
        ((0.5,), None, None, "both are needed"),
        ((0.5,), (0.0,), None, "every std above 0"),
        ((float("nan"),), (1.0,), None, "finite numbers"),
        (None, None, (1.0, 1.0), "range=.1, 1.: two numbers"),
        (None, None, (0.0, float("inf")), "range="),
    ],
)
def test_what_no_image_can_be_normalised_by(mean, std, ends, told) -> None:
    with pytest.raises(BadInput, match=told):
        stated(mean, std, ends)


def test_public_images_are_measured_over_all_pixels() -> None:
    images = (
        torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 0.5, 0.1])[:, None, None]
    )
    found = measured(images)
    assert found.mean == tuple(round(float(v), 4) for v in images.double().mean((0, 2, 3)))
    assert found.std == tuple(round(float(v), 4) for v in images.double().std((0, 2, 3), correction=0))
    with pytest.raises(BadInput, match="a channel is constant"):
        measured(torch.zeros(2, *SHAPE))


def _pool(mean=PLAIN.mean, std=PLAIN.std, seed=0) -> DataPool:
    images = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return from_tensors(images, torch.arange(4), mean=mean, std=std)


def test_the_datas_statistics_are_its_constants_or_measured_on_public_images_and_never_on_private_ones() -> None:
    stated_with_the_data, public = _pool((0.3,), (0.2,)), _pool(seed=1)
    assert of_data(stated_with_the_data, None).statistics == Statistics((0.3,), (0.2,))
    found = of_data(_pool(), public)
    assert found.statistics == measured(public.batch.inputs)
    assert found.origin == "measured on 4 public images of tensors"
    with pytest.raises(BadInput, match="not measured on private images; name public ones .server.public."):
        of_data(_pool(), None)
    photos = of_data(load("photos", indices="0"), None)
    assert photos.statistics == measured(load("photos", split="public").batch.inputs)
    assert photos.statistics != measured(load("photos").batch.inputs)


@pytest.mark.parametrize(
    ("section", "wanted"),
    [
        ({"mean": 0.5, "std": 0.5}, Statistics((0.5,), (0.5,))),
        ({"mean": [1, 2, 3], "std": [1, 1, 2], "range": [0, 10]}, Statistics((0.1, 0.2, 0.3), (0.1, 0.1, 0.2))),
        ({"range": [-1, 1]}, Statistics((0.5,), (0.5,))),
        ({"mean": "data"}, Statistics((0.3,), (0.2,))),
        ({"mean": "data", "std": "data"}, Statistics((0.3,), (0.2,))),
        ({"normalise": "data"}, Statistics((0.3,), (0.2,))),
        ({"normalise": "imagenet"}, IMAGENET),
        ({"normalise": "cifar10"}, CIFAR10),
        ({"normalise": "cifar100"}, CIFAR100),
        ({"normalise": False}, Statistics((0.0,), (1.0,))),
        ({"normalise": True}, None),
        ({}, None),
    ],
)
def test_what_a_plan_says(section, wanted) -> None:
    found = said(parse_plan({"model": section}).model, _pool((0.3,), (0.2,)), None)
    assert (found and found.statistics) == wanted


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"mean": 0.5}, "mean and std go together"),
        ({"range": [-1, 1], "normalise": False}, "normalise and range are given; set one or the other"),
        ({"mean": "data", "range": [0, 255]}, "leave std and range out"),
        ({"mean": "data", "std": 0.5}, "leave std and range out"),
        ({"normalise": "cifar"}, 'must be true, false, or one of "data", "imagenet", "cifar10"'),
        ({"mean": []}, "model.mean"),
        ({"mean": [float("nan")], "std": 1.0}, "model.mean"),
    ],
)
def test_what_a_plan_may_not_say(section, told) -> None:
    with pytest.raises(BadInput, match=told) as caught:
        parse_plan({"model": section})
    assert "\n" not in str(caught.value)


def test_unsaid_keys_leave_the_plan_as_it_was() -> None:
    assert not {"mean", "std", "range", "normalise"} & set(parse_plan({}).model_dump(mode="json")["model"])
    assert parse_plan({"model": {"normalise": "imagenet"}}).model_dump()["model"]["normalise"] == "imagenet"


def _network(section, pool=None, public=None):
    return described_network(
        parse_plan({"model": section}).model, pool or _pool(), None, torch.device("cpu"), None, public
    )


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "net.safetensors"
    write_tensors(path, dict(_network({"name": "mlp"}).model.params))
    return path


def test_of_weights_in_a_file_nothing_is_guessed(weights) -> None:
    section = {"name": "mlp", "weights": str(weights)}
    for pool in (_pool(), _pool((0.3,), (0.2,))):
        with pytest.raises(BadInput, match="said by nobody: give model.mean and model.std") as caught:
            _network(section, pool)
        assert "\n" not in str(caught.value)
    said_so = _network(section | {"mean": 0.5, "std": 0.5})
    assert (said_so.model.input.mean, said_so.normalisation) == ((0.5,), "as the plan says")
    write_tensors(weights, dict(said_so.model.params), {"mean": "[0.1]", "std": "[0.2]"})
    of_the_file = _network(section)
    assert of_the_file.model.input.std == (0.2,)
    assert str(weights) in str(of_the_file.normalisation)
    assert _network(section | {"range": [-1, 1]}).model.input.mean == (0.5,)


def test_an_untrained_network_of_the_zoo_takes_what_it_always_took() -> None:
    assert _network({"name": "mlp"}).model.input == ImageSpec(SHAPE, mean=PLAIN.mean, std=PLAIN.std)
    assert _network({"name": "mlp"}, _pool((0.3,), (0.2,))).model.input == ImageSpec(SHAPE, mean=(0.3,), std=(0.2,))


def test_of_the_callers_own_module_nothing_is_guessed(tmp_path, monkeypatch) -> None:
    (tmp_path / "fedspill_users_fed.py").write_text(USERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(BadInput, match="'fedspill_users_fed:net' are normalised by is said by nobody"):
        _network({"name": "fedspill_users_fed:net"})
    assert _network({"name": "fedspill_users_fed:net", "normalise": "data"}, public=_pool()).model.input.std[0] != 0.25
    assert _network({"name": "fedspill_users_fed:model"}).model.input.mean == (0.25,)
    with pytest.raises(BadInput, match="brings its own input"):
        _network({"name": "fedspill_users_fed:model", "normalise": False})
    sys.modules.pop("fedspill_users_fed", None)


def _build(name, weights="untrained", num_classes=10, **options):
    return built(
        name,
        input_shape=SHAPE,
        num_classes=num_classes,
        spec=None,
        weights=weights,
        mode="eval",
        seed=0,
        data_root=None,
        device="cpu",
        dtype=torch.float32,
        options=options,
        data=None,
        normalisation=None,
        assume=False,
    )


@pytest.fixture
def libraries(monkeypatch):
    """Stand-ins that say what the libraries say."""

    def net(classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(192, classes))

    def create_model(name, pretrained, num_classes, in_chans):
        made = net(num_classes)
        made.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "num_classes": 20}
        return made

    entry = SimpleNamespace(
        meta={"categories": ["a"] * 20}, transforms=lambda: SimpleNamespace(mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    )
    models, timm = ModuleType("torchvision.models"), ModuleType("timm")
    models.get_model = lambda name, weights, num_classes: net(num_classes)
    models.get_model_weights = lambda name: {"DEFAULT": entry}
    timm.create_model = create_model
    for name, module in (("torchvision", ModuleType("torchvision")), ("torchvision.models", models), ("timm", timm)):
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize(
    ("name", "options", "mean", "origin"),
    [
        ("timm:net", {"pretrained": True}, (0.5, 0.5, 0.5), "as timm's default_cfg says"),
        ("timm:net", {}, PLAIN.mean, "assumed, as nothing is known of the data"),
        ("torchvision:net", {}, PLAIN.mean, "assumed, as nothing is known of the data"),
    ],
)
def test_a_librarys_own_weights_bring_what_the_library_says(libraries, name, options, mean, origin) -> None:
    found = _build(name, **options)
    assert (found.model.input.mean, found.normalisation) == (mean, origin)


@pytest.mark.parametrize(("name", "mean"), [("timm:net", (0.5, 0.5, 0.5)), ("torchvision:net", (0.1, 0.2, 0.3))])
def test_a_file_is_the_librarys_if_it_has_its_head(libraries, tmp_path, name, mean) -> None:
    for classes in (20, 10):
        write_tensors(tmp_path / f"{classes}.safetensors", dict(_build(name, num_classes=classes).model.params))
    assert _build(name, str(tmp_path / "20.safetensors"), 20).model.input.mean == mean
    with pytest.raises(BadInput, match="said by nobody"):
        _build(name, str(tmp_path / "10.safetensors"))


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, Statistics((0.5,) * 3, (0.5,) * 3)),
        ({"do_normalize": False}, Statistics((0.0,), (1.0,))),
        ({"do_normalize": False, "do_rescale": False}, Statistics((0.0,), (1 / 255,))),
        ({"do_normalize": False, "rescale_factor": 1 / 127.5, "rescale_offset": True}, Statistics((0.5,), (0.5,))),
    ],
)
def test_a_preprocessor_of_hugging_face(config, wanted) -> None:
    found = _preprocessor(json.loads(json.dumps(config)))
    assert found.mean == pytest.approx(wanted.mean)
    assert found.std == pytest.approx(wanted.std)


def test_what_is_untrained_for_certain() -> None:
    assert surely_untrained("mlp", "untrained", {})
    assert surely_untrained("timm:net", "untrained", {"pretrained": False})
    assert not surely_untrained("timm:net", "untrained", {"pretrained": True})
    assert not surely_untrained("mine:net", "untrained", {})
    assert not surely_untrained("mlp", "net.safetensors", {})


def test_constants_are_named_where_they_are_used() -> None:
    assert str(CIFAR10) == "mean (0.4915, 0.4823, 0.4468), std (0.247, 0.2435, 0.2616)"
    assert str(PLAIN) == "mean 0.5, std 0.25"
