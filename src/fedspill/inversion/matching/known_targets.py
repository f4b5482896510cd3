"""The search that goes on where reading a batch ended: every example keeps to what was read of it.

What is known of an example, features at least, says which candidate is whose, so that a batch is as many inversions of
activations; and the gradient is matched besides. The loss's derivatives by the logits are known, too, so that the
gradient of the candidates is made with these: it is right in scale and in what each example adds from the first step.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.local_training.update import FedSGD
from fedspill.core.model import Model
from fedspill.core.rng import randn
from fedspill.core.types import Params, Update, UpdateKind
from fedspill.inversion.objective.distances import squared_distance
from fedspill.inversion.objective.matching import Matching
from fedspill.inversion.priors.total_variation import each_vectorial_variation
from fedspill.inversion.recursion.known_activations import KnownActivations
from fedspill.inversion.search.problem import Problem

TINY = 1e-30
ALONE = 4.0
"""Times a picture's values: with so many of its activations known and not 0 these alone are searched by.

The gradient would take four to eight times as long. Measured: 6.6 times (a ResNet-18's second stage) is enough for
83 dB, 0.25 times (LeNet) is not.
"""
FLAT = 1e-8
"""Share of a parameter's squared gradient that a blank picture must be off, to be what others are measured by."""


def weighted_logits(logits: Float[Tensor, "n classes"], cotangents: Float[Tensor, "n classes"]) -> Float[Tensor, ""]:
    """A loss with these derivatives by the logits, times the number of examples."""
    return (logits * cotangents).sum(1).mean()


@dataclass(frozen=True)
class SharesOfBlank:
    """The mean over parameters of the squared distance of their gradients, in shares of what a blank picture's are off.

    So a layer counts by what it tells of the pictures, not by the size of its gradient.

    Attributes:
        blank: squared distance of a blank picture's gradient from the observed one, by parameter.
    """

    blank: Params

    def __call__(self, guess: Params, observed: Params) -> Float[Tensor, ""]:
        """Differentiable in `guess`."""
        shares = [(guess[k] - v).square().sum() / self.blank[k] for k, v in observed.items()]
        return torch.stack(shares).mean()


@dataclass(frozen=True)
class KnownTargets:
    """What a batch's candidates are to have.

    Attributes:
        known: the activations that were read, of all examples in one order.
        cotangents: the loss's derivatives by the logits at the scale of the gradient, in that order.
        gradient: as observed.
    """

    known: KnownActivations
    cotangents: Float[Tensor, "b classes"]
    gradient: Params

    @property
    def model(self) -> Model:
        """The network."""
        return self.known.model

    @cached_property
    def suffices(self) -> bool:
        """Whether so much is known of each example that its gradient adds nothing but time."""
        active = torch.stack([v.flatten(1).count_nonzero(1) for v in self.known.values.values()]).sum(0)
        return bool((active > ALONE * math.prod(self.model.input.encoded_shape)).all())

    def off(self, z: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
        """Squared error of each candidate's activations in shares of a blank picture's, differentiable."""
        return self.known.misfits(z) / self._blank_activations

    def distance(self, z: Float[Tensor, "b ..."]) -> Float[Tensor, ""]:
        """Mean of activations' and gradient's shares, differentiable: 1 of blank pictures, 0 of the private ones.

        Of the activations alone where these determine the pictures.
        """
        if self.suffices:
            return self.off(z).mean()
        return (self.off(z).mean() + self._matching(z, self._labels)) / 2

    def problem(self, tv: float, floor: float, *, boxed: bool) -> Problem:
        """What is minimised: the distance, and `floor`, times e to the power of `tv` times the total variation.

        Args:
            tv: weight of the prior.
            floor: share of a blank picture's distance by which the prior counts even where the targets are met; it is
                left out where known activations suffice, so that the prior fades.
            boxed: keep candidates inside the range of valid pictures.
        """
        spec, like, least = self.model.input, self.model.like, 0.0 if self.suffices else floor
        edge = like.new_ones(spec.encoded_shape)
        low, high = (spec.project(edge * end) for end in (-math.inf, math.inf))

        def draw(rng: torch.Generator) -> list[Tensor]:
            return [randn((len(self.cotangents), *spec.encoded_shape), rng, like)]

        def value(variables: list[Tensor]) -> Float[Tensor, ""]:
            z = variables[0]
            return (self.distance(z) + least) * (tv * each_vectorial_variation(z[None])[0]).exp()

        def values(variables: list[Tensor]) -> Float[Tensor, " r"]:
            return torch.stack([value([z]) for z in variables[0]])

        def project(variables: list[Tensor]) -> None:
            if boxed:
                variables[0].clamp_(low, high)

        return Problem(draw, value, project, values)

    def release(self) -> None:
        """Lets go of copies of the network."""
        if not self.suffices:
            self._matching.release()

    @cached_property
    def _blank(self) -> Tensor:
        return self.model.like.new_zeros(len(self.cotangents), *self.model.input.encoded_shape)

    @cached_property
    def _blank_activations(self) -> Float[Tensor, " b"]:
        with torch.no_grad():
            return self.known.misfits(self._blank).clamp_min(TINY)

    @cached_property
    def _labels(self) -> Float[Tensor, "b classes"]:
        return (self.cotangents * len(self.cotangents)).to(self.model.like)

    @cached_property
    def _matching(self) -> Matching:
        model = replace(self.model, loss_fn=weighted_logits)
        observed = Update(UpdateKind.GRADIENT, self.gradient).to(self.model.like)
        alone = Matching(model, observed, FedSGD(trainable=tuple(observed.values)), 1, squared_distance)
        guess = alone.guess(self._blank, self._labels)
        off = {k: (guess[k] - v).square().sum() for k, v in observed.values.items()}
        # What does not depend on the pictures, such as the gradient of the head's bias, says nothing of them.
        telling = {k: v for k, v in observed.values.items() if off[k] > FLAT * v.square().sum()} or observed.values
        return replace(
            alone,
            observed=Update(UpdateKind.GRADIENT, telling),
            training=FedSGD(trainable=tuple(telling)),
            distance=SharesOfBlank({k: off[k].clamp_min(TINY) for k in telling}),
        )
