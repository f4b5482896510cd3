"""Table rows as private data: from a plan to an update and an attack."""

import os

import pytest
import torch

from fedspill.attacks.linear_layer import LinearLayer
from fedspill.auditing import parse_plan, run_audit
from fedspill.auditing.resolving.scenario import Scenario, prepare
from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import CategoricalColumn, NumericColumn, TableSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.rng import stream
from fedspill.core.roles import Attack
from fedspill.tamperings.input_to_head import InputToHead
from fedspill.tamperings.label_flip import LabelFlip
from fedspill.tamperings.linear_first import LinearFirst
from fedspill.zoo.data import load
from fedspill.zoo.models import build

CPU = torch.device("cpu")
real_data = pytest.mark.skipif("FEDSPILL_DATA" not in os.environ, reason="FEDSPILL_DATA names no folder with tabular/")


def scenario(name: str, n: int = 1, public: bool = False, **more) -> Scenario:
    server = {"public": {"name": name, "split": "public"}} if public else {}
    return prepare(parse_plan({"data": {"name": name}, "client": {"num_examples": n}, "server": server}), CPU, **more)


def test_tables_get_a_fully_connected_network() -> None:
    found = scenario("wine", 4)
    assert found.network == "mlp"
    assert found.model.input == found.pool.spec
    assert found.model.params["1.weight"].shape == (512, 13)


def test_a_row_that_two_people_share_is_left_out_of_the_public_ones() -> None:
    private, public = load("iris").batch.inputs, scenario("iris", public=True).public
    assert public is not None
    held = set(map(tuple, private.tolist()))
    assert not held & set(map(tuple, public.batch.inputs.tolist()))
    assert len(public) < len(load("iris", split="public"))


def read(found: Scenario, component, **known):
    private = found.private(0)
    if isinstance(component, Attack):
        sent, attack = found.model, component
    else:
        tampered = component.tamper(found.model, found.public_batch, 0, stream(0, "server"))
        sent, attack = tampered.model, tampered.readout
    update = local_update(sent, private, FedSGD())
    knowledge = ServerKnowledge(sent, num_examples=len(private), **known)
    return private, attack.reconstruct(update, knowledge, stream(0, "attack"))


@pytest.mark.parametrize("component", [LinearLayer(), LinearFirst(), InputToHead()], ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("name", ["wine", "iris", "diabetes"])
def test_a_row_is_read_exactly(name: str, component) -> None:
    found = scenario(name)
    private, rebuilt = read(found, component, labels=found.private(0).labels)
    assert rebuilt.converged
    assert torch.allclose(rebuilt.inputs, private.inputs, rtol=1e-4)
    stepped = [k for k, c in enumerate(found.pool.spec.columns) if c.step]
    assert torch.equal(rebuilt.inputs[:, stepped], private.inputs[:, stepped])


@real_data
@pytest.mark.parametrize("component", [LinearLayer(), LinearFirst(), InputToHead()], ids=lambda c: type(c).__name__)
def test_a_person_of_adult_is_read_exactly(component) -> None:
    found = prepare(parse_plan({"data": {"name": "adult", "indices": "3:4"}}), CPU)
    private, rebuilt = read(found, component, labels=found.private(0).labels)
    assert rebuilt.converged
    assert torch.equal(rebuilt.inputs, private.inputs)


def test_rows_of_several_are_read_where_they_own_rows_of_the_planted_layer() -> None:
    found = scenario("iris", 4, public=True)
    private, rebuilt = read(found, LinearFirst(rows=512, peel=True), labels=found.private(0).labels)
    held = set(map(tuple, private.inputs.tolist()))
    sure = rebuilt.inputs[rebuilt.confidence == 1].tolist()
    assert len(sure) >= 2
    assert set(map(tuple, sure)) <= held


def test_several_classes_are_read_by_a_flat_head() -> None:
    table = {"data": {"name": "breast_cancer"}, "client": {"num_examples": 2, "distinct_labels": True}}
    found = prepare(parse_plan({**table, "model": {"num_classes": 4}}), CPU)
    private, rebuilt = read(found, InputToHead(flat_head=True), labels=found.private(0).labels)
    assert rebuilt.converged
    order = rebuilt.labels.argsort()[private.labels.argsort().argsort()]
    stepped = [k for k, c in enumerate(found.pool.spec.columns) if c.step]
    assert torch.equal(rebuilt.inputs[order][:, stepped], private.inputs[:, stepped])


def test_a_flipped_head_still_shows_the_row() -> None:
    found = scenario("wine")
    tampered = LabelFlip(all_rows=True).tamper(found.model, None, 0, stream(0, "server"))
    assert not torch.equal(tampered.model.params["5.weight"], found.model.params["5.weight"])
    private = found.private(0)
    update = local_update(tampered.model, private, FedSGD())
    rebuilt = LinearLayer().reconstruct(update, ServerKnowledge(tampered.model, num_examples=1), stream(0, "a"))
    assert torch.allclose(rebuilt.inputs, private.inputs, rtol=1e-4)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"model": {"name": "convnet"}}, "model 'convnet' takes images, not table rows; mlp would"),
        ({"model": {"name": "transformer"}}, "model 'transformer' takes sentences, not table rows"),
        ({"model": {"normalise": "imagenet"}}, "option normalise is of images; table rows bring their own encoding"),
        ({"data": {"name": "wine", "size": 8}}, "data 'wine' takes no 'size'"),
        (
            {"server": {"public": {"name": "iris", "split": "public"}}},
            "public examples are rows of 4 columns .*, private ones rows of 13 columns",
        ),
    ],
)
def test_what_does_not_fit_tables(table: dict, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        prepare(parse_plan({"data": {"name": "wine"}, **table}), CPU)


def test_input_shape_and_spec_must_agree() -> None:
    spec = TableSpec((NumericColumn("a", 2.0, 1.0, 0.0, 4.0, 1.0), CategoricalColumn("b", ("x", "y"))))
    with pytest.raises(BadInput, match=r"input_shape=\(4,\), but the data's spec encodes to \(3,\)"):
        build("mlp", input_shape=(4,), num_classes=2, spec=spec)


def test_searches_for_pictures_are_refused_on_tables() -> None:
    with pytest.raises(NotApplicable, match="'dlg:quick' does not apply: it works on images; the data are table rows"):
        run_audit(parse_plan({"data": {"name": "wine"}, "audit": {"attacks": ["dlg:quick"]}}), device="cpu")
