"""What a loss makes of probabilities and a label: the derivative by the logits, which is linear in the probabilities.

Of softmax cross-entropy it is p - [y]; smoothed labels shift it, class weights multiply it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


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
