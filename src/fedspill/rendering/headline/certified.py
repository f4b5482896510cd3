"""What attacks read verbatim by their own word, without the private data, attack by attack."""

from collections.abc import Sequence

from fedspill.rendering import facts, numbers
from fedspill.report.certified import Certified
from fedspill.report.schema import AuditReport

MOST = 6
"""Attacks that are named; all stand in report.json."""


def certified_lines(report: AuditReport) -> tuple[str, ...]:
    """A sentence for each attack that claims records, those that certify the most first; () if none does.

    Objectives are left out: that one fell below the level which the attack states is no certificate.
    """
    found = [(g.label, claims) for g in facts.attack_groups(report) if (claims := _claims(g))]
    ranked = sorted(found, key=lambda pair: -sum(c.records for c in pair[1]))
    lines = [f"{label}: {together(claims).sentence()}" for label, claims in ranked[:MOST]]
    rest = len(ranked) - len(lines)
    return (*lines, *([f"{numbers.count(rest, 'more attack')} in report.json"] if rest > 0 else []))


def _claims(group: facts.AttackGroup) -> list[Certified]:
    return [c for t in group.ran if (c := t.certified) is not None and c.basis == "certificate"]


def together(claims: Sequence[Certified]) -> Certified:
    """The sum over trials of one attack; what was measured of it is the same in each."""
    first, known = claims[0], [c.verbatim for c in claims if c.verbatim is not None]
    sizes = [c.of for c in claims if c.of is not None]
    return first.model_copy(
        update={
            "records": sum(c.records for c in claims),
            "of": sum(sizes) if len(sizes) == len(claims) else None,
            "verbatim": sum(known) if len(known) == len(claims) else None,
        }
    )
