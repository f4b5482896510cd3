"""What a name stands for, and that whatever cannot be used is refused in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model
from fedspill.filtering.chains import flower, nvflare, opacus
from fedspill.filtering.chains.loading import load_chain
from fedspill.filtering.chains.own import OwnChain, array_of
from fedspill.filtering.known import offer_of, usual_batch, usual_model
from fedspill.filtering.verdict import filtered

MODULE = """
calls = []
def make():
    calls.append(1)
    return lambda update: {k: v * 2 for k, v in update.items()}
def plain(update):
    return {k: v * 2 for k, v in update.items()}
def wrong():
    return 3
def breaks():
    raise RuntimeError("no key")
def lists(update):
    return list(update)
def empty(update):
    raise ValueError
text = "x"
"""
PLAN = """
[audit]
attacks = ["linear_layer"]
[client]
num_examples = 1
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_chain_of_tests.py").write_text(MODULE, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("name", ["make", "plain"])
def test_a_function_and_a_factory_are_told_apart_by_what_they_take(here: Path, name: str) -> None:
    model = usual_model()
    chain = load_chain(f"own_chain_of_tests:{name}", model)
    offer = offer_of(model, usual_batch(model, 1))
    sent = chain.send(offer)
    assert sent is not None
    assert torch.equal(sent["1.bias"], 2 * offer.change["1.bias"])
    assert (chain.renewed() is None) is (name == "plain")


def test_a_function_may_ask_for_arrays() -> None:
    model, seen = usual_model(), list[object]()

    def arrays(update: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.extend(update.values())
        return update

    offer = offer_of(model, usual_batch(model, 1))
    sent = OwnChain("arrays", arrays, numbers="numpy").send(offer)
    assert all(isinstance(value, np.ndarray) for value in seen)
    assert sent is not None
    assert all(torch.equal(sent[k], v) for k, v in offer.change.items())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "is none of PLAN.toml"),
        ("own_chain_of_tests:none", "has no attribute"),
        ("own_chain_of_tests:wrong", "the factory returned a int"),
        ("own_chain_of_tests:breaks", "the factory failed with RuntimeError: no key"),
        ("own_chain_of_tests:text", "is a str"),
    ],
)
def test_a_name_that_stands_for_no_chain_is_refused(here: Path, name: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        load_chain(name, usual_model())


@pytest.mark.parametrize(("name", "said"), [("lists", "returned a list"), ("empty", "refuses an ordinary update")])
def test_a_chain_that_takes_no_update_is_refused(here: Path, name: str, said: str) -> None:
    model = usual_model()
    chain = load_chain(f"own_chain_of_tests:{name}", model)
    with pytest.raises(BadInput, match=said):
        filtered(chain, name, model, usual_batch(model, 1), seconds=0.0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"pushes": 5}, "an even number from 4"),
        ({"rounds": 0}, "at least 1 round"),
        ({"delta": 1.0}, "a delta between 0 and 1"),
        ({"clip": 0.0}, "clip=0.0 must be above 0"),
        ({"noise_std": float("nan")}, "noise=nan must be above 0"),
        ({"seconds": -1.0}, "seconds=-1.0"),
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, float], said: str) -> None:
    model = usual_model()
    with pytest.raises(BadInput, match=said):
        filtered(OwnChain("x", dict), "x", model, usual_batch(model, 1), **wrong)  # pyright: ignore


def planned(here: Path, defences: str) -> str:
    (here / "plan.toml").write_text(PLAN + defences, encoding="utf-8")
    return "plan.toml"


def test_a_plans_defences_are_a_chain_with_the_epsilon_that_they_state(here: Path) -> None:
    name = planned(here, '[[defences]]\nname = "local_dp"\nepsilon = 8.0\n')
    model = usual_model()
    done = filtered(load_chain(name, model), name, model, usual_batch(model, 1), seconds=0.0)
    assert done.privacy.epsilon == pytest.approx(8.0, rel=0.02)
    assert done.privacy.claimed == "the configuration says epsilon 8, delta 1e-05"
    assert {f.name for f in done.fates if f.became == ("dropped",)} == set(model.buffers)


