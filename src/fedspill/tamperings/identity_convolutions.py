"""Convolutions that do nothing: the picture arrives at the classification layer, whose gradient shows it.

Geiping, Bauermeister, Dröge, Moeller: "Inverting Gradients", NeurIPS 2020, arXiv:2003.14053, appendix A.2
(dishonest parameter vectors), after Goldblum et al., "Truth or Backpropaganda?", 2019, arXiv:1910.00359.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.inputs import image_spec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.probing.head import last_linear
from fedspill.core.roles import UNWATCHED, Card, Tampered, Tampering, Watch
from fedspill.core.types import Batch, Reconstruction, ServerRole, Update
from fedspill.inversion.analytic.candidates import ONE_EXAMPLE
from fedspill.inversion.analytic.fully_connected import recursive_input
from fedspill.inversion.analytic.readout import by_class
from fedspill.inversion.gradients.layer import Layer
from fedspill.inversion.gradients.mean import mean_gradient
from fedspill.inversion.identity.lanes import identity_params
from fedspill.inversion.identity.pixel_map import INTERPOLATED, PixelMap, pictures, pixel_map
from fedspill.inversion.labels.known import known_labels
from fedspill.inversion.network.dense import dense_layers
from fedspill.inversion.network.trace import Trace, trace


@dataclass(frozen=True)
class IdentityConvolutions:
    """Sends Dirac kernels; keeps the architecture and the linear layers.

    Strides and pools leave a smaller picture (a maximum pool also a brighter one), which is enlarged again.

    Attributes:
        phases: fill free channels with shifted copies, so that strides lose fewer pixels (not in the paper; no
            effect where the network has maximum pools).
        flat_head: set the classification layer to zero, so that several examples of different classes are
            each read exactly (not in the paper, which treats one example).
    """

    phases: bool = False
    flat_head: bool = False

    def tamper(
        self, model: Model, public_data: Batch | None, round: int, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Tampered:
        """The model with parameters replaced, and its readout.

        Raises:
            NotApplicable: the network is no plain stack of convolutions that ends in linear layers.
        """
        traced = trace(model)
        params, linear = identity_params(model, traced, phases=self.phases)
        if self.flat_head:
            head = last_linear(model)
            flat = [n for n in (head.weight, head.bias) if n is not None]
            params |= {n: torch.zeros_like(params[n]) for n in flat}
        changed = model.with_params(params)
        tail = Trace(traced.steps[traced.steps.index(linear) :], traced.closed)
        return Tampered(changed, PictureReadout(pixel_map(changed, linear.name), tail))


@dataclass(frozen=True)
class PictureReadout:
    """Computes the input of the first linear layer and turns it back into a picture.

    Converged means that all rows of that layer agree on one example, or, for several, that the absent classes
    agree (which makes the formula for single classes exact) and some class has one example only.

    Attributes:
        seen: which pixel each feature shows.
        tail: the layers from the first linear one on.
    """

    seen: PixelMap
    tail: Trace

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """One picture for one example; for several one for each class, or their mixture.

        Raises:
            NotApplicable: the linear layers were not trained, or have no bias.
        """
        layers = dense_layers(self.tail)
        names = [n for layer in layers for n in (layer.weight, layer.bias) if n is not None]
        count = knowledge.num_examples
        gradient = mean_gradient(update, knowledge, names, count or 1).values
        if len(layers) == 1 and count is not None and count > 1:
            several = by_class(update, knowledge, Layer(layers[0].weight, layers[0].bias or ""), rng)
            if several is not None:
                return self._trusted(replace(several, inputs=self._pictures(several.inputs, knowledge)), knowledge)
        features, residual = recursive_input(layers, knowledge.model.params, gradient)
        return self._trusted(self._one(features, residual, update, knowledge, rng), knowledge)

    def _trusted(self, read: Reconstruction, knowledge: ServerKnowledge) -> Reconstruction:
        """One example's features are read exactly; its picture only where every pixel was shown."""
        if read.confidence is None or self.seen.is_whole(image_spec(knowledge.model.input)):
            return read
        return replace(read, confidence=read.confidence.clamp_max(INTERPOLATED))

    def _pictures(self, features: Float[Tensor, "m f"], knowledge: ServerKnowledge) -> Tensor:
        return pictures(self.seen, features, image_spec(knowledge.model.input)).to(knowledge.model.like)

    def _one(
        self,
        features: Tensor,
        residual: float,
        update: Update,
        knowledge: ServerKnowledge,
        rng: torch.Generator,
    ) -> Reconstruction:
        labels = known_labels(update, knowledge, rng, 1)
        alone = residual < ONE_EXAMPLE and knowledge.num_examples in (None, 1)
        notes = [f"{self.seen.resolution()} pixels per channel were shown; the others are interpolated."]
        if not alone:
            notes.append(f"Several examples: this is a mixture of them (rank-one residual {residual:.1e}).")
        return Reconstruction(
            inputs=self._pictures(features[None], knowledge),
            labels=None if labels is None or not alone else labels.values[:1].to(features.device),
            label_method=None if labels is None or not alone else labels.method,
            confidence=features.new_tensor([max(0.0, 1.0 - residual) if alone else 0.0]).float(),
            converged=alone,
            notes=tuple(notes),
        )


CARD: Card[Tampering] = Card(
    title="Identity convolutions",
    paper="Geiping et al., NeurIPS 2020, arXiv:2003.14053, appendix A.2",
    summary="Turns every convolution into an identity, so that the head's gradient shows the picture.",
    presets={
        "paper": IdentityConvolutions(),
        "quick": IdentityConvolutions(),
        "strong": IdentityConvolutions(phases=True, flat_head=True),
    },
    reads=True,
    role=ServerRole.MALICIOUS_PARAMETERS,
)
