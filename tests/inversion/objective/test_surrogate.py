"""A gradient that stands in for local training, against local training itself."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedspill.attacks.inverting_gradients import CARD, InvertingGradients, TotalVariation
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, encoded_update, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.settings import with_fields
from fedspill.core.types import Batch, Update
from fedspill.inversion.matching import recursive_reading
from fedspill.inversion.objective.distances import cosine_distance
from fedspill.inversion.objective.matching import Matching
from fedspill.inversion.objective.surrogate import CorrectedMatching, find_surrogate
from fedspill.inversion.search.settings import SearchSettings
from fedspill.zoo import models

SHAPE = (3, 9, 9)


def network(name: str = "lenet", *, mode: str = "eval") -> Model:
    options = {"width": 4} if name == "convnet" else {}
    return models.build(name, input_shape=SHAPE, num_classes=10, dtype=torch.float64, mode=mode, options=options)


def batch(n: int) -> Batch:
    images = torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Batch(images, torch.arange(n))


def relative(found: Update, wanted: Update) -> float:
    squares = sum((found.values[k] - v).pow(2).sum() for k, v in wanted.values.items())
    return float(squares**0.5) / wanted.norm()


@pytest.mark.parametrize(
    ("momentum", "weight_decay", "clients"), [(0.0, 0.0, 1), (0.9, 0.0, 1), (0.0, 0.1, 1), (0.0, 0.0, 2)]
)
def test_its_error_falls_with_the_square_of_the_way(momentum: float, weight_decay: float, clients: int) -> None:
    model, private = network(), batch(2)
    z, errors = model.input.encode(private.inputs), list[float]()
    for lr in (2e-3, 1e-3):
        training = FedAvg(4, None, lr, momentum, weight_decay)
        shares = [private[i : i + 2 // clients] for i in range(0, 2, 2 // clients)]
        deltas = [local_update(model, share, training) for share in shares]
        mean = {k: sum((d.values[k] for d in deltas), start=torch.zeros(())) / clients for k in deltas[0].values}
        found = find_surrogate(model, replace(deltas[0], values=mean), training, private.labels, clients)
        assert found is not None
        gradient = encoded_update(found.model, z, private.labels, FedSGD())
        errors.append(relative(found.update, gradient))
    start = relative(found.update, encoded_update(model, z, private.labels, FedSGD()))
    if clients == 1:
        assert errors[1] < 0.3 * errors[0]  # a quarter, where the middle is the right place
        assert errors[1] < 0.1 * start
    else:  # every client goes its own way, so that the first order stays
        assert errors[1] < 0.6 * errors[0]


def test_one_local_step_is_a_gradient() -> None:
    model, private = network("resnet20"), batch(3)
    found = find_surrogate(model, local_update(model, private, FedAvg(lr=0.5)), FedAvg(lr=0.5), private.labels, 1)
    assert found is not None
    assert found.model is model
    assert relative(found.update, local_update(model, private, FedSGD())) < 1e-10


@pytest.mark.parametrize(
    ("training", "mode", "n"),
    [
        (FedAvg(minibatch_size=2, lr=1e-4), "eval", 3),  # the last example counts twice as much
        (FedAvg(minibatch_size=1, lr=1e-4), "train", 2),  # statistics of one example each
        (FedAvg(epochs=5, lr=1e9), "eval", 2),  # it diverges
    ],
)
def test_what_no_gradient_stands_in_for(training: FedAvg, mode: str, n: int) -> None:
    model, private = network("resnet20", mode=mode), batch(n)
    assert find_surrogate(model, local_update(model, private, training), training, private.labels, 1) is None


def test_a_network_that_knows_the_examples_is_judged_by_as_short_a_way() -> None:
    """Random examples would take a trained network far away from where the client's own leave it."""
    model, private = network(), batch(1)
    training = FedAvg(epochs=5, lr=30.0)
    known = _sure_of(model, private, 3.0)
    found = find_surrogate(known, local_update(known, private, training), training, private.labels, 1)
    assert found is not None
    assert found.off < 0.01
    other = Batch(private.inputs, private.labels + 1)  # the same training of a surprised network
    found = find_surrogate(known, local_update(known, other, training), training, other.labels, 1)
    assert found is None or found.off > 0.01


def _sure_of(model: Model, private: Batch, margin: float) -> Model:
    """The network with a head that answers the first label to everything."""
    name = list(model.params)[-1]
    bias = torch.zeros_like(model.params[name])
    bias[private.labels[0]] = 5 * margin
    return model.with_params({**model.params, name: bias})


