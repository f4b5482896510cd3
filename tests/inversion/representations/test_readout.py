"""Representations from a head's gradient, and the leakage rate, against brute force on small worlds."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining, local_update
from fedspill.core.model import Model
from fedspill.core.rng import rand, randn, stream
from fedspill.core.types import Batch, Update
from fedspill.inversion.gradients.layer import Layer
from fedspill.inversion.network.extractor import two_layer_head
from fedspill.inversion.network.layers import layer_inputs
from fedspill.inversion.representations.readout import Representations, read_representations
from fedspill.inversion.representations.two_layer import two_layer
from fedspill.inversion.theory.ownership import expected_leakage, expected_rows, leakage_rates, owners, recoverable
from tests.support.worlds import draw_weights

SPEC = ImageSpec((3, 8, 8))
LAYER = Layer("head.0.weight", "head.0.bias")
FIRST_ONLY = ("head.0.*",)
LIKE = torch.zeros((), dtype=torch.float64)


def transfer_model(
    dtype: torch.dtype = torch.float64, *, rows: int = 96, rate: float = 0.06, classes: int = 5
) -> Model:
    """A fixed random extractor of 40 values and a head whose rows fire for a share `rate` of pictures."""
    with torch.random.fork_rng():
        extractor = draw_weights(nn.Sequential(nn.Flatten(), nn.Linear(192, 40), nn.ReLU()))
    network = nn.Sequential()
    network.add_module("extractor", extractor)
    with torch.no_grad():
        shown = extractor(pictures(400, "public", torch.float32).inputs)
    first = randn((rows, 40), stream(0, "rows"), shown)
    bias = -(shown @ first.T).quantile(1 - rate, dim=0)
    last = randn((classes, rows), stream(0, "last"), shown)
    network.add_module("head", two_layer_head((first, bias), (last, shown.new_zeros(classes))))
    return Model.of(network, SPEC).to("cpu", dtype)


def pictures(n: int, name: str = "private", dtype: torch.dtype = torch.float64) -> Batch:
    return Batch(rand((n, *SPEC.shape), stream(0, name), LIKE).to(dtype), torch.arange(n) * 7 % 5)


def read(model: Model, batch: Batch, training: LocalTraining | None = None, *, known: bool = True, peel: bool = True):
    update = local_update(model, batch, training or FedSGD(trainable=("head.*",)))
    knowledge = ServerKnowledge(model, num_examples=len(batch) if known else None, local_training=training)
    return read_representations(update, knowledge, LAYER, peel=peel)


def truth(model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
    """Representations, and which rows have a non-zero gradient for whom, one example at a time."""
    x = layer_inputs(model, "head.0", SPEC.encode(batch.inputs))
    alone = [local_update(model, batch[k : k + 1], FedSGD(trainable=("head.*",))) for k in range(len(batch))]
    return x, torch.stack([u.values[LAYER.bias] != 0 for u in alone])


def errors(got: Representations, x: Tensor) -> Tensor:
    """(m, n), largest difference of each candidate from each example, relative to the example's largest value."""
    return (got.values[:, None] - x[None].double()).abs().amax(2) / x.double().abs().amax(1)


def brute_force_owners(fires: Tensor) -> list[bool]:
    n, h = fires.shape
    return [any(fires[:, j].tolist() == [k == i for k in range(n)] for j in range(h)) for i in range(n)]


def brute_force_peeled(fires: Tensor) -> list[bool]:
    left, found = fires.clone(), [False] * len(fires)
    while True:
        new = brute_force_owners(left)
        if not any(new):
            return found
        found = [a or b for a, b in zip(found, new, strict=True)]
        left[torch.tensor(new)] = False


@pytest.mark.parametrize("seed", range(3))
def test_leakage_rates_are_those_of_brute_force(seed: int) -> None:
    outputs = rand((23, 30), stream(seed, "outputs"), LIKE) - 0.9
    fires = outputs > 0
    assert owners(fires[:10]).tolist() == brute_force_owners(fires[:10])
    assert recoverable(fires[:10]).tolist() == brute_force_peeled(fires[:10])
    wanted = [sum(brute_force_owners(fires[k : k + 10])) / 10 for k in (0, 10)]
    assert leakage_rates(outputs, 10).tolist() == pytest.approx(wanted)
    expected = expected_rows(fires[:10], peel=False)
    assert expected.recoverable.tolist() == brute_force_owners(fires[:10])
    assert expected.places[3] == tuple(f"row {j}" for j in range(30) if bool(fires[3, j]))


def test_expected_leakage_of_certain_rows_is_the_rate_and_of_uncertain_ones_its_mean() -> None:
    u = 40 * (rand((24, 30), stream(0, "u"), LIKE) - 0.9).sign()
    torch.testing.assert_close(expected_leakage(u, 8).view(3, 8).mean(1), leakage_rates(u, 8), atol=1e-5, rtol=0)
    # Four examples, three rows: every pattern of firing, weighed by its probability.
    u = randn((4, 3), stream(1, "u"), LIKE)
    a, mean = u.sigmoid(), torch.zeros(4, dtype=torch.float64)
    for pattern in product((False, True), repeat=12):
        fires = torch.tensor(pattern).view(4, 3)
        chance = torch.where(fires, a, 1 - a).prod()
        mean += chance * owners(fires)
    torch.testing.assert_close(expected_leakage(u, 4), mean, atol=1e-5, rtol=0)


