"""Layers of zeros, and residual branches that are shut.

A layer of zeros cuts what is behind it off from the input: the update then holds the gradient of few layers, undiluted.
LOKI, arXiv:2303.12233, and Boenisch et al., arXiv:2112.02918, shut branches and channels so that pictures pass.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.roles import Card, Check, Finding, Incoming
from fedspill.inversion.network.weights import head_weight, layer_weights

NAME = "empty_layers"
READS = (
    "What lies behind it learns nothing of the input, and a shut branch lets a client's pictures pass unchanged to a"
    " later layer, whose gradient the server reads."
)


@dataclass(frozen=True)
class EmptyLayers:
    """Finds layers whose weights are all 0, the head excepted, and norms whose scales are.

    Both are ways to begin training (zero-initialised branches, adapters); the first is an alarm, as few networks do so,
    the second a note.
    """

    def inspect(self, incoming: Incoming) -> list[Finding]:
        """One finding for each layer of zeros, unless all layers are so (see `broken_weights`), and for each norm."""
        layers = list(layer_weights(incoming.model, incoming.misfit.tensors))
        empty = [w.name for w in layers if not bool(w.rows.any())]
        if len(empty) == len(layers):
            return []
        head = head_weight(incoming.model) if empty else None
        return [*(_layer(name) for name in empty if name != head), *_norms(incoming)]


def _layer(name: str) -> Finding:
    return Finding(
        check=NAME,
        where=name,
        severity=0.6,
        evidence={"zeros": 1.0},
        explanation="All its weights are 0: it answers the same to everything, and hands nothing of the input on.",
        rule="layer",
        reads=READS,
        advice="Unless it was agreed that this layer begins at 0, as some adapters and residual branches do, do not"
        " train on it.",
    )


def _norms(incoming: Incoming) -> Iterator[Finding]:
    for name, value in incoming.model.params.items():
        if name.endswith("weight") and value.ndim == 1 and value.numel() > 1 and not bool(value.any()):
            yield Finding(
                check=NAME,
                where=name,
                severity=0.3,
                evidence={"zeros": 1.0},
                explanation="All its scales are 0, so that the branch it ends hands nothing on.",
                rule="branch",
                reads=READS,
                advice="Accept it in the first round of networks whose branches begin at 0; later ask the server why.",
            )


CARD: Card[Check] = Card(
    title="Layers of zeros and empty branches",
    paper="Zhao et al., IEEE S&P 2024, arXiv:2303.12233; Boenisch et al., EuroS&P 2023, arXiv:2112.02918",
    summary="Reports layers whose weights are all 0, other than the head, and norms that shut a residual branch.",
    presets={"paper": EmptyLayers(), "quick": EmptyLayers()},
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
)
