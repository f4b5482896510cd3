"""What the attack still reads of the client's examples, blind: by its own readout, or else by a closed form."""

import time
from dataclasses import dataclass

from fedspill import catalogue
from fedspill.auditing.exposure import judged
from fedspill.auditing.isolated import OnIsolated
from fedspill.core.errors import FedspillError
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import Attack, Isolates
from fedspill.core.types import Batch
from fedspill.core.watching.clock import Clock, OutOfTime

SECONDS = 4.0
"""Of the processor, for one reading."""
OTHERWISE = "linear_layer:strong"
"""What attacks where a tampering brings no readout."""


@dataclass(frozen=True)
class Read:
    """How many of the examples were read, None if nobody could say, and by whom or why not."""

    examples: int | None
    by: str


def within(seconds: float) -> Clock:
    """Work that `OutOfTime` ends after so many seconds of the processor."""
    end = time.process_time() + seconds
    return Clock(lambda: time.process_time() >= end)


def read(model: Model, readout: Attack | None, batch: Batch) -> Read:
    """One FedSGD update of the batch by the model, attacked."""
    attack, by = _attack(readout)
    update = local_update(model, batch, FedSGD())
    knowledge = ServerKnowledge(model, 1, len(batch), None, FedSGD())
    try:
        with within(SECONDS):
            rebuilt = attack.reconstruct(update, knowledge, stream(0, "attack"))
    except OutOfTime:
        return Read(None, f"{by}: more than {SECONDS:g} s")
    except FedspillError as error:
        return Read(0, f"{by}: {error}"[:200])
    if len(rebuilt.inputs) == 0:
        return Read(0, by)
    found, _, _ = judged(rebuilt, batch, model)
    return Read(int(found.sum()), by)


def _attack(readout: Attack | None) -> tuple[Attack, str]:
    """Of a readout that isolates an update of fewer examples its search is left out, which takes minutes."""
    closed = catalogue.attacks()["linear_layer"].presets["strong"]
    if isinstance(readout, Isolates):
        return OnIsolated(closed, readout), f"{OTHERWISE} on what it isolates"
    return (readout, "its own readout") if readout else (closed, OTHERWISE)
