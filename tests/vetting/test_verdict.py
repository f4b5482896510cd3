"""A model judged: alarms, the exit code, what was accepted before, and the checksum."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedspill.core.errors import BadInput
from fedspill.core.model import Model
from fedspill.core.roles import Finding, Incoming, Misfit
from fedspill.core.tensor_files import sha256
from fedspill.report.vetting import fingerprint
from fedspill.vetting.baseline import is_accepted, read_baseline, write_baseline
from fedspill.vetting.policy import Policy
from fedspill.vetting.verdict import vetted
from tests.support.worlds import conv_bn

MODEL = conv_bn()


def planted() -> Model:
    return MODEL.with_params({**MODEL.params, "1.weight": torch.zeros(6), "3.weight": torch.zeros(8, 6, 3, 3)})


def test_an_alarm_fails_the_model_and_a_note_does_not() -> None:
    done = vetted(Incoming(planted()), "a file")
    assert [(j.finding.rule_id, j.alarm) for j in done.findings] == [
        ("empty_layers.layer", True),
        ("empty_layers.branch", False),
    ]
    assert done.exit_code == 1
    assert vetted(Incoming(planted()), "a file", Policy(fail_from=0.7)).exit_code == 0
    assert [j.alarm for j in vetted(Incoming(planted()), "a file", Policy(fail_from=0.3)).findings] == [True, True]
    assert vetted(Incoming(MODEL), "a file").exit_code == 0


def test_what_stood_beside_the_model_and_what_did_not() -> None:
    done = vetted(Incoming(MODEL, previous=MODEL), "a file")
    assert done.compared == ("the model of the round before",)
    assert done.missing == ("the agreed architecture", "the client's own examples", "the checksum of others")
    assert done.parameters == sum(p.numel() for p in MODEL.params.values())


def test_the_checksum_is_of_all_numbers_that_came() -> None:
    assert vetted(Incoming(MODEL), "a").checksum == sha256({**MODEL.params, **MODEL.buffers})
    more = Misfit(foreign={"tap.weight": torch.ones(2, 3)})
    assert vetted(Incoming(MODEL, misfit=more), "a").checksum != vetted(Incoming(MODEL), "a").checksum


def test_what_was_accepted_raises_no_alarm_again_unless_it_is_worse(tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    assert read_baseline(file) == {}
    write_baseline(file, [j.finding for j in vetted(Incoming(planted()), "a").findings])
    accepted = read_baseline(file)
    done = vetted(Incoming(planted()), "a", accepted=accepted)
    assert (done.exit_code, [j.accepted for j in done.findings]) == (0, [True, True])
    worse = Policy(severity={"empty_layers.branch": 0.9})
    assert [j.alarm for j in vetted(Incoming(planted()), "a", worse, accepted).findings] == [True, False]
    elsewhere = MODEL.with_params({**MODEL.params, "0.weight": torch.zeros(6, 3, 3, 3)})
    assert vetted(Incoming(elsewhere), "a", accepted=accepted).exit_code == 1


def test_a_fingerprint_is_of_rule_and_places_and_not_of_numbers() -> None:
    one = Finding("a", "0.weight", 0.5, {"x": 1.0}, "Seen.", rule="r", also=("1.weight",))
    same = replace(one, severity=0.52, evidence={"x": 2.0}, explanation="Seen again.")
    assert fingerprint(one) == fingerprint(same)
    assert is_accepted(same, {fingerprint(one): one.severity})
    for other in (replace(one, rule=""), replace(one, where="2.weight"), replace(one, also=("tap.weight",))):
        assert fingerprint(other) != fingerprint(one)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 2, "accepted": []}', '{"format": 1, "accepted": [{"rule": "x"}]}', "[" * 10_000],
)
def test_a_file_that_is_no_baseline_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "b.json"
    file.write_text(text)
    with pytest.raises(BadInput, match=r"baseline '.*b.json'"):
        read_baseline(file)


def test_a_baseline_can_be_read_by_people(tmp_path: Path) -> None:
    write_baseline(tmp_path / "b.json", [Finding("a", "0.weight", 0.5, {}, "Seen.", rule="r")])
    (entry,) = json.loads((tmp_path / "b.json").read_text())["accepted"]
    assert (entry["rule"], entry["where"], entry["severity"]) == ("a.r", "0.weight", 0.5)
