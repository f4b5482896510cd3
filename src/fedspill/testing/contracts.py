"""Contracts that every component keeps, whoever wrote it; the plugin hands each test a component of its roles.

The worlds are small and of images: a component for other data is told to be skipped, and wants tests of its own.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, fields, is_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from fedspill import catalogue
from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import Knows, ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import UNWATCHED, Attack, Incoming, Tampered, Tampering
from fedspill.core.settings import Group, flat_fields, with_fields
from fedspill.core.types import Reconstruction, ServerRole, Update
from fedspill.federation.client import Client
from fedspill.federation.threat import observe
from fedspill.testing.components import ROLES, Component
from fedspill.testing.worlds import CLASSES, SPEC, batch, conv_bn, imprinted, linear, mlp, relu_mlp

Models = tuple[Callable[[], Model], ...]
MODELS: Models = (mlp, relu_mlp, linear, conv_bn)
PLANTED: Models = (imprinted,)
"""For what reads nothing but a model that somebody made to leak."""
"""In the order in which they are tried, until one fits."""
FEW: dict[str, Any] = {"steps": 12, "restarts": 1, "pairs": 48}
"""Fields that are cut, where a component has them, so that a contract takes no time."""
EVERYTHING = frozenset(Knows)
World = tuple[Attack, Update, ServerKnowledge]


def quick(component: Component) -> Any:
    """The preset "quick", else "paper", with few iterations."""
    preset = component.card.presets.get("quick", component.card.presets["paper"])
    return with_fields(preset, **{name: value for name, value in FEW.items() if name in flat_fields(preset)})


def tampered_by(tampering: Tampering, models: tuple[Callable[[], Model], ...] = MODELS) -> Tampered:
    """What a malicious server makes of the first model that it fits."""
    reasons = list[str]()
    for model in models:
        try:
            return tampering.tamper(model(), batch(32, seed=1), 0, stream(0, "server"))
        except NotApplicable as reason:
            assert len(str(reason)) > 20, "a refusal says why"
            reasons.append(str(reason))
    raise NotApplicable("; ".join(reasons))


def worlds(
    component: Component,
    n: int = 1,
    protocol: LocalTraining = FedSGD(),  # noqa: B008
    models: Models = MODELS,
) -> Iterator[World]:
    """What an attack may see: its own sent model, the update of n examples, all grants; one world per model."""
    if ImageSpec not in component.card.accepts:
        pytest.skip("not for images")
    private, public = batch(n), batch(32, seed=1)
    for make in models:
        if component.role == "attack":
            model, attack = make(), quick(component)
        else:
            try:
                tampered = tampered_by(quick(component), (make,))
            except NotApplicable:
                continue
            assert tampered.readout is not None, "a card that `reads` brings a readout"
            model, attack = tampered.model, tampered.readout
        held = observe(model, private, 1, protocol, public, EVERYTHING, stages=())
        yield attack, local_update(model, private, protocol), held


def first_result(component: Component, n: int, protocol: LocalTraining) -> Reconstruction:
    """What it rebuilds in the first world that it fits; skips where it fits none."""
    reasons = list[str]()
    for attack, update, knowledge in worlds(component, n, protocol, MODELS + PLANTED):
        try:
            return attack.reconstruct(update, knowledge, stream(0, "attack"), UNWATCHED)
        except NotApplicable as reason:
            assert str(reason), "a refusal says why"
            reasons.append(str(reason))
    pytest.skip(f"does not apply to these worlds: {'; '.join(dict.fromkeys(reasons))}")


@pytest.mark.fedspill_contract("attack", "tampering", "defence", "check")
def test_a_card_is_complete(fedspill_component: Component) -> None:
    """A card has a title, a paper, a summary and frozen presets whose every field is documented."""
    card = fedspill_component.card
    assert "paper" in card.presets
    assert card.title
    assert card.paper
    assert card.summary.endswith(".")
    for preset in card.presets.values():
        assert isinstance(preset, ROLES[fedspill_component.role])
        assert is_dataclass(preset)
        with pytest.raises(FrozenInstanceError):
            setattr(preset, next((f.name for f in fields(preset)), "anything"), None)
        for part in (preset, *(group for group in vars(preset).values() if isinstance(group, Group))):
            documented, names = type(part).__doc__ or "", list(vars(part))
            assert all(f"{name}:" in documented for name in names), "every hyperparameter is documented"


@pytest.mark.fedspill_contract("reads")
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("protocol", [FedSGD(), FedAvg(epochs=2, lr=0.01)], ids=["fedsgd", "fedavg"])
def test_a_reconstruction_is_valid_repeatable_and_leaves_the_global_state(
    fedspill_component: Component, protocol: LocalTraining, n: int
) -> None:
    """Two runs from one stream agree, are pictures inside their range, and touch no global generator."""
    before = torch.get_rng_state()
    first, second = (first_result(fedspill_component, n, protocol) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before), "randomness is an argument"
    assert torch.equal(first.inputs, second.inputs), "the same stream gives the same result"
    check_reconstruction(first)


def check_reconstruction(rebuilt: Reconstruction) -> None:
    """That it is one of pictures of `SPEC`, with as many labels, marks and confidences as candidates."""
    assert rebuilt.inputs.shape[1:] == SPEC.shape
    assert rebuilt.inputs.isfinite().all()
    assert bool(((rebuilt.inputs >= 0) & (rebuilt.inputs <= 1 + 1e-6)).all())
    assert isinstance(rebuilt.converged, bool)
    if rebuilt.confidence is not None:
        assert rebuilt.confidence.shape == rebuilt.inputs.shape[:1]
        assert bool(((rebuilt.confidence >= 0) & (rebuilt.confidence <= 1)).all())
    for per_candidate in (rebuilt.labels, rebuilt.origins or None, rebuilt.marks or None):
        assert per_candidate is None or len(per_candidate) == len(rebuilt.inputs)


@pytest.mark.fedspill_contract("reads")
def test_it_works_on_one_of_the_small_worlds(fedspill_component: Component) -> None:
    """One example, its gradient and every grant are enough for a result in one of the worlds."""
    refusals = list[str]()
    for attack, update, knowledge in worlds(fedspill_component, models=MODELS + PLANTED):
        try:
            check_reconstruction(attack.reconstruct(update, knowledge, stream(0, "attack"), UNWATCHED))
            return
        except NotApplicable as reason:
            refusals.append(str(reason))
    pytest.fail(f"one example, its gradient and every grant are not enough: {'; '.join(refusals)}")


@pytest.mark.fedspill_contract("reads")
def test_an_attack_changes_nothing_that_it_was_given(fedspill_component: Component) -> None:
    """Neither the update nor the model's parameters are written to."""
    for attack, update, knowledge in worlds(fedspill_component):
        params, sent = _copied(knowledge.model.params), _copied(update.values)
        try:
            attack.reconstruct(update, knowledge, stream(0, "attack"), UNWATCHED)
        except NotApplicable as reason:
            assert str(reason), "a refusal says why"
        assert all(torch.equal(update.values[k], v) for k, v in sent.items())
        assert all(torch.equal(knowledge.model.params[k], v) for k, v in params.items())


