"""Which shifted copies of the picture the channels of a strided network should carry.

A layer with a total stride S sees one pixel per S x S cell in each channel; a channel that carries a copy shifted by
(y, x) sees another pixel of the cell. With more channels than colours a grid of rows x columns is seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt


@dataclass(frozen=True)
class Offsets:
    """The pixels of one cell that are carried: every row with every column.

    Attributes:
        rows: in [0, cell), ascending.
        columns: in [0, cell), ascending.
        cell: the total stride, in pixels.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    cell: int

    def pairs(self) -> list[tuple[int, int]]:
        """All of them, row by row."""
        return [(row, column) for row in self.rows for column in self.columns]


def thinned(places: Sequence[int], cell: int, count: int, keep: Sequence[int] = ()) -> tuple[int, ...]:
    """The places thinned to at most `count` (at least those to keep), as even as can be in a repeating cell.

    The one whose loss leaves the smallest gap goes first.
    """
    remaining = sorted(places)
    while len(remaining) > count and set(remaining) - set(keep):
        gaps = {
            p: (remaining[(i + 1) % len(remaining)] - remaining[i - 1]) % cell or cell for i, p in enumerate(remaining)
        }
        remaining.remove(min((p for p in remaining if p not in keep), key=lambda p: (gaps[p], -p)))
    return tuple(remaining)


def widened(
    before: Offsets, stride: int, steps: Sequence[int], *, room: int, branch: int, keep: bool = False
) -> Offsets:
    """The grid behind a strided block whose shortcut sees only the first phase of every `stride` positions.

    Args:
        before: what enters the block.
        stride: of the block, in its own positions.
        steps: the phases that the main branch can reach, besides 0.
        room: shifted copies that the output has channels for.
        branch: of these, how many the main branch can carry.
        keep: the shortcut hands everything on, so that it must be carried.
    """
    cell, phases = before.cell * stride, [0, *(s for s in steps if 0 < s < stride)]
    rows, columns = ([p + before.cell * s for s in phases for p in axis] for axis in (before.rows, before.columns))
    counts = balanced(len(rows), len(columns), room)
    while True:
        after = Offsets(
            thinned(rows, cell, counts[0], before.rows if keep else ()),
            thinned(columns, cell, counts[1], before.columns if keep else ()),
            cell,
        )
        load = len(set(after.pairs()) - set(before.pairs()))
        if load <= branch:
            return after
        if max(counts) == 1:
            return Offsets(before.rows[:1], before.columns[:1], cell)
        counts = (counts[0] - 1, counts[1]) if counts[0] >= counts[1] else (counts[0], counts[1] - 1)


def balanced(rows: int, columns: int, room: int) -> tuple[int, int]:
    """The largest grid with at most `room` places, as square as it can be."""
    first = min(rows, isqrt(room))
    second = min(columns, room // first)
    return min(rows, room // second), second
