"""Values that no key of a plan can take, from files, from the command line and from Python: one line each."""

import math

import pytest

from fedspill.core.errors import BadInput
from fedspill.plan.file import parse_plan, read_plan
from fedspill.plan.values import set_fields
from fedspill.zoo.data.indices import parse_indices
from fedspill.zoo.models import build

TOML = {
    "too many digits for Python": (f"[client]\nnum_examples = {'9' * 5000}", "is not valid TOML: Exceeds the limit"),
    "more than 64 bits": (f"[client]\nnum_examples = {2**64}", "'client.num_examples': a whole number of 65 bits is"),
    "more than 64 bits, negative": (f"[audit]\nseeds = [0, -{2**70}]", "'audit.seeds.1': a whole number of 71 bits"),
    "an option of the network": (f"[model]\nname = 'mlp'\nhidden = [{'9' * 400}]", "'model.hidden.0': a whole number"),
    "nested lists without end": (f"[audit]\nattacks = {'[' * 5000}{']' * 5000}", "is not valid TOML"),
    "nested lists": (f"[audit]\nattacks = {'[' * 60}{']' * 60}", "lies more than 32 tables and lists deep"),
    "nested tables": (f"[{'.'.join('a' * 80)}]\nx = 1", "lies more than 32 tables and lists deep"),
    "not a number": ("[client]\nlr = nan", "'client.lr': nan is no finite number"),
    "infinity": ("[client]\nprotocol = 'fedavg'\nlr = inf", "'client.lr': inf is no finite number"),
    "a date": ("[model]\nwidth = 1979-05-27", "is a date or a time"),
    "a null byte": ('[data]\nname = "folder:a\\u0000b"', "text with a null byte"),
    "a null byte in a key": ('[data]\n"na\\u0000me" = 1', "text with a null byte"),
    "a long value": (f"[client]\nnum_examples = '{'x' * 10000}'", r"got '[x]+ \.\.\."),
    "many mistakes": ("[audit]\nseeds = [" + "'a'," * 1000 + "]", "seeds.7"),
}


@pytest.mark.parametrize("case", TOML)
def test_odd_values_of_a_file(tmp_path, case):
    text, said = TOML[case]
    (tmp_path / "plan.toml").write_text(text)
    with pytest.raises(BadInput, match=said) as error:
        read_plan(tmp_path / "plan.toml")
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 2500


@pytest.mark.parametrize(
    "setting",
    [
        "client.num_examples=" + "9" * 5000,
        f"client.num_examples={2**64}",
        "audit.attacks=" + "[" * 5000 + "]" * 5000,
        "audit.attacks." + "9" * 5000 + ".x=1",
        "audit.seeds." + "9" * 5000 + "=1",
        "client.lr=nan",
    ],
)
def test_odd_settings(tmp_path, setting):
    (tmp_path / "plan.toml").write_text("[audit]\nattacks = ['dlg']\nseeds = [0]")
    with pytest.raises(BadInput) as error:
        read_plan(tmp_path / "plan.toml", [setting])
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 6000


def test_odd_fields_of_an_attack():
    for setting, said in [
        ("steps=" + "9" * 5000, "Exceeds the limit"),
        (f"steps={2**64}", "whole number of 65 bits"),
        ("lr=nan", "no finite number"),
        ("name=dlg", "--attack NAME:PRESET"),
        ("preset=3", "--attack NAME:PRESET"),
        ("steps", "write FIELD=VALUE"),
    ]:
        with pytest.raises(BadInput, match=said):
            set_fields([setting])


def test_values_from_python_are_checked_alike():
    for table in ({"client": {"lr": math.nan}}, {"client": {"num_examples": 10**30}}, {"data": {"name": "\ud800"}}):
        with pytest.raises(BadInput, match="plan key"):
            parse_plan(table)
    endless: dict = {}
    endless["audit"] = endless
    with pytest.raises(BadInput, match="deep"):
        parse_plan(endless)


def test_what_was_always_allowed_still_is():
    assert parse_plan({"audit": {"budget": math.inf}}).audit.budget == math.inf
    assert parse_plan({"audit": {"seeds": [2**63 - 1, -(2**62)]}}).audit.seeds[0] == 2**63 - 1


def test_positions_far_apart_are_refused_without_being_listed():
    for given, said in [
        ("0:999999999999999999", "index 999999999999999998 is out of range"),
        ("9" * 5000, "is no position"),
        ("0:" + "9" * 5000, "is no position"),
        ("0:9:0", "is no position"),
        ("²", "is no position"),
    ]:
        with pytest.raises(BadInput, match=said):
            parse_indices(given, 10)
    assert parse_indices("0:9:00000000000000004,1", 10) == [0, 4, 8, 1]


@pytest.mark.parametrize("width", [10**10, 10**12, 2**62, 2**63 - 1])
def test_networks_that_no_memory_holds(width):
    with pytest.raises(BadInput, match=r"model 'mlp' cannot be built .* (of memory, this machine has|overflow)"):
        build("mlp", input_shape=(3, 4, 4), num_classes=10, options={"hidden": [width]})
