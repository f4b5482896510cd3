"""A vetted model as SARIF 2.1.0, which code scanning reads; validated against the schema in the tests.

Rules are named by check and reason and stay the same; a finding's fingerprint is that of its rule and place, so that it
is known again in the next round although its numbers changed.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fedspill
from fedspill.core.roles import Card, Check, Finding
from fedspill.rendering.vetting import words
from fedspill.report.vetting import Judged, Vetting

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
FINGERPRINT = "fedspillRuleAndPlace/v1"


def sarif(vetting: Vetting, cards: Mapping[str, Card[Check]]) -> str:
    """One run with a rule for every check that ran and every reason that was found.

    Args:
        vetting: what to tell.
        cards: of the checks, by name; what they say stands in the rules.
    """
    rules = _rules(vetting, cards)
    places = {rule["id"]: k for k, rule in enumerate(rules)}
    driver = {"name": "fedspill", "version": fedspill.__version__, "rules": rules}
    run = {
        "tool": {"driver": driver},
        "artifacts": [{"location": {"uri": _uri(vetting.source)}, "roles": ["analysisTarget"]}],
        "results": [_result(judged, vetting, places) for judged in vetting.findings],
        "invocations": [{"executionSuccessful": True, "exitCode": vetting.exit_code}],
        "columnKind": "unicodeCodePoints",
        "properties": {
            "headline": words.headline(vetting),
            "threatModel": words.THREAT,
            "scope": words.scope(vetting),
            "checksum": vetting.checksum,
        },
    }
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _rules(vetting: Vetting, cards: Mapping[str, Card[Check]]) -> list[dict[str, Any]]:
    found = {judged.finding.rule_id: judged.finding for judged in reversed(vetting.findings)}
    rules = [_rule(name, cards[name], found.get(name)) for name in vetting.checks if name in cards]
    told = {rule["id"] for rule in rules}
    rules += [_rule(rule, cards.get(f.check), f) for rule, f in sorted(found.items()) if rule not in told]
    return rules


def _rule(name: str, card: Card[Check] | None, found: Finding | None) -> dict[str, Any]:
    title = "What could not be examined" if card is None else card.title
    summary = "A check could not look, or what the policy requires was not given." if card is None else card.summary
    rule: dict[str, Any] = {
        "id": name,
        "name": "".join(part.capitalize() for part in name.replace(".", "_").split("_")),
        "shortDescription": {"text": title},
        "fullDescription": {"text": summary if card is None else f"{summary} {card.paper}."},
    }
    if found is not None and found.text:
        rule["help"] = {"text": " ".join(part for part in (found.reads, found.advice) if part) or found.text}
    return rule


def _result(judged: Judged, vetting: Vetting, places: Mapping[str, int]) -> dict[str, Any]:
    found = judged.finding
    where = {"name": found.where.rpartition(".")[2], "fullyQualifiedName": found.where, "kind": "member"}
    result: dict[str, Any] = {
        "ruleId": found.rule_id,
        "ruleIndex": places[found.rule_id],
        "level": "error" if judged.alarm else "note",
        "message": {"text": f"{found.where}: {found.text}"},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": _uri(vetting.source), "index": 0}},
                "logicalLocations": [where],
            }
        ],
        "partialFingerprints": {FINGERPRINT: judged.fingerprint},
        "properties": {
            "severity": found.severity,
            "evidence": {name: _number(value) for name, value in found.evidence.items()},
        },
    }
    if judged.accepted:
        result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": "in the baseline"}]
    return result


def _number(value: float) -> float | str:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else str(value)


def _uri(source: str) -> str:
    return quote(Path(source).as_posix()) or "model"
