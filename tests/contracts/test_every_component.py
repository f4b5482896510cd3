"""Contracts that every entry of the catalogue keeps; a new file is covered by being there."""

from dataclasses import fields, is_dataclass

import pytest
import torch

from fedspill import catalogue
from fedspill.auditing.components import configure
from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.knowledge import Knows, ServerKnowledge
from fedspill.core.local_update import FedAvg, FedSGD, local_update
from fedspill.core.rng import stream
from fedspill.core.roles import UNWATCHED, Attack, Card, Check, Defence, Incoming, Tampering
from fedspill.core.settings import Group, field_names, flat_fields, plain_fields, with_fields
from fedspill.federation.client import Client
from fedspill.federation.threat import observe
from fedspill.plan.sections import AttackEntry
from tests.support.worlds import SPEC, batch, conv_bn, linear, mlp, relu_mlp

ATTACKS, TAMPERINGS = catalogue.attacks(), catalogue.tamperings()
DEFENCES, CHECKS = catalogue.defences(), catalogue.checks()
EVERY = [*ATTACKS.items(), *TAMPERINGS.items(), *DEFENCES.items(), *CHECKS.items()]
READABLE = {n: c for n, c in TAMPERINGS.items() if c.reads}
EVERYTHING = frozenset(Knows)
LINEAR_ONLY = {"logistic_regression"}
"""Attacks that fit no network with a hidden layer."""
RELU_ONLY = {"nex"}
"""Attacks that read which units fired."""


def shortened(component):
    """The same component with few iterations, so that a contract takes no time."""
    few = {"steps": 12, "restarts": 1}
    return with_fields(component, **{k: few[k] for k in few if k in flat_fields(component)})


def tampered_by(card, public, models):
    """What a malicious server makes of the first model that it fits."""
    for model in models[:-1]:
        try:
            return card.presets["quick"].tamper(model, public, 0, stream(0, "server"))
        except NotApplicable as reason:
            assert len(str(reason)) > 20
    return card.presets["quick"].tamper(models[-1], public, 0, stream(0, "server"))


def world(name: str, n: int, protocol=FedSGD(), model=None):
    """What an entry sees: its own sent model, the update, all grants."""
    private, public = batch(n), batch(32, seed=1)
    if name in ATTACKS:
        fitting = linear if name in LINEAR_ONLY else relu_mlp if name in RELU_ONLY else mlp
        sent, attack = model or fitting(), shortened(ATTACKS[name].presets["quick"])
    else:
        tampered = tampered_by(TAMPERINGS[name], public, [model] if model else [mlp(), relu_mlp()])
        sent, attack = tampered.model, tampered.readout
    knowledge = observe(sent, private, 1, protocol, public, EVERYTHING)
    return attack, local_update(sent, private, protocol), knowledge


@pytest.mark.parametrize("card", [card for _, card in EVERY], ids=[name for name, _ in EVERY])
def test_a_card_is_complete(card) -> None:
    assert {"paper", "quick"} <= set(card.presets)
    assert card.title
    assert card.paper
    assert card.summary.endswith(".")
    for preset in card.presets.values():
        assert is_dataclass(preset)
        assert type(preset).__dataclass_params__.frozen
        for part in (preset, *(group for group in vars(preset).values() if isinstance(group, Group))):
            documented = type(part).__doc__ or ""
            assert all(f"{f.name}:" in documented for f in fields(part)), "every hyperparameter is documented"


@pytest.mark.parametrize("card", [card for _, card in EVERY], ids=[name for name, _ in EVERY])
def test_a_plan_names_every_field_by_one_name_whatever_group_it_is_in(card) -> None:
    for preset in card.presets.values():
        names = [f.name for f in fields(preset)]
        for group in vars(preset).values():
            if isinstance(group, Group):
                names += [f.name for f in fields(group)]
                assert not any(isinstance(value, Group) for value in vars(group).values()), "groups hold no groups"
        assert len(names) == len(set(names))
        assert set(field_names(type(preset))) == set(flat_fields(preset)) <= set(names)
        entry = AttackEntry.model_validate({"name": "x", **plain_fields(preset)})
        assert configure(Card("", "", "", {"paper": preset}), entry, "component") == preset


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_keep_their_protocol(name: str) -> None:
    assert all(isinstance(p, Attack) for p in ATTACKS[name].presets.values())


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tamperings_keep_their_protocol_and_say_whether_they_read(name: str) -> None:
    card = TAMPERINGS[name]
    for preset in card.presets.values():
        assert isinstance(preset, Tampering)
    tampered = tampered_by(card, batch(8, seed=1), [conv_bn(), mlp(), relu_mlp()])
    assert (tampered.readout is not None) == card.reads
    logits = tampered.model.logits(tampered.model.params, SPEC.encode(batch(2).inputs))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("protocol", [FedSGD(), FedAvg(epochs=2, lr=0.01)], ids=["fedsgd", "fedavg"])
