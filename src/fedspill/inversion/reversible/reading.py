"""Pictures behind a classification layer that sees all of them through reversible blocks."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.types import Reconstruction, Update
from fedspill.inversion.analytic.candidates import certain_below
from fedspill.inversion.analytic.certificate import replay
from fedspill.inversion.analytic.readout import by_class, single_example
from fedspill.inversion.gradients.layer import Layer, layer_gradient
from fedspill.inversion.gradients.linear import layer_input, rank_one_residual
from fedspill.inversion.labels.known import known_labels
from fedspill.inversion.reversible.blocks import HEAD, ReversibleNetwork

LAYER = Layer(f"{HEAD}.weight", f"{HEAD}.bias")


def read_reversible(update: Update, knowledge: ServerKnowledge, rng: torch.Generator) -> Reconstruction:
    """The picture of one example, or of several one for each class, from the classification layer's gradient.

    What the blocks carry back is certified by the whole update: the pictures are handed to the client's training, and
    every tensor of what that sends is compared with what came.

    Args:
        update: gradient or delta, of a model whose network is a `ReversibleNetwork`.
        knowledge: of the server.
        rng: for label inference.

    Raises:
        NotApplicable: the network is another one, or its classification layer was not trained.
    """
    if knowledge.num_examples not in (None, 1):
        several = by_class(update, knowledge, LAYER, rng)
        if several is not None:
            return _confirmed(update, knowledge, several)
    gradient = layer_gradient(update, knowledge, LAYER)
    features = layer_input(gradient.weight, gradient.bias)
    residual = rank_one_residual(gradient.weight, gradient.bias, features)
    z = carried_back(knowledge.model, features[None])
    labels = known_labels(update, knowledge, rng, 1)
    read = single_example(update, knowledge, tuple(update.values), z.flatten(), residual, labels)
    if knowledge.num_examples in (None, 1):
        return read
    note = f"{knowledge.num_examples} examples: their features are mixed, and no class could be told apart."
    return replace(
        read, labels=None, label_method=None, confidence=z.new_zeros(1).float(), converged=False, notes=(note,)
    )


def carried_back(model: Model, features: Float[Tensor, "n d"]) -> Float[Tensor, "n c h w"]:
    """Encoded pictures by what the classification layer sees of them; in float64.

    Raises:
        NotApplicable: the network is no `ReversibleNetwork`.
    """
    network = model.to(model.like.device, torch.float64).own_module()
    if not isinstance(network, ReversibleNetwork):
        raise NotApplicable(
            f"{type(network).__name__} is no network of reversible blocks, which this readout runs back"
        )
    with torch.no_grad():
        return network.pictures(features.double())


def _confirmed(update: Update, knowledge: ServerKnowledge, several: Reconstruction) -> Reconstruction:
    """Class means carried back; if every class has one example, the whole update confirms them or does not."""
    spec, model = knowledge.model.input, knowledge.model
    z = carried_back(model, several.inputs.to(model.like.device))
    read = replace(several, inputs=spec.decode(z).to(model.like))
    assert several.labels is not None, "means of classes have classes"
    if len(several.labels) != knowledge.num_examples:
        return read
    names = tuple(update.values)
    again = replay(update, knowledge, names, z, several.labels)
    if again is None:
        return replace(read, notes=(*read.notes, "Not replayed, as the protocol is unknown."))
    sure = again.residual < certain_below(update, knowledge, names)
    note = f"Replayed, the examples differ from the whole update by {again.residual:.1e} (relative)."
    return replace(read, converged=read.converged and sure, notes=(*read.notes, note))
