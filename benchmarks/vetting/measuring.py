"""One case: what every check says of a model, how far up its ladder, and what the attack reads. Bounded in seconds."""

import time
from collections.abc import Iterator, Mapping
from typing import Any
from zlib import crc32

from benchmarks.vetting import honest, plants, worlds
from benchmarks.vetting.dials import BEFORE, DIALS, fixed, lacking, rungs
from benchmarks.vetting.reading import read, within
from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.model import Model
from fedspill.core.roles import Incoming
from fedspill.core.types import Batch
from fedspill.core.watching.clock import OutOfTime

MAY_LACK = {name for name, dial in DIALS.items() if dial.looks == BEFORE}
SECONDS = 20.0
"""Of the processor, to make a plant."""


def cases() -> Iterator[honest.Honest | plants.Plant]:
    """Every case, in an order that mixes all kinds, so that a part of a run is a sample of it."""
    every: list[honest.Honest | plants.Plant] = [*honest.cases(), *plants.cases()]
    yield from sorted({c.name: c for c in every}.values(), key=lambda c: crc32(c.name.encode()))


def filled(case: honest.Honest | plants.Plant, record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with the rungs of dials that were made after it; itself if it lacks none."""
    if "rungs" not in record or not set(DIALS) - set(record["rungs"]) - MAY_LACK:
        return dict(record)
    model, before = case.models() if isinstance(case, honest.Honest) else case.sent()[::2]
    incoming = Incoming(model, previous=before, own_data=worlds.own(case.name))
    return {**record, "rungs": {**record["rungs"], **lacking(incoming, record["rungs"])}}


def measured(case: honest.Honest | plants.Plant) -> dict[str, Any]:
    """The record of one case; a tampering that does not fit after all is one without numbers."""
    began, batch = time.process_time(), worlds.own(case.name)
    about: dict[str, Any] = {"case": case.name, "network": case.network, "made": case.made}
    about["half"] = worlds.EVERY[case.network].half
    try:
        if isinstance(case, honest.Honest):
            about |= {"kind": "honest", "stored": case.stored}
            model, before = case.models()
            found = seen(model, before, worlds.EVERY[case.network].build(seed=9), batch)
        else:
            about |= {"kind": "planted", "entry": case.entry, "trick": case.trick}
            with within(SECONDS):
                model, readout, before = case.sent()
            got = read(model, readout, batch)
            about |= {"read": got.examples, "of": len(batch.labels), "by": got.by}
            found = seen(model, before, case.host, batch)
    except (NotApplicable, BadInput) as error:  # also what is not installed
        return about | {"kind": "not applicable", "why": str(error)[:200]}
    except OutOfTime:
        return about | {"kind": "not made", "why": f"more than {SECONDS:g} processor seconds"}
    return about | found | {"seconds": round(time.process_time() - began, 2)}


def seen(model: Model, before: Model | None, agreed: Model, batch: Batch) -> dict[str, Any]:
    """Alarms of the checks without a level, and the rungs of all dials."""
    incoming = Incoming(model, previous=before, reference=agreed, own_data=batch)
    return {"fixed": fixed(incoming), "rungs": rungs(incoming)}
