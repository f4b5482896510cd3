"""An accuracy that a model of this round should have, going by the round before, and has not.

Geiping et al., "Inverting Gradients", NeurIPS 2020, arXiv:2003.14053, appendix A.2, permute the classes of a trained
head: nothing about the weights alone is odd then, but the network has unlearned everything.
"""

import math
from dataclasses import dataclass

import torch

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec
from fedspill.core.model import Model
from fedspill.core.roles import Card, Check, Finding, Incoming
from fedspill.core.types import Batch

NAME = "lost_accuracy"


@dataclass(frozen=True)
class LostAccuracy:
    """Compares the classes that this model and the one before give to the client's examples.

    Attributes:
        chance: how likely so many lost examples may at most be, were each as likely to be lost as won (a sign test on
            the examples of which just one of the models gives the class).
        drop: of the accuracy, at the least.
        most: examples that are looked at, the first ones.

    Raises:
        BadInput: a field out of range.
    """

    chance: float = 1e-2
    drop: float = 0.25
    most: int = 256

    def __post_init__(self) -> None:
        if not (0 < self.chance < 1 and 0 < self.drop <= 1 and self.most >= 1):
            raise BadInput(
                f"chance={self.chance} must lie between 0 and 1, drop={self.drop} above 0 and at most at 1,"
                f" most={self.most} from 1"
            )

    def inspect(self, incoming: Incoming) -> list[Finding]:
        """At most one finding; none without own data, without the round before, or for labels that are no classes.

        Raises:
            BadInput: one of the networks cannot be run on the client's data.
        """
        data, before = incoming.own_data, incoming.previous
        if data is None or before is None or data.labels.ndim != 1 or data.labels.is_floating_point():
            return []
        some = data[: min(self.most, len(data))]
        now, then = right(incoming.model, some), right(before, some)
        pairs = list(zip(now, then, strict=True))
        lost, won = pairs.count((False, True)), pairs.count((True, False))
        drop, chance = (lost - won) / len(some), at_least(lost, lost + won)
        if drop < self.drop or chance > self.chance:
            return []
        return [_finding(sum(now) / len(some), sum(then) / len(some), lost, won, len(some))]


def right(model: Model, data: Batch, step: int = 64) -> list[bool]:
    """Which examples the network gives their class, in eval mode."""
    batch, model = data.to(model.like), model.in_eval_mode()
    hits = list[bool]()
    with torch.no_grad():
        for first in range(0, len(batch), step):
            part = batch[first : first + step]
            logits = model.logits(model.params, model.input.encode(part.inputs))
            if logits.ndim != 2:
                raise BadInput(f"logits of shape {tuple(logits.shape)}; (n, classes) is needed beside classes (n,)")
            hits += (logits.argmax(1) == part.labels).tolist()
    return hits


def at_least(hits: int, tosses: int) -> float:
    """How likely so many heads or more of a fair coin are."""
    return sum(math.comb(tosses, k) for k in range(hits, tosses + 1)) / 2**tosses


def _finding(now: float, then: float, lost: int, won: int, count: int) -> Finding:
    return Finding(
        NAME,
        "accuracy",
        0.7,
        {"accuracy": now, "accuracy_before": then, "lost": float(lost), "won": float(won), "examples": float(count)},
        f"Of {count} of the client's examples the model of the round before gave {then:.0%} their class, and this one"
        f" {now:.0%}: {lost} are lost, {won} won.",
        reads="A network made to be wrong has large gradients again, from which trained networks else protect.",
        advice="Do not train on it before the server has said what happened between the rounds.",
    )


CARD: Card[Check] = Card(
    title="Accuracy lost since the round before",
    paper="Geiping et al., NeurIPS 2020, arXiv:2003.14053, appendix A.2",
    summary="Reports a model that gives far fewer of the client's examples their class than the one before.",
    presets={"paper": LostAccuracy(), "quick": LostAccuracy(most=64)},
    accepts=frozenset({ImageSpec, TableSpec}),
    own_data=True,
)