@pytest.mark.parametrize("name", [*ATTACKS, *READABLE])
def test_a_reconstruction_is_valid_repeatable_and_leaves_the_global_state(name: str, protocol, n: int) -> None:
    before, runs = torch.get_rng_state(), []
    try:
        for _ in range(2):
            attack, update, knowledge = world(name, n, protocol)
            runs.append(attack.reconstruct(update, knowledge, stream(0, "attack"), UNWATCHED))
    except NotApplicable as reason:
        assert str(reason)
        pytest.skip(f"does not apply to this world: {reason}")
    first, second = runs
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.inputs, second.inputs)
    assert first.inputs.shape[1:] == SPEC.shape
    assert first.inputs.isfinite().all()
    assert bool(((first.inputs >= 0) & (first.inputs <= 1 + 1e-6)).all())
    assert isinstance(first.converged, bool)
    if first.confidence is not None:
        assert first.confidence.shape == first.inputs.shape[:1]
        assert bool(((first.confidence >= 0) & (first.confidence <= 1)).all())
    for said in (first.labels, first.origins or None, first.marks or None):
        assert said is None or len(said) == len(first.inputs)


@pytest.mark.parametrize("name", [*ATTACKS, *READABLE])
def test_an_attack_changes_nothing_that_it_was_given(name: str) -> None:
    try:
        attack, update, knowledge = world(name, 1)
    except NotApplicable as reason:
        pytest.skip(f"does not apply to this world: {reason}")
    params = {k: v.clone() for k, v in knowledge.model.params.items()}
    sent = {k: v.clone() for k, v in update.values.items()}
    attack.reconstruct(update, knowledge, stream(0, "attack"), UNWATCHED)
    assert all(torch.equal(update.values[k], v) for k, v in sent.items())
    assert all(torch.equal(knowledge.model.params[k], v) for k, v in params.items())


@pytest.mark.parametrize("name", [*ATTACKS, *READABLE])
def test_an_attack_is_content_with_less_or_says_what_it_lacks(name: str) -> None:
    try:
        attack, update, knowledge = world(name, 1)
        bare = ServerKnowledge(knowledge.model, local_training=knowledge.local_training)
        rebuilt = attack.reconstruct(update, bare, stream(0, "attack"), UNWATCHED)
        assert rebuilt.inputs.shape[1:] == SPEC.shape
    except NotApplicable as reason:
        assert len(str(reason)) > 20


@pytest.mark.parametrize("name", DEFENCES)
def test_a_defence_is_repeatable_and_keeps_what_it_was_given(name: str) -> None:
    before, model, private = torch.get_rng_state(), conv_bn(training=True), batch(3)
    for preset in DEFENCES[name].presets.values():
        assert isinstance(preset, Defence)
        cost = preset.cost()
        assert cost is None or (cost.epsilon > 0 and 0 < cost.delta < 1 and cost.unit)
        client = Client(private, FedSGD(), [preset.stages()])
        first, second, other = (client.respond(model, stream(seed, "client")) for seed in (0, 0, 1))
        plain = local_update(model, private, FedSGD())
        assert {k: v.shape for k, v in first.values.items()} == {k: v.shape for k, v in plain.values.items()}
        assert all(torch.equal(v, second.values[k]) for k, v in first.values.items())
        assert all(v.isfinite().all() for v in other.values.values())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(private.inputs, batch(3).inputs)


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_finds_nothing_in_honest_models_and_its_findings_are_complete(name: str) -> None:
    for preset in CHECKS[name].presets.values():
        assert isinstance(preset, Check)
        for model in (mlp(), relu_mlp(), conv_bn()):
            assert preset.inspect(Incoming(model)) == []
        tampered = tampered_by(TAMPERINGS["robbing_the_fed"], batch(32, seed=1), [mlp()])
        for finding in preset.inspect(Incoming(tampered.model)):
            assert finding.check == name
            assert 0 <= finding.severity <= 1
            assert finding.where
            assert finding.evidence
            assert finding.explanation.endswith(".")


def test_every_grant_is_a_field_of_the_knowledge() -> None:
    assert {k.value for k in Knows} <= {f.name for f in fields(ServerKnowledge)}


def test_knowledge_without_grants_holds_nothing_but_the_model() -> None:
    bare = observe(mlp(), batch(3), 1, FedSGD(), batch(4, seed=1), frozenset())
    assert bare.holds() == frozenset()
    assert bare.missing(EVERYTHING) == EVERYTHING


def test_names_and_presets_that_do_not_exist_are_named() -> None:
    with pytest.raises(BadInput, match="unknown attack 'dgl'; there are .*dlg"):
        catalogue.pick(ATTACKS, "dgl", "attack")
    with pytest.raises(BadInput, match="no preset 'papper'; it has paper"):
        catalogue.pick(ATTACKS, "dlg:papper", "attack")
