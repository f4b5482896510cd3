"""Who gets how much of a budget: closed forms first, then the searches of `standard` by what they gain.

What one leaves goes to those that come after.
"""

from collections.abc import Sequence

from torch import nn

from fedspill.auditing.trial import Task
from fedspill.auditing.watch import USEFUL
from fedspill.core.roles import Searches

INFORMED = ("nex", "tableak", "disaggregated_inversion")
"""What mostly reads, and what searches with all that was read."""
IN_ORDER = (
    *INFORMED,
    "cocktail_party",
    "inverting_gradients",
    "idlg",
    "dlg",
    "gias",
    "grad_inversion",
    "rgap",
    "maui",
)
"""Searches in turn, others after them: what reads, then by what they gain within a budget, as measured
(benchmarks/results/gains.md); what trains networks comes last. Examples and protocol changed nowhere who is first."""
IN_ORDER_FULLY_CONNECTED = (
    *INFORMED,
    "cocktail_party",
    "idlg",
    "inverting_gradients",
    "rgap",
    "dlg",
    "gias",
    "grad_inversion",
    "maui",
)
"""The same of fully connected networks, where an iteration is cheap and L-BFGS closes in on the images."""
READ_FIRST = ("robbing_the_fed",)
"""Of the readouts the one that reads batches from any network: each world asks its clients anew, which takes time."""
FIRST = 2 / 3
"""Of what is left, for the next search of `standard` while others wait."""
BRIEF = 1 / 4
"""For one that mostly reads, and is done in seconds where it succeeds."""
CLOSED = 1 / 2
"""For one closed form while others wait: a ceiling, of which it seldom needs a hundredth."""
READS = frozenset({"nex", "cocktail_party"})
OF_ONE = frozenset({"rgap"})
"""What refuses more than one example, so that no time is kept for it there."""
LONG_READING = frozenset({"softmax_disaggregation"})
"""Of closed forms those that may take all that they get: briefly, so that a search is left its time."""
OF_ITS_OWN = "disaggregated_inversion"
"""Its iterations compare activations besides, which takes several times as long: no other search goes by them."""
USEFUL_OF_ITS_OWN = 0.25
"""Share of its iterations below which it is no use: with fewer, the gradient alone gets further in the same time."""


def is_fully_connected(module: nn.Module) -> bool:
    """Whether all that holds parameters is a linear layer or a norm."""
    holders = [m for m in module.modules() if any(True for _ in m.parameters(recurse=False))]
    return bool(holders) and all(isinstance(m, nn.Linear | nn.BatchNorm1d | nn.LayerNorm) for m in holders)


def in_turn(tasks: Sequence[Task], *, fully_connected: bool = False) -> list[Task]:
    """Closed forms first, then searches by their rank; every update gets a first answer before any gets a second."""
    return sorted(tasks, key=lambda task: _turn(task, IN_ORDER_FULLY_CONNECTED if fully_connected else IN_ORDER))


def _turn(task: Task, searches: Sequence[str]) -> tuple[bool, int]:
    world, order = task.world, searches if task.world.card.iterative else READ_FIRST
    if world.explicit:
        return world.card.iterative, -1
    return world.card.iterative, order.index(world.name) if world.name in order else len(order)


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
    if first.card.iterative:
        return (BRIEF if first.name in READS else FIRST) * count / alike
    return (BRIEF if first.name in LONG_READING else CLOSED) * count / alike


def least_useful(name: str) -> float:
    """Share of a search's iterations below which `standard` does not start it while another may be of use."""
    return USEFUL_OF_ITS_OWN if name == OF_ITS_OWN else USEFUL


def refuses(task: Task, examples: int | None) -> bool:
    """Whether it is known beforehand that a search does not take so many examples; None are not granted."""
    return task.world.name in OF_ONE and examples not in (None, 1)


def hopeless(coming: Sequence[Task], useful: float, after: float) -> dict[str, float]:
    """Later searches of `standard` that cannot be of use in what is left for them: seconds that one of each needs.

    Args:
        coming: the first of them is running.
        useful: seconds that a useful part of the running one takes, as measured.
        after: seconds that are left for the others.
    """
    running, needs = coming[0].world, dict[str, float]()
    if not isinstance(running.component, Searches) or running.name == OF_ITS_OWN:
        return needs
    second = useful / (USEFUL * running.component.evaluations())
    for world in {task.world.label: task.world for task in coming}.values():
        if world.label == running.label or world.explicit or not isinstance(world.component, Searches):
            continue
        need = USEFUL * world.component.evaluations() * second
        if need * sum(task.world.label == world.label for task in coming) > after:
            needs[world.label] = need
    return needs
