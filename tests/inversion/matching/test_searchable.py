"""What can be matched of an update, and through which network."""

import pytest
import torch
from torch import Tensor, nn

from fedspill.attacks.dlg import DLG
from fedspill.attacks.inverting_gradients import InvertingGradients
from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, encoded_update
from fedspill.core.model import Model
from fedspill.core.rng import rand, randn, stream
from fedspill.core.settings import with_fields
from fedspill.core.types import Update, UpdateKind
from fedspill.inversion.matching.hypotheses import THROUGH, Unknowns, hypotheses, observed_by
from fedspill.inversion.objective.distances import cosine_distance
from fedspill.inversion.objective.matching import Matching
from fedspill.inversion.objective.stacked import MatchingMany

SPEC, DOUBLE = ImageSpec((1, 4, 4)), torch.zeros((), dtype=torch.float64)
LABELS = torch.tensor([1, 3])


class Backbone(nn.Module):
    """A backbone of one layer, from which the head is cut off in one of several ways, and an unused layer."""

    def __init__(self, cut: str = "") -> None:
        super().__init__()
        self.cut = cut
        self.a, self.f, self.unused = nn.Linear(16, 12), nn.Linear(12, 5), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(CUTS[self.cut](self, x))


def features(net: Backbone, x: Tensor) -> Tensor:
    return torch.sigmoid(net.a(x.flatten(1)))


def without_grad(net: Backbone, x: Tensor) -> Tensor:
    with torch.no_grad():
        return features(net, x)


def switched_off(net: Backbone, x: Tensor) -> Tensor:
    torch.set_grad_enabled(False)
    y = features(net, x)
    torch.set_grad_enabled(True)
    return y


CUTS = {
    "": features,
    "no_grad": without_grad,
    "decorated": torch.no_grad()(features),
    "switched off": switched_off,
    "detach": lambda net, x: features(net, x).detach(),
    "data": lambda net, x: features(net, x).data,
    "rounded": lambda net, x: features(net, x.round()),
}
PASSABLE = [cut for cut in CUTS if cut not in ("", "rounded")]


def model_of(net: nn.Module) -> Model:
    model = Model.of(net, SPEC).to("cpu", torch.float64)
    return model.with_params({k: 0.5 * randn(tuple(v.shape), stream(1, k), v) for k, v in model.params.items()})


def sent(model: Model, *names: str) -> tuple[Update, Tensor]:
    """What clients send of parameters whose name begins so, and the examples."""
    z = rand((2, 1, 4, 4), stream(0), DOUBLE)
    update = encoded_update(model, z, LABELS, FedSGD())
    return Update(update.kind, {k: v for k, v in update.values.items() if k.startswith(names)}), z


@pytest.mark.parametrize("cut", PASSABLE)
def test_a_search_differentiates_through_a_backbone_that_is_cut_off(cut) -> None:
    update, z = sent(model_of(Backbone(cut)), "f.")
    found = observed_by(update, ServerKnowledge(model_of(Backbone(cut))))
    assert found.notes == (THROUGH,)
    start = rand((2, 1, 4, 4), stream(1), DOUBLE)
    slopes = []
    for model in (found.knowledge.model, model_of(Backbone())):
        matching = Matching(model, found.update, FedSGD(trainable=("f.*",)), 1, cosine_distance)
        leaf = start.clone().requires_grad_()
        assert float(matching(z, LABELS)) < 1e-12
        slopes.append(torch.autograd.grad(matching(leaf, LABELS), leaf)[0])
    assert bool(slopes[1].any())
    torch.testing.assert_close(*slopes)


def test_zeros_that_stand_for_a_cut_off_backbone_are_left_out() -> None:
    model = model_of(Backbone("detach"))
    update, _ = sent(model, "f.")
    zeros = {k: torch.zeros_like(v) for k, v in model.params.items() if k not in update.values}
    found = observed_by(Update(UpdateKind.GRADIENT, {**zeros, **update.values}), ServerKnowledge(model))
    assert list(found.update.values) == ["f.weight", "f.bias"]
    assert found.notes == (THROUGH,)
    odd = {**update.values, "a.bias": torch.ones(12)}
    notes = observed_by(Update(UpdateKind.GRADIENT, odd), ServerKnowledge(model)).notes
    assert notes[0].startswith("Left out: 1 tensors of the update (a.bias, ...) that are not 0")


@pytest.mark.parametrize("attack", [DLG(steps=1), with_fields(InvertingGradients(), steps=1)], ids=["dlg", "ig"])
def test_where_nothing_can_be_searched_for_the_attack_says_so(attack) -> None:
    model = model_of(Backbone("rounded"))
    update, _ = sent(model, "")
    knowledge = ServerKnowledge(model, num_examples=2, labels=LABELS)
    with pytest.raises(NotApplicable, match="^no gradient of the network reaches its input"):
        attack.reconstruct(update, knowledge, stream(0))
    unread = Update(UpdateKind.GRADIENT, {"unused.bias": torch.ones(5)})
    with pytest.raises(NotApplicable, match="holds nothing but 'unused.bias'"):
        attack.reconstruct(unread, ServerKnowledge(model_of(Backbone()), num_examples=2, labels=LABELS), stream(0))


@pytest.mark.parametrize("cut", ["", "detach"])
def test_a_picture_is_found_behind_a_cut_off_backbone(cut) -> None:
    model = model_of(Backbone(cut))
    update, _ = sent(model, "f." if cut else "")
    knowledge = ServerKnowledge(model, num_examples=2, labels=LABELS)
    rebuilt = DLG(steps=60, labels="granted").reconstruct(update, knowledge, stream(0))
    assert min(rebuilt.objective) < 1e-4 * rebuilt.objective[0]
    assert (THROUGH in rebuilt.notes) == bool(cut)


def test_a_stack_without_a_gradient_has_one_of_zero() -> None:
    model = model_of(Backbone("rounded"))
    update, z = sent(model, "")
    many = MatchingMany(model, (update.values, update.values), LABELS.expand(2, 2))
    leaf = torch.stack([z, z]).requires_grad_()
    assert not torch.autograd.grad(many.each(leaf).sum(), leaf)[0].any()


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.f = nn.Linear(16, 12), nn.BatchNorm1d(12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.norm(self.a(x.flatten(1))))


def test_batches_that_the_network_does_not_take_are_left_out() -> None:
    model = Model.of(Normed().double(), SPEC, training=True)
    z = rand((2, 1, 4, 4), stream(0), DOUBLE)
    update = encoded_update(model, z, LABELS, FedSGD())
    knowledge, unknowns = ServerKnowledge(model), Unknowns(examples=(1, 2, 3))
    tried = hypotheses(update, knowledge, unknowns, stream(0))
    assert [h.num_examples for h in tried] == [2, 3]
    assert tried[0].notes == ("Left out: 1 examples, which the clients' network does not take.",)
    three = ServerKnowledge(model, local_training=FedAvg(minibatch_size=2, lr=0.1))
    delta = encoded_update(model, z, LABELS, FedAvg(minibatch_size=2, lr=0.1))
    assert [h.num_examples for h in hypotheses(delta, three, unknowns, stream(0))] == [2]
    with pytest.raises(NotApplicable, match="takes no batch of 1: Expected more than 1 value per channel"):
        hypotheses(update, ServerKnowledge(model, num_examples=1), unknowns, stream(0))
