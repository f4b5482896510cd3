"""Prop. 3.1, D.1 and D.2 of Inverting Gradients hold to rounding; certificates reject mixtures."""

import pytest
import torch
from torch import Tensor, nn

from fedspill.attacks.linear_layer import LinearLayer
from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.types import Batch, Reconstruction
from fedspill.inversion.gradients.linear import class_means, layer_input, rank_one_residual, row_groups

SPEC = ImageSpec((3, 4, 4), mean=(0.5, 0.4, 0.45), std=(0.25, 0.2, 0.3))
CLASSES = 10
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "softplus": nn.Softplus,
    "identity": nn.Identity,
}


def network(
    depth: int,
    biased: set[int],
    activation: type[nn.Module] = nn.ReLU,
    width: int = 24,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Model:
    layers: list[nn.Module] = [nn.Flatten()]
    features = 48
    for i in range(depth):
        out = CLASSES if i == depth - 1 else width
        layers.append(nn.Linear(features, out, bias=i in biased, device="meta"))
        if i < depth - 1:
            layers.append(activation())
        features = out
    module = nn.Sequential(*layers)
    rng = stream(seed, "net", depth)
    params = {
        k: (torch.rand(p.shape, generator=rng, dtype=torch.float64) - 0.5).to(dtype) * (6 / p.shape[-1]) ** 0.5
        for k, p in module.named_parameters()
    }
    return Model(module, params, {}, nn.functional.cross_entropy, SPEC)


def images(n: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Batch:
    rng = stream(seed, "images", n)
    pixels = torch.rand(n, *SPEC.shape, generator=rng, dtype=torch.float64).to(dtype)
    return Batch(pixels, torch.randperm(CLASSES, generator=rng)[:n])


def attacked(
    model: Model,
    batch: Batch,
    training: LocalTraining | None = None,
    *,
    peel: bool = False,
    known: bool = True,
) -> Reconstruction:
    training = training or FedSGD()
    knowledge = ServerKnowledge(
        model, num_examples=len(batch) if known else None, local_training=training if known else None
    )
    return LinearLayer(peel).reconstruct(local_update(model, batch, training), knowledge, stream(0, "attack"))


def error(got: Reconstruction, batch: Batch) -> float:
    return float((got.inputs - batch.inputs).abs().max())


def closest(got: Reconstruction, batch: Batch) -> Tensor:
    """Per candidate the maximum error to the nearest private image."""
    return (got.inputs[:, None] - batch.inputs[None]).abs().flatten(2).amax(2).amin(1)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_one_bias_anywhere_gives_the_input(depth: int, activation: str) -> None:
    for where in range(depth):
        batch = images(1, seed=depth)
        got = attacked(network(depth, {where}, ACTIVATIONS[activation]), batch)
        assert error(got, batch) <= 1e-6, (where, error(got, batch))
        assert got.converged
        assert got.labels is not None
        assert got.labels.tolist() == batch.labels.tolist()


def test_what_is_unknown_is_said() -> None:
    batch = images(1)
    training = FedAvg(epochs=3, lr=0.05)
    got = attacked(network(3, {0, 1, 2}), batch, training, known=False)
    assert error(got, batch) < 1e-6
    assert any("Not replayed" in note for note in got.notes)


@pytest.mark.parametrize(
    "training",
    [
        FedAvg(lr=0.1),
        FedAvg(epochs=7, lr=0.1),
        FedAvg(epochs=5, lr=0.2, weight_decay=0.1),
        FedAvg(epochs=5, lr=0.2, weight_decay=0.1, momentum=0.9),
    ],
)
def test_local_training_keeps_the_ratio(training: FedAvg) -> None:
    batch = images(1)
    got = attacked(network(3, {0, 2}), batch, training)
    assert error(got, batch) <= 1e-6
    assert got.converged


def test_float32_client() -> None:
    batch = images(1, torch.float32)
    assert error(attacked(network(3, {0, 1, 2}, dtype=torch.float32), batch), batch) < 1e-4
    delta = attacked(network(3, {0, 1, 2}, dtype=torch.float32), batch, FedAvg(lr=1e-2))
    assert error(delta, batch) < 1e-3
    assert delta.converged


def test_several_examples_treated_as_one_do_not_converge() -> None:
    model, batch = network(3, {0, 1, 2}), images(2)
    update = local_update(model, batch, FedSGD())
    got = LinearLayer().reconstruct(update, ServerKnowledge(model, num_examples=1), stream(0, "a"))
    assert not got.converged


def test_exclusive_rows_are_read_and_only_they_are_certain() -> None:
    model, batch = network(2, {0, 1}, width=256), images(3)
    got = attacked(model, batch)
    assert got.confidence is not None
    sure = got.confidence == 1
    assert got.converged
    assert int(sure.sum()) == 3
    assert float(closest(got, batch)[sure].max()) < 1e-6


def test_peeling_finds_more_and_stays_exact() -> None:
    model, batch = network(2, {0, 1}, width=192, seed=3), images(8, seed=3)
    plain, peeled = attacked(model, batch), attacked(model, batch, peel=True)

    def certain(r: Reconstruction) -> Tensor:
        assert r.confidence is not None
        return closest(r, batch)[r.confidence == 1]

    assert len(certain(peeled)) > len(certain(plain))
    assert float(certain(peeled).max()) < 1e-6


def test_agreeing_rows_of_a_mixture_are_not_certified() -> None:
    # One logit pair and no other class: all deltas are proportional, so every mixture agrees with itself.
    module = nn.Sequential(nn.Flatten(), nn.Linear(48, 16, device="meta"), nn.Linear(16, 2, device="meta"))
    rng = stream(0, "two")
    params = {k: torch.randn(p.shape, generator=rng).double() / 5 for k, p in module.named_parameters()}
    model = Model(module, params, {}, nn.functional.cross_entropy, SPEC)
    batch = Batch(images(3).inputs, torch.zeros(3, dtype=torch.long))
    layer = local_update(model, batch, FedSGD()).values
    assert len(row_groups(layer["1.weight"], layer["1.bias"], floor=0.0)[0].rows) == 16
    assert not attacked(model, batch).converged
    assert not attacked(model, batch, known=False).converged


def test_planted_rows() -> None:
    rng = stream(0, "planted")
    x = torch.randn(3, 20, generator=rng, dtype=torch.float64)
    owners = [(0,), (0,), (1,), (0, 1), (1, 2), (1, 2), (2,), (2,), (2,), ()]
    delta = torch.zeros(10, 3, dtype=torch.float64)
    for row, examples in enumerate(owners):
        for i in examples:
            delta[row, i] = float(torch.randn(1, generator=rng))
    groups = row_groups(delta @ x, delta.sum(1), floor=1e-9)
    found = {tuple(sorted(g.rows.tolist())): g.x for g in groups}
    assert set(found) == {(0, 1), (2,), (3,), (4,), (5,), (6, 7, 8)}
    torch.testing.assert_close(found[0, 1], x[0])
    torch.testing.assert_close(found[2,], x[1])
    torch.testing.assert_close(found[6, 7, 8], x[2])


def test_class_means_of_a_flat_head_are_exact() -> None:
    rng = stream(0, "flat")
    x, labels = torch.rand(5, 12, generator=rng, dtype=torch.float64), torch.tensor([0, 3, 3, 4, 7])
    error_ = torch.full((5, 9), 1 / 9, dtype=torch.float64) - nn.functional.one_hot(labels, 9)
    means, residual = class_means(error_.T @ x / 5, error_.mean(0), torch.bincount(labels, minlength=9))
    torch.testing.assert_close(means, torch.stack([x[0], x[1:3].mean(0), x[3], x[4]]))
    assert residual < 1e-12
    with pytest.raises(NotApplicable, match="every class is present"):
        class_means(error_.T @ x, error_.mean(0), torch.ones(9, dtype=torch.long))


def test_least_squares_is_the_ratio_of_every_row() -> None:
    rng = stream(0, "rows")
    x, delta = torch.randn(7, generator=rng), torch.randn(4, generator=rng)
    weight = torch.outer(delta, x)
    torch.testing.assert_close(layer_input(weight, delta), x.double())
    assert rank_one_residual(weight, delta, x) < 1e-7
    with pytest.raises(NotApplicable, match="is zero"):
        layer_input(weight, torch.zeros(4))


def test_what_does_not_fit_is_named() -> None:
    conv = Model.of(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, CLASSES)).double(), SPEC)
    with pytest.raises(NotApplicable, match="Conv2d '0'"):
        attacked(conv, images(1))
    with pytest.raises(NotApplicable, match="no fully connected layer has a trained bias"):
        attacked(network(2, set()), images(1))
    with pytest.raises(NotApplicable, match="holds 2"):
        attacked(network(2, {1}), images(2))
    silu = network(2, {1}, nn.SiLU)
    with pytest.raises(NotApplicable, match="SiLU '2'"):
        attacked(silu, images(1))
    with pytest.raises(NotApplicable, match=r"'1\.weight'"):
        attacked(network(2, {0, 1}), images(1), FedSGD(trainable=("3.*", "1.bias")))


def test_global_random_state_is_untouched() -> None:
    before = torch.random.get_rng_state()
    attacked(network(2, {0, 1}), images(3))
    assert torch.equal(before, torch.random.get_rng_state())
