"""The defences of a plan, as a chain: what a client of an audit would do to its update."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fedspill.auditing.resolving.components import ChosenDefence, defences_of
from fedspill.core.errors import BadInput, FedspillError
from fedspill.core.local_training.update import FedSGD
from fedspill.core.model import Model
from fedspill.core.rng import split, stream
from fedspill.core.roles import ClientContext, PrivacyCost, Stages
from fedspill.core.types import Params, Update, UpdateKind
from fedspill.defences.local_dp import analytic_sigma
from fedspill.federation.client import Client
from fedspill.filtering.chains.chain import Chain, Declared, Offer, Refused, Unit, reason
from fedspill.plan.sections import AuditPlan


@dataclass(frozen=True)
class PlannedChain:
    """Defences in their order, with random streams as an audit gives them.

    Attributes:
        defences: of the plan.
        seed: of what they draw.
        client: number of the client, which has streams of its own.
    """

    defences: tuple[ChosenDefence, ...]
    seed: int = 0
    client: int = 0
    carries_weights: bool = False

    @property
    def steps(self) -> tuple[str, ...]:
        """The defences as the plan names them."""
        return tuple(d.label for d in self.defences)

    @property
    def declared(self) -> Declared:
        """What the last defence with a proof says."""
        costs = [cost for d in self.defences if (cost := d.component.cost()) is not None]
        if not costs:
            return Declared()
        last: PrivacyCost = costs[-1]
        multiplier = analytic_sigma(last.epsilon, last.delta) if 0 < last.epsilon < math.inf else None
        noise = None if self.computes else last.noise
        return Declared(None, noise, last.epsilon, last.delta, multiplier, last.unit)

    @property
    def computes(self) -> bool:
        """Whether a defence acts before there is an update."""
        plain = Stages()
        stages = [d.component.stages() for d in self.defences]
        return any(s.per_example is not None or s.transform is not plain.transform for s in stages)

    @property
    def unit(self) -> Unit:
        """Examples, where their gradients are altered one by one."""
        each = any(d.component.stages().per_example is not None for d in self.defences)
        return "example" if each else "update"

    def send(self, offer: Offer) -> Params | None:
        """See `Chain`."""
        rng = stream(self.seed, "filters", self.client, offer.round)
        stages = [d.component.stages() for d in self.defences]
        try:
            if self.computes:
                update = Client(offer.batch, FedSGD(), stages).respond(offer.model, rng)
            else:
                context = ClientContext(offer.model, offer.batch, FedSGD())
                update = _protected(_update(offer), stages, context, split(rng, len(stages)))
        except FedspillError:
            raise
        except Exception as error:  # of a defence of anyone's
            raise Refused(reason(error)) from error
        return None if update is None else _change(update, offer)

    def renewed(self) -> Chain:
        """Another client's."""
        return PlannedChain(self.defences, self.seed, self.client + 1)


def _protected(
    update: Update, stages: list[Stages], context: ClientContext, streams: list[torch.Generator]
) -> Update | None:
    left: Update | None = update
    for stage, rng in zip(stages, streams, strict=True):
        if left is None:
            return None
        left = stage.protect(left, context, rng)
    return left


def _update(offer: Offer) -> Update:
    values = {k: -v for k, v in offer.change.items() if k in offer.model.params}
    others = {k: offer.received[k] + v for k, v in offer.change.items() if k not in offer.model.params}
    return Update(UpdateKind.GRADIENT, values, others or None)


def _change(update: Update, offer: Offer) -> Params:
    buffers = {k: v - offer.received[k] for k, v in (update.buffers or {}).items() if k in offer.received}
    return {**{k: -v for k, v in update.values.items()}, **buffers}


def planned(plan: AuditPlan, name: str) -> PlannedChain:
    """The chain of a plan.

    Raises:
        BadInput: it has no defence, or one that changes the architecture.
    """
    chosen = tuple(defences_of(plan))
    if not chosen:
        raise BadInput(f"{name!r} names no defence; a plan with [[defences]] is needed")
    plain: Callable[[Model], Model] = Stages().prepare
    for defence in chosen:
        if defence.component.stages().prepare is not plain:
            raise BadInput(f"{name!r}: {defence.label!r} changes the architecture, which is no filter of an update")
    return PlannedChain(chosen, plan.audit.seeds[0])
