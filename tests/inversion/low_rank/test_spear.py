"""SPEAR: batches as large as the classes, or larger, come out exact; mixtures are never vouched for."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.attacks.spear import Spear
from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import CategoricalColumn, NumericColumn, TableSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining, local_update
from fedspill.core.model import Model
from fedspill.core.rng import rand, randn, stream
from fedspill.core.roles import Unwatched
from fedspill.core.types import Batch, Reconstruction, Update
from fedspill.inversion.low_rank.columns import judged, layer
from fedspill.inversion.low_rank.factors import factors
from tests.support.exclusivity import D64, drawn, mlp, pictures, sorted_labels

OURS = Spear("half_spaces", turns=300, sparsity=0.1)
PAPER = Spear(samples=40_000)


def read(
    attack: Spear, model: Model, batch: Batch, update: Update | None = None, *, count: bool = True, labels: bool = False
) -> Reconstruction:
    held = ServerKnowledge(model, num_examples=len(batch) if count else None, labels=batch.labels if labels else None)
    update = update or local_update(model, batch, FedSGD())
    return attack.reconstruct(update, held, stream(0, "attack"))


def errors(got: Reconstruction, batch: Batch) -> Tensor:
    """(n, m), root mean squared, of each candidate from each example."""
    return (batch.inputs[:, None] - got.inputs[None]).flatten(2).square().mean(2).sqrt()


def sure(got: Reconstruction) -> Tensor:
    return torch.tensor([m == "alone" for m in got.marks], dtype=torch.bool)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("attack", [PAPER, OURS], ids=["paper", "half-spaces"])
@pytest.mark.parametrize(("hidden", "classes", "n"), [((80,), 3, 5), ((80, 40), 2, 6), ((100, 30, 20), 10, 8)], ids=str)
def test_batches_no_smaller_than_the_classes_are_exact(
    attack: Spear, hidden: tuple[int, ...], classes: int, n: int, dtype: torch.dtype
) -> None:
    model, batch = mlp(*hidden, classes=classes, dtype=dtype), pictures(n, 1, dtype, classes)
    got = read(attack, model, batch)
    assert got.converged
    assert float(errors(got, batch).amin(1).max()) < (1e-9 if dtype == torch.float64 else 1e-5)
    assert sorted_labels(got.labels) == sorted_labels(batch.labels)
    assert set(got.marks) == {"alone"}


def test_labels_and_number_need_no_grant() -> None:
    model, batch = mlp(80, 40), pictures(6)
    for count in (True, False):
        for labels in (True, False):
            got = read(OURS, model, batch, count=count, labels=labels)
            assert got.converged
            assert float(errors(got, batch).amin(1).max()) < 1e-9


def test_the_true_columns_are_complete_and_no_others_are() -> None:
    """Against plain PyTorch: the derivatives by the first layer's outputs, per example."""
    model, batch = mlp(80, 40), pictures(5)
    z = model.input.encode(batch.inputs).flatten(1)
    weight, bias = (model.params[f"1.{name}"] for name in ("weight", "bias"))
    before = (z @ weight.T + bias).requires_grad_()
    after = functional.linear(before.relu(), model.params["3.weight"], model.params["3.bias"]).relu()
    logits = functional.linear(after, model.params["5.weight"], model.params["5.bias"])
    delta = torch.autograd.grad(functional.cross_entropy(logits, batch.labels), before)[0]
    whole = torch.cat([z, torch.ones(5, 1).double()], 1)
    sent = local_update(model, batch, FedSGD()).values
    gradient = torch.cat([sent["1.weight"], sent["1.bias"][:, None]], 1)
    torch.testing.assert_close(delta.T @ whole, gradient)
    found = factors(gradient, None, 2e-16)
    assert found.rank == 5
    at = layer(found, weight, bias, 2e-16, 0.25)
    q = found.left.T @ delta.T
    true = judged(at, q / q.norm(dim=0))
    assert true.complete(at.least)
    torch.testing.assert_close(true.inputs, whole)
    torch.testing.assert_close(true.zeros, (delta.T == 0)[found.rows])
    torch.testing.assert_close(found.left @ true.q * true.scale, delta.T)
    mixed = q.clone()
    mixed[:, 0] += 0.1 * q[:, 1]
    assert not judged(at, mixed / mixed.norm(dim=0)).complete(at.least)


