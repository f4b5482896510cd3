"""The equations of softmax disaggregation, for many guesses of the unknown mixing at once.

The gradient's row space R (m, k) holds the features of the m examples that speak: [H, 1] = M R. Their logits are then
M K with K = R [W | b]^T, and the mixing M must satisfy D(M)^T M = T, where D are the examples' derivatives by the
logits with their shares in the mean, and T (classes, m) is the gradient in the basis R; besides, M r = 1 for the
column r of R that belongs to the bias. The equations of each class are multiplied by what makes noise alike in all.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.inversion.disaggregation.errors import LogitErrors


@dataclass(frozen=True)
class System:
    """What is known, in float64.

    Attributes:
        basis: R; the last column is the bias's if `affine`.
        seen: T, the gradient in that basis, a row for each class, times that class's scale.
        keys: K, logits by basis vector.
        offset: what is added to all logits; zero where the bias is in the basis.
        slope: of every example, with its share in the mean: D = slope P - target.
        target: of every example, with its share in the mean.
        scale: by which the equations of each class are multiplied.
        affine: whether the gradient of the bias is known.
    """

    basis: Float[Tensor, "m k"]
    seen: Float[Tensor, "classes m"]
    keys: Float[Tensor, "m classes"]
    offset: Float[Tensor, " classes"]
    slope: Float[Tensor, " m"]
    target: Float[Tensor, "m classes"]
    scale: Float[Tensor, " classes"]
    affine: bool

    @property
    def ones(self) -> Float[Tensor, " m"]:
        """r, the bias's column of the basis."""
        return self.basis[:, -1]

    @property
    def directions(self) -> Float[Tensor, "m d"]:
        """The basis of the features alone."""
        return self.basis[:, :-1] if self.affine else self.basis

    def probabilities(self, mixing: Float[Tensor, "*s m m"]) -> Float[Tensor, "*s m classes"]:
        """P of examples that are mixed so."""
        return (mixing @ self.keys + self.offset).softmax(-1)

    def derivatives(self, probabilities: Float[Tensor, "*s m classes"]) -> Float[Tensor, "*s m classes"]:
        """D, those of the mean loss by the logits."""
        return self.slope[:, None] * probabilities - self.target

    def errors(self, probabilities: Float[Tensor, "*s m classes"]) -> Float[Tensor, "*s m classes"]:
        """D times the scale of each class."""
        return self.scale * self.derivatives(probabilities)

    def balanced(self) -> tuple["System", Float[Tensor, " m"]]:
        """The same with the strong directions of the gradient nearer to the weak ones, and by what a mixing is divided.

        Examples of one class differ in the weak ones alone. In its own metric the gradient bends the way along them so
        much that steps become tiny.
        """
        root = self.seen.norm(dim=0).clamp_min(1e-300).sqrt()
        even = replace(self, basis=self.basis * root[:, None], seen=self.seen / root, keys=self.keys * root[:, None])
        return even, root

    def features(self, mixing: Float[Tensor, "*s m m"]) -> Float[Tensor, "*s m d"]:
        """H of examples that are mixed so."""
        return mixing @ self.directions


def system(
    basis: Float[Tensor, "m k"],
    seen: Float[Tensor, "classes m"],
    weight: Float[Tensor, "classes d"],
    bias: Float[Tensor, " classes"],
    labels: Int[Tensor, " m"],
    shares: Float[Tensor, " m"],
    errors: LogitErrors,
    scale: Float[Tensor, " classes"],
) -> System:
    """The equations of examples with these labels.

    Args:
        basis: of the gradient's rows, (m, d + 1) with the bias's, else (m, d).
        seen: the gradient in that basis.
        weight: the head's.
        bias: the head's.
        labels: of the examples that speak.
        shares: theirs in the mean.
        errors: what the loss makes of probabilities.
        scale: by which the equations of each class are multiplied.
    """
    affine = basis.shape[1] == weight.shape[1] + 1
    whole = torch.cat([weight, bias[:, None]], 1) if affine else weight
    return System(
        basis=basis,
        seen=scale[:, None] * seen,
        keys=basis @ whole.T,
        offset=torch.zeros_like(bias) if affine else bias,
        slope=shares * errors.slope[labels],
        target=shares[:, None] * errors.target[labels],
        scale=scale,
        affine=affine,
    )
