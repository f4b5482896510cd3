"""Neuron exclusivity: exact wherever its condition holds, and no mixture is vouched for."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.attacks.nex import CARD, NEX
from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import ImageSpec, InputSpec, NumericColumn, TableSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_update import FedAvg, FedSGD, LocalTraining, local_update
from fedspill.core.model import Model
from fedspill.core.rng import rand, randn, stream
from fedspill.core.types import Batch, Reconstruction, Update
from fedspill.inversion.deep_image_prior import UNet
from fedspill.inversion.dense_end import dense_end, extractor
from fedspill.inversion.exclusive_units import exclusive, owned
from fedspill.inversion.ir_settings import IRMatching
from fedspill.inversion.neuron_readout import Readout, Rules, read_neurons
from fedspill.inversion.ratio_clusters import ratio_clusters
from fedspill.inversion.single_head import read_features

SPEC = ImageSpec((3, 6, 6), mean=(0.5, 0.4, 0.45), std=(0.25, 0.2, 0.3))
D64 = torch.zeros((), dtype=torch.float64)
PAPER, STRONG = NEX(), NEX(least=1, peel=True, scale="fitted")
SMALL = IRMatching(iterations=2, unet=UNet(widths=(4,), skip=2))


def drawn(module: nn.Module, spec: InputSpec = SPEC, dtype: torch.dtype = torch.float64, seed: int = 0) -> Model:
    rng = stream(seed, "nex", "net")
    params = {
        k: (rand(tuple(p.shape), rng, D64) * 2 - 1) * (0.1 if p.ndim == 1 else (3 / p[0].numel()) ** 0.5)
        for k, p in module.named_parameters()
    }
    module = module.to_empty(device="cpu")
    buffers = {k: torch.zeros_like(v) if "mean" in k else torch.ones_like(v) for k, v in module.named_buffers()}
    return Model(module, params, buffers, functional.cross_entropy, spec).to("cpu", dtype)


def mlp(*hidden: int, classes: int = 10, bias: tuple[bool, ...] | None = None, **more) -> Model:
    layers: list[nn.Module] = [nn.Flatten()]
    sizes = [108, *hidden, classes]
    biases = bias or (True,) * (len(sizes) - 1)
    for inside, outside, biased in zip(sizes[:-1], sizes[1:], biases, strict=True):
        layers += [nn.Linear(inside, outside, bias=biased, device="meta"), nn.ReLU()]
    return drawn(nn.Sequential(*layers[:-1]), **more)


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


def pictures(n: int, seed: int = 0, dtype: torch.dtype = torch.float64, classes: int = 10) -> Batch:
    rng = stream(seed, "nex", "pictures", n)
    return Batch(rand((n, *SPEC.shape), rng, D64).to(dtype), torch.randint(classes, (n,), generator=rng))


def read(
    attack: NEX, model: Model, batch: Batch, training: LocalTraining | None = None, *, known: bool = False
) -> Reconstruction:
    training = training or FedSGD()
    held = ServerKnowledge(model, num_examples=len(batch) if known else None, local_training=training)
    return attack.reconstruct(local_update(model, batch, training), held, stream(0, "attack"))


def errors(got: Reconstruction, batch: Batch) -> Tensor:
    """(n, m), root mean squared, of each candidate from each example."""
    return (batch.inputs[:, None] - got.inputs[None]).flatten(2).square().mean(2).sqrt()


def certified(got: Reconstruction) -> Tensor:
    return torch.tensor([m == "alone" for m in got.marks], dtype=torch.bool)


def expected(attack: NEX, model: Model, batch: Batch) -> Tensor:
    return attack.expects(model, model.input.encode(batch.inputs)).found


def sorted_labels(labels: Tensor | None) -> list[int]:
    assert labels is not None
    return sorted(labels.tolist())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("hidden", [(300,), (400, 200)], ids=str)
@pytest.mark.parametrize("attack", [PAPER, STRONG], ids=["paper", "strong"])
def test_exact_wherever_the_condition_holds(attack: NEX, hidden: tuple[int, ...], dtype: torch.dtype) -> None:
    whole = partly = 0
    for seed in range(6):
        model, batch = mlp(*hidden, dtype=dtype, seed=seed), pictures(3 + seed, seed, dtype)
        found, got = expected(attack, model, batch), read(attack, model, batch)
        best, sure = errors(got, batch), certified(got)
        tight = 1e-9 if dtype == torch.float64 else 1e-5
        assert bool((best[found].amin(1) < tight).all())
        assert float(best[:, sure].amin(0).max()) < 1e-3, "nothing else is certified"
        if bool(found.all()):
            whole += 1
            assert got.converged
            assert len(got.inputs) == len(batch)
            assert sorted_labels(got.labels) == sorted_labels(batch.labels)
        elif attack is PAPER:
            partly += bool(found.any())
            assert not got.converged
    assert whole >= 2
    assert partly or attack is STRONG or len(hidden) == 2


def test_three_hidden_layers_and_those_without_a_bias() -> None:
    for bias in (None, (False,) * 4):
        model, batch = mlp(300, 200, 150, bias=bias, dtype=torch.float32), pictures(3, dtype=torch.float32)
        assert bool(expected(STRONG, model, batch).all())
        got = read(STRONG, model, batch, known=True)
        assert got.converged
        assert float(errors(got, batch).amin(1).max()) < 1e-4


def test_the_scale_comes_from_a_bias_or_is_a_guess_or_is_fitted() -> None:
    batch = pictures(3)
    blind, telling = mlp(300, bias=(False, False)), mlp(300, bias=(False, True))
    assert bool(expected(PAPER, blind, batch).all())
    assert float(errors(read(PAPER, telling, batch), batch).amin(1).max()) < 1e-6
    guessed, fitted = read(PAPER, blind, batch, known=True), read(STRONG, blind, batch, known=True)
    assert set(guessed.marks) == {"unsure"}
    assert not guessed.converged
    assert fitted.converged
    assert float(errors(fitted, batch).amin(1).max()) < 1e-6
    # The published scale is right for an example of which the network believes a third.
    z = SPEC.encode(batch.inputs)
    probability = blind.logits(blind.params, z).softmax(1)[torch.arange(3), batch.labels]
    factor = float((1 - probability[0]) / (2 / 3))
    stretched = SPEC.decode(z[:1] * factor)
    assert float((guessed.inputs - stretched).flatten(1).abs().amax(1).min()) < 1e-6


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_a_mixture_is_not_certified(classes: int, known: bool) -> None:
    for seed in range(4):
        model, batch = mlp(40, classes=classes, seed=seed), pictures(12, seed, classes=classes)
        for attack in (PAPER, STRONG):
            got = read(attack, model, batch, known=known)
            sure = certified(got)
            assert not bool(sure.any()) or float(errors(got, batch)[:, sure].amin(0).max()) < 1e-3
            assert not got.converged or int(sure.sum()) == 12


def test_proportional_derivatives_are_not_believed() -> None:
    # Two classes: all columns point along one line, so that units which two examples share agree as well.
    model, batch = mlp(60, classes=2), Batch(pictures(3).inputs, torch.zeros(3, dtype=torch.long))
    columns = local_update(model, batch, FedSGD()).values["3.weight"]
    fired = (columns != 0).any(0)
    assert len(ratio_clusters(columns, fired)[0].units) == int(fired.sum())
    for known in (True, False):
        got = read(PAPER, model, batch, known=known)
        sure = certified(got)
        assert not bool(sure.any()) or float(errors(got, batch)[:, sure].amin(0).max()) < 1e-6


def test_examples_of_one_class_and_an_example_that_is_there_twice() -> None:
    model, batch = mlp(300), Batch(pictures(4).inputs, torch.tensor([5, 5, 5, 2]))
    assert bool(expected(PAPER, model, batch).all())
    got = read(PAPER, model, batch)
    assert got.converged
    assert sorted_labels(got.labels) == [2, 5, 5, 5]
    twice = batch[[0, 1, 3, 3]]
    for known in (True, False):
        got = read(PAPER, model, twice, known=known)
        assert got.converged
        assert sorted_labels(got.labels) == [2, 2, 5, 5]
        assert (errors(got, twice) < 1e-9).sum(1).tolist() == [1, 1, 2, 2]


def test_dead_units_and_an_example_without_gradient() -> None:
    model, batch = mlp(300, dtype=torch.float32), pictures(4, dtype=torch.float32)
    bias = model.params["1.bias"].clone()
    bias[::3] = -100.0
    model = model.with_params({**model.params, "1.bias": bias})
    got = read(PAPER, model, batch, known=True)
    assert (errors(got, batch).amin(1) < 1e-5).tolist() == expected(PAPER, model, batch).tolist()
    sure = model.with_params(
        {**model.params, "3.bias": model.params["3.bias"] + 200 * functional.one_hot(batch.labels[0], 10)}
    )
    rest = batch.labels != batch.labels[0]
    got = read(PAPER, sure, batch, known=True)
    assert not got.converged, "what the network is sure of leaves no gradient"
    assert bool((errors(got, batch).amin(1)[rest & expected(PAPER, sure, batch)] < 1e-5).all())


def test_one_example_is_read_from_all_of_its_units() -> None:
    for known in (True, False):
        got = read(PAPER, mlp(20), pictures(1), known=known)
        assert got.converged
        assert float(errors(got, pictures(1))) < 1e-9


def test_a_delta_of_one_step_is_a_gradient_and_of_several_is_none() -> None:
    model, batch = mlp(300, dtype=torch.float32), pictures(3, dtype=torch.float32)
    got = read(PAPER, model, batch, FedAvg(lr=0.1), known=True)
    assert float(errors(got, batch).amin(1)[expected(PAPER, model, batch)].max()) < 1e-2
    with pytest.raises(NotApplicable, match="several local steps"):
        read(PAPER, model, batch, FedAvg(epochs=2, lr=0.1), known=True)


def test_rows_of_a_table() -> None:
    spec = TableSpec(tuple(NumericColumn(f"column {k}", 20.0, 10.0, 0.0, 60.0) for k in range(108)))
    model = mlp(300, spec=spec)
    batch = Batch(rand((3, 108), stream(0, "table"), D64) * 60, torch.tensor([1, 1, 4]))
    got = read(PAPER, model, batch)
    assert got.converged
    assert float((batch.inputs[:, None] - got.inputs[None]).abs().amax(2).amin(1).max()) < 1e-6


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
