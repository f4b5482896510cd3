"""Contracts that every entry of the catalogue keeps; a new file is covered by being there."""

from dataclasses import fields

import pytest

from fedspill import catalogue
from fedspill.auditing.resolving.components import configure
from fedspill.core.errors import BadInput
from fedspill.core.knowledge import Knows, ServerKnowledge
from fedspill.core.local_training.update import FedSGD
from fedspill.core.roles import Card
from fedspill.core.settings import Group, field_names, flat_fields, plain_fields
from fedspill.federation.threat import observe
from fedspill.plan.sections import AttackEntry
from fedspill.testing.components import Component
from fedspill.testing.contracts import *  # noqa: F403 - the tests that outside authors run
from fedspill.testing.contracts import EVERYTHING
from fedspill.testing.worlds import batch, mlp

ATTACKS = catalogue.attacks()


@pytest.mark.fedspill_contract("attack", "tampering", "defence", "check")
def test_our_own_have_a_quick_preset(fedspill_component: Component) -> None:
    assert {"paper", "quick"} <= set(fedspill_component.card.presets)


@pytest.mark.fedspill_contract("attack", "tampering", "defence", "check")
def test_a_plan_names_every_field_by_one_name_whatever_group_it_is_in(fedspill_component: Component) -> None:
    for preset in fedspill_component.card.presets.values():
        names = [f.name for f in fields(preset)]
        for group in vars(preset).values():
            if isinstance(group, Group):
                names += [f.name for f in fields(group)]
                assert not any(isinstance(value, Group) for value in vars(group).values()), "groups hold no groups"
        assert len(names) == len(set(names))
        assert set(field_names(type(preset))) == set(flat_fields(preset)) <= set(names)
        entry = AttackEntry.model_validate({"name": "x", **plain_fields(preset)})
        assert configure(Card("", "", "", {"paper": preset}), entry, "component") == preset


def test_every_grant_is_a_field_of_the_knowledge() -> None:
    held = {f.name for f in fields(ServerKnowledge)} | {"draws"}  # a part of the local training
    assert {k.value for k in Knows} <= held
    assert isinstance(ServerKnowledge.draws, property)


def test_knowledge_without_grants_holds_nothing_but_the_model() -> None:
    bare = observe(mlp(), batch(3), 1, FedSGD(), batch(4, seed=1), frozenset())
    assert bare.holds() == frozenset()
    assert bare.missing(EVERYTHING) == EVERYTHING


def test_names_and_presets_that_do_not_exist_are_named() -> None:
    with pytest.raises(BadInput, match="unknown attack 'dgl'; there are .*dlg"):
        catalogue.pick(ATTACKS, "dgl", "attack")
    with pytest.raises(BadInput, match="no preset 'papper'; it has paper"):
        catalogue.pick(ATTACKS, "dlg:papper", "attack")
