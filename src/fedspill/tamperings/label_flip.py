"""Permuted rows of the classification layer: the client trains towards a wrong label, and its gradient grows.

Geiping, Bauermeister, Dröge, Moeller: "Inverting Gradients", NeurIPS 2020, arXiv:2003.14053, appendix A.2.
"""

from dataclasses import dataclass

import torch

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec, TableSpec
from fedspill.core.model import Model
from fedspill.core.probing.head import last_linear
from fedspill.core.roles import UNWATCHED, Card, Tampered, Tampering, Watch
from fedspill.core.types import Batch, ServerRole


@dataclass(frozen=True)
class LabelFlip:
    """Permutes rows of the head's weight and bias; brings no readout, the plan's attacks run on what it made.

    Attributes:
        all_rows: shift all rows by a random number of classes, so that every class is affected; else exchange
            two random rows, as in the paper, which affects examples of these two classes.
    """

    all_rows: bool = False

    def tamper(
        self, model: Model, public_data: Batch | None, round: int, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Tampered:
        """The model with other rows in its head.

        Raises:
            NotApplicable: there is no head, or it has one row.
        """
        head = last_linear(model)
        classes = len(head.rows(model.params[head.weight]))
        if classes < 2:
            raise NotApplicable(f"the head {head.name!r} has {classes} row; at least 2 are needed to permute")
        order = _shifted(classes, rng) if self.all_rows else _exchanged(classes, rng)
        order = order.to(model.like.device)
        flipped = {head.weight: model.params[head.weight].index_select(1 if head.across else 0, order)}
        if head.bias is not None:
            flipped[head.bias] = model.params[head.bias][order]
        return Tampered(model.with_params({**model.params, **flipped}))


def _exchanged(classes: int, rng: torch.Generator) -> torch.Tensor:
    order, pair = torch.arange(classes), torch.randperm(classes, generator=rng)[:2]
    order[pair] = pair.flip(0)
    return order


def _shifted(classes: int, rng: torch.Generator) -> torch.Tensor:
    by = int(torch.randint(1, classes, (1,), generator=rng))
    return torch.arange(classes).roll(by)


CARD: Card[Tampering] = Card(
    title="Label flipping",
    paper="Geiping et al., NeurIPS 2020, arXiv:2003.14053, appendix A.2",
    summary="Permutes rows of the classification layer, so that a trained model's gradients grow.",
    presets={"paper": LabelFlip(), "quick": LabelFlip(), "strong": LabelFlip(all_rows=True)},
    role=ServerRole.MALICIOUS_PARAMETERS,
    accepts=frozenset({ImageSpec, TableSpec}),
)
