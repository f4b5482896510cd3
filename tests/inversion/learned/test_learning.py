"""A learned inversion as a whole: what it reads, kills, budgets, and that no bound is beaten."""

from dataclasses import replace

import pytest
import torch

from fedspill.attacks.learned_inversion import CARD, LearnedInversion
from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.knowledge import Knows, ServerKnowledge
from fedspill.core.local_training.update import FedSGD
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import UNWATCHED, Defence, known_defence
from fedspill.core.settings import with_fields
from fedspill.core.types import Batch, Update
from fedspill.core.watching.clock import OutOfTime
from fedspill.defences.local_dp import LocalDP
from fedspill.defences.quantisation import Quantisation
from fedspill.federation.client import Client
from fedspill.federation.threat import observe
from fedspill.inversion.learned.readout import learn
from tests.inversion.generators.test_training import smooth
from tests.privacy.test_no_attack_beats_them import beats, mu_of, private, psnr
from tests.support.watches import BreakingWatch, Broken, Impatient
from tests.support.worlds import SPEC, batch, mlp, relu_mlp

GRANTS = frozenset({Knows.NUM_EXAMPLES, Knows.LOCAL_TRAINING, Knows.PUBLIC_DATA, Knows.DEFENCE, Knows.LABELS})
QUICK = with_fields(CARD.presets["quick"], pairs=120, features=128)
NETWORK = with_fields(QUICK, pairs=60, epochs=4, hidden=16, minibatch=16, lr=1e-2, linear=False)


def pictures(n: int, seed: int) -> Batch:
    """Smooth ones, of few numbers, of which public ones tell much."""
    return Batch(smooth(n, seed), torch.zeros(n, dtype=torch.long))


def world(
    n: int = 1, defences: tuple[Defence, ...] = (), model: Model | None = None, seed: int = 1
) -> tuple[Batch, Update, ServerKnowledge]:
    model, own, stages = model or mlp(), pictures(n, seed), [d.stages() for d in defences]
    sent = Client(own, FedSGD(), stages).respond(model, stream(seed, "client"))
    assert sent is not None
    known = known_defence(defences, model)
    return own, sent, observe(model, own, 1, FedSGD(), pictures(64, 0), GRANTS, defence=known, stages=stages)


def test_signs_are_read_by_a_server_that_knows_of_them_far_better_than_the_public_mean() -> None:
    signs = (Quantisation(bits=1),)
    own, sent, knowledge = world(1, signs)
    got = QUICK.reconstruct(sent, knowledge, stream(0))
    mean = pictures(64, 0).inputs.mean(0)
    assert psnr(got.inputs, own.inputs[0]) > psnr(mean[None], own.inputs[0]) + 6
    assert got.objective[0] == 1.0
    assert got.objective[-1] < 0.5
    assert got.labels is not None
    blind = replace(knowledge, defence=None, simulate=world(1)[2].simulate)
    plain = QUICK.reconstruct(sent, blind, stream(0))
    assert psnr(plain.inputs, own.inputs[0]) < psnr(got.inputs, own.inputs[0])
    assert not plain.converged


def test_a_plain_gradient_is_read_nearly_exactly() -> None:
    own, sent, knowledge = world()
    got = QUICK.reconstruct(sent, knowledge, stream(0))
    assert got.converged
    assert psnr(got.inputs, own.inputs[0]) > 30


def test_it_learns_without_the_linear_map_too_and_says_how_well() -> None:
    _, sent, knowledge = world(1, (Quantisation(bits=1),))
    attack = with_fields(NETWORK, epochs=25)
    got = attack.reconstruct(sent, knowledge, stream(0))
    assert got.objective[1] == pytest.approx(1.0)
    assert got.objective[-1] < 0.7
    assert all(a >= b for a, b in zip(got.objective, got.objective[1:], strict=False))
    assert "Learned from 60 simulated updates of public examples in 25 epochs" in got.notes[0]
    assert "resemblance alone is no leak" in got.notes[1]


@pytest.mark.parametrize("labels", [[0, 0], [0, 1]])
def test_several_examples_are_read_whatever_their_order(labels: list[int]) -> None:
    model, own = relu_mlp(), replace(pictures(2, 1), labels=torch.tensor(labels))
    sent = Client(own, FedSGD()).respond(model, stream(0))
    assert sent is not None
    knowledge = observe(model, own, 1, FedSGD(), pictures(64, 0), GRANTS, stages=())
    got = QUICK.reconstruct(sent, knowledge, stream(0))
    assert got.inputs.shape == (2, 3, 8, 8)
    best = max(
        sum(psnr(got.inputs[i : i + 1], own.inputs[j]) for i, j in pairs) / 2
        for pairs in ([(0, 0), (1, 1)], [(0, 1), (1, 0)])
    )
    mean = pictures(64, 0).inputs.mean(0, keepdim=True)
    assert best > sum(psnr(mean, one) for one in own.inputs) / 2


def test_a_killed_training_goes_on_to_the_same_result() -> None:
    _, sent, knowledge = world(2)
    whole, watch = NETWORK.reconstruct(sent, knowledge, stream(0)), BreakingWatch(2)
    with pytest.raises(Broken):
        NETWORK.reconstruct(sent, knowledge, stream(0), watch)
    again = NETWORK.reconstruct(sent, knowledge, stream(0), BreakingWatch(None, watch.kept))
    assert torch.equal(again.inputs, whole.inputs)
    assert again.objective == whole.objective


