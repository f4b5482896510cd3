"""All that was recorded, as Markdown."""

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from benchmarks.vetting.honest import STORED
from benchmarks.vetting.thresholds import (
    SHIPPED,
    VIEWS,
    Case,
    Levels,
    Rate,
    held,
    kind,
    left_out,
    rate,
    reasons,
    tampering,
)

LAST = list(VIEWS)[-1]
DATA_VIEW = list(VIEWS)[1]
"""The views of which the table of tricks, and that of left-out tamperings, is."""


def markdown(cases: Sequence[Case]) -> str:
    """Everything, of the cases that are there."""
    parts = [_told(cases), _rates(cases), _by_kind(cases), _tricks(cases), _crossed(cases)]
    parts += [_tamperings(cases), _entropy(cases), _missed(cases), _false(cases)]
    return "\n".join(line for part in parts for line in (*part, ""))


def other(case: Case, levels: dict[str, Levels]) -> Levels:
    """Those that were chosen on the half that a case is not of."""
    return levels["B" if case["half"] == "A" else "A"]


def levels_of(cases: Sequence[Case]) -> dict[str, Levels]:
    """By half."""
    return {half: held(cases, half) for half in "AB"}


def across(cases: Sequence[Case], some: Sequence[Case], view: str = LAST) -> Rate:
    """Some of the cases, by the levels of the half that each is not of."""
    levels = levels_of(cases)
    return Rate(sum(bool(reasons(c, other(c, levels), VIEWS[view])) for c in some), len(some))


def _told(cases: Sequence[Case]) -> Iterator[str]:
    counts, seconds = Counter(c["kind"] for c in cases), sum(c.get("seconds", 0) for c in cases)
    nets = {half: sorted({c["network"] for c in cases if c.get("half") == half}) for half in "AB"}
    yield (
        f"{counts['honest']} honest and {counts['planted']} planted models ({counts['not applicable']} combinations do"
        f" not fit), {seconds / 60:.0f} processor minutes of one thread on a shared machine. Half A:"
        f" {', '.join(nets['A'])}; half B: {', '.join(nets['B'])}."
    )


def _rates(cases: Sequence[Case]) -> Iterator[str]:
    yield "| what the client has | levels | found | false alarms |"
    yield "|---|---|---|---|"
    honest, planted = kind(cases, "honest"), kind(cases, "planted")
    for view, looks in VIEWS.items():
        yield f"| {view} | as shipped | {rate(planted, SHIPPED, looks)} | {rate(honest, SHIPPED, looks)} |"
        for half, rest in (("A", "B"), ("B", "A")):
            levels = held(cases, half)
            hit, false = (rate(kind(cases, k, rest), levels, looks) for k in ("planted", "honest"))
            yield f"| {view} | of half {half}, tried on half {rest} | {hit} | {false} |"


def _by_kind(cases: Sequence[Case]) -> Iterator[str]:
    levels, looks = levels_of(cases), VIEWS[LAST]
    yield "| stored as | honest | false alarms as shipped | by what | by the other half's levels | by what |"
    yield "|---|---|---|---|---|---|"
    for stored in STORED:
        some = [c for c in kind(cases, "honest") if c["stored"] == stored]
        ours = Counter(r for c in some for r in reasons(c, SHIPPED, looks))
        held_out = Counter(r for c in some for r in reasons(c, other(c, levels), looks))
        told, anew = rate(some, SHIPPED, looks).hits, across(cases, some).hits
        yield f"| {stored} | {len(some)} | {told} | {_list(ours)} | {anew} | {_list(held_out)} |"


def tricks(cases: Sequence[Case]) -> Iterator[tuple[str, Rate, float]]:
    """Every trick, how often its plants were found by the other half's levels, and the mean share still read."""
    planted = kind(cases, "planted")
    for trick in dict.fromkeys(["plain", *(c["trick"] for c in planted)]):
        some = [c for c in planted if c["trick"] == trick]
        if some:
            yield trick, across(cases, some), _read(some)


