"""Which labels are behind a gradient where none were granted, and which of them speak: few guesses, then the equations.

A wrong multiset leaves a residual far above rounding, so that a guess is confirmed or refuted blind.
"""

import heapq
from collections.abc import Callable, Iterator
from itertools import combinations, islice

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHOICES = 2000
"""Ways to choose the examples that speak which are ranked at most."""


def likely_multisets(expected: Float[Tensor, " classes"], count: int, first: Tensor | None) -> Iterator[Tensor]:
    """Multisets of labels, the likeliest first: those whose counts are nearest to what is expected of each class.

    Args:
        expected: examples of each class as the bias's gradient tells them, no whole numbers.
        count: examples in all.
        first: labels that were inferred otherwise, and come first.
    """
    classes = len(expected)
    wanted = expected.tolist()
    seen = set[tuple[int, ...]]()
    heap = list[tuple[float, tuple[int, ...]]]()

    def push(counts: tuple[int, ...]) -> None:
        if min(counts) >= 0 and counts not in seen:
            seen.add(counts)
            heapq.heappush(heap, (sum((c - w) ** 2 for c, w in zip(counts, wanted, strict=True)), counts))

    if first is not None:
        yield first.sort().values
        seen.add(tuple(torch.bincount(first, minlength=classes).tolist()))
    push(_nearest(expected, count))
    if first is not None:
        _neighbours(tuple(torch.bincount(first, minlength=classes).tolist()), push)
    while heap:
        _, counts = heapq.heappop(heap)
        yield torch.repeat_interleave(torch.tensor(counts, device=expected.device))
        _neighbours(counts, push)


def _neighbours(counts: tuple[int, ...], push: Callable[[tuple[int, ...]], None]) -> None:
    for lost in (k for k, c in enumerate(counts) if c > 0):
        for won in range(len(counts)):
            if won != lost:
                moved = list(counts)
                moved[lost] -= 1
                moved[won] += 1
                push(tuple(moved))


def _nearest(expected: Tensor, count: int) -> tuple[int, ...]:
    counts = torch.zeros_like(expected, dtype=torch.long)
    for _ in range(count):
        counts[(expected - counts).argmax()] += 1
    return tuple(counts.tolist())


def speakers(rows: Float[Tensor, "classes k"], labels: Int[Tensor, " n"], heard: int) -> Iterator[Int[Tensor, " n"]]:
    """The batch's labels in orders whose first `heard` are those that may speak, the likeliest choice first.

    An example of which the network is sure sends little; the row of its class is then short.
    """
    if heard == len(labels):
        yield labels
        return
    loud = rows.norm(dim=1)[labels]
    order = loud.argsort(descending=True)
    ranked = islice(combinations(range(len(labels)), heard), CHOICES)
    met = set[tuple[int, ...]]()
    for chosen in sorted(ranked, key=lambda c: -float(loud[order[list(c)]].sum())):
        speaking = labels[order[list(chosen)]].sort().values
        key = tuple(speaking.tolist())
        if key not in met:
            met.add(key)
            rest = [k for k in range(len(labels)) if k not in chosen]
            yield torch.cat([speaking, labels[order[rest]]])