def test_a_budget_ends_the_training_and_the_best_so_far_reads() -> None:
    _, sent, knowledge = world()
    full = NETWORK.reconstruct(sent, knowledge, stream(0))
    short = NETWORK.reconstruct(sent, knowledge, stream(0), Impatient(60 + 32 + 5))
    assert any("The budget ended before the training did" in n for n in short.notes)
    assert not any("The budget ended" in n for n in full.notes)
    assert short.objective == full.objective[: len(short.objective) - 1] + short.objective[-1:]
    assert len(short.objective) < len(full.objective)
    with pytest.raises(OutOfTime):
        NETWORK.reconstruct(sent, knowledge, stream(0), Impatient(50))
    linear = QUICK.reconstruct(sent, knowledge, stream(0), Impatient(100))
    assert any("The budget ended" in n for n in linear.notes)
    with pytest.raises(OutOfTime):
        QUICK.reconstruct(sent, knowledge, stream(0), Impatient(5))


def test_an_update_unlike_the_public_ones_is_told() -> None:
    _, sent, knowledge = world()
    odd = replace(sent, values={k: torch.randn(v.shape, generator=stream(0, k)) for k, v in sent.values.items()})
    got = QUICK.reconstruct(odd, knowledge, stream(0))
    assert not got.converged
    assert any("does not hold of this update" in n for n in got.notes)
    assert bool(got.inputs.isfinite().all())


def test_what_a_server_lacks_is_said_in_one_line() -> None:
    _, sent, knowledge = world()
    with pytest.raises(NotApplicable, match="grant public_data, num_examples and local_training"):
        QUICK.reconstruct(sent, replace(knowledge, public_data=None), stream(0))
    with pytest.raises(NotApplicable, match="the clients cannot be simulated"):
        QUICK.reconstruct(sent, replace(knowledge, simulate=None), stream(0))
    with pytest.raises(NotApplicable, match="withhold its update"):
        QUICK.reconstruct(sent, replace(knowledge, simulate=lambda batch, rng: None), stream(0))
    foreign = Batch(pictures(64, 0).inputs, torch.full((64,), 99))
    public = with_fields(QUICK, labels="public")
    with pytest.raises(NotApplicable, match="a client that is simulated on public examples fails"):
        public.reconstruct(sent, replace(knowledge, public_data=foreign), stream(0))


@pytest.mark.parametrize(
    "wrong",
    [{"pairs": 7}, {"features": 0}, {"lr": 0.0}, {"hidden": 0}, {"epochs": 0}, {"converged_below": 1.5}],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="="):
        with_fields(LearnedInversion(), **wrong)


def test_no_bound_is_beaten_by_who_holds_examples_of_the_very_prior() -> None:
    defence, model = LocalDP(epsilon=8.0), relu_mlp()
    drawn = 0.5 + 0.1 * torch.randn(200, *SPEC.shape, generator=stream(1, "public"))
    public, own = (Batch(inputs, torch.zeros(len(inputs), dtype=torch.long)) for inputs in (drawn, private()))
    sent = [Client(own[i : i + 1], FedSGD(), [defence.stages()]).respond(model, stream(i)) for i in range(len(own))]
    known = known_defence([defence], model)
    held = observe(model, own[:1], 1, FedSGD(), public, GRANTS, defence=known, stages=[defence.stages()])
    assert sent[0] is not None
    inversion = learn(sent[0], held, QUICK.simulation, QUICK.learning, stream(0), UNWATCHED)
    made = [SPEC.decode(inversion.read(u).view(1, *SPEC.shape)) for u in sent if u is not None]
    read = [psnr(one, x) for one, x in zip(made, own.inputs, strict=True)]
    assert len(read) == len(own)
    assert beats(tuple(read), mu_of(defence)) == []


def test_rows_of_tables_are_read_too() -> None:
    from fedspill.auditing import parse_plan, run_audit

    plan = {
        "audit": {"attacks": [{"name": "learned_inversion", "preset": "quick", "pairs": 100}], "identification": []},
        "data": {"name": "iris", "indices": "0:1"},
        "model": {"name": "mlp", "hidden": [8]},
        "client": {"num_examples": 1},
        "defences": [{"name": "quantisation", "bits": 1}],
        "server": {
            "knows": ["num_examples", "local_training", "labels", "public_data"],
            "public": {"name": "iris", "indices": "10:75"},
        },
    }
    (trial,) = run_audit(parse_plan(plan), device="cpu").report.trials
    assert trial.skipped is None
    assert "a mean squared error of" in trial.notes[0]


def test_it_is_named_and_no_part_of_standard() -> None:
    assert not CARD.in_standard
    assert replace(CARD, standard=None).in_standard
    assert not replace(CARD, standard=None, origin="other 1.0").in_standard
    assert replace(CARD, standard=True, origin="other 1.0").in_standard


def test_random_pictures_of_another_kind_are_not_called_converged_under_signs() -> None:
    _, sent, knowledge = world(1, (Quantisation(bits=1),))
    noise = replace(knowledge, public_data=batch(40, seed=3))
    assert not QUICK.reconstruct(sent, noise, stream(0)).converged


def test_without_labels_it_does_not_say_that_it_converged() -> None:
    _, sent, knowledge = world(2)
    got = QUICK.reconstruct(sent, replace(knowledge, labels=None), stream(0))
    assert not got.converged
    assert any("for want of labels" in n for n in got.notes)
