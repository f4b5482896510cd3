"""Units of fully connected layers that fire for one of the client's examples alone.

Boenisch et al., "When the Curious Abandon Honesty", EuroS&P 2023, arXiv:2112.02918; Pan et al., "Exploring the
Security Boundary of Data Reconstruction via Neuron Exclusivity Analysis", USENIX Security 2022, arXiv:2010.13356. The
gradient of such a unit's weights is a multiple of what the layer was given for that example. Planted rows are made to
fire so.
"""

from dataclasses import dataclass

from torch import nn

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.model import Model, parameter_name
from fedspill.core.roles import Card, Check, Finding, Incoming
from fedspill.inversion.gradients.singly import Singles, singles
from fedspill.inversion.network.weights import head_weight

NAME = "lone_examples"


@dataclass(frozen=True)
class LoneExamples:
    """Finds layers in which so many units fire for one example each as no random or trained layer has.

    Every example counts as if the loss pulled it as hard as any other, so that one that the network does not know yet
    is not taken for one that a unit was made for. The head is passed over: its rows belong to classes.

    Attributes:
        share: of the units that have a gradient, those with one example alone, from which on a layer is reported. Of
            units that fire for any share of the examples, equally likely, it is 2 / (n + 1).
        fewest: units with a gradient that there must be.
        examples: of fewer nothing is said.

    Raises:
        BadInput: a field out of range.
    """

    share: float = 0.6
    fewest: int = 6
    examples: int = 4

    def __post_init__(self) -> None:
        if not (0 < self.share <= 1 and self.fewest >= 2 and self.examples >= 2):
            raise BadInput(
                f"share={self.share} must lie above 0 and at most at 1, fewest={self.fewest} and"
                f" examples={self.examples} from 2"
            )

    def inspect(self, incoming: Incoming) -> list[Finding]:
        """One finding for each such layer; none without own data.

        Raises:
            BadInput: the network cannot be run on the client's data.
        """
        seen = singles(incoming)
        if seen is None or len(seen) < self.examples:
            return []
        head = head_weight(incoming.model)
        names = [name for name in connected(incoming.model) if name in seen.norms and name != head]
        found = (self._layer(name, seen) for name in names)
        return [finding for finding in found if finding is not None]

    def _layer(self, name: str, seen: Singles) -> Finding | None:
        live = seen.norms[name].sum(0) > 0
        alone = seen.alone(name)[:, live]
        units, lone, examples = int(live.sum()), int(alone.any(0).sum()), int(alone.any(1).sum())
        if units < self.fewest or lone < self.share * units:
            return None
        rate = float((seen.norms[name][:, live] > 0).double().mean())
        return Finding(
            check=NAME,
            where=name,
            severity=0.8,
            evidence={
                "units": float(units),
                "lone_units": float(lone),
                "lone_examples": float(examples),
                "activation_rate": rate,
                "examples": float(len(seen)),
            },
            explanation=f"{lone} of {units} units that have a gradient have it of one of {len(seen)} examples alone"
            f" ({examples} of the examples are alone somewhere; a unit fires for {rate:.0%} of them on average).",
            reads=f"The gradient of such a unit is a multiple of what the layer was given for that example: the server"
            f" has {examples} of these {len(seen)} examples, exactly where the layer sees the input.",
            advice="Do not send an update of this model; ask the server how this layer was made. Larger batches leave"
            " fewer examples alone where units fire for a fixed share of them.",
        )


def connected(model: Model) -> list[str]:
    """Names of the weights of fully connected layers, in the model's order."""
    layers = (path for path, module in model.module.named_modules() if isinstance(module, nn.Linear))
    return [name for path in layers if (name := parameter_name(path, "weight")) in model.params]


CARD: Card[Check] = Card(
    title="Examples alone in a unit",
    paper="Boenisch et al., EuroS&P 2023, arXiv:2112.02918; Pan et al., USENIX Security 2022, arXiv:2010.13356",
    summary="Reports fully connected layers most of whose units fire for one of the client's examples alone.",
    presets={"paper": LoneExamples(), "quick": LoneExamples()},
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
    own_data=True,
)
