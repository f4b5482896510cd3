"""Batches that are read in part, and searched from there on."""

import pytest
import torch
from torch import nn

from fedspill.attacks.disaggregated_inversion import DisaggregatedInversion
from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import NumericColumn, TableSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining, local_update
from fedspill.core.model import Model
from fedspill.core.rng import rand, stream
from fedspill.core.roles import UNWATCHED, Watch
from fedspill.core.settings import with_fields
from fedspill.core.types import Batch, Reconstruction, Update, UpdateKind
from tests.inversion.recursion.test_batches import blocks, model_of
from tests.support.watches import BreakingWatch, Broken, Recorder
from tests.support.worlds import batch, conv_bn, relu_mlp

MIXED = Batch(batch(3, dtype=torch.float64).inputs, torch.tensor([3, 8, 0]))
FEW = with_fields(DisaggregatedInversion(), steps=60, starts=4, guesses=20, rounds=0)


def attacked(
    model: Model,
    private: Batch = MIXED,
    *,
    granted: bool = True,
    training: LocalTraining = FedSGD(),
    update: Update | None = None,
    watch: Watch = UNWATCHED,
    attack: DisaggregatedInversion = FEW,
) -> Reconstruction:
    labels = private.labels if granted else None
    known = ServerKnowledge(model, num_examples=len(private), labels=labels, local_training=training)
    return attack.reconstruct(update or local_update(model, private, training), known, stream(0, "attack"), watch)


@pytest.mark.parametrize("granted", [True, False])
def test_where_the_reading_ends_it_is_searched_and_says_how_far_it_was_read(granted: bool) -> None:
    found = attacked(conv_bn(dtype=torch.float64), granted=granted)
    assert set(found.marks) == {"unsure"}
    assert len(found.objective) == 61
    assert min(found.objective) < 0.1 * found.objective[0]
    assert found.notes[0].startswith("Features and probabilities of 3 of 3 examples were read at the head, 3 of them")
    assert "layer by layer: " in found.notes[0]
    assert any(note.startswith("Searched from there on") for note in found.notes)
    assert found.labels is not None
    assert sorted(found.labels.tolist()) == [0, 3, 8]


def test_each_candidate_is_of_the_example_whose_features_and_label_it_has() -> None:
    model = conv_bn(dtype=torch.float64)
    found = attacked(model)
    apart = torch.cdist(_features(model, MIXED.inputs), _features(model, found.inputs))
    nearest = apart.argmin(1)
    assert sorted(nearest.tolist()) == [0, 1, 2]
    assert found.labels is not None
    assert found.labels[nearest].tolist() == MIXED.labels.tolist()


def _features(model: Model, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.own_module()[:-1](model.input.encode(inputs))


def test_what_is_read_whole_is_not_searched() -> None:
    found = attacked(blocks(), MIXED[:2])
    assert found.objective == ()
    assert found.converged
    assert set(found.marks) == {"alone"}
    assert float((found.inputs - MIXED.inputs[:2]).abs().max()) < 1e-2


def test_an_ended_budget_leaves_the_best_so_far() -> None:
    found = attacked(conv_bn(dtype=torch.float64), watch=Recorder(end=20))
    assert found.inputs.shape == MIXED.inputs.shape
    assert len(found.objective) < 61
    assert any("budget ended" in note for note in found.notes)


def test_a_killed_search_goes_on_to_the_result_of_an_unbroken_one() -> None:
    model, watch = conv_bn(dtype=torch.float64), BreakingWatch(20)
    with pytest.raises(Broken):
        attacked(model, watch=watch)
    resumed = attacked(model, watch=BreakingWatch(kept=watch.kept))
    whole = attacked(model)
    assert torch.equal(resumed.inputs, whole.inputs)
    assert resumed.notes == whole.notes


def shallow() -> Model:
    """A network whose features are too few to be a picture."""
    with torch.random.fork_rng():
        net = nn.Sequential(
            nn.Conv2d(3, 2, 3, stride=2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(32, 20), nn.Tanh(),
            nn.Linear(20, 10),
        )  # fmt: skip
        return model_of(net)


def test_a_single_example_that_is_not_certified_is_left_to_another_attack() -> None:
    with pytest.raises(NotApplicable, match="single example is for inverting_gradients"):
        attacked(shallow(), MIXED[:1])


def test_several_steps_and_equations_that_do_not_hold_are_refused() -> None:
    model = relu_mlp(dtype=torch.float64)
    with pytest.raises(NotApplicable, match="several local steps"):
        attacked(model, training=FedAvg(epochs=2, lr=0.1))
    update = local_update(model, MIXED, FedSGD())
    halved = {k: v.where(rand(tuple(v.shape), stream(0, k), v) < 0.5, 0.0) for k, v in update.values.items()}
    with pytest.raises(NotApplicable, match="read at the head, .*(do not hold|not that of these features)"):
        attacked(model, update=Update(update.kind, halved))


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(BadInput, match="guesses=0"):
        DisaggregatedInversion(guesses=0)
    with pytest.raises(BadInput, match="tv=-1"):
        DisaggregatedInversion(tv=-1.0)
    with pytest.raises(BadInput, match="floor=nan"):
        DisaggregatedInversion(floor=float("nan"))


def test_rows_of_tables_are_refused() -> None:
    with torch.random.fork_rng():
        net = nn.Linear(2, 4)
    model = Model.of(net, TableSpec(tuple(NumericColumn(name, 0.0, 1.0, 0.0, 1.0) for name in "ab")))
    with pytest.raises(NotApplicable, match="searches for images; the model takes"):
        FEW.reconstruct(
            Update(UpdateKind.GRADIENT, dict(model.params)), ServerKnowledge(model, num_examples=2), stream(0, "a")
        )
