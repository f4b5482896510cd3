"""The mean gradient of those who speak, out of an update that answers a fishing head."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD
from fedspill.core.types import Params, Update, UpdateKind
from fedspill.inversion.fishing.heads import Bait, as_weight
from fedspill.inversion.gradients.layer import sent
from fedspill.inversion.gradients.mean import mean_gradient

NOBODY = 1e-6
"""Share of the largest bias gradient up to which nobody speaks: rounding, or a millionth of the examples."""
WHOLE = 0.02
"""How far a number of examples may be off a whole one."""
SHARP = 1e-5
"""The same of those who are heard exactly."""


@dataclass(frozen=True)
class Catch:
    """Those who speak.

    Attributes:
        gradient: their mean gradient, as if they were the whole batch; float64.
        features: the mean of what enters the head for them.
        share: of all examples, where the update's scale is that of a mean.
        count: how many they are; None if the server cannot tell.
        blurred: how far their number is off a whole one, which it is by those who speak, or are silent, in part; 0 if
            the server cannot tell.
    """

    gradient: Params
    features: Float[Tensor, " d"]
    share: float
    count: int | None
    blurred: float = 0.0

    @property
    def single(self) -> bool:
        """One example speaks, and nobody else in part."""
        return self.count == 1 and self.blurred < SHARP


def caught(bait: Bait, update: Update, knowledge: ServerKnowledge) -> Catch | None:
    """Those who speak; None if nobody does.

    The row's bias gradient tells their share, and its weight's gradient their features. The whole head's gradient
    follows from these, while what was sent of it holds the silent ones, too.

    Raises:
        NotApplicable: the head was not trained, or the clients' optimiser leaves no ratios.
    """
    head = bait.head
    sent(update, head.weight, "the head's weight")
    sent(update, head.bias, "the head's bias")
    mean = mean_gradient(update, knowledge, update.values)
    assert head.bias is not None, "a head without a bias was refused"
    values = mean.values if bait.reference is None else _less(mean.values, bait.reference)
    answer = bait.answer.to(values[head.bias])
    told, loudest = float(values[head.bias][bait.row]), float(mean.values[head.bias].abs().max())
    share = told / float(answer[bait.row])
    if not share > NOBODY * loudest:
        return None
    features = head.rows(values[head.weight])[bait.row] / told
    gradient = {k: v / share for k, v in values.items()}
    gradient[head.weight] = as_weight(head, torch.outer(answer, features), gradient[head.weight])
    gradient[head.bias] = answer
    number = share * knowledge.num_examples if knowledge.num_examples is not None and mean.scaled else None
    count = None if number is None else _count(number)
    blurred = 0.0 if number is None else abs(number - round(number))
    return Catch(gradient, features, share, count, blurred)


def against(bait: Bait, update: Update, knowledge: ServerKnowledge) -> bool:
    """Whether the row answers with the other sign than whoever speaks: noise, behind which somebody may speak."""
    assert bait.head.bias is not None, "a head without a bias was refused"
    mean = mean_gradient(update, knowledge, update.values).values[bait.head.bias]
    less = mean if bait.reference is None else _less({bait.head.bias: mean}, bait.reference)[bait.head.bias]
    return float(less[bait.row] / bait.answer.to(mean)[bait.row]) < -WHOLE * float(mean.abs().max())


def _less(values: Params, reference: Params) -> dict[str, Tensor]:
    return {k: v - reference[k].to(v) if k in reference else v for k, v in values.items()}


def _count(number: float) -> int | None:
    return round(number) if number > 1 - WHOLE and abs(number - round(number)) < WHOLE else None


def handed_on(bait: Bait, catch: Catch, knowledge: ServerKnowledge) -> tuple[Update, ServerKnowledge]:
    """The update of those who speak alone, as any attack takes it; where their number is not known, of one.

    It is a gradient at the parameters that were sent, whatever protocol the clients followed.
    """
    like, count = knowledge.model.like, catch.count or 1
    labels = torch.full((count,), bait.label, dtype=torch.long, device=like.device)
    update = Update(UpdateKind.GRADIENT, {k: v.to(like) for k, v in catch.gradient.items()})
    alone = replace(
        knowledge,
        num_clients=1,
        num_examples=count,
        labels=labels,
        local_training=FedSGD(trainable=tuple(update.values)),
        client_sizes=None,
        bn_statistics=None,
    )
    return update, alone
