"""Analytic recovery from a fully connected layer: no search, exact for one example.

Geiping, Bauermeister, Dröge, Moeller: "Inverting Gradients", NeurIPS 2020, arXiv:2003.14053, Prop. 3.1, D.1
and D.2. For several examples the rows that belong to one example alone are read, as in Pan et al., "Exploring
the Security Boundary of Data Reconstruction via Neuron Exclusivity Analysis", USENIX Security 2022,
arXiv:2010.13356.
"""

from dataclasses import dataclass, replace

import torch

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec, TableSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.roles import UNWATCHED, Attack, Card, Watch
from fedspill.core.types import Reconstruction, Update
from fedspill.inversion.analytic.fully_connected import recursive_input
from fedspill.inversion.analytic.readout import read_layer, single_example
from fedspill.inversion.gradients.layer import Layer
from fedspill.inversion.gradients.mean import mean_gradient, one_step
from fedspill.inversion.labels.known import known_labels
from fedspill.inversion.network.dense import dense_layers
from fedspill.inversion.network.trace import Trace, first_linear, trace


@dataclass(frozen=True)
class LinearLayer:
    """Divides the first layer's weight gradient by its bias gradient, or walks back to it from a later one.

    Converged means a blind certificate: all rows agree and replaying the reconstruction gives the update (one
    example); rows agree and the network confirms the candidate (several).

    Attributes:
        peel: take confirmed examples out of the gradient and look again (n > 1; not in the papers).
    """

    peel: bool = False

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """The inputs of the network, in float64 arithmetic.

        Raises:
            NotApplicable: the network does not begin with fully connected layers, or what is needed of their
                gradients was not sent.
        """
        traced = trace(knowledge.model)
        first = first_linear(traced, knowledge.model.input)
        weight, bias = first.parameter("weight"), first.parameter("bias")
        if weight is not None and bias is not None and bias in update.values:
            return read_layer(update, knowledge, Layer(weight, bias), rng, peel=self.peel)
        return self._from_later_layer(update, knowledge, traced, rng)

    def _from_later_layer(
        self, update: Update, knowledge: ServerKnowledge, traced: Trace, rng: torch.Generator
    ) -> Reconstruction:
        if knowledge.num_examples not in (None, 1):
            raise NotApplicable(
                "the first layer has no trained bias, so only a single example can be computed; the update"
                f" holds {knowledge.num_examples}"
            )
        layers = dense_layers(traced)
        names = [n for layer in layers for n in (layer.weight, layer.bias) if n is not None]
        gradient = mean_gradient(update, knowledge, names, 1)
        x, residual = recursive_input(layers, knowledge.model.params, gradient.values)
        labels = known_labels(update, knowledge, rng, 1)
        reconstruction = single_example(update, knowledge, (layers[0].weight,), x, residual, labels)
        return reconstruction if one_step(update, replace(knowledge, num_examples=1)) else _drifting(reconstruction)


def _drifting(reconstruction: Reconstruction) -> Reconstruction:
    note = "Inputs of later layers drift over several local steps, so walking back from one is not exact."
    return replace(reconstruction, notes=(*reconstruction.notes, note))


CARD: Card[Attack] = Card(
    title="Analytic recovery from a fully connected layer",
    paper="Geiping et al., NeurIPS 2020, arXiv:2003.14053, Prop. 3.1",
    summary="Computes the input of a fully connected network from its gradient; exact for one example.",
    presets={"paper": LinearLayer(), "quick": LinearLayer(), "strong": LinearLayer(peel=True)},
    accepts=frozenset({ImageSpec, TableSpec}),
)
