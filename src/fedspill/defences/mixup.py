"""MixUp: a client trains on mixtures of its examples, with labels mixed alike.

Zhang, Cisse, Dauphin and Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018, arXiv:1710.09412; as a
defence Huang, Song, Li and Arora, "InstaHide", ICML 2020, arXiv:2010.02772, whose mixing inside the client's own data
this is, with its coefficients, and without its random signs of pixels. It hides little: mixtures of a batch span what
the batch spans, so that an attack which separates a layer's inputs blindly finds the examples themselves (`cocktail_
party`); and Carlini et al., "Is Private Learning Possible with Instance Encoding?", 2021, arXiv:2011.05315.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import KnownDefence
from fedspill.core.model import Model
from fedspill.core.probing.inputs import probe_inputs
from fedspill.core.roles import Card, ClientContext, Defence, PrivacyCost, Stages
from fedspill.core.types import Batch, Update


@dataclass(frozen=True)
class MixUp:
    """Trains on as many mixtures as there are examples, each of k different ones; every example is in k of them.

    A client with fewer than k examples sends nothing. Labels become class probabilities, which the loss must take.

    Attributes:
        k: examples in a mixture, at least 2.
        most: the largest coefficient, in (1 / k, 1]; drawn as |normal|, divided by their sum, until none is larger.

    Raises:
        BadInput: a value out of range.
    """

    k: int = 4
    most: float = 0.65

    def __post_init__(self) -> None:
        if self.k < 2 or not 1 / self.k < self.most <= 1:
            raise BadInput(f"k={self.k} must be at least 2, and most={self.most} above 1 / k and at most 1")

    def stages(self) -> Stages:
        """Blends the examples, and withholds the update of too few."""
        return Stages(blend=self._blend, protect=self._protect)

    def cost(self) -> PrivacyCost | None:
        """Nothing is proven."""
        return None

    def known(self, model: Model) -> KnownDefence:
        """Of how many examples a mixture is; which they are, and how much of each, is drawn."""
        return KnownDefence(names=("mixup",), mixed=self.k)

    def _protect(self, update: Update, context: ClientContext, rng: torch.Generator) -> Update | None:
        return None if len(context.batch) < self.k else update

    def _blend(self, batch: Batch, model: Model, rng: torch.Generator) -> Batch:
        if len(batch) < self.k:
            return batch  # whose update is withheld
        share = self.coefficients(len(batch), rng).to(batch.inputs)
        mixed = torch.tensordot(share, batch.inputs, 1)
        return Batch(mixed, share @ targets(batch.labels, model).to(share))

    def coefficients(self, n: int, rng: torch.Generator) -> Float[Tensor, "n n"]:
        """The share of each example in each mixture; rows and columns hold k that are not 0, rows add up to 1."""
        order, shares = torch.randperm(n, generator=rng), torch.zeros(n, n, dtype=torch.float64)
        for i in range(n):
            partners = order[(torch.arange(self.k) + i) % n]
            shares[order[i], partners] = self._drawn(rng)
        return shares

    def _drawn(self, rng: torch.Generator) -> Float[Tensor, " k"]:
        while True:
            drawn = torch.randn(self.k, generator=rng, dtype=torch.float64).abs()
            drawn = drawn / drawn.sum()
            if float(drawn.max()) <= self.most:
                return drawn


def targets(labels: Tensor, model: Model) -> Float[Tensor, "n k"]:
    """Labels as numbers that can be averaged.

    Raises:
        BadInput: a label is a class, and the network has a single output.
    """
    if labels.is_floating_point() or labels.ndim > 1:
        return labels if labels.is_floating_point() else labels.to(model.like.dtype)
    calm = model.in_eval_mode()
    with torch.no_grad():
        classes = calm.logits(calm.params, probe_inputs(calm.input, 1, calm.like)).shape[-1]
    if classes < 2 or int(labels.max()) >= classes:
        raise BadInput(f"mixup: labels up to {int(labels.max())} were got, and a network of {classes} outputs")
    return functional.one_hot(labels, classes).to(model.like.dtype)


CARD: Card[Defence] = Card(
    title="MixUp",
    paper="Zhang et al., ICLR 2018, arXiv:1710.09412; Huang et al., ICML 2020, arXiv:2010.02772",
    summary="Trains on mixtures of the client's examples; a heuristic.",
    presets={"paper": MixUp(), "quick": MixUp(k=2), "weak": MixUp(k=2, most=0.95), "strong": MixUp(k=6)},
    accepts=frozenset({ImageSpec}),
)
