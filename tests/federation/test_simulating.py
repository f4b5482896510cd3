"""Clients that a server simulates: they send what real ones would of the same examples, and draw on their own."""

from dataclasses import fields, replace

import pytest
import torch

from fedspill.core.errors import BadInput
from fedspill.core.knowledge import Knows, Simulate
from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining
from fedspill.core.rng import stream
from fedspill.core.roles import Stages
from fedspill.core.types import Update
from fedspill.defences.gradient_noise import GradientNoise
from fedspill.defences.quantisation import Quantisation
from fedspill.federation.aggregation import collect
from fedspill.federation.client import Client, shared_out
from fedspill.federation.simulating import Simulator
from fedspill.federation.threat import observe
from tests.support.worlds import batch, mlp

GRANTS = frozenset({Knows.NUM_EXAMPLES, Knows.LOCAL_TRAINING, Knows.PUBLIC_DATA, Knows.DEFENCE})
SIGNS = (Quantisation(bits=1).stages(),)


def held(
    grants: frozenset[Knows] = GRANTS,
    stages: tuple[Stages, ...] | None = SIGNS,
    training: LocalTraining | None = FedSGD(),
    clients: int = 2,
) -> Simulate | None:
    return observe(mlp(), batch(4), clients, training, batch(8, seed=1), grants, stages=stages).simulate


def same(one: Update | None, other: Update | None) -> bool:
    assert one is not None
    assert other is not None
    return one.values.keys() == other.values.keys() and all(
        torch.equal(v, other.values[k]) for k, v in one.values.items()
    )


@pytest.mark.parametrize("training", [FedSGD(), FedAvg(epochs=2, minibatch_size=1, lr=0.1)], ids=["fedsgd", "fedavg"])
def test_it_sends_what_the_real_clients_send_of_the_same_examples(training: LocalTraining) -> None:
    simulate = held(training=training)
    assert simulate is not None
    sent = collect(mlp(), shared_out(batch(4), 2, training, defences=SIGNS), stream(3))
    assert same(simulate(batch(4), stream(5)), sent), "signs draw nothing"


def test_clients_of_different_sizes_count_by_their_examples() -> None:
    model, private = mlp(dtype=torch.float64), batch(4, dtype=torch.float64)
    got = Simulator(model, (3, 1), FedSGD(), SIGNS)(private, stream(0))
    three, one = (Client(part, FedSGD(), SIGNS).respond(model, stream(0)) for part in (private[:3], private[3:]))
    assert got is not None
    assert three is not None
    assert one is not None
    for name, value in got.values.items():
        torch.testing.assert_close(value, (3 * three.values[name] + one.values[name]) / 4)


def test_its_noise_is_its_own() -> None:
    simulate = held(stages=(GradientNoise(0.1).stages(),), clients=1)
    assert simulate is not None
    sent = Client(batch(4), FedSGD(), [GradientNoise(0.1).stages()]).respond(mlp(), stream(0))
    assert same(simulate(batch(4), stream(0)), simulate(batch(4), stream(0)))
    assert not same(simulate(batch(4), stream(0)), simulate(batch(4), stream(1)))
    assert not same(simulate(batch(4), stream(0)), sent), "not even from the same source"


def test_what_clients_draw_is_drawn_anew_unless_it_is_known() -> None:
    training = FedAvg(minibatch_size=1, lr=0.1, shuffle=True, draws=7)
    for known in (False, True):
        simulate = held(GRANTS | ({Knows.DRAWS} if known else set()), (), training, clients=1)
        assert simulate is not None
        one, other = simulate(batch(4), stream(0)), simulate(batch(4), stream(2))
        assert same(one, other) is known
        assert same(one, Client(batch(4), training).respond(mlp(), stream(0))) is known


@pytest.mark.parametrize("missing", [Knows.NUM_EXAMPLES, Knows.LOCAL_TRAINING, Knows.PUBLIC_DATA])
def test_a_server_that_lacks_a_part_simulates_nobody(missing: Knows) -> None:
    assert held(GRANTS - {missing}) is None


def test_a_server_that_does_not_know_the_defence_simulates_plain_clients() -> None:
    simulate = held(GRANTS - {Knows.DEFENCE})
    assert simulate is not None
    plain = collect(mlp(), shared_out(batch(4), 2, FedSGD()), stream(0))
    assert same(simulate(batch(4), stream(0)), plain)
    assert not same(
        simulate(batch(4), stream(0)), collect(mlp(), shared_out(batch(4), 2, FedSGD(), defences=SIGNS), stream(0))
    )


def test_what_cannot_be_simulated_is_not() -> None:
    assert held(stages=None) is None
    assert held(training=None) is None
    simulate = held()
    assert simulate is not None
    with pytest.raises(BadInput, match="3 examples were got; the clients that are simulated hold 4"):
        simulate(batch(3), stream(0))


def test_a_simulator_holds_no_example() -> None:
    simulate = held()
    assert isinstance(simulate, Simulator)
    assert {f.name for f in fields(simulate)} == {
        "sent", "sizes", "training", "defences", "micro_batch", "known_draws",
    }  # fmt: skip
    again = replace(simulate, sizes=(1,))
    assert again(batch(1, seed=9), stream(0)) is not None
