"""A report as JUnit XML, so that a CI shows every trial as a test."""

import re
from typing import Any
from xml.etree import ElementTree

from fedspill.rendering import facts, numbers
from fedspill.rendering.headline.roles import role_rows
from fedspill.report.schema import AuditReport, VerdictName
from fedspill.report.trial import Trial

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, escaped or not."""


def junit(report: AuditReport) -> str:
    """One test case per trial and one for the verdict, which holds a line for each kind of server.

    A trial fails when a larger share leaked, or is recognisable, than the policy's `max_leakage_rate` (0 if it has
    none), or it came closer than its `max_psnr`, as far as the policy fails such. A trial that was skipped is skipped.
    """
    suite = ElementTree.Element("testsuite", name="fedspill", timestamp=clean(report.environment.started))
    suite.append(_verdict(report))
    suite.extend(_trial(report, trial) for trial in report.trials)
    counts = {
        "tests": len(suite),
        "failures": len(suite.findall("testcase/failure")),
        "errors": 0,
        "skipped": len(suite.findall("testcase/skipped")),
    }
    for name, n in counts.items():
        suite.set(name, str(n))
    suite.set("time", f"{report.environment.seconds:.3f}")
    root = ElementTree.Element("testsuites", {k: str(v) for k, v in counts.items()})
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _verdict(report: AuditReport) -> ElementTree.Element:
    case = ElementTree.Element("testcase", classname="fedspill", name="verdict", time="0")
    verdict, by_role = report.verdict, [row.line for row in role_rows(report)]
    if verdict.exit_code:
        failure = ElementTree.SubElement(case, "failure", type=verdict.name.value, message=clean(verdict.sentence))
        failure.text = clean("\n".join([*by_role, *(f"{c.topic}: {c.text}" for c in report.caveats)]))
    lines = [f"{verdict.name.value}: {verdict.sentence}", *by_role]
    lines += ["Not evidence of safety."] if verdict.name in (VerdictName.NOT_SHOWN, VerdictName.NOT_TESTED) else []
    ElementTree.SubElement(case, "system-out").text = clean("\n".join(lines))
    return case


def _trial(report: AuditReport, trial: Trial) -> ElementTree.Element:
    classname = clean(f"fedspill.{trial.attack}.{trial.preset}".rstrip("."))
    case = ElementTree.Element("testcase", classname=classname, name=clean(trial.name), time=f"{trial.seconds:.3f}")
    if trial.skipped is not None:
        ElementTree.SubElement(case, "skipped", message=clean(trial.skipped))
        return case
    broken = breaches(report, trial)
    if broken:
        ElementTree.SubElement(case, "failure", type="leak", message=clean("; ".join(broken)))
    ElementTree.SubElement(case, "system-out").text = clean("\n".join(_facts(trial)))
    return case


def breaches(report: AuditReport, trial: Trial) -> list[str]:
    """How one trial broke the plan's policy; empty if it did not."""
    policy: dict[str, Any] = report.plan.get("policy") or {}
    allowed, closest = float(policy.get("max_leakage_rate") or 0), policy.get("max_psnr")
    fails = policy.get("fails", ("leaks", "recognisable"))
    broken: list[str] = []
    if "leaks" in fails and trial.leakage_rate is not None and trial.leakage_rate.rate > allowed:
        leaked, criterion = trial.leakage_rate, numbers.criterion(trial.leakage_rate.criterion)
        broken.append(f"leaked {numbers.rate(leaked)} at {criterion}; allowed {numbers.percent(allowed)}")
    if "recognisable" in fails and not broken:
        broken += _recognised(trial, allowed)
    psnr = facts.score_of(trial.scores, "psnr")
    if (
        "leaks" in fails
        and closest is not None
        and psnr is not None
        and psnr.worst is not None
        and psnr.worst > closest
    ):
        broken.append(f"worst PSNR {numbers.number(psnr.worst, 'dB')}; allowed {numbers.number(float(closest), 'dB')}")
    return broken


def _recognised(trial: Trial, allowed: float) -> list[str]:
    seen = trial.recognisable or trial.leaked or []
    if sum(seen) <= allowed * len(seen):
        return []
    return [f"{sum(seen)} of {len(seen)} recognisable; allowed {numbers.percent(allowed)}"]


def _facts(trial: Trial) -> list[str]:
    lines = [f"{s.metric}: worst {numbers.number(s.worst, s.unit)}, n = {len(s.values)}" for s in trial.scores]
    if not trial.converged:
        lines.append("did not converge: a low score is not evidence of safety")
    return lines + list(trial.notes)


def clean(text: str) -> str:
    """Text without what XML cannot hold."""
    return _FORBIDDEN.sub("\ufffd", text)