def _copied(tensors: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


@pytest.mark.fedspill_contract("reads")
def test_an_attack_is_content_with_less_or_says_what_it_lacks(fedspill_component: Component) -> None:
    """Without grants there is a valid result, or a refusal that says why."""
    for attack, update, knowledge in worlds(fedspill_component):
        bare = ServerKnowledge(knowledge.model, local_training=knowledge.local_training)
        try:
            check_reconstruction(attack.reconstruct(update, bare, stream(0, "attack"), UNWATCHED))
        except NotApplicable as reason:
            assert len(str(reason)) > 20


@pytest.mark.fedspill_contract("tampering")
def test_a_tampering_says_whether_it_reads_and_sends_a_model_that_runs(fedspill_component: Component) -> None:
    """The model that is sent gives finite logits, and `reads` tells whether a readout comes with it."""
    if ImageSpec not in fedspill_component.card.accepts:
        pytest.skip("not for images")
    tampered = tampered_by(quick(fedspill_component), (conv_bn, mlp, relu_mlp))
    assert (tampered.readout is not None) == fedspill_component.card.reads
    logits = tampered.model.logits(tampered.model.params, SPEC.encode(batch(2).inputs))
    assert logits.shape == (2, CLASSES)
    assert logits.isfinite().all()


@pytest.mark.fedspill_contract("tampering")
def test_a_tampering_of_parameters_alone_sends_the_architecture_that_was_agreed_on(
    fedspill_component: Component,
) -> None:
    """A card that says "malicious parameters" keeps every parameter's name and shape."""
    if fedspill_component.card.role is not ServerRole.MALICIOUS_PARAMETERS:
        pytest.skip("may change the architecture")
    fitted = 0
    for make in MODELS:
        with contextlib.suppress(NotApplicable):
            sent = tampered_by(quick(fedspill_component), (make,)).model
            assert _shapes(sent) == _shapes(make())
            fitted += 1
    assert fitted or ImageSpec not in fedspill_component.card.accepts


def _shapes(model: Model) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.params.items()}


@pytest.mark.fedspill_contract("defence")
def test_a_defence_is_repeatable_and_keeps_what_it_was_given(fedspill_component: Component) -> None:
    """One stream gives one update, with the parameters of a plain one, and the data stay as they were."""
    before, model, private = torch.get_rng_state(), conv_bn(training=True), batch(3)
    for preset in fedspill_component.card.presets.values():
        cost = preset.cost()
        assert cost is None or (cost.epsilon > 0 and 0 < cost.delta < 1 and cost.unit)
        client = Client(private, FedSGD(), [preset.stages()])
        first, second, other = (client.respond(model, stream(seed, "client")) for seed in (0, 0, 1))
        if first is None or other is None:
            assert second is None or first is not None, "what is withheld once is withheld again"
            continue
        assert second is not None
        plain = local_update(model, private, FedSGD())
        assert {k: v.shape for k, v in first.values.items()} == {k: v.shape for k, v in plain.values.items()}
        assert all(torch.equal(v, second.values[k]) for k, v in first.values.items())
        assert all(v.isfinite().all() for v in other.values.values())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(private.inputs, batch(3).inputs)


@pytest.mark.fedspill_contract("check")
def test_a_check_finds_nothing_in_honest_models_and_its_findings_are_complete(fedspill_component: Component) -> None:
    """No honest model raises a finding, and findings name check, place, severity, evidence and reason."""
    planting = catalogue.tamperings()["robbing_the_fed"].presets["quick"]
    for preset in fedspill_component.card.presets.values():
        for model in (mlp(), relu_mlp(), conv_bn()):
            assert preset.inspect(Incoming(model)) == []
        for finding in preset.inspect(Incoming(tampered_by(planting).model)):
            assert finding.check == fedspill_component.name
            assert 0 <= finding.severity <= 1
            assert finding.where
            assert finding.evidence
            assert finding.explanation.endswith(".")
