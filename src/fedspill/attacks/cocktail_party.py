"""Cocktail Party Attack: images out of a fully connected first layer's gradient, by independent component analysis.

Kariyappa, Guo, Maeng, Xiong, Suh, Qureshi, Lee: "Cocktail Party Attack: Breaking Aggregation-Based Privacy in Federated
Learning Using Independent Component Analysis", ICML 2023, arXiv:2209.05578.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, image_spec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.roles import UNWATCHED, Attack, Card, Watch
from fedspill.core.types import Reconstruction, Update
from fedspill.inversion.gradients.defended.completion import completion
from fedspill.inversion.gradients.defended.sent import noise_on
from fedspill.inversion.gradients.layer import sent
from fedspill.inversion.gradients.mean import mean_gradient, one_step
from fedspill.inversion.low_rank.readout import input_layer
from fedspill.inversion.low_rank.unmixing import Contrast, Whitened, unit_rows, whitened
from fedspill.inversion.search.problem import Found, Problem
from fedspill.inversion.search.sequential import Search
from fedspill.inversion.search.step_rules import SignedAdam

TRUSTED = 0.5
"""Confidence at most: the statistics of a picture confirm nothing."""


@dataclass(frozen=True)
class CocktailParty:
    """Every row of the first layer's gradient is a mixture of the inputs; finds the mixtures that look like pictures.

    Works for any activation, and for several local steps, all of which mix the same inputs. Separated pictures have no
    scale: the paper stretches each to the whole range; the bias's gradient tells it, and the sign. Never converged,
    since nothing confirms a picture; where a ReLU follows, `spear` reads the same gradient exactly.

    Attributes:
        steps: of Adam on the unmixing matrix, from the identity.
        lr: of Adam, constant.
        contrast: what is maximised; a plan names its fields as its own. Weights are those that the authors published
            for a network of two layers.
        scale: "range" (the paper) or "bias", by the layer's bias gradient, not in the paper.
    """

    steps: int = 25_000
    lr: float = 1e-3
    contrast: Contrast = Contrast()
    scale: Literal["range", "bias"] = "range"

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.lr > 0:
            raise BadInput(f"steps={self.steps} must be at least 1, lr={self.lr} above 0")

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """As many pictures as the gradient has directions, n at most.

        Raises:
            NotApplicable: the inputs are no images, the first layer is not fully connected or was not trained, or the
                number of examples can neither be known nor seen.
        """
        spec, step = image_spec(knowledge.model.input), input_layer(knowledge.model)
        weight, bias = step.parameter("weight"), step.parameter("bias")
        sent(update, weight, "the first layer's weight")
        mean = mean_gradient(update, knowledge, [n for n in (weight, bias) if n is not None])
        white = whitened(mean.values[weight or ""], knowledge.num_examples)
        found = Search(SignedAdam(self.lr, signed=False, decay_at=()), self.steps).run(
            [self._problem(white, spec)], rng, watch
        )
        deviation = _deviation(update, knowledge, weight or "") * mean.scale
        return self._shown(white, found, mean.values.get(bias or ""), knowledge, abs(deviation))

    def _problem(self, white: Whitened, spec: ImageSpec) -> Problem:
        def draw(rng: torch.Generator) -> list[Tensor]:
            return [torch.eye(len(white.mixtures)).to(white.mixtures)]

        def value(variables: list[Tensor]) -> Float[Tensor, ""]:
            return self.contrast.loss(white, variables[0], spec.shape)

        def project(variables: list[Tensor]) -> None:
            """Lengths of rows do not matter."""

        return Problem(draw, value, project)

    def _shown(
        self, white: Whitened, found: Found, bias: Tensor | None, knowledge: ServerKnowledge, deviation: float
    ) -> Reconstruction:
        unmixing, like = unit_rows(found.variables[0].detach()), knowledge.model.like
        spec, sources = image_spec(knowledge.model.input), white.sources(unmixing)
        told = None if bias is None else unmixing @ white.turn @ bias
        noise = deviation * (unmixing @ white.turn).norm(dim=1) if deviation else None
        by_bias = self.scale == "bias" and told is not None
        pictures = (
            by_bias_scale(spec, sources, told, noise)
            if by_bias and told is not None
            else stretched(spec, sources, told)
        )
        near = (unmixing @ unmixing.T).abs().fill_diagonal_(0).amax(1)
        count, number = knowledge.num_examples, len(sources)
        few = () if count in (None, number) else (f"{number} of {count} examples differ in the layer's gradient.",)
        how = "by the bias's gradient" if by_bias else "stretched to their range"
        ended = () if found.complete else ("The budget ended before the last iteration; this is the best so far.",)
        return Reconstruction(
            inputs=pictures.to(like),
            confidence=(TRUSTED * (1 - near).clamp(0, 1)).to(like),
            objective=found.history,
            notes=(
                f"Pictures were separated by their statistics and scaled {how}; nothing confirms them.",
                *few,
                *ended,
            ),
        )


def _deviation(update: Update, knowledge: ServerKnowledge, weight: str) -> float:
    """Standard deviation of an entry of the layer's gradient, as far as the server knows it; 0 for none."""
    if knowledge.defence is None:
        return 0.0
    told = completion(update, knowledge).of(weight) if one_step(update, knowledge) else None
    if told is not None and math.isfinite(told.error):
        return told.error
    return noise_on(weight, update, knowledge, knowledge.defence, 1.0)


def by_bias_scale(
    spec: ImageSpec, sources: Float[Tensor, "n d"], told: Float[Tensor, " n"], noise: Float[Tensor, " n"] | None = None
) -> Tensor:
    """Sources over what the bias has in their place, which is 1 for an input itself.

    Behind noise of this deviation the posterior mean of a normalised input, of mean 0 and variance 1.
    """
    safe = torch.where(told.abs() > 0, told, torch.ones_like(told))
    safe = safe if noise is None else safe + noise.square() / safe
    return spec.decode((sources / safe[:, None]).view(-1, *spec.shape))


def stretched(spec: ImageSpec, sources: Float[Tensor, "n d"], told: Float[Tensor, " n"] | None) -> Tensor:
    """Sources from the darkest to the brightest pixel, turned round where the bias says so."""
    turned = sources if told is None else sources * torch.where(told < 0, -1.0, 1.0).to(sources)[:, None]
    low, high = turned.amin(1, keepdim=True), turned.amax(1, keepdim=True)
    part = (turned - low) / (high - low).clamp_min(1e-30)
    darkest, brightest = spec.bounds
    return (darkest + (brightest - darkest) * part).view(-1, *spec.shape)


_PAPER = CocktailParty()
_STRONG = CocktailParty(steps=10_000, lr=3e-3, scale="bias")

CARD: Card[Attack] = Card(
    title="Cocktail Party Attack",
    paper="Kariyappa et al., ICML 2023, arXiv:2209.05578",
    summary="Separates the images in a fully connected first layer's gradient by independent component analysis.",
    iterative=True,
    presets={
        "paper": _PAPER,
        "quick": replace(_STRONG, steps=2000, lr=1e-2),
        "strong": _STRONG,
    },
)
