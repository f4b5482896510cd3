"""What the options of `fedspill sweep` mean: the engine, and its size."""

import re
from collections.abc import Callable

from fedspill.core.errors import BadInput
from fedspill.core.memory import UNITS
from fedspill.plan.build import pick_device
from fedspill.sweeping.engines.engine import Engine
from fedspill.sweeping.engines.here import Here
from fedspill.sweeping.engines.local import FIRST_GUESS, Local, cores
from fedspill.sweeping.engines.on_ray import OnRay


def chosen_engine(
    engine: str, device: str, *, workers: int | None, memory: str | None, gpus: float, address: str | None
) -> Callable[[], Engine]:
    """What makes the engine once there is something to run.

    Raises:
        BadInput: an option is of the other engine, or is no size.
    """
    size = None if memory is None else bytes_of(memory)
    if engine == "ray":
        return lambda: OnRay(device, address=address, cpus=workers, gpus=gpus, memory=size)
    given = [name for name, value in (("--gpus", gpus), ("--address", address)) if value]
    if given:
        raise BadInput(f"{given[0]} is of --engine ray; leave it out, or give both")
    on_card = pick_device(device).type == "cuda"
    if workers == 0:
        return lambda: Here(device)
    most = workers or (1 if on_card else cores())  # a card is shared only by who asks for it
    return lambda: Local(device, most, size or FIRST_GUESS)


def bytes_of(text: str) -> int:
    """A size such as "2GB" or "500 MB", in bytes.

    Raises:
        BadInput: it is none, or not above 0.
    """
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([KMGT]?B)\s*", text, re.IGNORECASE)
    size = 0 if match is None else int(float(match[1]) * 1000 ** UNITS.index(match[2].upper()))
    if size <= 0:
        raise BadInput(f"--memory {text[:80]!r} is no size; write for example 500MB or 2GB")
    return size
