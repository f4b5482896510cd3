"""Matching a gradient that stands in for local training, corrected by the training of the candidate itself.

Every so many evaluations the candidate is trained on as the client did, without a graph, and the observed gradient is
moved by what this training is off its own gradient. There the two differ by exactly as much as the trainings do, so
that the search has the zeros of matching the training itself, at little more than the cost of matching one gradient.
Only the derivative is that of the one gradient. Not published as far as we know.
"""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.inversion.matching import Matching
from fedspill.inversion.surrogate import Surrogate

EVERY = 5
"""Evaluations between two looks at the candidate's training."""
SETTLED = 0.01
"""Share of the distance by which a correction must move the observed gradient to be made."""


@dataclass
class CorrectedMatching:
    """The distance of one search's candidates.

    Attributes:
        matching: with the stand-in's model and update.
    """

    matching: Matching
    stand_in: Surrogate
    _calls: int = field(default=0, init=False)
    _last: float = field(default=0.0, init=False)

    def __call__(self, z: Float[Tensor, "n ..."], labels: Tensor) -> Float[Tensor, ""]:
        """Differentiable once in `z`."""
        if self._calls % EVERY == 0:
            self._correct(z.detach(), labels)
        self._calls += 1
        value = self.matching(z, labels)
        if self._calls % EVERY == 0:
            self._last = float(value.detach())
        return value

    def _correct(self, z: Tensor, labels: Tensor) -> None:
        values, held = self.stand_in.corrected(z, labels, alike=True), self.matching.observed.values
        moved = torch.stack([(values[k] - v).pow(2).sum() for k, v in held.items()]).sum()
        size = torch.stack([v.pow(2).sum() for v in held.values()]).sum()
        if float(moved / size) / 2 > SETTLED * self._last:
            self.matching.release()
            self.matching = replace(self.matching, observed=replace(self.stand_in.update, values=values))
