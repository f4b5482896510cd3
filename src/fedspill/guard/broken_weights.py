"""Weights that nothing can be learnt from: numbers that are none, a network of zeros, a head of zeros.

Training on such a model is wasted at best. NaN and infinity also pass every check that compares numbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.model import Model
from fedspill.core.roles import Card, Check, Finding, Incoming
from fedspill.core.types import Params
from fedspill.inversion.network.weights import head_weight

NAME = "broken_weights"
READS = "What such an update tells of the examples cannot be said beforehand, and no one gains by sending it."
ADVICE = "Do not train on it; ask for the model again, and compare its checksum with another client's."


@dataclass(frozen=True)
class BrokenWeights:
    """Finds NaN and infinity in parameters and buffers, networks whose weights are all 0, and heads of zeros.

    A head of zeros is a note, as honest fine-tuning begins with one; so are layers of zeros elsewhere, which are passed
    over.
    """

    def inspect(self, incoming: Incoming) -> list[Finding]:
        """One finding for each tensor with numbers that are none, and one for a network or a head of zeros."""
        model = incoming.model
        found = list(_not_finite(incoming.tensors))
        return found or list(_zeros(model))


def _not_finite(tensors: Params) -> Iterator[Finding]:
    for name, value in tensors.items():
        share = float((~value.isfinite()).double().mean()) if value.numel() else 0.0
        if share:
            yield Finding(
                check=NAME,
                where=name,
                severity=1.0,
                evidence={"share_not_finite": share, "nan": float(value.isnan().any())},
                explanation=f"{share:.2%} of its numbers are NaN or infinite: every answer and every update of the"
                " network may be so too, and checks that compare numbers see nothing in it.",
                rule="not_finite",
                reads=READS,
                advice=ADVICE,
            )


def _zeros(model: Model) -> Iterator[Finding]:
    weights = {name: value for name, value in model.params.items() if value.ndim > 1}
    if weights and not any(bool(value.any()) for value in weights.values()):
        yield Finding(
            check=NAME,
            where=next(iter(weights)),
            severity=0.9,
            evidence={"layers": float(len(weights))},
            explanation=f"All {len(weights)} weight matrices are 0: the network answers the same to every input, and"
            " what a client sends tells its labels and little that could be learnt.",
            rule="zeros",
            reads=READS,
            advice=ADVICE,
        )
        return
    name = head_weight(model)
    if name is not None and not bool(model.params[name].any()):
        yield Finding(
            check=NAME,
            where=name,
            severity=0.3,
            evidence={"zeros": 1.0},
            explanation="The head's weights are all 0: no gradient passes it, so a first update holds the head's own"
            " gradient alone, which is the examples' features. Fine-tuning may begin so; a model in use does not.",
            rule="head_of_zeros",
            reads="From one example's update its features can be read exactly, and of several those of each class.",
            advice="Accept it in the first round of fine-tuning; in a later one ask the server why.",
        )


CARD: Card[Check] = Card(
    title="Weights that are no numbers, or zeros",
    paper="no paper",
    summary="Reports NaN and infinity in parameters and buffers, networks whose weights are all 0, and heads of zeros.",
    presets={"paper": BrokenWeights(), "quick": BrokenWeights()},
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
)
