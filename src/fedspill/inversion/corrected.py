"""Matching a gradient that stands in for local training, corrected by the training of the candidate itself.

Every so many evaluations the candidate is trained on as the client did, without a graph, and the observed gradient is
moved by what this training is off its own gradient. There the two differ by exactly as much as the trainings do, so
that the search has the zeros of matching the training itself, at little more than the cost of matching one gradient.
Only the derivative is that of the one gradient. Not published as far as we know.
"""

from dataclasses import dataclass, field, replace

from jaxtyping import Float
from torch import Tensor

from fedspill.inversion.matching import Matching
from fedspill.inversion.surrogate import Surrogate

EVERY = 10
"""Evaluations between two corrections."""


@dataclass
class CorrectedMatching:
    """The distance of one search's candidates.

    Attributes:
        matching: with the stand-in's model and update.
    """

    matching: Matching
    stand_in: Surrogate
    _calls: int = field(default=0, init=False)

    def __call__(self, z: Float[Tensor, "n ..."], labels: Tensor) -> Float[Tensor, ""]:
        """Differentiable once in `z`."""
        if self._calls % EVERY == 0:
            values = self.stand_in.corrected(z.detach(), labels)
            self.matching = replace(self.matching, observed=replace(self.stand_in.update, values=values))
        self._calls += 1
        return self.matching(z, labels)
