"""What is said of a tested filter chain, in sentences."""

from collections.abc import Sequence

from fedspill.core.roles import Exposed
from fedspill.report.filtering import Filtering

NO_PROOF = (
    "Epsilon is that of what was seen: if the code does something else for another update, it does not hold. What these"
    " attacks do not read is not safe for that."
)
SHARES = ("one NaN", "one infinity", "all zeros")


def headline(done: Filtering) -> str:
    """One line: whether to rely on the chain, and how many findings there are."""
    alarms, notes = len(done.alarms), len(done.findings) - len(done.alarms)
    more = f", {_count(notes, 'note')}" if notes else ""
    if alarms:
        return f"Do not rely on {done.source}: {_count(alarms, 'alarm')}{more}."
    return f"Nothing broken was seen in {done.source}: no alarm{more}."


def scope(done: Filtering) -> str:
    """What was pushed, and through what."""
    return (
        f"{_count(done.pushes, 'push')} of the update of {_count(done.examples, 'example')} to a {done.model}, and its"
        f" multiples, through {' > '.join(done.steps)}; {done.seconds:.1f} s of processor time."
    )


def what_left(done: Filtering) -> str:
    """The cosine of the whole, and the noise's law."""
    if done.cosine is None:
        return "Nothing left the client that could be compared."
    law = f"; the noise is {done.law}" if done.law else ""
    return f"Cosine of what left with what was pushed: {done.cosine:.3g}{law}."


def odd(done: Filtering) -> str:
    """What became of updates that no client should send."""
    told = [f"{name}: {done.odd[name]}" for name in SHARES if name in done.odd]
    return f"Pushed besides: {'; '.join(told)}." if told else ""


def privacy(done: Filtering) -> str:
    """Epsilon, or that there is none; and what the chain claims."""
    claimed = f" ({done.privacy.claimed})" if done.privacy.claimed else ""
    return f"Privacy: {done.privacy.text}{claimed}."


def servers(done: Filtering) -> dict[str, Sequence[Exposed]]:
    """Who attacked what, in a column's heading."""
    told: dict[str, Sequence[Exposed]] = {"before the chain": done.before, "after it": done.after}
    told |= {"knowing it": done.knowing} if done.knowing else {}
    return told | ({f"by the mean of {done.pushes} answers": done.averaged} if done.averaged else {})


def leakage(done: Filtering) -> list[tuple[str, ...]]:
    """A row per attack: its name, and what it rebuilt for each of `servers`."""
    columns = servers(done).values()
    names = dict.fromkeys(one.attack for attacks in columns for one in attacks)
    return [(name, *(_read(attacks, name) for attacks in columns)) for name in names]


def criterion(done: Filtering) -> str:
    """What counts as rebuilt, and what the closest values are."""
    said = next((one.criterion for one in (*done.before, *done.after) if one.criterion), "")
    return f"Rebuilt is: {said}." if said else "No attack came to an end."


def _read(attacks: Sequence[Exposed], name: str) -> str:
    for one in attacks:
        if one.attack == name:
            if one.failed:
                return one.failed
            closest = "" if one.closest is None else f", closest {one.closest:.3g}"
            return f"{int(one.read.sum())} of {len(one.read)}{closest}"
    return "does not apply"


def _count(number: int, what: str) -> str:
    plural = f"{what}es" if what.endswith("sh") else f"{what}s"
    return f"{number} {what if number == 1 else plural}"
