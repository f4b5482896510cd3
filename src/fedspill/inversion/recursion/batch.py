"""A batch's pictures from its gradient, once each example's features at the head are known.

The recursion of one example with as many right-hand sides as there are examples; the first maps of a convolutional
network come from the shift structure of patches. Where it ends, the pictures are searched that have these maps.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fedspill.core.errors import NotApplicable
from fedspill.core.model import Model, parameter_name
from fedspill.core.roles import UNWATCHED, Watch
from fedspill.core.types import Params
from fedspill.inversion.recursion.graph import Dataflow
from fedspill.inversion.recursion.known_activations import KnownActivations
from fedspill.inversion.recursion.layer_by_layer import Head, Recursion

HEAD_FITS = 1e-2
"""Relative misfit of the head's own gradient beyond which features and residuals are not those of this update."""
PROVES = 2
"""Times the values of a picture: as many of its activations must be known and not 0 to prove it."""
SAME = 1e-6
"""Relative squared error of the known activations up to which a picture is the one that was read."""


@dataclass(frozen=True)
class BatchReading:
    """What was read of a batch.

    Attributes:
        known: the activations nearest to the input, of all examples in the order of the features.
        pictures: encoded, those that have these activations as nearly as could be found; None if too little is known to
            determine a picture.
        certain: of which pictures it is proven, without the truth: the equations of all layers on the way agree, the
            picture has all activations that were read, and these are more than the picture has values.
        layers: how many layers with weights have a known input, and how many there are.
    """

    known: KnownActivations
    pictures: Float[Tensor, "b ..."] | None
    certain: Bool[Tensor, " b"]
    layers: tuple[int, int]

    def described(self) -> str:
        """How far it was read, in the words of a report."""
        return f"{self.known.described()}; the inputs of {self.layers[0]} of {self.layers[1]} layers"


def read_batch(
    model: Model,
    gradient: Params,
    features: Float[Tensor, "b d"],
    residuals: Float[Tensor, "b classes"],
    rng: torch.Generator,
    watch: Watch = UNWATCHED,
) -> BatchReading:
    """Reads on from the head to the pictures.

    Args:
        gradient: of the batch, up to a factor.
        features: what the last linear layer takes, of every example that speaks in the gradient.
        residuals: the loss's derivatives by the logits, up to a factor common to all: of the cross-entropy
            probabilities less labels.
        rng: draws the start from which activations are inverted.

    Raises:
        NotApplicable: the network does not end in a linear layer, or these are not its features; says why.
    """
    flow = Dataflow(model, examples=len(features))
    with torch.no_grad():
        recursion = Recursion(flow, gradient, _head(flow, gradient, features.double(), residuals.double()))
        recursion.run(watch)
    values = {n.name: f.value.to(model.like) for n, f in recursion.told().items()}
    known = KnownActivations(model, values, values.get(flow.nodes[0].name))
    layers = recursion.progress()
    unread = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    if not bool(_determined(known, flow.blank(flow.nodes[0])).any()):
        return BatchReading(known, None, unread, layers)
    pictures = known.inverted(rng, watch)
    return BatchReading(known, pictures, proven(known, pictures), layers)


def proven(known: KnownActivations, pictures: Float[Tensor, "b ..."]) -> Bool[Tensor, " b"]:
    """Which pictures have all activations that were read, while these are more than a picture has values."""
    with torch.no_grad():
        return (known.errors(pictures) < SAME) & _determined(known, pictures)


def _determined(known: KnownActivations, pictures: Float[Tensor, "b ..."]) -> Bool[Tensor, " b"]:
    """Whether so much is known of each example that hardly two pictures can have it."""
    if known.picture is not None:
        return torch.ones(len(pictures), dtype=torch.bool, device=pictures.device)
    active = torch.stack([v.flatten(1).count_nonzero(1) for v in known.values.values()]).sum(0)
    return active > PROVES * pictures[0].numel()


def _head(flow: Dataflow, gradient: Params, features: Tensor, residuals: Tensor) -> Head:
    """The head's inputs and cotangents, at the scale of the gradient."""
    if not isinstance(flow.module(flow.output), nn.Linear):
        raise NotApplicable("the network does not end in a linear layer")
    sent = gradient.get(parameter_name(str(flow.output.target), "weight"))
    if sent is None:
        raise NotApplicable("the last layer's weight has no gradient")
    sent, told = sent.double(), residuals.T @ features
    factor = (sent * told).sum() / told.square().sum()
    if not bool((sent - factor * told).norm() <= HEAD_FITS * sent.norm()):
        raise NotApplicable("the last layer's gradient is not that of these features")
    return Head(features, factor * residuals)
