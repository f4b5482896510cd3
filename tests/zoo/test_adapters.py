"""The user's own networks, and those of libraries."""

import random
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from fedspill.core.errors import BadInput
from fedspill.core.libraries import vision
from fedspill.core.model import Model
from fedspill.plan.build import network
from fedspill.plan.sections import ModelSection
from fedspill.zoo.data import load
from fedspill.zoo.models import adapters, build
from tests.support.worlds import CIFAR

USERS = """
import random
import numpy, torch
from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model

def net(classes=10):
    torch.rand(random.randrange(5) + numpy.random.randint(5))
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, classes))

def usual(*, num_classes=10):
    return net(num_classes)

def any_options(**options):
    return net(options["num_classes"])

def deaf(num_classes=10):
    return net()

def model():
    return Model.of(net(), ImageSpec((3, 4, 4), mean=(0.25,)))

def number():
    return 3

def pair():
    class Pair(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()
        def forward(self, x):
            return {"a": self.net(x), "b": x}
    return Pair()
"""


@pytest.fixture
def user(tmp_path, monkeypatch):
    (tmp_path / "fedspill_users_own.py").write_text(USERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield lambda name, **more: build(
        f"fedspill_users_own:{name}", **{"input_shape": (3, 4, 4), "num_classes": 10, **more}
    )
    sys.modules.pop("fedspill_users_own", None)


def test_users_factory_is_reproducible_and_leaves_the_global_state(user):
    # Python's own generator is left out: the type checks that run in tests draw from it.
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    first = user("net", seed=1)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()
    torch.rand(3), random.random()
    again, other = user("net", seed=1), user("net", seed=2)
    assert torch.equal(first.params["1.weight"], again.params["1.weight"])
    assert not torch.equal(first.params["1.weight"], other.params["1.weight"])


def test_users_model_keeps_its_input(user):
    model = user("model", mode="train")
    assert isinstance(model, Model)
    assert model.training
    assert model.input.mean == (0.25,)


@pytest.mark.parametrize("factory", ["usual", "any_options"])
def test_classes_that_are_asked_for_reach_the_factory(user, factory):
    model = user(factory, num_classes=7, classes_said=True)
    assert model.logits(model.params, torch.zeros(1, 3, 4, 4)).shape == (1, 7)


@pytest.mark.parametrize("factory", ["net", "deaf", "model"])
def test_classes_that_a_factory_does_not_heed(user, factory):
    assert isinstance(user(factory, num_classes=7), Model)  # of the data: more logits are none the worse
    assert isinstance(user(factory, num_classes=10, classes_said=True), Model)
    with pytest.raises(BadInput, match="knows 10 classes, num_classes = 7 was asked for"):
        user(factory, num_classes=7, classes_said=True)


def test_a_plan_asks_for_classes(user):
    pool = load("photos", size=4)
    told = {"name": "fedspill_users_own:usual", "normalise": False}
    for classes in (3, 10):
        made = network(ModelSection.model_validate({**told, "num_classes": classes}), pool, None, torch.device("cpu"))
        assert made.params["1.weight"].shape == (classes, 48)


def test_a_module_that_does_not_import(tmp_path, monkeypatch):
    (tmp_path / "fedspill_users_broken.py").write_text("net = undefined")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(BadInput, match="NameError: name 'undefined' is not defined"):
        build("fedspill_users_broken:net", input_shape=CIFAR, num_classes=10)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("number", {}, "gave a int; a torch.nn.Module is needed"),
        ("pair", {}, "returns a dict of a, b; a tensor of logits"),
        ("net", {"options": {"depth": 2}}, "unexpected keyword argument 'depth'"),
        ("net", {"options": {"classes": 5}}, "knows 5 classes, the data has 10"),
        ("net", {"input_shape": (3, 5, 5)}, "cannot take images of"),
        ("model", {"input_shape": (3, 5, 5)}, "takes inputs of"),
        ("model", {"options": {"normalise": False}}, "brings its own input"),
        ("nothing", {}, "has no attribute 'nothing'"),
    ],
)
def test_bad_factories(user, name, change, said):
    with pytest.raises(BadInput, match=said):
        user(name, **change)


@pytest.mark.parametrize("library", ["torchvision", "timm", "transformers"])
def test_libraries_that_are_not_installed(library, monkeypatch):
    for name in ("torchvision", "timm", "transformers"):
        present = ModuleType(name) if name != library else None
        monkeypatch.setitem(sys.modules, name, present)
    prefix = "hf" if library == "transformers" else library
    with pytest.raises(BadInput, match=rf"{library} cannot be imported.*pip install 'fedspill\[vision\]'"):
        build(f"{prefix}:net", input_shape=CIFAR, num_classes=10)


def test_torchvision_beside_cpu_torch(monkeypatch):
    """Its import fails until the two operator schemas are defined."""
    tries = []

    def attempt(name):
        tries.append(name)
        if not hasattr(torch.ops.torchvision, "nms"):
            raise RuntimeError("operator torchvision::nms does not exist")
        return ModuleType(name)

    if hasattr(torch.ops.torchvision, "nms"):
        pytest.skip("a torchvision that works is loaded")
    monkeypatch.setattr(adapters.importlib, "import_module", attempt)
    assert adapters.import_torchvision().__name__ == "torchvision"
    assert len(tries) == 2
    vision._kept.clear()


def test_other_torchvision_failures_are_told(monkeypatch):
    def attempt(name):
        raise RuntimeError("no libjpeg")

    monkeypatch.setattr(adapters.importlib, "import_module", attempt)
    with pytest.raises(BadInput, match="torchvision is installed but cannot be imported: no libjpeg"):
        adapters.import_torchvision()


def _tiny(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, classes))


def test_library_networks(monkeypatch):
    """Stand-ins for the libraries: what is passed to them, and what comes of their answers."""

    class Output(nn.Sequential):
        def forward(self, pixel_values):
            return SimpleNamespace(logits=super().forward(pixel_values))

    def get_model(name, weights, num_classes):
        if name != "net":
            raise ValueError(f"Unknown model {name}")
        return _tiny(num_classes)

    models = ModuleType("torchvision.models")
    models.get_model = get_model
    timm = ModuleType("timm")
    timm.create_model = lambda name, pretrained, num_classes, in_chans: _tiny(num_classes)
    hf = ModuleType("transformers")
    hf.AutoConfig = SimpleNamespace(from_pretrained=lambda name, local_files_only, **more: more)
    hf.AutoModelForImageClassification = SimpleNamespace(
        from_config=lambda config: Output(*_tiny(config["num_labels"]))
    )
    for name, module in {
        "torchvision": ModuleType("torchvision"),
        "torchvision.models": models,
        "timm": timm,
        "transformers": hf,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    for prefix in ("torchvision", "timm", "hf"):
        before = torch.get_rng_state()
        model = build(f"{prefix}:net", input_shape=CIFAR, num_classes=10, mode="train")
        assert torch.equal(before, torch.get_rng_state())
        assert model.logits(model.params, torch.zeros(2, *CIFAR)).shape == (2, 10)
        assert list(model.params) == ["1.weight", "1.bias"]
    with pytest.raises(BadInput, match="torchvision:other cannot be built: Unknown model other"):
        build("torchvision:other", input_shape=CIFAR, num_classes=10)
    with pytest.raises(BadInput, match="3 colour channels"):
        build("torchvision:net", input_shape=(1, 32, 32), num_classes=10)
