"""The input, concatenated to the features of the classification layer, whose gradient then shows it.

Geiping, Bauermeister, Dröge, Moeller: "Inverting Gradients", NeurIPS 2020, arXiv:2003.14053, appendix A.1
(dishonest architectures).
"""

from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn

from fedspill.core.inputs import ImageSpec, TableSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.module.answers import logits_of
from fedspill.core.probing.head import last_linear
from fedspill.core.roles import UNWATCHED, Card, Tampered, Tampering, Watch
from fedspill.core.types import Batch, Reconstruction, ServerRole, Update
from fedspill.inversion.analytic.readout import by_class, read_layer
from fedspill.inversion.gradients.layer import Layer
from fedspill.inversion.network.planting import enclosed
from fedspill.inversion.network.trace import probe_inputs

TAP = "tap"


class InputToHeadNetwork(nn.Module):
    """The network's logits plus a linear map of its input: the same as an input appended to the features."""

    def __init__(self, base: nn.Module, features: int, classes: int, gain: float) -> None:
        super().__init__()
        self.gain = gain
        with torch.device("meta"):
            self.tap = nn.Linear(features, classes)
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return logits_of(self.base(x)) + self.tap(self.gain * x.flatten(1))


@dataclass(frozen=True)
class InputToHead:
    """Adds a linear map of the input to the logits; it starts at zero, so the network answers as before.

    Attributes:
        gain: scales the input on its way to the added map; small, so that local training hardly moves the
            logits and every local step shows the same thing.
        flat_head: set the network's own classification layer to zero, so that several examples of different
            classes are each read exactly (not in the paper); the network no longer answers anything.
    """

    gain: float = 0.01
    flat_head: bool = False

    def tamper(
        self, model: Model, public_data: Batch | None, round: int, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Tampered:
        """The network with the added map."""
        features = prod(model.input.encoded_shape)
        with torch.no_grad():
            classes = model.logits(model.params, probe_inputs(model.input, 2, model.like)).shape[1]
        base = _with_flat_head(model) if self.flat_head else model
        zeros = model.like.new_zeros
        values = {f"{TAP}.weight": zeros(classes, features), f"{TAP}.bias": zeros(classes)}
        changed = enclosed(base, "", lambda module: InputToHeadNetwork(module, features, classes, self.gain), values)
        return Tampered(changed, InputToHeadReadout(self.gain))


def _with_flat_head(model: Model) -> Model:
    head = last_linear(model)
    flat = {n: torch.zeros_like(model.params[n]) for n in (head.weight, head.bias) if n is not None}
    return model.with_params({**model.params, **flat})


@dataclass(frozen=True)
class InputToHeadReadout:
    """Reads the added map's gradient: its rows belong to the classes.

    Attributes:
        gain: that of the tampering.
    """

    gain: float

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """One example exactly; of several one picture for each class, exact if the head is flat."""
        layer, count = Layer(f"{TAP}.weight", f"{TAP}.bias", self.gain), knowledge.num_examples
        several = None if count in (None, 1) else by_class(update, knowledge, layer, rng)
        if several is None:
            return read_layer(update, knowledge, layer, rng)
        spec = knowledge.model.input
        pictures = spec.decode(several.inputs.view(-1, *spec.encoded_shape)).to(knowledge.model.like)
        return replace(several, inputs=pictures)


CARD: Card[Tampering] = Card(
    title="Input connected to the head",
    paper="Geiping et al., NeurIPS 2020, arXiv:2003.14053, appendix A.1",
    summary="Adds a linear map of the input to the logits and reads the input off its gradient.",
    presets={"paper": InputToHead(), "quick": InputToHead(), "strong": InputToHead(flat_head=True)},
    reads=True,
    role=ServerRole.MALICIOUS_ARCHITECTURE,
    accepts=frozenset({ImageSpec, TableSpec}),
)
