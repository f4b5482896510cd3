"""A vetted model as Markdown, for a comment on a pull request or the summary of a CI job."""

from fedspill.rendering.markdown import text_of
from fedspill.rendering.vetting import words
from fedspill.report.vetting import Judged, Vetting

_HEADS = ("", "severity", "where", "what was seen", "what could be read", "what to do")


def markdown(vetting: Vetting) -> str:
    """Headline, threat model, a row for each finding, and what it rests on."""
    lines = [
        f"### fedspill vet: {'do not train on it' if vetting.alarms else 'nothing planted was seen'}",
        "",
        f"**{text_of(words.headline(vetting))}** {text_of(words.THREAT)}",
        "",
    ]
    if vetting.findings:
        lines += [f"| {' | '.join(_HEADS)} |", "|" + "---|" * len(_HEADS)]
        lines += [f"| {' | '.join(_cells(judged))} |" for judged in vetting.findings]
        lines += [""]
    lines += [
        text_of(words.scope(vetting)),
        "",
        text_of(words.checksum(vetting)),
        "",
        f"*{text_of(words.NO_PROOF)}*",
        "",
    ]
    return "\n".join(lines)


def _cells(judged: Judged) -> list[str]:
    found = judged.finding
    told = [found.where, f"{found.explanation} ({found.rule_id})", found.reads, found.advice]
    return [words.level(judged), f"{found.severity:.2f}", *(text_of(text) or "–" for text in told)]
