"""Adversarial training: the adversary stays in its ball and does harm, and a killed training goes on as if unbroken."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.rng import rand, stream
from fedspill.core.tensor_files import read_metadata
from fedspill.core.types import Batch
from fedspill.plan.file import parse_as
from fedspill.training.adversary import Adversary
from fedspill.training.plan import RobustPlan
from fedspill.training.robust import train_robust
from fedspill.training.trainer import Recipe, Trainer, cut_out

CPU = torch.device("cpu")
PHOTOS = {"name": "photos", "size": 8, "split": "private", "indices": "0:48"}
TABLE = {
    "model": {"name": "cnn", "width": 2, "channels": 2},
    "data": PHOTOS,
    "test": {"name": "photos", "size": 8, "split": "public", "indices": "0:16", "robust_examples": 8, "steps": 2},
    "robust": {"epochs": 3, "steps": 1, "minibatch_size": 16, "held_out": 16, "shift": 1, "cutout": 2},
}


def linear(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of a linear classifier of 3x4x4 images, images well inside [0, 1], and its own answers."""
    like = torch.zeros((), dtype=torch.float64)
    weight = rand((3, 48), stream(seed, "weight"), like) - 0.5
    images = 0.3 + 0.4 * rand((6, 3, 4, 4), stream(seed, "images"), like)
    return weight, images, (images.flatten(1) @ weight.T).argmax(1)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("steps", [1, 7])
def test_the_adversary_stays_in_its_ball_and_raises_the_loss(norm, steps: int) -> None:
    weight, images, labels = linear()

    def logits(x: Tensor) -> Tensor:
        return x.flatten(1) @ weight.T

    moved = Adversary(norm, 0.05, steps).worst(logits, images, labels, stream(0, "adversary"))
    change = (moved - images).flatten(1)
    size = change.norm(dim=1) if norm == "l2" else change.abs().amax(1)
    assert bool((size <= 0.05 + 1e-9).all())
    assert bool((size > 0.03).all())
    before = functional.cross_entropy(logits(images), labels, reduction="none")
    assert bool((functional.cross_entropy(logits(moved), labels, reduction="none") > before).all())


def test_on_two_classes_of_a_linear_network_the_worst_is_known() -> None:
    weight, images, _ = linear()
    weight, labels = weight[:2], torch.zeros(6, dtype=torch.long)
    found = Adversary("l2", 0.1, 20, restarts=3).worst(
        lambda x: x.flatten(1) @ weight.T, images, labels, stream(0, "adversary")
    )
    away = weight[1] - weight[0]
    gained = (found - images).flatten(1) @ away
    most = 0.1 * away.norm()  # by Cauchy and Schwarz, along `away`
    assert bool((gained <= most * (1 + 1e-12)).all())
    assert bool((gained > 0.99 * most).all())


def test_pixels_stay_pixels_and_radius_0_changes_nothing() -> None:
    weight, images, labels = linear()
    images = images.round()
    moved = Adversary("linf", 0.5).worst(lambda x: x.flatten(1) @ weight.T, images, labels, stream(0, "a"))
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1
    assert Adversary(epsilon=0.0).worst(lambda x: x, images, labels, stream(0, "a")) is images
    with pytest.raises(BadInput, match="epsilon=-1"):
        Adversary(epsilon=-1.0)


def test_a_square_is_cut_out_in_one_colour() -> None:
    colour = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    cut = cut_out(torch.ones(40, 3, 9, 9), 4, colour, stream(0, "cut"))
    gone = (cut == colour).all(1).flatten(1).sum(1)
    assert bool((gone >= 4).all())  # a corner of it at least
    assert bool((gone <= 16).all())
    assert bool(((cut == 1) | (cut == colour)).all())


def test_steps_of_the_learning_rate() -> None:
    recipe = Recipe(epochs=5, lr=1.0, minibatch=4, shift=0, schedule="steps", decay=0.5, period=2)
    spec = ImageSpec((1, 2, 2))
    with torch.random.fork_rng():
        module = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    trainer = Trainer(module, recipe, 5, Batch(torch.zeros(8, 1, 2, 2), torch.zeros(8, dtype=torch.long)), spec)
    rates = list[float]()
    for _ in range(5):
        rates.append(trainer.optimiser.param_groups[0]["lr"])
        list(trainer.epoch())
    assert rates == [1.0, 1.0, 0.5, 0.5, 0.25]


class Killed:
    """A listener that ends the process after so many epochs."""

    def __init__(self, epochs: int) -> None:
        self.left = epochs
        self.said = list[str]()

    def progress(self, done: int, total: int, objective: float) -> None:
        assert 0 < done <= total

    def message(self, text: str) -> None:
        self.said.append(text)
        if text.startswith("epoch"):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    plan = parse_as(RobustPlan, TABLE)
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    report = train_robust(plan, whole, device=CPU)
    with pytest.raises(KeyboardInterrupt):
        train_robust(plan, broken, device=CPU, listener=Killed(2))
    assert not broken.exists()
    listener = Killed(9)
    again = train_robust(plan, broken, device=CPU, listener=listener)
    assert listener.said[0] == "going on after epoch 2"
    first, second = load_file(whole), load_file(broken)
    assert all(torch.equal(v, second[k]) for k, v in first.items())
    assert again.curve == report.curve
    assert (len(report.curve), report.robust_examples, report.natural_examples) == (3, 8, 16)
    assert report.epoch == max(report.curve, key=lambda e: e.robust).epoch
    assert read_metadata(whole)["network"] == "cnn"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        f"{stem}.{end}" for stem in ("whole", "broken") for end in ("json", "safetensors")
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": {**PHOTOS, "indices": "0:20"}}, "data has 20 examples; held_out=16 and one mini-batch of 16"),
        ({"test": {**TABLE["test"], "split": "private"}}, "test examples are training examples too"),
        ({"robust": {"epsilon": -1}}, "robust.epsilon"),
        ({"robust": {"epsilom": 1}}, "'robust.epsilom' is unknown; allowed here: norm, epsilon"),
    ],
)
def test_what_cannot_be_trained(tmp_path: Path, change: dict, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        train_robust(parse_as(RobustPlan, {**TABLE, **change}), tmp_path / "x.safetensors", device=CPU)


def test_where_weights_may_go_and_whose_state_is_taken(tmp_path: Path) -> None:
    plan, out = parse_as(RobustPlan, TABLE), tmp_path / "x.safetensors"
    with pytest.raises(BadInput, match=r"must end in \.safetensors"):
        train_robust(plan, tmp_path / "x.pt", device=CPU)
    with pytest.raises(BadInput, match="does not exist"):
        train_robust(plan, tmp_path / "none" / "x.safetensors", device=CPU)
    with pytest.raises(KeyboardInterrupt):
        train_robust(plan, out, device=CPU, listener=Killed(1))
    other = parse_as(RobustPlan, {**TABLE, "robust": {**TABLE["robust"], "epochs": 4}})
    with pytest.raises(BadInput, match="is the state of another training"):
        train_robust(other, out, device=CPU)
    (tmp_path / "x.safetensors.partial").write_bytes(b"half")
    with pytest.raises(BadInput, match="is no whole state"):
        train_robust(plan, out, device=CPU)
