"""A client that draws, where nobody knows what: the attack gets the network without masks, and the reader is told."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import fedspill
from fedspill.auditing.capturing.assumed import MASKS, ORDER, VIEWS, without_unknown_draws
from fedspill.core.errors import BadInput
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.conditions import Augmentation, Conditions
from fedspill.core.local_training.update import FedAvg, FedSGD, encoded_update
from fedspill.core.model import Model
from fedspill.testing.worlds import SPEC, batch, draw_weights


class Functional(nn.Module):
    """Dropout of a function, and stochastic depth, as code of anyone's has them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(144, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        branch = x.tanh()
        if self.training:
            branch = branch * (torch.rand(len(x), 1, 1, 1, dtype=x.dtype) < 0.5)
        return self.head(functional.dropout((x + branch).flatten(1), 0.3, self.training))


class Plain(Functional):
    """The twin that draws nothing."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return self.head((x + x.tanh()).flatten(1))


def layers() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout2d(0.4), nn.RReLU(0.1, 0.3), nn.Dropout(0.5)),
        *(nn.Flatten(), nn.Linear(144, 10)),
    )


def layers_twin() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Identity(), nn.LeakyReLU(0.2), nn.Identity()),
        *(nn.Flatten(), nn.Linear(144, 10)),
    )


@pytest.mark.parametrize(("net", "twin"), [(Functional, Plain), (layers, layers_twin)])
@pytest.mark.parametrize("training", [None, FedSGD(), FedAvg(epochs=2, minibatch_size=4, lr=0.1)])
def test_the_simulated_update_is_that_of_the_network_without_dropout(net, twin, training) -> None:
    noisy = draw_weights(net()).double()
    calm = twin().double()
    calm.load_state_dict(noisy.state_dict())
    model = Model.of(noisy, SPEC, training=True)
    knowledge, notes = without_unknown_draws(ServerKnowledge(model, local_training=training))
    assert notes == (MASKS,)
    private = batch(8)
    z = model.input.encode(private.inputs.double())
    protocol = knowledge.local_training or FedSGD()
    simulated = encoded_update(knowledge.model, z, private.labels, protocol)
    expected = plain_loop(calm, z, private.labels, protocol)
    for name, value in expected.items():
        torch.testing.assert_close(simulated.values[name], value, atol=1e-12, rtol=1e-9)


def plain_loop(net: nn.Module, z: Tensor, labels: Tensor, training: FedSGD | FedAvg) -> dict[str, Tensor]:
    """What a client sends that trains as PyTorch's users do."""
    net = copy.deepcopy(net).train()
    before = {k: v.detach().clone() for k, v in net.named_parameters()}
    if isinstance(training, FedSGD):
        functional.cross_entropy(net(z), labels).backward()
        return {k: v.grad for k, v in net.named_parameters() if v.grad is not None}
    optimizer = torch.optim.SGD(net.parameters(), lr=training.lr)
    for _ in range(training.epochs):
        for rows in torch.arange(len(z)).split(training.minibatch_size or len(z)):
            optimizer.zero_grad()
            functional.cross_entropy(net(z[rows]), labels[rows]).backward()
            optimizer.step()
    return {k: before[k] - v.detach() for k, v in net.named_parameters()}


def test_nothing_is_assumed_of_a_client_that_draws_nothing_or_whose_draws_are_known() -> None:
    plain = ServerKnowledge(Model.of(draw_weights(Plain()), SPEC, training=True), local_training=FedSGD())
    assert without_unknown_draws(plain) == (plain, ())
    calm = ServerKnowledge(Model.of(draw_weights(layers()), SPEC))
    assert without_unknown_draws(calm) == (calm, ()), "in eval mode nothing is dropped"
    known = ServerKnowledge(Model.of(draw_weights(layers()), SPEC, training=True), local_training=FedSGD(draws=3))
    assert without_unknown_draws(known) == (known, ())


def test_views_and_orders_that_nobody_knows_are_told() -> None:
    model = Model.of(draw_weights(Plain()), SPEC)
    training = FedAvg(shuffle=True, conditions=Conditions(augmentation=Augmentation(flip=0.5)))
    assert without_unknown_draws(ServerKnowledge(model, local_training=training))[1] == (VIEWS, ORDER)


class AlwaysOn(nn.Module):
    """Dropout that no mode switches off."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.dropout(x.flatten(1), 0.5))


def test_a_network_that_draws_in_eval_mode_is_refused() -> None:
    model = Model.of(draw_weights(AlwaysOn()), SPEC)
    update = encoded_update(model, model.input.encode(batch(1).inputs), batch(1).labels, FedSGD())
    with pytest.raises(BadInput, match="eval mode too"):
        fedspill.attack(update, model, attack="linear_layer", num_examples=1)


def test_a_captured_update_of_a_network_with_dropout_says_what_is_assumed(tmp_path) -> None:
    net, private = draw_weights(layers()), batch(2)
    net.train()
    functional.cross_entropy(net(SPEC.encode(private.inputs)), private.labels).backward()
    update = {k: v.grad for k, v in net.named_parameters()}
    result = fedspill.attack(
        update,
        net,
        **{"mode": "train", "shape": (3, 8, 8), "normalise": (SPEC.mean, SPEC.std), "num_examples": 2},
        attack="inverting_gradients:quick",
        settings={"steps": 2, "restarts": 1},
        truth=(private.inputs, private.labels),
        out=tmp_path / "out",
    )
    trial = result.report.trials[0]
    assert MASKS in trial.notes
    assert trial.self_check is None, "masks that nobody knows cannot be simulated"
    assert "random draws" in [caveat.topic for caveat in result.report.caveats]
