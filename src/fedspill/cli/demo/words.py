"""What an audit of the demonstration found, in plain sentences. Every number is of the run that it is told of."""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

import fedspill
from fedspill.auditing import AuditPlan, AuditReport, AuditResult
from fedspill.auditing.resolving.scenario import prepare
from fedspill.auditing.servers import Servers
from fedspill.auditing.watch import Silent, TrialWatch
from fedspill.core.model import Model
from fedspill.core.types import Batch
from fedspill.plan.build import pick_device
from fedspill.rendering.drawing.pictures import Pair
from fedspill.rendering.folder import pairs_of
from fedspill.rendering.numbers import count
from fedspill.scoring.identification import identify, pixel_distance
from fedspill.zoo.data import load

STEPS = 255
"""Brightness steps of a colour in a picture file."""
GALLERY = 100
"""Photographs among which a rebuilt picture must lead to its own."""


def copies(result: AuditResult, plan: AuditPlan, device: str) -> str:
    """How many photographs were copied exactly."""
    return copied(pairs_of(result.report, result.tensors))


def copied(pairs: Sequence[Pair]) -> str:
    """How many rebuilt pictures are exact: each pixel within half a brightness step, as a picture file rounds."""
    exact = [error for error in map(_largest_error, pairs) if error < 0.5]
    if not exact:
        return f"None of the {len(pairs)} photographs was copied exactly."
    return f"{len(exact)} of {len(pairs)} photographs were copied exactly: no pixel {_off(max(exact))}."


def _off(error: float) -> str:
    if error == 0:
        return "differs at all"
    if error < 1e-3:
        return f"is off by even a thousandth of one of {STEPS} brightness steps"
    return f"is off by more than {error:.2g} of {STEPS} brightness steps"


def copies_and_finds(result: AuditResult, plan: AuditPlan, device: str) -> str:
    """How many were copied exactly, and how many can be told from others."""
    return f"{copies(result, plan, device)} {_finds(result)}"


def vetted_and_defended(result: AuditResult, plan: AuditPlan, device: str) -> str:
    """What vetting says of the network as the server sent it, and what noise leaves of the attack."""
    left = copies_and_finds(result, plan, device)
    return f"{vetting(plan, device)} With noise {left[0].lower()}{left[1:]} {_price(result)}"


def _largest_error(pair: Pair) -> float:
    """In brightness steps; infinite without a reconstruction, or with one that is no number."""
    if pair.rebuilt is None:
        return math.inf
    error = float((pair.private.double() - pair.rebuilt.double()).abs().max()) * STEPS
    return error if math.isfinite(error) else math.inf


def _finds(result: AuditResult) -> str:
    pairs = pairs_of(result.report, result.tensors)
    hits = found(pairs, _gallery(pairs))
    return (
        f"{hits} of {len(pairs)} rebuilt pictures lead to the right photograph among {GALLERY}"
        f" (by chance {len(pairs) / GALLERY:.2g})."
    )


def _gallery(pairs: Sequence[Pair]) -> Tensor:
    side = pairs[0].private.shape[-1]
    return load("photos", split="private", indices=f"0:{GALLERY}", size=side).batch.inputs


def found(pairs: Sequence[Pair], gallery: Tensor) -> int:
    """How many rebuilt pictures are closer to their own photograph than to any other, pixel by pixel.

    Args:
        gallery: photographs (m, 3, h, w), the private ones among them.
    """
    private = torch.stack([pair.private for pair in pairs])
    where = [place for place, pair in enumerate(pairs) if pair.rebuilt is not None]
    if not where:
        return 0
    rebuilt = torch.stack([pair.rebuilt for pair in pairs if pair.rebuilt is not None])
    everyone = partial(torch.zeros, dtype=torch.long)  # one class, so that every photograph is a rival
    identified = identify(
        rebuilt,
        torch.tensor(where),
        Batch(private, everyone(len(private))),
        Batch(gallery, everyone(len(gallery))),
        pixel_distance(),
    )
    return int(identified.hits.sum())


def vetting(plan: AuditPlan, device: str) -> str:
    """What `fedspill.vet` says of the network that the plan's first server sends, and of the one it was made of."""
    scenario = prepare(plan, pick_device(device))
    sent = Servers(scenario).sent(scenario.worlds[0], scenario.seeds[0], TrialWatch(Silent())).model
    warned, before = _warnings(sent), _warnings(scenario.model)
    named = f" ({', '.join(warned)})" if warned else ""
    return (
        f"Vetting warns of {count(len(warned), 'layer')} in the network that was sent{named} and of"
        f" {len(before) or 'none'} in the one that was agreed on."
    )


ALARM = 0.5
"""Severity from which `fedspill vet` says not to train on a model."""


def _warnings(model: Model) -> list[str]:
    places = (finding.where for finding in fedspill.vet(model) if finding.severity >= ALARM)
    return list(dict.fromkeys(place.removesuffix(".weight").removesuffix(".bias") for place in places))


def _price(result: AuditResult) -> str:
    return (
        f"The noise is {noise_to_update(result.report):,.0f} times as long as what it hides; whether a network still"
        " learns from that is not tested here."
    )


def noise_to_update(report: AuditReport) -> float:
    """The length of a client's noise beside the longest update that clipping lets through, without a unit.

    Args:
        report: of one trial, whose one defence is `local_dp`.
    """
    defence, trial, known = report.defences[0], report.trials[0], report.environment.parameters
    assert defence.cost is not None, "local_dp proves something"
    assert known is not None, "a report that was made just now says how many parameters there are"
    return defence.cost.noise * math.sqrt(known + trial.added_parameters) / defence.fields["clip"]
