"""What is said of a vetted model before its findings: in one line, and against whom it holds."""

from fedspill.report.vetting import Judged, Vetting

THREAT = (
    "Threat model: a server that plants something in the model before clients train on it, so that their updates show"
    " their examples."
)
NO_PROOF = "What these checks do not see is not safe for that: a server that trains a leaking head plants nothing odd."


def headline(vetting: Vetting) -> str:
    """One line: whether to train on it, and how many findings there are of which kind."""
    kinds = [level(judged) for judged in vetting.findings]
    notes, accepted, alarms = (kinds.count(kind) for kind in ("note", "accepted", "alarm"))
    more = f", {_count(notes, 'note')}" if notes else ""
    more += f", {accepted} accepted before" if accepted else ""
    if alarms:
        return f"Do not train on {vetting.source}: {_count(alarms, 'alarm')}{more}."
    return f"Nothing planted was seen in {vetting.source}: no alarm{more}."


def scope(vetting: Vetting) -> str:
    """What the verdict rests on, and what more could be compared."""
    beside = f" beside {' and '.join(vetting.compared)}" if vetting.compared else ""
    lacking = f" Not given, and so not compared: {', '.join(vetting.missing)}." if vetting.missing else ""
    data = f"{vetting.examples} examples were used" if vetting.examples else "no data was used"
    reasons = dict.fromkeys(vetting.skipped.values())
    skipped = "".join(
        f" Not run: {', '.join(n for n, w in vetting.skipped.items() if w == why)} ({why})." for why in reasons
    )
    return (
        f"{vetting.parameters:,} weights were looked at{beside}, in {vetting.seconds:.1f} s; {data}.{lacking}{skipped}"
    )


def tally(vetting: Vetting) -> str:
    """How many findings there are, and by what."""
    return f"{_count(len(vetting.findings), 'finding')} in {vetting.source} by {', '.join(vetting.checks)}."


def consequences(vetting: Vetting) -> list[tuple[str, str]]:
    """For each reason that was found, what could be read because of it and from whom, and what to do."""
    told = dict[str, str]()
    for judged in vetting.findings:
        said = " ".join(part for part in (judged.finding.reads, judged.finding.advice) if part)
        if said:
            told.setdefault(judged.finding.check, said)
    return list(told.items())


def checksum(vetting: Vetting) -> str:
    """The digest, to compare among clients."""
    return f"Checksum of the weights: {vetting.checksum}. Compare it with another client's, not through the server."


def level(judged: Judged) -> str:
    """Alarm, accepted or note."""
    return "alarm" if judged.alarm else "accepted" if judged.accepted else "note"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"
