"""Who gets how much of a budget: closed forms first, then the searches of `standard` in the order of what they gain.

What one leaves goes to those that come after.
"""

from collections.abc import Sequence

from fedspill.auditing.trial import Task

IN_ORDER = ("nex", "inverting_gradients", "idlg", "dlg", "maui")
"""Searches by what a second of each gains where it fits, as measured (docs/performance.md); others come after."""
FIRST = 2 / 3
"""Of what is left, for the next search of `standard` while others wait."""
BRIEF = 1 / 4
"""For one that mostly reads, and is done in seconds where it succeeds."""
CLOSED = 1 / 2
"""For one closed form while others wait: a ceiling, of which it seldom needs a hundredth."""
READS = frozenset({"nex"})


def in_turn(tasks: Sequence[Task]) -> list[Task]:
    """Closed forms first, then searches by their rank; every update gets a first answer before any gets a second."""
    return sorted(tasks, key=_turn)


def _turn(task: Task) -> tuple[bool, int]:
    world = task.world
    ranked = not world.explicit and world.name in IN_ORDER
    rank = IN_ORDER.index(world.name) if ranked else len(IN_ORDER)
    return world.card.iterative, rank if not world.explicit else -1


def share(count: int, coming: Sequence[Task]) -> float:
    """The share of what is left of the budget that `count` tasks get, the first of those that are coming.

    Tasks that the plan names share equally; those of `standard` as said above, all of one attack alike.
    """
    first = coming[0].world
    if first.explicit:
        return count / len(coming)
    alike = sum(task.world.label == first.label for task in coming)
    if alike == len(coming):
        return count / len(coming)
    search = BRIEF if first.name in READS else FIRST
    return (search if first.card.iterative else CLOSED) * count / alike
