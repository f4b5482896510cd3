"""A vetted model as JUnit XML: a test case for every check that ran, so that a CI shows which one failed."""

from collections.abc import Sequence
from xml.etree import ElementTree

from fedspill.rendering.junit import clean
from fedspill.rendering.vetting import words
from fedspill.report.vetting import Judged, Vetting


def junit(vetting: Vetting) -> str:
    """A case fails where its check raised an alarm; a check that does not apply is skipped."""
    names = dict.fromkeys([*vetting.checks, *(judged.finding.check for judged in vetting.findings)])
    suite = ElementTree.Element("testsuite", name="fedspill vet")
    suite.extend(_case(name, [j for j in vetting.findings if j.finding.check == name]) for name in names)
    for name, why in vetting.skipped.items():
        case = ElementTree.SubElement(suite, "testcase", classname="fedspill.vet", name=clean(name), time="0")
        ElementTree.SubElement(case, "skipped", message=clean(why))
    _counts(suite)
    suite.set("time", f"{vetting.seconds:.3f}")
    ElementTree.SubElement(suite, "system-out").text = clean("\n".join([words.headline(vetting), words.scope(vetting)]))
    root = ElementTree.Element("testsuites", {k: v for k, v in suite.attrib.items() if k not in ("name", "time")})
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _case(name: str, found: Sequence[Judged]) -> ElementTree.Element:
    case = ElementTree.Element("testcase", classname="fedspill.vet", name=clean(name), time="0")
    alarms = [judged for judged in found if judged.alarm]
    if alarms:
        message = f"{len(alarms)} of {len(found)} findings are alarms; the first: {_line(alarms[0])}"
        failure = ElementTree.SubElement(case, "failure", type=alarms[0].finding.rule_id, message=clean(message))
        failure.text = clean("\n".join(map(_line, alarms)))
    others = [f"{words.level(judged)}: {_line(judged)}" for judged in found if not judged.alarm]
    if others:
        ElementTree.SubElement(case, "system-out").text = clean("\n".join(others))
    return case


def _line(judged: Judged) -> str:
    return f"{judged.finding.where}: {judged.finding.text}"


def _counts(suite: ElementTree.Element) -> None:
    counts = {
        "tests": len(suite.findall("testcase")),
        "failures": len(suite.findall("testcase/failure")),
        "errors": 0,
        "skipped": len(suite.findall("testcase/skipped")),
    }
    for name, number in counts.items():
        suite.set(name, str(number))