def same_cell(gap: float, classes: int) -> tuple[Model, Batch]:
    """A network in which two examples fire the same units and have the same label."""
    model, batch = mlp(80, classes=classes), pictures(4, classes=classes)
    inputs = batch.inputs.clone()
    inputs[1] = inputs[0] + gap * (inputs[1] - inputs[0])
    z = model.input.encode(inputs).flatten(1)
    fires = z @ model.params["1.weight"].T + model.params["1.bias"] > 0
    assert torch.equal(fires[0], fires[1])
    return model, Batch(inputs, torch.tensor([1, 1, 0, 1]))


@pytest.mark.parametrize("gap", [3e-4, 0.0])
@pytest.mark.parametrize("count", [True, False])
def test_with_two_classes_no_mean_of_examples_that_fire_the_same_units_is_vouched_for(gap: float, count: bool) -> None:
    model, batch = same_cell(gap, 2)
    got = read(OURS, model, batch, count=count)
    assert len(got.inputs) == 3
    assert not got.converged
    assert set(got.marks) == {"unsure"}
    assert not count or any("1 of 4 examples send nothing of their own" in note for note in got.notes)
    alone = read(OURS, model, batch[:2], count=False)
    assert alone.marks == ("unsure",)


@pytest.mark.parametrize("count", [True, False])
def test_copies_are_told_from_single_examples_by_their_size(count: bool) -> None:
    model, batch = same_cell(0.0, 3)
    got = read(OURS, model, batch, count=count)
    assert len(got.inputs) == 3
    assert float(errors(got, batch).amin(1).max()) < 1e-9
    copy = int(errors(got, batch)[0].argmin())
    assert [m == "alone" for m in got.marks] == [k != copy for k in range(3)]
    assert not got.converged


@pytest.mark.parametrize("factor", [0.03, 40.0])
def test_a_clipped_or_scaled_gradient_is_read_like_the_gradient(factor: float) -> None:
    model, batch = mlp(80, 40), pictures(6)
    sent = local_update(model, batch, FedSGD())
    got = read(OURS, model, batch, replace(sent, values={k: factor * v for k, v in sent.values.items()}))
    assert got.converged
    assert float(errors(got, batch).amin(1).max()) < 1e-9
    assert any("times what the examples give" in note for note in got.notes)


@pytest.mark.parametrize("level", [1e-4, 1e-3, 1e-2, 1e-1, 1.0])
def test_under_noise_nothing_wrong_is_certified(level: float) -> None:
    model, batch = mlp(80, 40), pictures(6)
    sent = local_update(model, batch, FedSGD())
    size, rng = sent.norm() / sum(v.numel() for v in sent.values.values()) ** 0.5, stream(0, "noise")
    noisy = {k: v + level * size * randn(tuple(v.shape), rng, v) for k, v in sent.values.items()}
    try:
        got = read(OURS, model, batch, replace(sent, values=noisy))
    except NotApplicable as reason:
        assert "noise drowns" in str(reason)
        assert level > 1e-2
        return
    apart = errors(got, batch).amin(0)
    assert float(apart[sure(got)].max() if sure(got).any() else 0) < 1e-3
    assert level > 1e-4 or got.converged
    assert level < 1e-2 or not got.converged


@pytest.mark.parametrize("seed", range(4))
def test_what_is_not_finished_is_not_certified(seed: int) -> None:
    """Too few turns, or far too many examples for so narrow a layer."""
    model, batch = mlp(60, seed=seed), pictures(20, seed)
    for attack in (Spear("half_spaces", turns=3), Spear(samples=1)):
        got = read(attack, model, batch)
        assert not got.converged
        assert not sure(got).any()
        assert len(got.inputs) == 20
        assert float(got.confidence.max() if got.confidence is not None else 1) <= 0.5