@pytest.mark.parametrize("n", [6, 14, 24])
def test_owned_rows_give_the_representations_exactly_and_nothing_else_is_vouched_for(n: int) -> None:
    model, batch = transfer_model(), pictures(n)
    x, fires = truth(model, batch)
    got = read(model, batch)
    error = errors(got, x)
    sure, direct = got.certified, got.certified & ~got.peeled
    assert bool(direct.any())
    assert float(error[sure].amin(1).max()) < 1e-9
    owner = error.argmin(1)
    assert sorted(owner[direct].tolist()) == owners(fires).nonzero()[:, 0].tolist()
    assert sorted(owner[sure].tolist()) == recoverable(fires).nonzero()[:, 0].tolist()
    assert got.labels[sure].tolist() == batch.labels[owner[sure]].tolist()
    assert got.leakage_rate(n) == pytest.approx(float(owners(fires).double().mean()))
    for k in direct.nonzero()[:, 0].tolist():
        own = {j for j in range(96) if fires[:, j].nonzero()[:, 0].tolist() == [int(owner[k])]}
        assert set(got.neurons[k]) <= own
        assert len(got.neurons[k]) >= len(own) - 1
    plain = read(model, batch, peel=False)
    assert int(plain.certified.sum()) == int(direct.sum())
    assert not plain.peeled.any()


def test_a_mixture_is_never_certified_in_many_worlds() -> None:
    # Rows that fire often: nearly every row is a mixture, and none passes.
    model = transfer_model(rate=0.3)
    for k in range(6):
        batch = pictures(12, f"private {k}")
        x, fires = truth(model, batch)
        got = read(model, batch)
        error = errors(got, x)
        assert not bool((got.certified & (error.amin(1) > 1e-9)).any())
        assert int((got.certified & ~got.peeled).sum()) == int(owners(fires).sum())
        assert len(got.marks) <= 12
        assert all(m in ("alone", "mixture", "unsure") for m in got.marks)


@pytest.mark.parametrize("known", [True, False], ids=["n known", "n fitted"])
def test_float32_clients_are_read_too(known: bool) -> None:
    model, batch = transfer_model(torch.float32), pictures(14, dtype=torch.float32)
    x, fires = truth(model, batch)
    got = read(model, batch, known=known)
    error, sure = errors(got, x), got.certified
    assert int(sure.sum()) >= int(owners(fires).sum())
    assert float(error[sure].amin(1).max()) < 1e-4
    assert sorted(set(error.argmin(1)[sure].tolist())) == recoverable(fires).nonzero()[:, 0].tolist()


def test_the_first_layer_alone_is_enough_where_n_is_known() -> None:
    model, batch = transfer_model(), pictures(10)
    x, fires = truth(model, batch)
    got = read(model, batch, FedSGD(trainable=FIRST_ONLY))
    assert float(errors(got, x)[got.certified].amin(1).max()) < 1e-9
    assert int(got.certified.sum()) == int(recoverable(fires).sum())
    unknown = read(model, batch, FedSGD(trainable=FIRST_ONLY), known=False)
    assert not unknown.certified.any()
    assert "mixture" not in unknown.marks or "unsure" in unknown.marks


def test_one_local_step_is_read_and_of_several_nothing_is_vouched_for() -> None:
    model, batch = transfer_model(), pictures(10)
    x, fires = truth(model, batch)
    got = read(model, batch, FedAvg(lr=0.01, trainable=("head.*",)))
    assert int(got.certified.sum()) >= int(owners(fires).sum())
    assert float(errors(got, x)[got.certified].amin(1).max()) < 1e-6
    several = read(model, batch, FedAvg(epochs=3, lr=0.01, trainable=("head.*",)))
    assert not several.certified.any()
    assert len(several.marks) > 0


def test_an_example_that_is_there_twice_is_not_certified_as_one() -> None:
    model, batch = transfer_model(), pictures(6)
    twice = Batch(torch.cat([batch.inputs, batch.inputs[:1]]), torch.cat([batch.labels, batch.labels[:1]]))
    x, _ = truth(model, batch)
    got = read(model, twice)
    assert float(errors(got, x)[got.certified].amin(1).max()) < 1e-9


def test_only_a_two_layer_head_at_the_end_is_replayed() -> None:
    model = transfer_model()
    assert two_layer(model, LAYER) is not None
    for head in (
        nn.Sequential(nn.Linear(40, 30), nn.Sigmoid(), nn.Linear(30, 5)),
        nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 5)),
    ):
        network = nn.Sequential()
        network.add_module("extractor", model.module.extractor)
        with torch.random.fork_rng():
            network.add_module("head", draw_weights(head))
        other = Model.of(network, SPEC).to("cpu", torch.float64)
        assert two_layer(other, LAYER) is None
        assert not read(other, pictures(4)).certified.any()


def test_layers_that_were_not_trained_are_named() -> None:
    model, batch = transfer_model(), pictures(4)
    update = local_update(model, batch, FedSGD(trainable=("head.2.*",)))
    with pytest.raises(NotApplicable, match=r"head\.0\.bias"):
        read_representations(update, ServerKnowledge(model), LAYER)
    silent = Update(update.kind, {k: torch.zeros_like(v) for k, v in model.params.items()})
    with pytest.raises(NotApplicable, match="is zero"):
        read_representations(silent, ServerKnowledge(model), LAYER)


def test_a_spoiled_gradient_certifies_nothing() -> None:
    model, batch = transfer_model(), pictures(8)
    update = local_update(model, batch, FedSGD(trainable=("head.*",)))
    rng = stream(0, "noise")
    noisy = {k: v + 0.1 * v.abs().max() * randn(tuple(v.shape), rng, v) for k, v in update.values.items()}
    got = read_representations(replace(update, values=noisy), ServerKnowledge(model, num_examples=8), LAYER)
    assert not got.certified.any()
    assert 0 < len(got.marks) <= 8
