"""PRECODE: the plain network with a bottleneck, random for the client, and read by who knows of it."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedspill.core.errors import BadInput
from fedspill.core.knowledge import Knows, ServerKnowledge
from fedspill.core.local_training.draws import is_random
from fedspill.core.local_training.update import FedAvg, FedSGD, local_update
from fedspill.core.model import Model
from fedspill.defences.precode import Draw, Precode
from fedspill.federation.threat import observe
from fedspill.inversion.gradients.drawn import with_draws_read
from fedspill.inversion.matching.hypotheses import observed_by
from fedspill.inversion.objective.ignoring import ignored
from tests.support.defences import audit
from tests.support.worlds import SPEC, batch, conv_bn, linear, mlp

LAYERS = frozenset({"3.0"})


def prepared(model: Model, k: int = 5) -> Model:
    return Precode(k).stages().prepare(model)


def plain_logits(model: Model, z: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Of the small network, in bare PyTorch."""
    p = model.params
    h = functional.linear(z.flatten(1), p["1.weight"], p["1.bias"]).sigmoid()
    mu, spread = functional.linear(h, p["3.0.0.weight"], p["3.0.0.bias"]).chunk(2, 1)
    v = mu + functional.softplus(spread) * noise
    return functional.linear(functional.linear(v, p["3.0.2.weight"], p["3.0.2.bias"]), p["3.1.weight"], p["3.1.bias"])


@pytest.mark.parametrize("training", [False, True])
def test_logits_are_those_of_one_draw_and_without_masks_those_of_the_mean(training: bool) -> None:
    model = prepared(mlp(training=training, dtype=torch.float64))
    z = SPEC.encode(batch(3, dtype=torch.float64).inputs)
    with torch.random.fork_rng():
        torch.manual_seed(5)  # noqa: TID251
        got = model.logits(model.params, z)
        torch.manual_seed(5)  # noqa: TID251
        noise = torch.randn(3, 5, dtype=torch.float64)
    torch.testing.assert_close(got, plain_logits(model, z, noise))
    for calm in (model.without_masks(), model.in_eval_mode()):
        torch.testing.assert_close(calm.logits(calm.params, z), plain_logits(model, z, torch.zeros(3, 5)))
    assert is_random(model, z)
    assert model.training is training


def test_the_network_before_keeps_its_weights_and_the_head_its_own() -> None:
    model = mlp()
    made = prepared(model)
    assert torch.equal(made.params["1.weight"], model.params["1.weight"])
    assert torch.equal(made.params["3.1.bias"], model.params["3.bias"])
    assert made.params["3.0.0.weight"].shape == (10, 32)
    assert list(made.params) == [k for k, _ in made.module.named_parameters()]
    again = prepared(mlp())
    assert all(torch.equal(v, again.params[k]) for k, v in made.params.items()), "the same weights for all clients"
    assert "3.0.0.weight" not in model.params


@pytest.mark.parametrize("grants", [frozenset(), frozenset({Knows.DRAWS, Knows.LOCAL_TRAINING})], ids=["", "draws"])
def test_no_server_is_handed_a_network_that_draws_in_eval_mode(grants: frozenset[Knows]) -> None:
    model, private = prepared(mlp()), batch(2)
    knowledge = observe(model, private, 1, FedSGD(draws=3), None, grants)
    assert not is_random(knowledge.model, SPEC.encode(private.inputs))


def test_a_head_that_is_not_called_is_refused() -> None:
    with torch.random.fork_rng():
        used = Model.of(Used(), SPEC)
        conv = Model.of(nn.Sequential(nn.Conv2d(3, 10, 8), nn.Flatten()), SPEC)
    with pytest.raises(BadInput, match="does not run with a bottleneck before its head"):
        prepared(used)
    with pytest.raises(BadInput, match="the head '0' is no torch.nn.Linear"):
        prepared(conv)
    with pytest.raises(BadInput, match="k=0 must be at least 1"):
        Precode(0)


class Used(nn.Module):
    """It takes the head's weight itself."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(192, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x.flatten(1), self.fc.weight, self.fc.bias)


def test_a_network_of_one_layer_gets_its_bottleneck_in_front() -> None:
    with torch.random.fork_rng():
        alone = Model.of(nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), SPEC)
    for model in (alone, linear()):
        assert set(prepared(model, 2).params) == {
            f"1.{k}.{own}" for k in ("0.0", "0.2", "1") for own in ("weight", "bias")
        }


def sent_by_one(model: Model, n: int = 1) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A gradient, and what was drawn for it."""
    drawn = list[torch.Tensor]()

    def keep(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        assert isinstance(module, Draw)
        drawn.append(module.drawn(inputs[0], output).detach())

    handle = model.module.get_submodule("3.0.1").register_forward_hook(keep)
    sent = local_update(model, batch(n, dtype=torch.float64), FedSGD(draws=7))
    handle.remove()
    return dict(sent.values), drawn[0]


def test_of_one_example_the_draw_is_read_and_the_whole_gradient_computed_again() -> None:
    model = prepared(mlp(dtype=torch.float64))
    sent, drawn = sent_by_one(model)
    for factor in (1.0, 1e-3):
        read = with_draws_read(model, {k: factor * v for k, v in sent.items()}, LAYERS)
        given = read.module.get_submodule("3.0.1").given
        torch.testing.assert_close(given, drawn, rtol=1e-8, atol=1e-8)
    again = local_update(read, batch(1, dtype=torch.float64), FedSGD())
    for name, value in sent.items():
        torch.testing.assert_close(again.values[name], value)
    assert model.module.get_submodule("3.0.1").given is None


def test_of_several_examples_or_without_the_layers_around_nothing_is_read() -> None:
    model = prepared(mlp(dtype=torch.float64))
    assert with_draws_read(model, sent_by_one(model, 2)[0], LAYERS) is None
    one = sent_by_one(model)[0]
    assert with_draws_read(model, {k: v for k, v in one.items() if k != "3.0.2.bias"}, LAYERS) is None
    noisy = {k: v + 0.1 * v.abs().mean() * torch.ones_like(v) for k, v in one.items()}
    assert with_draws_read(model, noisy, LAYERS) is None


@pytest.mark.parametrize(("n", "training"), [(2, FedSGD()), (1, FedAvg(epochs=2, lr=0.1))], ids=["batch", "fedavg"])
def test_else_what_lies_behind_is_left_out(n: int, training) -> None:
    model = prepared(conv_bn(dtype=torch.float64))
    defence = Precode(5).known(model)
    assert defence.random_layers == {"6.0"}
    behind = {k for k in model.params if k.startswith(("6.0.", "6.1."))}
    assert ignored(defence, model) == behind
    sent = local_update(model, batch(n, dtype=torch.float64), training)
    found = observed_by(sent, ServerKnowledge(model, num_examples=n, local_training=training, defence=defence))
    matched = found.update.values.keys() - found.knowledge.defence.left_out
    assert matched == set(model.params) - behind
    assert "spoil" in found.notes[-1]


def test_an_audit_reads_one_example_exactly_if_the_server_knows_and_not_without() -> None:
    attack = {"name": "inverting_gradients", "preset": "quick", "steps": 10}
    known, unknown = (
        audit([{"name": "precode", "k": 8}], [attack], 1, server={"knows_defence": knows}).report.trials[0]
        for knows in (True, False)
    )
    assert known.self_check == pytest.approx(0, abs=1e-6)
    assert max(known.scores[0].values) > 80
    assert max(unknown.scores[0].values) < 40
