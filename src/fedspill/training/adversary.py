"""Adversarial examples for training and for measuring robustness; never an attack on clients."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from fedspill.core.errors import BadInput
from fedspill.core.rng import rand, randn

Logits = Callable[[Tensor], Tensor]
"""Pixels (n, c, h, w) in [0, 1] to logits (n, classes)."""

Norm = Literal["l2", "linf"]


@dataclass(frozen=True)
class Adversary:
    """Projected gradient descent: Madry et al. 2018, arXiv 1706.06083. Pixels are in [0, 1].

    Attributes:
        norm: of the perturbation of one image.
        epsilon: its largest norm; 0 leaves images as they are.
        steps: gradient steps. One is fast adversarial training (Wong et al. 2020, arXiv 2001.03994).
        step_size: in the norm; None takes 1.25 epsilon for one step, else 2.5 epsilon / steps.
        restarts: random starts; per image the one with the highest loss counts.

    Raises:
        BadInput: a number is out of range.
    """

    norm: Norm = "l2"
    epsilon: float = 0.5
    steps: int = 7
    step_size: float | None = None
    restarts: int = 1

    def __post_init__(self) -> None:
        if self.epsilon < 0 or self.steps < 1 or self.restarts < 1:
            raise BadInput(
                f"epsilon={self.epsilon}, steps={self.steps}, restarts={self.restarts}: epsilon must be 0 or more,"
                " steps and restarts 1 or more"
            )

    @property
    def step(self) -> float:
        """Length of one step."""
        if self.step_size is not None:
            return self.step_size
        return self.epsilon * (1.25 if self.steps == 1 else 2.5 / self.steps)

    def worst(
        self, logits: Logits, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"], rng: torch.Generator
    ) -> Float[Tensor, "n c h w"]:
        """Images within epsilon of `images`, and in [0, 1], on which the loss is high."""
        if self.epsilon == 0:
            return images
        worst = self._climb(logits, images, labels, rng)
        if self.restarts == 1:
            return worst
        highest = _losses(logits, worst, labels)
        for _ in range(self.restarts - 1):
            other = self._climb(logits, images, labels, rng)
            loss = _losses(logits, other, labels)
            better = loss > highest
            worst = torch.where(better.view(-1, 1, 1, 1), other, worst)
            highest = torch.maximum(loss, highest)
        return worst

    def _climb(self, logits: Logits, images: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        moved = (images + self._start(images, rng)).clamp(0, 1)
        for _ in range(self.steps):
            asked = moved.detach().requires_grad_()
            loss = functional.cross_entropy(logits(asked), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, asked)
            moved = self._within(moved + self.step * self._direction(gradient) - images) + images
            moved = moved.clamp(0, 1)
        return moved.detach()

    def _start(self, images: Tensor, rng: torch.Generator) -> Tensor:
        if self.norm == "linf":
            return (2 * rand(tuple(images.shape), rng, images) - 1) * self.epsilon
        along = randn(tuple(images.shape), rng, images)
        return along * (self.epsilon * rand((len(images), 1, 1, 1), rng, images) / _norms(along))

    def _direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign() if self.norm == "linf" else gradient / _norms(gradient)

    def _within(self, change: Tensor) -> Tensor:
        if self.norm == "linf":
            return change.clamp(-self.epsilon, self.epsilon)
        return change * (self.epsilon / _norms(change)).clamp(max=1)


def _norms(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)


def _losses(logits: Logits, images: Tensor, labels: Tensor) -> Tensor:
    """Margin by which another class wins, per image: the cross-entropy of float32 is flat where it is nearly 0."""
    with torch.no_grad():
        scores = logits(images)
    right = scores.gather(1, labels[:, None])[:, 0]
    return scores.scatter(1, labels[:, None], -torch.inf).amax(1) - right
