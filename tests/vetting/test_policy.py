"""A client's policy: what it changes, and what it refuses."""

from pathlib import Path

import pytest
import torch

import fedspill
from fedspill.core.errors import BadInput
from fedspill.core.roles import Finding, Incoming
from fedspill.vetting.inspection import inspected
from fedspill.vetting.policy import Policy, read_policy
from tests.support.worlds import conv_bn, relu_mlp

WHOLE = """
[vet]
fail_from = 0.25
checks = ["weight_entropy", "empty_layers:quick"]
require = ["previous"]
[severity]
weight_entropy = 0.1
empty_layers.branch = "off"
"empty_layers.layer" = 1
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "policy.toml"
    file.write_text(text)
    return file


def finding(check: str, severity: float, rule: str = "") -> Finding:
    return Finding(check, "0.weight", severity, {"x": 1.0}, "Seen.", rule=rule)


def test_a_policy_says_what_runs_and_how_severe_a_finding_is(tmp_path: Path) -> None:
    policy = read_policy(written(tmp_path, WHOLE))
    assert (policy.fail_from, policy.checks, policy.require) == (
        0.25,
        ("weight_entropy", "empty_layers:quick"),
        ("previous",),
    )
    given = [
        finding("weight_entropy", 0.9, "stored_short"),
        finding("empty_layers", 0.3, "branch"),
        finding("empty_layers", 0.6, "layer"),
        finding("change", 0.5),
    ]
    assert [(f.rule_id, f.severity) for f in policy.applied(given)] == [
        ("empty_layers.layer", 1.0),
        ("change", 0.5),
        ("weight_entropy.stored_short", 0.1),
    ]


def test_what_is_required_and_not_given_is_a_finding() -> None:
    policy = Policy(require=("reference", "previous", "checksum"), checks=("weight_entropy",))
    found = inspected(Incoming(relu_mlp(), previous=relu_mlp()), policy)
    assert [f.rule_id for f in found.findings] == ["not_examined.reference", "not_examined.checksum"]
    assert all(f.severity == 1 for f in found.findings)
    assert found.checks == ("weight_entropy",)


def test_in_python_a_policy_is_a_file_or_what_was_read_of_it(tmp_path: Path) -> None:
    model = conv_bn()
    model = model.with_params({**model.params, "1.weight": torch.zeros(6), "3.weight": torch.zeros(8, 6, 3, 3)})
    assert [f.severity for f in fedspill.vet(model)] == [0.6, 0.3]
    path = written(tmp_path, WHOLE)
    for policy in (path, str(path), read_policy(path)):
        found = fedspill.vet(model, policy=policy)
        assert [(f.rule_id, f.severity) for f in found] == [("not_examined.previous", 1.0), ("empty_layers.layer", 1.0)]
    only = fedspill.vet(model, policy=path, checks=("weight_entropy",))
    assert [f.check for f in only] == ["not_examined"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[vet]\nfail_form = 1", "key 'vet.fail_form' is unknown; allowed here: fail_from, checks, require"),
        ("[vett]", "key 'vett' is unknown"),
        ("vet = 3", "'vet' is a value; a table is needed"),
        ("[vet]\nfail_from = 0", "fail_from=0.0: a severity above 0"),
        ("[vet]\nfail_from = nan", "fail_from=nan: a severity above 0"),
        ("[vet]\nfail_from = true", "vet.fail_from: a number is needed, got True"),
        ("[vet]\nchecks = 'weight_entropy'", "vet.checks: a list of names is needed"),
        ("[vet]\nchecks = ['entropy']", "unknown check 'entropy'"),
        ("[vet]\nrequire = ['own_date']", "require 'own_date': one of reference, previous, own_data, checksum"),
        ("[severity]\nentropy = 0.5", "severity of 'entropy': there is no such check"),
        ("[severity]\nchange = 2", "severity of 'change': a number from 0 to 1"),
        ("[severity]\nchange = 'no'", "severity of 'change': a number is needed, got 'no'"),
        ("[vet", "is not valid TOML"),
    ],
)
def test_what_a_policy_has_not_is_refused_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refused:
        read_policy(written(tmp_path, text))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