def test_a_plans_noise_leaves_the_buffers_alone_and_that_is_told(here: Path) -> None:
    name = planned(here, '[[defences]]\nname = "gradient_noise"\n')
    model = usual_model()
    done = filtered(load_chain(name, model), name, model, usual_batch(model, 1), seconds=0.0)
    assert {f.rule for f in done.alarms} == {"buffers.unnoised", "integers.unnoised"}


def test_a_plan_without_a_defence_is_no_chain(here: Path) -> None:
    with pytest.raises(BadInput, match="names no defence"):
        load_chain(planned(here, ""), usual_model())


FILTERS = {
    "scopes": [
        {
            "name": "public",
            "task_result_filters": [
                {"name": "PercentilePrivacy", "args": {"percentile": 10, "gamma": 0.01}},
                {"path": "nvflare.app_common.filters.ExcludeVars", "disabled": True},
                {"name": "SVTPrivacy", "direction": "in"},
                {"name": "SVTPrivacy", "direction": "inout"},
            ],
        },
        {"name": "empty"},
    ],
}


def policy(here: Path, content: object) -> Path:
    (here / "privacy.json").write_text(json.dumps(content), encoding="utf-8")
    return here / "privacy.json"


def test_of_a_policy_those_filters_count_that_act_on_what_leaves(tmp_path: Path) -> None:
    scope = FILTERS["scopes"][0]
    labels = [c.label for c in nvflare.filters_of(scope, tmp_path)]
    assert labels == ["PercentilePrivacy(percentile=10, gamma=0.01)", "SVTPrivacy()"]


@pytest.mark.parametrize(
    ("content", "scope", "said"),
    [
        ([], None, "lists no scopes"),
        ({"scopes": []}, None, "lists no scopes"),
        (FILTERS, None, "names no default_scope; name one of"),
        (FILTERS, "other", "has no scope 'other'; it has"),
        (FILTERS, "empty", "no task_result_filters"),
        ({"scopes": [{"name": "a", "task_result_filters": [{"args": {}}]}]}, None, "neither a path nor a name"),
        ({"scopes": [{"name": "a", "task_result_filters": 3}]}, None, "a list is needed"),
        ({"scopes": [{"name": "a", "task_result_filters": [{"name": "A", "args": [1]}]}]}, None, "a mapping is needed"),
    ],
)
def test_a_policy_that_cannot_be_used_is_refused(tmp_path: Path, content: object, scope: str | None, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        nvflare.read_policy(policy(tmp_path, content), scope)


def test_what_is_not_installed_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (nvflare, flower, opacus):
        monkeypatch.setattr(module, "PACKAGE", "surely_not_installed")
    for call, extra in (
        (lambda: nvflare.read_policy(policy(tmp_path, FILTERS), "public"), "nvflare"),
        (lambda: flower.read_mods("a:b", None), "flower"),
        (lambda: opacus.read_client("a:b", usual_model()), "opacus"),
    ):
        with pytest.raises(BadInput, match=rf"fedspill\[{extra}\]"):
            call()


def test_the_embedded_photographs_fit_grey_networks_of_few_classes() -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    private = usual_batch(Model.of(net, ImageSpec((1, 8, 8))), 3)
    assert private.inputs.shape == (3, 1, 8, 8)
    assert int(private.labels.max()) < 2


def test_networks_of_other_inputs_need_examples() -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(96, 2))
    with pytest.raises(BadInput, match="give examples of your own"):
        usual_batch(Model.of(net, ImageSpec((3, 4, 8))), 1)


def test_numbers_that_numpy_does_not_have_are_refused() -> None:
    with pytest.raises(BadInput, match="no numbers of type bfloat16"):
        array_of(torch.ones(2, dtype=torch.bfloat16))
    assert array_of(torch.tensor(3)).shape == ()
