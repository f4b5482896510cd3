"""Which examples of a source: "0:100", "3,7,12", "0:10,50"."""

import re
from collections.abc import Sequence

from fedspill.core.errors import BadInput

_PART = re.compile(r"(\d+)(?::(\d+)(?::(\d+))?)?")


def parse_indices(given: str | Sequence[int] | None, total: int) -> list[int]:
    """Positions in the order given; None means all.

    A range is first:end or first:end:step, the end not included.

    Raises:
        BadInput: another notation, no position, one named twice, or one outside 0..total-1.
    """
    if given is None:
        places = list(range(total))
    elif isinstance(given, str):
        places = [k for piece in given.split(",") for k in _part(piece.strip(), given)]
    else:
        places = [int(k) for k in given]
    outside = [k for k in places if not 0 <= k < total]
    if outside:
        raise BadInput(f"index {outside[0]} is out of range: the data has {total} examples, 0 to {total - 1}")
    if not places:
        raise BadInput(f"indices={given!r} name no example of {total}")
    if len(set(places)) < len(places):
        twice = next(k for k in places if places.count(k) > 1)
        raise BadInput(f"indices={given!r} name example {twice} twice")
    return places


def _part(text: str, whole: str) -> range:
    match = _PART.fullmatch(text)
    if match is None or match[3] == "0":
        raise BadInput(f"indices={whole!r}: {text!r} is no position and no range such as 0:100")
    first = int(match[1])
    if match[2] is None:
        return range(first, first + 1)
    if int(match[2]) <= first:
        raise BadInput(f"indices={whole!r}: the range {text!r} is empty")
    return range(first, int(match[2]), int(match[3] or 1))
