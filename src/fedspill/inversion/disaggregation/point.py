"""Where the starts of a search are: what the equations miss there, and what a relative step changes of it.

A step is M + X M with unknown X (m, m), so that features of unlike size and examples of unlike loudness are alike to
it. Where the factor of the update is unknown, too, its logarithm is one more unknown.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.inversion.disaggregation.system import System


@dataclass(frozen=True)
class Rules:
    """What is minimised, and until when.

    Attributes:
        hinge: weight of negative features relative to their size; 0 lets features have any sign.
        free: the factor of the update is unknown, too.
        steps: at most.
        enough: relative residual that rounding alone explains; there a start goes on only while it still gains.
    """

    hinge: float = 0.0
    free: bool = False
    steps: int = 200
    enough: float = 1e-12


@dataclass(frozen=True)
class Point:
    """Guesses of the mixing with what they miss.

    Attributes:
        mixing: M, one per start.
        factor: of the update over the mean gradient.
        probabilities: P.
        errors: f D, scaled by class, over the gradient's size.
        missed: (f D^T M - T) over the gradient's size.
        unit: (M r - 1) over the root of m; zero where the bias's gradient is not known.
        negative: the hinge's share; zero features (s, m, 0) without one.
    """

    mixing: Float[Tensor, "s m m"]
    factor: Float[Tensor, " s"]
    probabilities: Float[Tensor, "s m classes"]
    errors: Float[Tensor, "s m classes"]
    missed: Float[Tensor, "s classes m"]
    unit: Float[Tensor, "s m"]
    negative: Float[Tensor, "s m d"]

    def residual(self) -> Float[Tensor, " s"]:
        """How far the equations are from holding, relative to the gradient."""
        return (self.missed.square().sum((1, 2)) + self.unit.square().sum(1)).sqrt()

    def cost(self) -> Float[Tensor, " s"]:
        """What is minimised: the square of the residual, and the hinge."""
        return self.residual().square() + self.negative.square().sum((1, 2))

    def at(self, index: Tensor) -> "Point":
        """Some of the starts."""
        return Point(
            self.mixing[index],
            self.factor[index],
            self.probabilities[index],
            self.errors[index],
            self.missed[index],
            self.unit[index],
            self.negative[index],
        )

    def taken(self, index: Tensor, other: "Point") -> "Point":
        """With other values for some of the starts."""
        return Point(
            self.mixing.index_copy(0, index, other.mixing),
            self.factor.index_copy(0, index, other.factor),
            self.probabilities.index_copy(0, index, other.probabilities),
            self.errors.index_copy(0, index, other.errors),
            self.missed.index_copy(0, index, other.missed),
            self.unit.index_copy(0, index, other.unit),
            self.negative.index_copy(0, index, other.negative),
        )


def point(known: System, mixing: Float[Tensor, "s m m"], factor: Float[Tensor, " s"], hinge: float) -> Point:
    """Where these guesses stand."""
    probabilities, size = known.probabilities(mixing), known.seen.norm().clamp_min(1e-300)
    errors = (factor[:, None, None] / size) * known.errors(probabilities)
    unit = (mixing @ known.ones - 1) / mixing.shape[1] ** 0.5
    return Point(
        mixing=mixing,
        factor=factor,
        probabilities=probabilities,
        errors=errors,
        missed=errors.mT @ mixing - known.seen / size,
        unit=unit if known.affine else torch.zeros_like(unit),
        negative=_negative(known, mixing, hinge),
    )


def _negative(known: System, mixing: Tensor, hinge: float) -> Tensor:
    if not hinge:
        return mixing.new_zeros(*mixing.shape[:2], 0)
    features = known.features(mixing)
    return hinge * features.clamp_max(0) / features.norm(dim=(1, 2), keepdim=True).clamp_min(1e-300)


@dataclass(frozen=True)
class Slopes:
    """What the derivatives at a point are made of.

    Attributes:
        logits: M K, which a step mixes.
        slope: of every error by its own logit, over the gradient's size.
        ones: M r over the root of m; zero where the bias's gradient is not known.
        gate: features, weighed, that are negative; and all of them.
    """

    logits: Float[Tensor, "s m classes"]
    slope: Float[Tensor, "s m classes"]
    ones: Float[Tensor, "s m"]
    gate: Float[Tensor, "s m d"]
    features: Float[Tensor, "s m d"]

    @classmethod
    def of(cls, known: System, here: Point, hinge: float) -> "Slopes":
        """Those at a point."""
        size = known.seen.norm().clamp_min(1e-300)
        slope = (here.factor[:, None, None] / size) * known.slope[:, None] * known.scale * here.probabilities
        ones = here.mixing @ known.ones / here.mixing.shape[1] ** 0.5
        features = here.negative
        if hinge:
            features = known.features(here.mixing)
            features = hinge * features / features.norm(dim=(1, 2), keepdim=True).clamp_min(1e-300)
        return cls(
            here.mixing @ known.keys,
            slope,
            ones if known.affine else torch.zeros_like(ones),
            (here.negative < 0).to(slope),
            features,
        )

    def moves(self, probabilities: Float[Tensor, "s m classes"]) -> Float[Tensor, "s m m classes"]:
        """What a unit of X[a, b] does to the errors of example a: [s, a, b, class]."""
        mean = torch.einsum("sac,sbc->sab", probabilities, self.logits)
        return self.slope[:, :, None] * (self.logits[:, None] - mean[..., None])
