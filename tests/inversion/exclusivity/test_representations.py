"""Neuron exclusivity behind a feature extractor, its condition, and where it does not fit."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.attacks.nex import CARD, NEX
from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import rand, randn, stream
from fedspill.core.types import Batch, Update
from fedspill.inversion.exclusivity.clusters import ratio_clusters
from fedspill.inversion.exclusivity.dense_end import dense_end, extractor
from fedspill.inversion.exclusivity.readout import Readout, Rules, read_neurons
from fedspill.inversion.exclusivity.single_layer import read_features
from fedspill.inversion.priors.deep_image_prior import UNet
from fedspill.inversion.representations.images.settings import IRMatching, MatchingSchedule
from fedspill.inversion.theory.ownership import exclusive, owned
from tests.support.exclusivity import D64, PAPER, SPEC, STRONG, drawn, expected, mlp, pictures, read, sorted_labels
from tests.support.watches import Impatient

SMALL = IRMatching(schedule=MatchingSchedule(iterations=2), unet=UNet(widths=(4,), skip=2))


def convolutional(*head: int, dtype: torch.dtype = torch.float64) -> Model:
    with torch.device("meta"):
        front = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()]
        layers: list[nn.Module] = [nn.Flatten()]
        for inside, outside in zip((144, *head), (*head, 10), strict=True):
            layers += [nn.Linear(inside, outside), nn.ReLU()]
        net = nn.Sequential()
        net.add_module("extractor", nn.Sequential(*front))
        net.add_module("head", nn.Sequential(*layers[:-1]))
    return drawn(net, dtype=dtype)


def representations(model: Model, batch: Batch, *, strong: bool = False) -> tuple[Readout, Tensor]:
    """What is read of the head's gradients, and the truth."""
    end = dense_end(model)
    update = local_update(model, batch, FedSGD(trainable=("head.*",)))
    eps = torch.finfo(model.like.dtype).eps
    rules = Rules(1e-4, 1 if strong else 2, strong, "published")
    how = read_features if len(end.layers) == 1 else read_neurons
    doubled = {k: v.double() for k, v in model.params.items()}
    found = how(end, doubled, {k: v.double() for k, v in update.values.items()}, None, rules, eps=eps, noise=0.0)
    return found, extractor(model, end).of(batch.inputs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("head", [(), (200,), (200, 150)], ids=str)
def test_representations_are_exact(head: tuple[int, ...], dtype: torch.dtype) -> None:
    model, batch = convolutional(*head, dtype=dtype), pictures(3, dtype=dtype)
    found, truth = representations(model, batch, strong=len(head) > 0)
    assert found.complete
    sure = [r for r in found.found if r.mark == "alone"]
    got = torch.stack([r.x for r in sure])
    distance = torch.cdist(truth.double(), got) / truth.double().norm(dim=1, keepdim=True)
    assert float(distance.amin(1).max()) < (1e-8 if dtype == torch.float64 else 1e-4)
    assert sorted(r.label for r in sure) == sorted_labels(batch.labels)


def test_more_examples_than_a_single_layer_has_classes_are_not_read() -> None:
    found, _ = representations(convolutional(), pictures(12))
    assert found.certified == 0


@pytest.mark.parametrize("head", [(), (200,)], ids=["one layer", "two layers"])
def test_a_head_alone_is_enough_and_images_are_searched_for(head: tuple[int, ...]) -> None:
    model, batch = convolutional(*head, dtype=torch.float32), pictures(3, dtype=torch.float32)
    got = read(replace(STRONG, matching=SMALL), model, batch, FedSGD(trainable=("head.*",)))
    assert got.inputs.shape == batch.inputs.shape
    assert set(got.marks) == {"alone"}
    assert len(got.objective) == 2
    assert not got.converged, "two steps do not meet a representation"
    assert sorted_labels(got.labels) == sorted_labels(batch.labels)
    assert not expected(PAPER, model, batch).any(), "no image is exact"


def test_images_whose_search_the_budget_ended_have_not_converged() -> None:
    model, batch = convolutional(dtype=torch.float32), pictures(3, dtype=torch.float32)
    update = local_update(model, batch, FedSGD(trainable=("head.*",)))
    knowledge = ServerKnowledge(model, num_examples=3, local_training=FedSGD(trainable=("head.*",)))
    attack = replace(STRONG, matching=SMALL, converged_below=10.0)
    for patience, converged in ((9, True), (0, False)):
        got = attack.reconstruct(update, knowledge, stream(0, "nex"), Impatient(patience))
        assert got.converged is converged
        assert ("budget ended" in got.notes[-1]) is not converged


def test_nothing_is_searched_where_nothing_was_read() -> None:
    got = read(
        replace(PAPER, matching=SMALL), convolutional(10, dtype=torch.float32), pictures(30, dtype=torch.float32)
    )
    assert got.inputs.shape == (0, *SPEC.shape)
    assert not got.converged


def test_planted_columns() -> None:
    g = randn((3, 7), stream(0, "columns"), D64).abs()
    labels = [2, 2, 5]
    for row, label in zip(g, labels, strict=True):
        row[label] = 0
        row[label] = -row.sum()
    owners = [(0,), (0,), (1,), (0, 1), (1, 2), (2,), (2,), (2,), (), (1,)]
    h = torch.zeros(3, len(owners), dtype=torch.float64)
    for unit, examples in enumerate(owners):
        for i in examples:
            h[i, unit] = 0.1 + 1e-3 * unit + i
    clusters = ratio_clusters(g.T @ h, torch.ones(10, dtype=torch.bool))
    found = {tuple(sorted(c.units.tolist())): c for c in clusters}
    assert set(found) == {(0, 1), (2, 9), (3,), (4,), (5, 6, 7)}
    assert [found[k].label for k in ((0, 1), (2, 9), (5, 6, 7), (4,))] == [2, 2, 5, None]
    torch.testing.assert_close(found[2, 9].direction, g[1] / g[1].norm())
    usable = torch.ones(10, dtype=torch.bool)
    usable[[0, 5]] = False
    assert {tuple(sorted(c.units.tolist())) for c in ratio_clusters(g.T @ h, usable)} == {
        (1,),
        (2, 9),
        (3,),
        (4,),
        (6, 7),
    }


def test_the_condition_by_counting() -> None:
    fired = [rand((5, 40), stream(k, "fired"), D64) < 0.2 for k in range(2)]
    alone = [[sum(f[i, j] and f[:, j].sum() == 1 for j in range(40)) for i in range(5)] for f in fired]
    assert [owned(f).tolist() for f in fired] == [[int(v) for v in a] for a in alone]
    wanted = [alone[0][i] >= 1 and alone[1][i] >= 2 for i in range(5)]
    assert exclusive(fired).tolist() == [bool(w) for w in wanted]
    assert exclusive(fired[:1], 3).tolist() == [a >= 3 for a in alone[0]]


def test_the_end_of_a_network() -> None:
    plain = dense_end(mlp(20, 16))
    assert [layer.weight for layer in plain.layers] == ["1.weight", "3.weight", "5.weight"]
    assert plain.at_input
    assert not plain.gated
    tail = plain.last(2)
    assert (tail.names, tail.at_input, tail.gated) == (("3", "4", "5"), False, True)
    head = dense_end(convolutional(20))
    assert (head.names, head.at_input, head.gated) == (("head.1", "head.2", "head.3"), False, True)
    model = convolutional(20)
    z = SPEC.encode(pictures(3).inputs)
    front = extractor(model, head)
    hidden = (front(z) @ model.params["head.1.weight"].T + model.params["head.1.bias"]).relu()
    logits = hidden @ model.params["head.3.weight"].T + model.params["head.3.bias"]
    torch.testing.assert_close(logits, model.logits(model.params, z))


def test_what_does_not_fit_is_named() -> None:
    batch = pictures(2)
    with torch.device("meta"):
        smooth = nn.Sequential(nn.Flatten(), nn.Linear(108, 20), nn.Tanh(), nn.Linear(20, 10))
        pooled = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
        soft = nn.Sequential(nn.Flatten(), nn.Linear(108, 10), nn.Softplus())
    for model in (drawn(smooth), drawn(pooled), mlp()):
        with pytest.raises(NotApplicable, match="no ReLU feeds it.*means of classes"):
            read(PAPER, model, batch)
    with pytest.raises(NotApplicable, match="ends in Softplus"):
        read(PAPER, drawn(soft), batch)
    with pytest.raises(NotApplicable, match=r"'3\.weight' is needed"):
        read(PAPER, mlp(20), batch, FedSGD(trainable=("1.*",)))
    with pytest.raises(NotApplicable, match="cross-entropy"):
        read(PAPER, replace(mlp(20), loss_fn=functional.multi_margin_loss), batch)
    with pytest.raises(BadInput, match="tolerance=0.5"):
        NEX(tolerance=0.5)


def test_presets() -> None:
    assert CARD.presets["paper"] == PAPER
    update = Update(local_update(mlp(20), pictures(1), FedSGD()).kind, {})
    with pytest.raises(NotApplicable):
        PAPER.reconstruct(update, ServerKnowledge(mlp(20)), stream(0, "attack"))
