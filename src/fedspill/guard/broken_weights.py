"""Weights that nothing can be learnt from: numbers that are none, a network of zeros, a head of zeros.

Training on such a model is wasted at best. NaN and infinity also pass every check that compares numbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.model import Model
from fedspill.core.probing.head import last_linear
from fedspill.core.roles import Card, Check, Finding, Incoming

NAME = "broken_weights"


@dataclass(frozen=True)
class BrokenWeights:
    """Finds NaN and infinity in parameters and buffers, networks whose weights are all 0, and heads of zeros.

    A head of zeros is a note, as honest fine-tuning begins with one; so are layers of zeros elsewhere, which are passed
    over.
    """

    def inspect(self, incoming: Incoming) -> list[Finding]:
        """One finding for each tensor with numbers that are none, and one for a network or a head of zeros."""
        model = incoming.model
        found = list(_not_finite(model))
        return found or list(_zeros(model))


def _not_finite(model: Model) -> Iterator[Finding]:
    for name, value in {**model.params, **model.buffers}.items():
        share = float((~value.isfinite()).double().mean()) if value.numel() else 0.0
        if share:
            yield Finding(
                check=NAME,
                where=name,
                severity=1.0,
                evidence={"share_not_finite": share, "nan": float(value.isnan().any())},
                explanation=f"{share:.2%} of its numbers are NaN or infinite: every answer and every update of the"
                " network may be so too, and checks that compare numbers see nothing in it.",
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
        )
        return
    name = _head(model)
    if name is not None and not bool(model.params[name].any()):
        yield Finding(
            check=NAME,
            where=name,
            severity=0.3,
            evidence={"zeros": 1.0},
            explanation="The head's weights are all 0: no gradient passes it, so a first update holds the head's own"
            " gradient alone, which is the examples' features. Fine-tuning may begin so; a model in use does not.",
        )


def _head(model: Model) -> str | None:
    """The name of the head's weight; the last linear layer's where the network cannot be run to find it."""
    try:
        return last_linear(model).weight
    except Exception:  # a network of anyone's, on inputs of which only the channels may be known
        names = [f"{path}.weight".lstrip(".") for path, m in model.module.named_modules() if isinstance(m, nn.Linear)]
        return next((name for name in reversed(names) if _is_there(model.params.get(name))), None)


def _is_there(value: Tensor | None) -> bool:
    return value is not None


CARD: Card[Check] = Card(
    title="Weights that are no numbers, or zeros",
    paper="no paper",
    summary="Reports NaN and infinity in parameters and buffers, networks whose weights are all 0, and heads of zeros.",
    presets={"paper": BrokenWeights(), "quick": BrokenWeights()},
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
)