def _read(some: Sequence[Case]) -> float:
    known = [c["read"] / c["of"] for c in some if c["read"] is not None]
    return fmean(known) if known else float("nan")


def _tricks(cases: Sequence[Case]) -> Iterator[str]:
    yield "| hidden by | found by the other half's levels | found, without the agreed network | still read |"
    yield "|---|---|---|---|"
    planted = kind(cases, "planted")
    for trick, found, read in tricks(cases):
        data = across(cases, [c for c in planted if c["trick"] == trick], DATA_VIEW)
        yield f"| {trick} | {found} | {data.hits} of {data.of} | {read:.0%} of the examples |"


def _crossed(cases: Sequence[Case]) -> Iterator[str]:
    yield "| of the planted models, hidden or not | models | found by the other half's levels | missed are |"
    yield "|---|---|---|---|"
    levels, planted = levels_of(cases), kind(cases, "planted")
    for words, some in (
        ("the attack still reads an example or more", [c for c in planted if c["read"]]),
        ("it reads none", [c for c in planted if c["read"] == 0]),
        ("it did not end in time", [c for c in planted if c["read"] is None]),
    ):
        missed = Counter(tampering(c) for c in some if not reasons(c, other(c, levels), VIEWS[LAST]))
        yield f"| {words} | {len(some)} | {across(cases, some)} | {_list(missed)} |"


def _tamperings(cases: Sequence[Case]) -> Iterator[str]:
    yield "| tampering, left out when levels were chosen | found with 8 own examples | found with all | still read |"
    yield "|---|---|---|---|"
    planted = kind(cases, "planted")
    for name in sorted({tampering(c) for c in planted}):
        some = [c for c in planted if tampering(c) == name]
        data, every = (left_out(cases, name, VIEWS[v]) for v in (DATA_VIEW, LAST))
        yield f"| {name} | {data} | {every.hits} of {every.of} | {_read(some):.0%} |"


def _entropy(cases: Sequence[Case]) -> Iterator[str]:
    yield "| model | mean entropy of kernels and rows | lowest | below 0.8 | highest of these |"
    yield "|---|---|---|---|---|"
    for c in cases:
        if c["kind"] == "entropy":
            name = c["case"].removeprefix("entropy/")
            yield f"| {name} | {c['mean']:.3f} | {c['lowest']:.3f} | {c['low']:.1%} | {c['highest_low']:.3f} |"


def _missed(cases: Sequence[Case]) -> Iterator[str]:
    levels, rows = levels_of(cases), dict[tuple[str, str, str], list[Any]]()
    for c in kind(cases, "planted"):
        if not reasons(c, other(c, levels), VIEWS[LAST]):
            rows.setdefault((c["entry"], c["network"], c["made"]), []).append(c)
    yield "| missed, with everything at hand | host | tricks (examples still read of 8) |"
    yield "|---|---|---|"
    for (entry, network, made), some in sorted(rows.items()):
        told = ", ".join(f"{c['trick']} ({'not measured' if c['read'] is None else c['read']})" for c in some)
        yield f"| {entry} | {network}, {made} | {told} |"


def _false(cases: Sequence[Case]) -> Iterator[str]:
    levels = levels_of(cases)
    yield "| honest, and told | as shipped | by the other half's levels |"
    yield "|---|---|---|"
    for c in kind(cases, "honest"):
        ours, held_out = (reasons(c, lv, VIEWS[LAST]) for lv in (SHIPPED, other(c, levels)))
        if ours or held_out:
            name = c["case"].removeprefix("honest/").replace("/", ", ")
            yield f"| {name} | {', '.join(ours) or '-'} | {', '.join(held_out) or '-'} |"


def _list(counts: Counter[str]) -> str:
    return ", ".join(f"{rule} ({n})" for rule, n in counts.most_common()) or "-"
