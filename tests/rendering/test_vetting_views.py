"""A vetted model as SARIF, JUnit and Markdown: valid, stable, and telling all there is."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from rich.console import Console

from fedspill import catalogue
from fedspill.core.roles import Finding
from fedspill.rendering.vetting import cases, sarif, summary, table, words
from fedspill.report.vetting import Judged, Vetting

SCHEMA = json.loads((Path(__file__).parents[1] / "support" / "sarif-2.1.0.json").read_text())
"""By OASIS, as its standard publishes it."""
FOUND = Finding(
    "parallel_rows",
    "planted.weight",
    0.9,
    {"largest": 3.0, "infinite": math.inf},
    "Rows are | alike.",
    rule="bundle",
    reads="Examples could be read.",
    advice="Do not train on it.",
)


def vetting(*findings: Judged) -> Vetting:
    return Vetting(
        source="a b/received.pt",
        checksum="ab" * 32,
        parameters=1234,
        checks=("parallel_rows", "weight_entropy"),
        findings=findings,
        fail_from=0.5,
        seconds=0.25,
        compared=("the model of the round before",),
        missing=("the agreed architecture",),
        skipped={"input_shortcuts": "not for sentences"},
    )


ALARM, NOTE = Judged(FOUND, True), Judged(replace(FOUND, rule="rank", severity=0.2), False)
ACCEPTED = Judged(replace(FOUND, where="head.weight"), False, True)
UNSEEN = Judged(Finding("not_examined", "network", 1.0, {"examined": 0.0}, "It failed.\x00", rule="failed"), True)
EVERY = vetting(ALARM, NOTE, ACCEPTED, UNSEEN)


def run(one: Vetting) -> dict[str, Any]:
    log = json.loads(sarif.sarif(one, catalogue.checks()))
    jsonschema.validate(log, SCHEMA, jsonschema.Draft4Validator)
    return log["runs"][0]


@pytest.mark.parametrize("one", [vetting(), vetting(ALARM), EVERY], ids=["none", "one", "every"])
def test_sarif_is_valid(one: Vetting) -> None:
    made = run(one)
    ids = [rule["id"] for rule in made["tool"]["driver"]["rules"]]
    assert len(set(ids)) == len(ids)
    assert ids[:2] == ["parallel_rows", "weight_entropy"]
    for result in made["results"]:
        assert ids[result["ruleIndex"]] == result["ruleId"]


def test_sarif_says_of_each_finding_what_it_is_and_knows_it_again() -> None:
    alarm, note, accepted, _ = run(EVERY)["results"]
    assert [r["level"] for r in (alarm, note, accepted)] == ["error", "note", "note"]
    assert alarm["message"]["text"] == f"planted.weight: {FOUND.text}"
    place = alarm["locations"][0]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == "a%20b/received.pt"
    assert place["logicalLocations"][0]["fullyQualifiedName"] == "planted.weight"
    assert alarm["properties"] == {"severity": 0.9, "evidence": {"largest": 3.0, "infinite": "inf"}}
    assert accepted["suppressions"][0]["status"] == "accepted"
    assert "suppressions" not in alarm
    later = vetting(Judged(replace(FOUND, evidence={"largest": 7.0}), True))
    assert run(later)["results"][0]["partialFingerprints"] == alarm["partialFingerprints"]
    assert note["partialFingerprints"] != alarm["partialFingerprints"]


def test_every_check_of_the_catalogue_is_a_rule_that_can_be_read() -> None:
    everything = replace(vetting(), checks=tuple(catalogue.checks()))
    for rule in run(everything)["tool"]["driver"]["rules"]:
        assert rule["shortDescription"]["text"]
        assert rule["fullDescription"]["text"].endswith(".")


def test_junit_fails_the_checks_that_raised_an_alarm() -> None:
    root = ElementTree.fromstring(cases.junit(EVERY))
    (suite,) = root
    assert {k: suite.get(k) for k in ("tests", "failures", "skipped", "errors")} == {
        "tests": "4",
        "failures": "2",
        "skipped": "1",
        "errors": "0",
    }
    by_name = {case.get("name"): case for case in suite.iter("testcase")}
    failure = by_name["parallel_rows"].find("failure")
    assert failure is not None
    assert failure.get("type") == "parallel_rows.bundle"
    assert FOUND.text in str(failure.text)
    assert by_name["weight_entropy"].find("failure") is None
    assert by_name["input_shortcuts"].find("skipped") is not None
    told = by_name["parallel_rows"].find("system-out")
    assert told is not None
    assert "accepted: head.weight" in str(told.text)


def test_markdown_is_one_table_that_shows_texts_as_they_are() -> None:
    text = summary.markdown(EVERY)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[1].startswith("| alarm | 0.90 | planted.weight | Rows are \\| alike. (parallel\\_rows.bundle) |")
    assert [row.split("|")[1].strip() for row in rows[1:]] == ["alarm", "note", "accepted", "alarm"]
    assert "Threat model: a server that plants" in text
    assert "ab" * 32 in text


def test_the_headline_counts_each_kind() -> None:
    assert words.headline(EVERY) == "Do not train on a b/received.pt: 2 alarms, 1 note, 1 accepted before."
    assert words.headline(vetting()) == "Nothing planted was seen in a b/received.pt: no alarm."
    assert "Not given, and so not compared: the agreed architecture." in words.scope(EVERY)
    assert "Not run: input_shortcuts (not for sentences)." in words.scope(EVERY)


def test_the_terminal_tells_what_could_be_read_once_for_each_check() -> None:
    console = Console(width=200, record=True)
    table.show(EVERY, console)
    said = console.export_text()
    assert said.count("Examples could be read.") == 1
    assert said.count("[parallel_rows.bundle]") == 2
    assert "(accepted before)" in said
