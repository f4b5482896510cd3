"""One verdict line for each kind of server, as every view says it."""

from dataclasses import dataclass

from fedspill.core.knowledge import Knows
from fedspill.core.types import ServerRole
from fedspill.rendering import numbers
from fedspill.rendering.headline.words import WORDS, VerdictWords
from fedspill.report.schema import AuditReport, RoleVerdict, WorstExample

TITLES = {
    ServerRole.HONEST_BUT_CURIOUS.value: "a server that keeps to the protocol and looks at what arrives",
    ServerRole.MALICIOUS_PARAMETERS.value: "a server that alters the weights that it sends",
    ServerRole.MALICIOUS_ARCHITECTURE.value: "a server that adds layers to the model that it sends",
}
"""What each kind of server does, for people who do not know the field's words."""

KNOWLEDGE = {
    Knows.NUM_EXAMPLES.value: "how many examples an update is of",
    Knows.LABELS.value: "their labels",
    Knows.LOCAL_TRAINING.value: "how the clients train",
    Knows.PUBLIC_DATA.value: "public examples of the same kind",
    Knows.BN_STATISTICS.value: "BatchNorm's statistics of the private batch",
    Knows.DRAWS.value: "what the clients drew at random",
    Knows.DEFENCE.value: "what the clients do to their updates",
}
"""What each grant lets a server know."""


@dataclass(frozen=True)
class RoleRow:
    """The verdict against one kind of server, in words; every text stands by itself.

    Attributes:
        title: what such a server does.
        attack: the strongest one; empty if none was run.
        worst: the example that it came closest to, by its score.
        example: of the data and its update.
        shown: the example and the trial, of which there may be a picture.
    """

    role: str
    title: str
    words: VerdictWords
    attack: str
    planted: str
    assumed: str
    worst: str
    example: str
    share: str
    seconds: str
    shown: WorstExample | None

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """What a verdict rests on, each with its name; of a server that nothing was run for, that."""
        if not self.attack:
            return (("Strongest attack", "none was run"),)
        return (
            ("Strongest attack", self.attack),
            ("Planted", self.planted),
            ("Assumed to know", self.assumed),
            ("Worst example", f"{self.worst}, {self.example}" if self.shown else self.worst),
            ("Leaked", self.share),
            ("Time", self.seconds),
        )

    @property
    def line(self) -> str:
        """All of it in one line."""
        said = "; ".join(f"{name.lower()}: {text}" for name, text in self.facts)
        return f"{self.words.word}: {self.role} server; {said}"


def role_rows(report: AuditReport) -> list[RoleRow]:
    """One row for each kind of server, the least demanding first; none of a report of before there were such."""
    return [_row(verdict) for verdict in report.verdict.by_role]


def title_of(role: str) -> str:
    """What a kind of server does."""
    return TITLES.get(role, f"a server of {role}")


def _row(verdict: RoleVerdict) -> RoleRow:
    worst, share = verdict.worst, verdict.share
    return RoleRow(
        role=verdict.role,
        title=title_of(verdict.role),
        words=WORDS[verdict.name],
        attack=verdict.attack or "",
        planted=verdict.planted or "nothing",
        assumed=", ".join(known(name) for name in verdict.assumed) or "the model that it sent, and no more",
        worst="none was scored" if worst is None else score_of(worst),
        example="" if worst is None else f"example {worst.example} of update {worst.update}",
        share="not judged" if share is None else numbers.rate(share),
        seconds=numbers.duration(verdict.seconds),
        shown=worst,
    )


def known(grant: str) -> str:
    """A grant in words that need no plan beside them."""
    return KNOWLEDGE.get(grant.replace(" ", "_"), grant.replace("_", " "))


def score_of(worst: WorstExample) -> str:
    """The score of a worst example, with its metric and unit."""
    return f"{numbers.metric_name(worst.metric)} {numbers.score(worst.metric, worst.value, worst.unit)}"
