"""A blind certificate: whether the network itself confirms what exclusive units show.

A mixture of examples passes for an input, and its units may agree. Passed through the network, it does not give the
direction and the sizes of the columns that it was read from, nor fires just the units that were fired.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.inversion.exclusivity.candidates import Candidate, Evidence
from fedspill.inversion.exclusivity.dense_end import Passed, passed

BASE = 32
"""Of the rounding: what is allowed between what was seen and what the network says."""
FINEST = 1e-10
ROUGH = 0.03
"""Rounding beyond which nothing can be confirmed."""


@dataclass(frozen=True)
class Told:
    """What the network says of one candidate.

    Attributes:
        fits: its own derivative has the direction and the sizes that were seen, and it fires what was fired.
        share: its weight in the mean: 1/n, or more for an example that is there several times.
        rough: relative error of the comparison by rounding; beyond `ROUGH` it says nothing.
    """

    fits: bool
    share: float
    rough: float

    def copies(self, count: int) -> int:
        """How many of n examples it stands for; 0 if that is no whole number."""
        number = self.share * count
        whole = round(number)
        return whole if whole > 0 and abs(number - whole) <= max(1e-4, 4 * self.rough) * whole else 0


def told(evidence: Evidence, proposed: Sequence[Candidate]) -> list[Told]:
    """What the network says of each candidate."""
    if not proposed:
        return []
    x = torch.stack([f.x for f in proposed])
    labels = x.new_tensor([int(f.cluster.direction.argmin()) for f in proposed], dtype=torch.long)
    way = passed(evidence.layers, evidence.params, x)
    errors = way.errors(labels)
    blur, rounded = _rounding(evidence, way)
    return [_one(evidence, f, way.outputs[0][k], errors[k], blur[k], rounded[k]) for k, f in enumerate(proposed)]


def _rounding(evidence: Evidence, way: Passed) -> tuple[Float[Tensor, "m units"], Float[Tensor, " m"]]:
    """The rounding of the units' outputs, and that of the derivative by the logits, relative, at the client."""
    hidden, last = (evidence.params[layer.weight] for layer in evidence.layers)
    blur = 8 * evidence.eps * (way.inputs[0].norm(dim=1)[:, None] * hidden.norm(dim=1) + 1)
    logits = 4 * evidence.eps * (float(last.norm(dim=1).max()) * way.inputs[1].norm(dim=1) + 1)
    return blur, logits


def _one(
    evidence: Evidence,
    candidate: Candidate,
    outputs: Float[Tensor, " units"],
    errors: Float[Tensor, " classes"],
    blur: Float[Tensor, " units"],
    rounded: Float[Tensor, ""],
) -> Told:
    units, strength = candidate.cluster.units, candidate.cluster.strength
    size = float(errors.norm())
    activation = outputs[units]
    spread = evidence.noise * len(errors) ** 0.5 / float(strength.norm())
    seen = float((evidence.blurred[units] * strength).sum() / strength.sum())
    allowed = max(FINEST, BASE * seen) + float(rounded) + 4 * evidence.eps / max(size, 1e-300) + 4 * spread
    if size == 0 or not bool((activation > 0).any()):
        return Told(False, 0.0, allowed)
    turned = float((errors / size - candidate.cluster.direction).norm())
    per_unit = float((strength * activation).sum() / activation.square().sum())
    # A unit that barely fires has a size that is mostly rounding.
    rough = allowed + 2 * float(blur[units].norm() / activation.norm())
    missed = float((strength - per_unit * activation).norm() / strength.norm())
    slack = outputs.new_tensor(evidence.hidden.shape[1] ** 0.5) * blur
    contradicted = bool((activation < -slack[units]).any()) or bool((outputs > slack)[evidence.silent].any())
    fits = turned <= allowed and missed <= rough and not contradicted and max(allowed, rough) < ROUGH
    return Told(fits, per_unit / size, max(allowed, rough))