class Ended(Unwatched):
    def out_of_time(self) -> bool:
        return True


@pytest.mark.parametrize("attack", [PAPER, OURS], ids=["paper", "half-spaces"])
def test_the_end_of_the_time_ends_the_search(attack: Spear) -> None:
    model, batch = mlp(80), pictures(6)
    held = ServerKnowledge(model, num_examples=6)
    got = attack.reconstruct(local_update(model, batch, FedSGD()), held, stream(0, "attack"), Ended())
    assert not sure(got).any()
    assert len(got.inputs) == 6


def test_rows_of_a_table_come_out_exact() -> None:
    columns = (
        *(NumericColumn(f"c{k}", 40.0, 20.0, 0.0, 100.0, 1.0) for k in range(12)),
        CategoricalColumn("d", tuple("abcdefgh")),
        CategoricalColumn("e", tuple("uvwxyz")),
    )
    spec = TableSpec(columns)
    model = drawn(nn.Sequential(nn.Linear(26, 100, device="meta"), nn.ReLU(), nn.Linear(100, 2, device="meta")), spec)
    rng = stream(0, "rows")
    numbers = (rand((7, 12), rng, D64) * 100).round()
    words = torch.stack([torch.randint(8, (7,), generator=rng), torch.randint(6, (7,), generator=rng)], 1).double()
    batch = Batch(torch.cat([numbers, words], 1), torch.tensor([0, 1, 1, 0, 1, 0, 0]))
    got = read(OURS, model, batch)
    assert got.converged
    assert sorted(got.inputs.tolist()) == sorted(batch.inputs.tolist())


def refused(model: Model, batch: Batch, training: LocalTraining | None = None) -> str:
    training = training or FedSGD()
    held = ServerKnowledge(model, num_examples=len(batch), local_training=training)
    with pytest.raises(NotApplicable) as raised:
        OURS.reconstruct(local_update(model, batch, training), held, stream(0, "attack"))
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


def test_what_it_does_not_fit_is_refused_in_a_line() -> None:
    batch = pictures(4)
    conv = nn.Sequential(
        nn.Conv2d(3, 4, 3, device="meta"), nn.ReLU(), nn.Flatten(), nn.Linear(64, 30, device="meta"), nn.ReLU()
    )
    assert "reads features" in refused(drawn(nn.Sequential(*conv, nn.Linear(30, 10, device="meta"))), batch)
    assert "has no bias" in refused(mlp(50, bias=(False, True)), batch)
    smooth = nn.Sequential(nn.Flatten(), nn.Linear(108, 50, device="meta"), nn.Tanh(), nn.Linear(50, 10, device="meta"))
    assert "no ReLU follows" in refused(drawn(smooth), batch)
    assert "several local steps" in refused(mlp(50), batch, FedAvg(2, 2, lr=0.1))
    assert "was not trained" in refused(mlp(50), batch, FedSGD(trainable=("3.*",)))
    assert "fewer are needed" in refused(mlp(50), pictures(60))
    assert "units that are off" in refused(mlp(50), pictures(48))


def test_one_local_step_is_a_gradient() -> None:
    model, batch = mlp(80, 40), pictures(6)
    training = FedAvg(1, None, lr=0.1)
    held = ServerKnowledge(model, num_examples=6, local_training=training)
    got = OURS.reconstruct(local_update(model, batch, training), held, stream(0, "attack"))
    assert got.converged
    assert float(errors(got, batch).amin(1).max()) < 1e-6


def test_hyperparameters_are_checked() -> None:
    with pytest.raises(BadInput, match="turns=0"):
        Spear(turns=0)
    with pytest.raises(BadInput, match="sparsity=1"):
        Spear(sparsity=1.0)
