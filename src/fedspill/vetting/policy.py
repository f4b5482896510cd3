"""A client's policy, as a TOML file: which checks run, how severe each of their findings is, what must be at hand.

[vet]
fail_from = 0.5                       # severity from which a finding fails the model (exit code 1)
checks = ["parallel_rows:quick"]      # left out: all that apply
require = ["reference", "previous"]   # what is not given is a finding; also "own_data", "checksum"

[severity]                            # by check, or by one of its rules, which goes before
weight_entropy = 0.3
"empty_layers.branch" = "off"
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from fedspill import catalogue
from fedspill.core.errors import BadInput
from fedspill.core.roles import Finding
from fedspill.plan.tables import table_of

NOT_EXAMINED = "not_examined"
"""The check that a finding names when no check could look."""
REQUIRABLE = ("reference", "previous", "own_data", "checksum")
OFF = "off"


@dataclass(frozen=True)
class Policy:
    """What a client asks of an incoming model.

    Attributes:
        fail_from: severity from which a finding is an alarm, above 0 and at most 1.
        severity: by check ("weight_entropy") or by rule ("structure.modules"), from 0 to 1; None drops the finding.
        checks: entries "name" or "name:preset"; () are all that apply.
        require: of "reference", "previous", "own_data" and "checksum" those without which a model is not accepted.

    Raises:
        BadInput: a value out of range, or a name that there is none of.
    """

    fail_from: float = 0.5
    severity: Mapping[str, float | None] = field(default_factory=dict[str, float | None])
    checks: tuple[str, ...] = ()
    require: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.fail_from <= 1:
            raise BadInput(f"fail_from={self.fail_from}: a severity above 0 and at most 1 is needed")
        known = {*catalogue.checks(), NOT_EXAMINED}
        for rule, severity in self.severity.items():
            if rule.partition(".")[0] not in known:
                raise BadInput(f"severity of {rule!r}: there is no such check; there are {', '.join(sorted(known))}")
            if severity is not None and not 0 <= severity <= 1:
                raise BadInput(f"severity of {rule!r}: a number from 0 to 1 or {OFF!r} is needed, got {severity}")
        unknown = [name for name in self.require if name not in REQUIRABLE]
        if unknown:
            raise BadInput(f"require {unknown[0]!r}: one of {', '.join(REQUIRABLE)} is needed")
        for entry in self.checks:
            catalogue.pick(catalogue.checks(), entry, "check")

    def applied(self, findings: Iterable[Finding]) -> list[Finding]:
        """The findings with this policy's severities, without those that it drops, the most severe first."""
        kept = list[Finding]()
        for finding in findings:
            by = next((name for name in (finding.rule_id, finding.check) if name in self.severity), None)
            severity = finding.severity if by is None else self.severity[by]
            if severity is not None:
                kept.append(replace(finding, severity=severity))
        return sorted(kept, key=lambda finding: -finding.severity)


STANDARD = Policy()
"""All checks that apply, at their own severities."""


def read_policy(path: str | Path) -> Policy:
    """The policy that a TOML file holds.

    Raises:
        BadInput: there is no such file, it is no TOML, or it holds a key or a value that a policy has not.
    """
    table = table_of(Path(path))
    try:
        return _policy(table)
    except BadInput as error:
        raise BadInput(f"policy {str(path)!r}: {error}") from None


def _policy(table: Mapping[str, Any]) -> Policy:
    _check_keys("", table, ("vet", "severity"))
    vet, severity = (_section(table, name) for name in ("vet", "severity"))
    _check_keys("vet.", vet, ("fail_from", "checks", "require"))
    return Policy(
        fail_from=_number("vet.fail_from", vet.get("fail_from", STANDARD.fail_from)),
        severity={rule: _severity(rule, value) for rule, value in _flat(severity)},
        checks=_names("vet.checks", vet.get("checks", [])),
        require=_names("vet.require", vet.get("require", [])),
    )


def _section(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = table.get(name, {})
    if not isinstance(section, dict):
        raise BadInput(f"{name!r} is a value; a table is needed: [{name}]")
    return cast(Mapping[str, Any], section)


def _check_keys(where: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    unknown = [key for key in table if key not in known]
    if unknown:
        raise BadInput(f"key {where + unknown[0]!r} is unknown; allowed here: {', '.join(known)}")


def _flat(table: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Rules by their whole names: TOML reads a dotted key without quotes as a table."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{rule}", inner) for rule, inner in cast(Mapping[str, Any], value).items())
        else:
            yield name, value


def _severity(rule: str, value: Any) -> float | None:
    return None if value == OFF else _number(f"severity of {rule!r}", value)


def _number(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadInput(f"{where}: a number is needed, got {value!r}")
    return float(value)


def _names(where: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in cast(list[Any], value)):
        raise BadInput(f"{where}: a list of names is needed, got {value!r}")
    return tuple(cast(list[str], value))
