"""TabLeak: relaxed rows, searches in one order, and what they say of their own certainty."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.attacks.tableak import CARD, TabLeak
from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import CategoricalColumn, NumericColumn, TableSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining, local_update
from fedspill.core.model import Model
from fedspill.core.rng import rand, randn, stream
from fedspill.core.types import Batch, Reconstruction
from fedspill.inversion.tables.ensemble import aligned, certainty, pooled
from fedspill.inversion.tables.relaxation import Relaxation, probabilities
from tests.support.exclusivity import D64, drawn, mlp, pictures
from tests.support.watches import BreakingWatch, Broken, Impatient

SPEC = TableSpec(
    (
        NumericColumn("age", 40.0, 10.0, 20.0, 80.0, 1.0),
        CategoricalColumn("colour", ("red", "green", "blue")),
        NumericColumn("hours", 38.0, 6.0, 0.0, 60.0, 1.0),
        CategoricalColumn("sex", ("f", "m")),
    )
)
QUICK = TabLeak(steps=30, restarts=4, lr=0.3)


def table_model(classes: int = 2) -> Model:
    net = nn.Sequential(nn.Linear(7, 40, device="meta"), nn.ReLU(), nn.Linear(40, classes, device="meta"))
    return drawn(net, SPEC)


def rows(n: int, seed: int = 0) -> Batch:
    rng = stream(seed, "rows")
    numbers = torch.stack([20 + 60 * rand((n,), rng, D64), 60 * rand((n,), rng, D64)], 1).round()
    words = torch.stack([torch.randint(k, (n,), generator=rng) for k in (3, 2)], 1).double()
    inputs = torch.stack([numbers[:, 0], words[:, 0], numbers[:, 1], words[:, 1]], 1)
    return Batch(inputs, torch.arange(n) % 2)


def read(
    attack: TabLeak, batch: Batch, training: LocalTraining | None = None, *, labels: bool = True
) -> Reconstruction:
    model, training = table_model(), training or FedSGD()
    held = ServerKnowledge(
        model, num_examples=len(batch), labels=batch.labels if labels else None, local_training=training
    )
    return attack.reconstruct(local_update(model, batch, training), held, stream(0, "attack"))


def test_the_relaxation_is_softmax_and_sigmoid_column_by_column() -> None:
    """Against plain PyTorch, and inside the bounds for numbers of any size."""
    free = 30 * randn((5, 4, 7), stream(0, "free"), D64)
    got = Relaxation(SPEC, temperature=2.0)(free)
    torch.testing.assert_close(got[..., 1:4], functional.softmax(free[..., 1:4] / 2, -1))
    torch.testing.assert_close(got[..., 5:7], functional.softmax(free[..., 5:7] / 2, -1))
    torch.testing.assert_close(got[..., 0] * 10 + 40, 20 + 60 * torch.sigmoid(free[..., 0]))
    torch.testing.assert_close(got[..., 4] * 6 + 38, 60 * torch.sigmoid(free[..., 4]))
    torch.testing.assert_close(SPEC.project(got), got)
    assert torch.equal(Relaxation(SPEC, softmax=False, sigmoid=False)(free), free)


def test_probabilities_add_up_whatever_a_search_left() -> None:
    encoded = torch.tensor([[0.3, -1.0, 2.0, 2.0, -0.1, -1.0, -2.0]])
    expected = torch.tensor([[0.3, 0.0, 0.5, 0.5, -0.1, 0.5, 0.5]])
    torch.testing.assert_close(probabilities(SPEC, encoded), expected)


def shuffled(z: Tensor, seed: int) -> Tensor:
    return z[torch.randperm(len(z), generator=stream(seed, "order"))]


def test_searches_are_put_into_one_order_and_the_majority_is_right() -> None:
    """Each of five searches has the rows in another order, and one cell wrong in each row of one search."""
    batch = rows(6)
    true = SPEC.encode(batch.inputs)
    wrong = true.clone()
    wrong[:, 0] += 1.5
    members = torch.stack([true, *(shuffled(true, k) for k in range(3)), shuffled(wrong, 4)])
    ordered = aligned(SPEC, members, 0, None)
    torch.testing.assert_close(ordered[:4], true.expand(4, -1, -1))
    torch.testing.assert_close(pooled(ordered), true)
    assert torch.equal(SPEC.decode(pooled(ordered)), batch.inputs)


def test_only_rows_of_one_label_change_places() -> None:
    true = SPEC.encode(rows(2).inputs)
    members = torch.stack([true, true.flip(0)])
    torch.testing.assert_close(aligned(SPEC, members, 0, torch.tensor([0, 0]))[1], true)
    torch.testing.assert_close(aligned(SPEC, members, 0, torch.tensor([0, 1]))[1], true.flip(0))


def test_certainty_is_entropy_and_spread() -> None:
    sure = SPEC.encode(rows(3).inputs)
    assert torch.equal(certainty(SPEC, sure.expand(4, -1, -1)), torch.ones(3, 4).double())
    vague = sure.clone()
    vague[:, 1:4], vague[:, 5:7] = 1 / 3, 1 / 2
    torch.testing.assert_close(certainty(SPEC, vague.expand(4, -1, -1))[:, [1, 3]], torch.zeros(3, 2).double())
    spread = torch.stack([sure, sure + 0.5, sure - 0.5, sure])
    torch.testing.assert_close(certainty(SPEC, spread)[:, 0], 1 - torch.full((3,), 0.125**0.5).double())
    assert not certainty(SPEC, sure[None])[:, [0, 2]].any(), "one search says nothing of numbers"


def test_rows_come_out_and_what_agrees_is_trusted() -> None:
    batch = rows(1)
    got = read(QUICK, batch)
    assert torch.equal(got.inputs, SPEC.decode(SPEC.encode(got.inputs))), "rows are valid ones"
    assert torch.equal(got.inputs[:, [1, 3]], batch.inputs[:, [1, 3]])
    assert float((got.inputs - batch.inputs).abs().max()) <= 6.0
    vague = read(TabLeak(steps=1, restarts=6), batch)
    assert got.confidence is not None
    assert vague.confidence is not None
    assert float(got.confidence.min()) > float(vague.confidence.max())
    assert not vague.converged


def test_labels_need_no_grant_and_local_training_is_matched() -> None:
    for training in (FedSGD(), FedAvg(2, None, lr=0.01)):
        got = read(TabLeak(steps=5, restarts=2), rows(4), training, labels=False)
        assert got.inputs.shape == (4, 4)
        assert got.labels is not None
        assert got.label_method is not None


@pytest.mark.parametrize("preset", sorted(CARD.presets))
def test_every_preset_gives_valid_rows(preset: str) -> None:
    attack = CARD.presets[preset]
    assert isinstance(attack, TabLeak)
    got = read(TabLeak(3, min(3, attack.restarts), relaxed=attack.relaxed, bounded=attack.bounded), rows(3))
    assert got.inputs.shape == (3, 4)
    assert torch.equal(got.inputs, SPEC.decode(SPEC.project(SPEC.encode(got.inputs))))
    assert got.confidence is not None
    assert bool(((got.confidence >= 0) & (got.confidence <= 1)).all())


def test_a_killed_search_goes_on_to_the_same_rows() -> None:
    attack, model, batch = TabLeak(steps=8, restarts=3), table_model(), rows(3)
    held, update = ServerKnowledge(model, num_examples=3, labels=batch.labels), local_update(model, batch, FedSGD())
    whole = attack.reconstruct(update, held, stream(0, "attack"))
    watch = BreakingWatch(4)
    with pytest.raises(Broken):
        attack.reconstruct(update, held, stream(0, "attack"), watch)
    again = attack.reconstruct(update, held, stream(0, "attack"), BreakingWatch(None, watch.kept))
    assert torch.equal(again.inputs, whole.inputs)
    early = attack.reconstruct(update, held, stream(0, "attack"), Impatient(3))
    assert any("The budget ended" in note for note in early.notes)


def test_what_it_does_not_fit_is_refused() -> None:
    model, batch = mlp(20), pictures(2)
    with pytest.raises(NotApplicable, match="rows of tables; the model takes images"):
        QUICK.reconstruct(local_update(model, batch, FedSGD()), ServerKnowledge(model), stream(0, "attack"))
    with pytest.raises(BadInput, match="restarts=0"):
        TabLeak(restarts=0)
    with pytest.raises(BadInput, match="temperature=0"):
        TabLeak(temperature=0.0)
