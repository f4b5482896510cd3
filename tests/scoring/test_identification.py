"""Image identification precision where the answer is known."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model
from fedspill.core.rng import rand, stream
from fedspill.core.types import Batch
from fedspill.scoring.identification import (
    feature_distance,
    identify,
    lpips_distance,
    penultimate_features,
    pixel_distance,
)
from fedspill.scoring.pairs import NotComputed

PIXEL = pixel_distance()


def flat(*levels: float) -> Tensor:
    """Grey images, each of one level."""
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).clone()


def batch(levels: list[float], labels: list[int]) -> Batch:
    return Batch(flat(*levels), torch.tensor(labels))


PRIVATE = batch([0.1, 0.5, 0.9], [0, 0, 1])
OTHERS = batch([0.2, 0.52, 0.88], [0, 1, 1])


def test_nearest_within_the_class() -> None:
    """0.17 is nearer to the other 0.2; 0.515 is nearer to 0.52, but that has another class; 0.91 is right."""
    found = identify(flat(0.17, 0.515, 0.91), torch.tensor([0, 1, 2]), PRIVATE, OTHERS, PIXEL)
    assert found.hits.tolist() == [False, True, True]
    assert found.reference == "reference images of the target's class, of 6 in all"
    assert found.distance == "pixel"


def test_order_and_missing_reconstructions() -> None:
    found = identify(flat(0.91, 0.11), torch.tensor([2, 0]), PRIVATE, OTHERS, PIXEL)
    assert found.hits.tolist() == [True, False, True]


def test_a_target_alone_in_its_class_is_sought_among_all() -> None:
    private, others = batch([0.5, 0.1], [3, 0]), batch([0.52, 0.2], [0, 0])
    assert identify(flat(0.515), torch.tensor([0]), private, others, PIXEL).hits.tolist() == [False, False]
    found = identify(flat(0.505, 0.1), torch.tensor([0, 1]), private, others, PIXEL)
    assert found.hits.tolist() == [True, True]
    assert found.reference.endswith("of 4 in all; all for 1 of 2 targets, alone in their class")
    lone = identify(flat(0.4), torch.tensor([0]), private, None, PIXEL)
    assert lone.reference == "all 2 reference images (no class holds two of them)"


def test_a_tie_is_a_miss_and_a_copy_is_no_rival() -> None:
    blank = feature_distance(lambda z: torch.ones(len(z), 3), ImageSpec((1, 4, 4)))
    where = torch.tensor([0, 1, 2])
    assert not identify(PRIVATE.inputs, where, PRIVATE, OTHERS, blank).hits.any()
    copies = Batch(PRIVATE.inputs, PRIVATE.labels)
    assert identify(PRIVATE.inputs, where, PRIVATE, copies, PIXEL).hits.all()


def test_pieces_do_not_change_the_answer() -> None:
    images = rand((600, 3, 32, 32), stream(0, "test iip"), torch.zeros(()))
    private, others = Batch(images[:20], torch.arange(20) % 4), Batch(images[20:], torch.arange(580) % 4)
    where = torch.arange(20)
    assert identify(images[:20] * 0.9, where, private, others, PIXEL).hits.all()
    assert not identify(images[100:120], where, private, others, PIXEL).hits.any()


def test_features_of_a_model() -> None:
    """The feature is the mean: two reconstructions that pixels confuse are told apart, and the reverse."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False), nn.BatchNorm1d(2), nn.Linear(2, 3))
    with torch.no_grad():
        net[1].weight.copy_(torch.stack([torch.ones(16), torch.tensor([1.0, -1] * 8)]))
    model = Model.of(net, ImageSpec((1, 4, 4), mean=(0.5,), std=(0.25,)), training=True)
    features = penultimate_features(model)
    z = model.input.encode(PRIVATE.inputs)
    expected = z.flatten(1) @ net[1].weight.T / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(features(z), expected.detach())
    torch.testing.assert_close(features(z[:1]), expected[:1].detach())
    assert not model.module[-1]._forward_pre_hooks
    bright_or_dark = feature_distance(features, model.input)
    private = batch([0.1, 0.9], [0, 0])
    assert identify(flat(0.3, 0.6), torch.tensor([0, 1]), private, None, bright_or_dark).hits.all()
    assert not identify(flat(0.3, 0.6), torch.tensor([1, 0]), private, None, bright_or_dark).hits.any()


def test_a_model_without_a_linear_layer() -> None:
    model = Model.of(nn.Sequential(nn.Conv2d(1, 2, 3)), ImageSpec((1, 4, 4)))
    with pytest.raises(NotComputed, match="no linear layer"):
        penultimate_features(model)


def test_lpips_without_weights() -> None:
    with pytest.raises(NotComputed, match=r"absent\.pt"):
        lpips_distance(Path("absent.pt"))


def test_bad_inputs() -> None:
    with pytest.raises(BadInput, match="one position below 3"):
        identify(flat(0.1), torch.tensor([3]), PRIVATE, OTHERS, PIXEL)
    with pytest.raises(BadInput, match="one position"):
        identify(flat(0.1), torch.tensor([0, 1]), PRIVATE, OTHERS, PIXEL)
    with pytest.raises(BadInput, match="reference set of 1"):
        identify(flat(0.1), torch.tensor([0]), batch([0.1], [0]), None, PIXEL)
    with pytest.raises(BadInput, match="one shape"):
        identify(torch.zeros(1, 3, 4, 4), torch.tensor([0]), PRIVATE, OTHERS, PIXEL)
    assert not identify(flat()[:0], torch.tensor([], dtype=torch.int64), PRIVATE, OTHERS, PIXEL).hits.any()