def attacked(training: FedAvg, *, granted: bool = True, **fields: object) -> tuple[float, tuple[str, ...]]:
    model, private = network(), batch(1)
    preset = CARD.presets["quick"]
    assert isinstance(preset, InvertingGradients)
    attack = with_fields(preset, steps=3, **fields)
    knowledge = ServerKnowledge(
        model, num_examples=1, labels=private.labels, local_training=training if granted else None
    )
    found = attack.reconstruct(local_update(model, private, training), knowledge, stream(0, "test"))
    return _psnr(found.inputs, private.inputs), found.notes


def _psnr(found: Tensor, wanted: Tensor) -> float:
    return -10 * float((found - wanted).pow(2).mean().log10())


def test_local_training_of_one_example_is_read_like_a_gradient() -> None:
    psnr, notes = attacked(FedAvg(epochs=5, lr=1e-4))
    assert psnr > 40
    assert any("Recovered from local training" in note for note in notes)
    without, notes = attacked(FedAvg(epochs=5, lr=1e-4), surrogate=False)
    assert without < 20
    assert not any("as one gradient" in note for note in notes)


def test_the_correction_is_exact_at_the_private_example() -> None:
    """Where the way is bent, the surrogate is off and the corrected one is not."""
    training, private = FedAvg(epochs=5, lr=1e-2), batch(1)
    model = network()
    found = find_surrogate(model, local_update(model, private, training), training, private.labels, 1)
    assert found is not None
    z = model.input.encode(private.inputs)
    wanted = encoded_update(found.model, z, private.labels, FedSGD())
    corrected = replace(found.update, values=found.corrected(z, private.labels))
    assert relative(found.update, wanted) > 1e-4
    assert relative(corrected, wanted) < 1e-12


def test_corrections_find_what_a_bent_way_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    bent = FedAvg(epochs=5, lr=1e-2)
    psnr, notes = attacked(bent)
    assert psnr > 75
    assert any("Recovered from local training" in note for note in notes)
    monkeypatch.setattr(recursive_reading, "CORRECTIONS", 0)
    without, _ = attacked(bent)
    assert without < psnr - 15


@pytest.mark.parametrize("assumed", [1e-2, 1.0])
def test_corrected_matching_is_the_distance_of_the_training_itself(assumed: float) -> None:
    """At every candidate that it corrects at, for small distances; and 0 at the truth, whatever the assumed step."""
    model, private = network(), batch(2)
    training = FedAvg(epochs=5, lr=1e-2)
    delta = local_update(model, private, training)
    guessed = replace(training, lr=assumed) if assumed != 1.0 else training
    scaled = replace(delta, values={k: assumed * v for k, v in delta.values.items()})
    instead = find_surrogate(model, scaled, guessed, private.labels, 1)
    assert instead is not None
    truth = model.input.encode(private.inputs)
    matching = Matching(instead.model, instead.update, instead.training, 1, cosine_distance)
    real = Matching(model, scaled, guessed, 1, cosine_distance)
    for noise in (0.0, 1e-3, 1e-2):
        z = truth + noise * torch.randn(truth.shape, generator=stream(0, "z"), dtype=truth.dtype)
        found = float(CorrectedMatching(matching, instead)(z, private.labels))
        assert found == pytest.approx(float(real(z, private.labels)), rel=0.05 if assumed == 1.0 else 0.4, abs=1e-12)
    assert float(matching(truth, private.labels)) > 1e-6  # uncorrected


def test_a_search_with_corrections_finds_what_training_gives() -> None:
    model, private = network("convnet"), batch(1)
    training = FedAvg(epochs=5, lr=1e-2)
    knowledge = ServerKnowledge(model, num_examples=1, labels=private.labels, local_training=training)
    confidence = list[float]()
    for short in (True, False):
        attack = InvertingGradients(
            search=SearchSettings(steps=60, lr=0.3, schedule="cosine"),
            prior=TotalVariation(tv=0.05, relative=True),
            surrogate=short,
        )
        found = attack.reconstruct(local_update(model, private, training), knowledge, stream(0, "test"))
        assert found.confidence is not None
        confidence.append(float(found.confidence.min()))
    assert confidence[0] > 0.9 * confidence[1] > 0.5


def test_a_client_that_went_further_than_random_examples_is_judged_by_as_long_a_way() -> None:
    model, private = network(), batch(1)
    near, far = (local_update(model, private, FedAvg(epochs=5, lr=lr)) for lr in (1e-3, 0.3))
    guess = FedAvg(epochs=5, lr=1e-3)
    found = {
        name: find_surrogate(model, delta, guess, private.labels, 1) for name, delta in (("near", near), ("far", far))
    }
    assert found["near"] is not None
    assert found["far"] is None or found["far"].off > 100 * found["near"].off


def test_activations_are_not_read_under_a_guessed_protocol() -> None:
    _, notes = attacked(FedAvg(epochs=5, lr=1e-4), granted=False)
    assert any("5 steps was matched as one gradient" in note for note in notes)
    assert not any("Recovered from" in note for note in notes)
