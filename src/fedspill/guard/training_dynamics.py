"""Loss and gradients of a first step on the client's own data, as no honest network has them.

Carletti et al., "On the detectability of active gradient inversion attacks in federated learning", 2025,
arXiv:2511.10502, and Wang and Li, "Hear No Evil", 2025, arXiv:2506.20651, look at the dynamics of loss and gradients;
what is asked here, and every threshold, is fedspill's own: a planted network has a loss far above that of guessing, or
a gradient along which the loss does not fall.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.roles import Card, Check, Finding, Incoming
from fedspill.core.types import Batch
from fedspill.inversion.gradients.singly import Singles, singles

NAME = "training_dynamics"
ADVICE = "Do not train on it; ask the server for the loss that it has on this model, and how the head was made."


@dataclass(frozen=True)
class TrainingDynamics:
    """Finds losses far above those of guessing, gradients that are 0, and losses that no step lowers.

    Attributes:
        guessing: mean losses above so many times that of equal logits are reported.
        part: of the loss, that a step should take away by the gradient at the start; steps of a quarter, and of a
            quarter of that, and so on are tried where it does not.
        tries: steps that are tried.

    Raises:
        BadInput: a field out of range.
    """

    guessing: float = 5.0
    part: float = 0.1
    tries: int = 6

    def __post_init__(self) -> None:
        if not (self.guessing > 1 and 0 < self.part <= 1 and self.tries >= 1):
            raise BadInput(
                f"guessing={self.guessing} must be above 1, part={self.part} lie above 0 and at most at 1,"
                f" tries={self.tries} from 1"
            )

    def inspect(self, incoming: Incoming) -> list[Finding]:
        """At most one finding of the loss and one of the gradient; none without own data.

        Raises:
            BadInput: the network cannot be run on the client's data.
        """
        seen = singles(incoming)
        if seen is None or incoming.own_data is None:
            return []
        return [
            *self._of_loss(incoming.model, incoming.own_data, seen),
            *self._of_step(incoming.model, incoming.own_data, seen),
        ]

    def _of_loss(self, model: Model, data: Batch, seen: Singles) -> Iterator[Finding]:
        loss, even = float(seen.losses.mean()), guessing(model, seen)
        if 0 < self.guessing * even < loss:
            loss = min(loss, _by_the_batch(model, data, len(seen)))
        if 0 < self.guessing * even < loss:
            yield Finding(
                NAME,
                "loss",
                0.7,
                {"loss": loss, "loss_of_guessing": even, "examples": float(len(seen))},
                f"The mean loss on {len(seen)} of the client's examples is {loss:.3g}, and {even:.3g} of a network that"
                " guesses: its logits rule out what is true.",
                rule="loss",
                reads="Logits far apart switch the gradients of chosen classes or examples off, so that the server has"
                " those of the others alone.",
                advice=ADVICE,
            )

    def _of_step(self, model: Model, data: Batch, seen: Singles) -> Iterator[Finding]:
        if float(seen.losses.mean()) <= 0:
            return
        tried = falls(model, data[: len(seen)], self.part, self.tries)
        if tried is None:
            return
        before, after = tried
        rule = "no_gradient" if math.isnan(after) else "no_descent"
        said = (
            "No parameter has a gradient on the client's examples, though their loss is not 0."
            if math.isnan(after)
            else f"The loss ({before:.3g}) falls by none of {self.tries} steps along its own gradient, the smallest of"
            f" which should lower it by {self.part / 4 ** (self.tries - 1):.1g} of itself (it is {after:.3g} then)."
        )
        yield Finding(
            NAME,
            "gradient",
            0.6,
            {"loss": before, "loss_after": 0.0 if math.isnan(after) else after, "examples": float(len(seen))},
            said,
            rule=rule,
            reads="A network that cannot be trained is not sent to be trained: the answer may serve another end.",
            advice=ADVICE,
        )


def guessing(model: Model, seen: Singles) -> float:
    """The loss of equal logits; 0 where the loss is none of classes, and so has no such measure."""
    if seen.labels.is_floating_point() or seen.logits.shape[-1] < 2:
        return 0.0
    with torch.no_grad():
        return float(model.loss_fn(torch.zeros_like(seen.logits), seen.labels))


def _by_the_batch(model: Model, data: Batch, count: int) -> float:
    """The loss if norms take the batch's own statistics, as nobody has measured running ones of a new network."""
    batch = data[:count].to(model.like)
    return _loss(replace(model, training=True, masks=False), {}, model.input.encode(batch.inputs), batch.labels)


def falls(model: Model, data: Batch, part: float, tries: int) -> tuple[float, float] | None:
    """None if a step along the gradient lowers the loss; else the loss, and that after the smallest (NaN: none)."""
    batch = data.to(model.like)
    z = model.input.encode(batch.inputs)
    update = local_update(model, batch, FedSGD())
    square, before = update.norm() ** 2, _loss(model, {}, z, batch.labels)
    if square == 0 or not math.isfinite(square):
        return before, math.nan
    after = before
    for k in range(tries):
        step = part / 4**k * before / square
        moved = {name: model.params[name] - step * g for name, g in update.values.items()}
        after = _loss(model, moved, z, batch.labels)
        if after < before:
            return None
    return before, after


def _loss(model: Model, moved: dict[str, Tensor], z: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float(model.loss({**model.params, **moved}, z, labels))


CARD: Card[Check] = Card(
    title="Loss and gradient of a first step",
    paper="Carletti et al., 2025, arXiv:2511.10502; Wang & Li, 2025, arXiv:2506.20651",
    summary="Reports a loss far above that of guessing, and one that no step along its own gradient lowers.",
    presets={"paper": TrainingDynamics(), "quick": TrainingDynamics(tries=3)},
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
    own_data=True,
)
