"""A report's headline as Markdown, for a comment on a pull request or the summary of a CI job; it shows no example."""

import re

from fedspill.rendering import numbers
from fedspill.rendering.defences import utility_sentence
from fedspill.rendering.headline.advice import Advice, advice
from fedspill.rendering.headline.guarantees import blocks
from fedspill.rendering.headline.roles import RoleRow, role_rows
from fedspill.rendering.headline.words import WORDS
from fedspill.report.schema import AuditReport

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~@])")
"""What Markdown, or the site that shows it, would read as more than text."""
_HEADS = ("server", "verdict", "strongest attack", "planted", "assumed to know", "worst example", "leaked", "time")


def markdown(report: AuditReport) -> str:
    """Verdict, one row for each kind of server, what to change first, and the conditions."""
    words = WORDS[report.verdict.name]
    return "\n".join(
        [
            f"### fedspill: {words.word.lower()}",
            "",
            f"{text_of(report.verdict.sentence)} **{words.always}**",
            "",
            *_table(role_rows(report)),
            *_apart(report),
            "**What to change first**",
            "",
            *(_item(k, item) for k, item in enumerate(advice(report), 1)),
            "",
            *([text_of(learnt), ""] if (learnt := utility_sentence(report)) is not None else []),
            _conditions(report),
            "",
        ]
    )


def text_of(text: str) -> str:
    """Any text as one line of Markdown that shows it as it is."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return _SPECIAL.sub(r"\\\1", " ".join(printable.split()))


def _table(rows: list[RoleRow]) -> list[str]:
    if not rows:
        return []
    head = [f"| {' | '.join(_HEADS)} |", "|" + "---|" * len(_HEADS)]
    return [*head, *(f"| {' | '.join(_cells(row))} |" for row in rows), ""]


def _cells(row: RoleRow) -> list[str]:
    facts = [text for _, text in row.facts] if row.attack else ["none was run", *["–"] * 5]
    return [text_of(row.role), f"**{row.words.word.lower()}**", *map(text_of, facts)]


def _apart(report: AuditReport) -> list[str]:
    """What was measured, declared and bounded, a paragraph each."""
    return [
        line
        for b in blocks(report)
        for line in (f"**{b.name}** ({text_of(b.about)})", "", *(f"- {text_of(said)}" for said in b.lines), "")
    ]


def _item(number: int, item: Advice) -> str:
    command = "".join(f" `{line}`" for line in item.command.splitlines())
    return f"{number}. **{text_of(item.title)}.** {text_of(item.text)}{command}"


def _conditions(report: AuditReport) -> str:
    e = report.environment
    where = f"{e.model} on {numbers.brief(e.data)}; fedspill {e.fedspill}, torch {e.torch}, {e.device_name}"
    return f"{text_of(where)}, {numbers.duration(e.seconds)}. This holds for what was audited, and for nothing else."
