"""`standard` on one captured update: what reads goes first, a search follows only where something is left."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import fedspill
from fedspill.auditing.capturing.in_turn import tries_of
from fedspill.core.errors import BadInput
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.rng import seeded_globals, stream
from fedspill.plan.sections import AttackEntry
from tests.support.worlds import mlp

SHAPE = (3, 8, 8)


def network(*, fully_connected: bool) -> nn.Module:
    with seeded_globals(stream(0, "network")):
        if fully_connected:
            return nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 10))
        return nn.Sequential(nn.Conv2d(3, 4, 5, 4), nn.Sigmoid(), nn.Flatten(), nn.Linear(4, 10))


def sent(net: nn.Module, n: int) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    images, labels = torch.rand(n, *SHAPE, generator=stream(1)), torch.arange(n)
    loss = functional.cross_entropy(net(images), labels)
    names = [name for name, _ in net.named_parameters()]
    return dict(zip(names, torch.autograd.grad(loss, list(net.parameters())), strict=True)), images, labels


@pytest.mark.parametrize("n", [1, 4])
def test_a_fully_connected_network_needs_no_search(n: int) -> None:
    net = network(fully_connected=True)
    update, images, labels = sent(net, n)
    rebuilt = fedspill.attack(update, net, num_examples=n, shape=SHAPE, normalise=None)
    assert rebuilt.converged
    assert len(rebuilt.objective) == 0, "nothing was searched"
    assert rebuilt.labels is not None
    order = rebuilt.labels.argsort()
    torch.testing.assert_close(rebuilt.inputs[order], images, rtol=0, atol=1e-3)
    assert "of what 'standard' tries" in rebuilt.notes[-1]
    result = fedspill.attack(update, net, num_examples=n, shape=SHAPE, normalise=None, truth=(images, labels))
    assert [t.attack for t in result.report.trials] == [rebuilt.notes[-1].partition(":")[0]]
    assert result.report.verdict.name.value == "leaks"


def test_what_is_not_read_is_searched_by_the_search_of_that_name() -> None:
    net = network(fully_connected=False)
    update, _, _ = sent(net, 2)
    how = {"num_examples": 2, "shape": SHAPE, "normalise": None}
    named = fedspill.attack(update, net, attack="disaggregated_inversion:quick", **how)
    found = fedspill.attack(update, net, attack="standard:quick", **how)
    assert torch.equal(found.inputs, named.inputs), "whatever was tried before draws nothing from it"
    assert found.notes[-1].startswith("disaggregated_inversion:quick of what 'standard' tries.")
    assert "linear_layer" in found.notes[-1]
    changed = fedspill.attack(update, net, settings={"steps": 3}, **how)
    assert len(changed.objective) == 4
    with pytest.raises(BadInput, match="has no fields of its own"):
        fedspill.attack(update, net, attack="standard:quick", settings={"steps": 3}, **how)


def test_all_that_fit_are_tried_and_the_search_is_the_last() -> None:
    tries = tries_of(AttackEntry(name="standard"), ServerKnowledge(mlp(), num_examples=2))
    names = [one.entry.name for one in tries]
    assert {"linear_layer", "softmax_disaggregation", "nex", "inverting_gradients"} <= set(names)
    assert names.index("nex") < names.index("inverting_gradients")
    assert [one.last for one in tries] == sorted(one.last for one in tries)
    assert "dager" not in names, "it reads sentences"
    (one,) = tries_of(AttackEntry(name="dlg"), ServerKnowledge(mlp(), num_examples=2))
    assert one.last
    with pytest.raises(BadInput, match="unknown attack"):
        tries_of(AttackEntry(name="dgl"), ServerKnowledge(mlp()))
