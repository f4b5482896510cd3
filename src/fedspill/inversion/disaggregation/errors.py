"""What a loss makes of probabilities and a label: the derivative by the logits, which is linear in the probabilities.

Of softmax cross-entropy it is p - [y]; smoothed labels shift it, class weights multiply it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.model import Model
from fedspill.core.rng import randn, stream
from fedspill.inversion.gradients.losses import SAME, SPREAD, evidence


@dataclass(frozen=True)
class LogitErrors:
    """The derivative of an example's loss by its logits: slope[y] p - target[y], and its share in the batch's mean.

    Attributes:
        slope: (classes,) what multiplies the probabilities of an example of each class; 1 of plain cross-entropy.
        target: (classes, classes) what is subtracted; row y belongs to class y, one-hot of plain cross-entropy.
        weight: (classes,) how much an example of each class counts in the mean over a batch; above 0, in any unit.
    """

    slope: Float[Tensor, " classes"]
    target: Float[Tensor, "classes classes"]
    weight: Float[Tensor, " classes"]

    @classmethod
    def plain(cls, classes: int, like: Tensor) -> "LogitErrors":
        """Those of cross-entropy over classes, on the device of `like` in float64."""
        one = torch.ones(classes, dtype=torch.float64, device=like.device)
        return cls(one, torch.diag(one), one)

    def shares(self, labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The share of each example of a batch in its mean; they add up to 1."""
        weight = self.weight[labels]
        return weight / weight.sum()


def logit_errors(model: Model) -> LogitErrors:
    """What the model's loss makes of probabilities, found by asking it.

    Raises:
        NotApplicable: the loss is no sum over examples whose derivatives are linear in the probabilities of a softmax,
            such as logistic losses of several labels or focal ones.
    """
    found = evidence(model)
    if found.exact:
        return LogitErrors.plain(found.outputs, found.own)
    weight = found.weights().double()
    probes = SPREAD * randn((3, found.outputs), stream(2, "logits"), found.own)
    asked = found.derivatives(probes).double()
    p = probes.double().softmax(1)
    apart = p[0] - p[1]
    slope = (asked[0] - asked[1]) @ apart / apart.square().sum().clamp_min(1e-300)
    target = slope[:, None] * p[0] - asked[0]
    told = slope[:, None] * p[2] - target
    linear = bool((told - asked[2]).abs().max() <= SAME * asked[2].abs().max())
    if found.outputs < 2 or not linear or not bool((slope > 0).all()):
        raise NotApplicable(
            "a batch is told apart by what softmax cross-entropy does, plain, smoothed or weighted; the loss is another"
        )
    return LogitErrors(slope, target, weight)
