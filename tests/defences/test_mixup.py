"""MixUp: mixtures and labels by the plain sum, and what a batch spans stays what it spans."""

import pytest
import torch

from fedspill.auditing.certifying.doubts import unsure
from fedspill.core.errors import BadInput
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.losses import BinaryCrossEntropy
from fedspill.core.local_training.update import FedAvg, FedSGD, local_update
from fedspill.core.rng import split, stream
from fedspill.core.types import Batch, Reconstruction
from fedspill.defences.mixup import MixUp
from fedspill.federation.client import Client
from fedspill.inversion.matching.hypotheses import Unknowns, hypotheses
from tests.support.worlds import batch, conv_bn, linear, mlp


@pytest.mark.parametrize(("n", "k"), [(2, 2), (5, 2), (4, 4), (7, 4)])
def test_every_example_is_in_k_mixtures_of_k(n: int, k: int) -> None:
    shares = MixUp(k, 0.65).coefficients(n, stream(0, "m"))
    assert torch.equal((shares > 0).sum(1), torch.full((n,), k))
    assert torch.equal((shares > 0).sum(0), torch.full((n,), k))
    torch.testing.assert_close(shares.sum(1), torch.ones(n, dtype=torch.float64))
    assert float(shares.max()) <= 0.65
    assert bool((shares.diagonal() > 0).all())
    assert torch.linalg.matrix_rank(shares) == n
    assert not torch.equal(shares, MixUp(k, 0.65).coefficients(n, stream(1, "m")))


@pytest.mark.parametrize("training", [FedSGD(), FedAvg(epochs=2, lr=0.1)], ids=["fedsgd", "fedavg"])
def test_the_update_is_that_of_the_mixtures_in_plain_pytorch(training) -> None:
    model, private, defence = conv_bn(dtype=torch.float64), batch(4, dtype=torch.float64), MixUp(2)
    sent = Client(private, training, [defence.stages()]).respond(model, stream(0, "c"))
    mixed = defence._blend(private, model, _first_stream())
    shares = defence.coefficients(4, _first_stream())
    inputs = torch.stack([sum(shares[i, j] * private.inputs[j] for j in range(4)) for i in range(4)])
    labels = torch.stack([sum(shares[i, j] * torch.eye(10)[private.labels[j]] for j in range(4)) for i in range(4)])
    torch.testing.assert_close(mixed.inputs, inputs)
    torch.testing.assert_close(mixed.labels, labels.double())
    expected = local_update(model, Batch(inputs, labels.double()), training)
    for name, value in expected.values.items():
        torch.testing.assert_close(sent.values[name], value)


def _first_stream() -> torch.Generator:
    """What a client's first defence draws from."""
    return split(stream(0, "c"), 1)[0]


def test_labels_that_are_numbers_are_mixed_as_they_are() -> None:
    several = torch.tensor([[1, 0, 1], [0, 0, 1]])
    model = linear(3).with_loss(BinaryCrossEntropy())
    mixed = MixUp(2)._blend(Batch(batch(2).inputs, several), model, stream(0, "m"))
    shares = MixUp(2).coefficients(2, stream(0, "m")).float()
    torch.testing.assert_close(mixed.labels, shares @ several.float())


def test_too_few_examples_send_nothing_and_wrong_values_are_refused() -> None:
    assert Client(batch(3), FedSGD(), [MixUp(4).stages()]).respond(mlp(), stream(0, "c")) is None
    for k, most in ((1, 0.9), (4, 0.25), (2, 1.5)):
        with pytest.raises(BadInput, match="must be at least 2, and most="):
            MixUp(k, most)
    with pytest.raises(BadInput, match="labels up to 3 were got, and a network of 3 outputs"):
        MixUp(2)._blend(batch(4), linear(3), stream(0, "m"))


def test_who_knows_of_it_expects_the_mean_of_what_may_be_drawn() -> None:
    model, private, defence = mlp(dtype=torch.float64), batch(4, dtype=torch.float64), MixUp(2)
    knowledge = ServerKnowledge(model, labels=private.labels, num_examples=4, defence=defence.known(model))
    update = local_update(model, private, FedSGD())
    (tried,) = hypotheses(update, knowledge, Unknowns(), stream(0, "a"))
    many = [defence._blend(private, model, stream(i, "m")).labels for i in range(4000)]
    assert tried.label_method == "expected of mixtures"
    torch.testing.assert_close(torch.stack(many).mean(0), tried.labels, rtol=0, atol=0.02)


def test_what_is_read_of_mixtures_is_never_called_certain() -> None:
    model, sure = mlp(), Reconstruction(batch(2).inputs, converged=True)
    knowledge = ServerKnowledge(model, defence=MixUp(2).known(model))
    assert not unsure(sure, knowledge).converged
    assert unsure(sure, ServerKnowledge(model)) is sure


def test_the_first_layers_gradient_spans_the_examples_themselves() -> None:
    model, private = mlp(dtype=torch.float64), batch(4, dtype=torch.float64)
    sent = Client(private, FedSGD(), [MixUp(4).stages()]).respond(model, stream(0, "c"))
    rows = torch.linalg.svd(sent.values["1.weight"], full_matrices=False).Vh[:4]
    z = model.input.encode(private.inputs).flatten(1)
    torch.testing.assert_close(z @ rows.T @ rows, z)
