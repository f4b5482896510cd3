"""Appendix A of "Inverting Gradients": what each server sends, and what a float32 client gives away to it."""

import pytest
import torch
from torch import nn

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import ImageSpec, TokenSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import Card, Tampering
from fedspill.core.settings import with_fields
from fedspill.core.types import ServerRole
from fedspill.tamperings import optimised_parameters, reversible_blocks, sub_models
from fedspill.tamperings.optimised_parameters import OptimisedParameters
from fedspill.tamperings.reversible_blocks import ReversibleBlocks
from fedspill.tamperings.sub_models import SubModels
from fedspill.testing.worlds import batch, conv_bn, mlp

CARDS: list[Card[Tampering]] = [reversible_blocks.CARD, sub_models.CARD, optimised_parameters.CARD]
QUICK = with_fields(optimised_parameters.CARD.presets["quick"], steps=4, held_out=2, inner_steps=2, judge_every=2)


def test_cards_say_what_a_server_must_do() -> None:
    roles = [ServerRole.MALICIOUS_ARCHITECTURE] * 2 + [ServerRole.MALICIOUS_PARAMETERS]
    assert [card.role for card in CARDS] == roles
    assert [card.reads for card in CARDS] == [True, True, False]


@pytest.mark.parametrize("preset", ["paper", "strong"])
@pytest.mark.parametrize("n", [1, 5])
def test_a_float32_client_gives_away_whole_batches(preset: str, n: int) -> None:
    private = batch(n)
    for card in CARDS[:2]:
        if card is reversible_blocks.CARD and n > 1 and preset == "paper":
            continue  # of several examples its head shows a mixture
        sent = card.presets[preset].tamper(conv_bn(), None, 0, stream(0, "server"))
        update = local_update(sent.model, private, FedSGD())
        knowledge = ServerKnowledge(sent.model, num_examples=n)
        assert sent.readout is not None
        got = sent.readout.reconstruct(update, knowledge, stream(0, "read"))
        assert got.converged
        torch.testing.assert_close(got.inputs, private.inputs, rtol=0, atol=1e-4)


def test_parameters_are_searched_on_public_images_alone() -> None:
    model = mlp()
    sent = QUICK.tamper(model, batch(8, seed=1), 0, stream(0, "server"))
    assert sent.readout is None
    assert {k: v.shape for k, v in sent.model.params.items()} == {k: v.shape for k, v in model.params.items()}
    assert any(not torch.equal(v, model.params[k]) for k, v in sent.model.params.items())
    assert all(v.dtype == model.like.dtype for v in sent.model.params.values())
    for public in (None, batch(1)):
        with pytest.raises(NotApplicable, match="at least 2 are needed"):
            QUICK.tamper(model, public, 0, stream(0, "server"))


def test_frozen_parameters_stay() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.Sigmoid(), nn.Linear(4, 10))
    net[1].weight.requires_grad_(False)
    model = Model.of(net, ImageSpec((3, 8, 8)))
    sent = QUICK.tamper(model, batch(8, seed=1), 0, stream(0, "server")).model
    assert torch.equal(sent.params["1.weight"], model.params["1.weight"])
    assert not torch.equal(sent.params["3.weight"], model.params["3.weight"])


def test_networks_that_take_no_images_are_refused() -> None:
    with torch.random.fork_rng():
        words = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7))
    model = Model.of(words, TokenSpec(7, 5))
    for card in CARDS:
        with pytest.raises(NotApplicable):
            card.presets["quick"].tamper(model, None, 0, stream(0, "server"))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ReversibleBlocks(blocks=0), "blocks=0"),
        (lambda: ReversibleBlocks(gain=2.0), "gain=2.0"),
        (lambda: SubModels(slots=0), "slots=0"),
        (lambda: SubModels(rows=1), "rows=1"),
        (lambda: OptimisedParameters(inner_steps=0), "inner_steps=0"),
        (lambda: OptimisedParameters(inner_lr=0.0), "inner_lr=0.0"),
    ],
)
def test_fields_out_of_range_are_named(make, named: str) -> None:
    with pytest.raises(BadInput, match=named):
        make()
