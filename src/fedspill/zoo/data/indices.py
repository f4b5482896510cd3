"""Which examples of a source: "0:100", "3,7,12", "0:10,50"."""

import re
from collections import Counter
from collections.abc import Sequence

from fedspill.core.errors import BadInput

_PART = re.compile(r"(\d{1,18})(?::(\d{1,18})(?::(\d{1,18}))?)?", re.ASCII)


def parse_indices(given: str | Sequence[int] | None, total: int) -> list[int]:
    """Positions in the order given; None means all.

    A range is first:end or first:end:step, the end not included.

    Raises:
        BadInput: another notation, no position, one named twice, or one outside 0..total-1.
    """
    if given is None:
        parts: list[Sequence[int]] = [range(total)]
    elif isinstance(given, str):
        parts = [_part(piece.strip(), given) for piece in given.split(",")]
    else:
        parts = [[int(k) for k in given]]
    outside = [k for part in parts for k in _ends(part) if not 0 <= k < total]
    if outside:
        raise BadInput(f"index {outside[0]} is out of range: the data has {total} examples, 0 to {total - 1}")
    places = [k for part in parts for k in part]
    if not places:
        raise BadInput(f"indices={given!r} name no example of {total}")
    twice, times = Counter(places).most_common(1)[0]
    if times > 1:
        raise BadInput(f"indices={given!r} name example {twice} twice")
    return places


def _ends(part: Sequence[int]) -> Sequence[int]:
    """The positions that are outside first: of a range its ends, which may lie far apart."""
    return (part[0], part[-1]) if isinstance(part, range) and part else part


def _part(text: str, whole: str) -> range:
    match = _PART.fullmatch(text)
    if match is None or (match[3] and not int(match[3])):
        raise BadInput(f"indices={whole[:80]!r}: {text[:80]!r} is no position and no range such as 0:100")
    first = int(match[1])
    if match[2] is None:
        return range(first, first + 1)
    if int(match[2]) <= first:
        raise BadInput(f"indices={whole[:80]!r}: the range {text[:80]!r} is empty")
    return range(first, int(match[2]), int(match[3] or 1))
