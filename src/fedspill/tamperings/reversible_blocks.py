"""Reversible blocks: the classification layer's input is known exactly, and is run back to the picture.

Geiping, Bauermeister, Dröge, Moeller: "Inverting Gradients", NeurIPS 2020, arXiv:2003.14053, appendix A.1
(dishonest architectures).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import image_spec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.roles import UNWATCHED, Card, Tampered, Tampering, Watch
from fedspill.core.types import Batch, Reconstruction, ServerRole, Update
from fedspill.inversion.network.trace import probe_inputs
from fedspill.inversion.reversible.blocks import HEAD, ReversibleNetwork, drawn
from fedspill.inversion.reversible.reading import read_reversible


@dataclass(frozen=True)
class ReversibleBlocks:
    """Sends a classifier of reversible blocks, with random weights, in place of the network that was agreed on.

    Attributes:
        blocks: reversible ones before the classification layer.
        hidden: channels inside a branch of a block.
        gain: size of what a block adds to what it carries, about; below 1.
        flat_head: set the classification layer to zero, so that several examples of different classes are each read
            exactly (not in the paper, which treats one example); the network no longer answers anything.
    """

    blocks: int = 6
    hidden: int = 32
    gain: float = 0.5
    flat_head: bool = False

    def __post_init__(self) -> None:
        if min(self.blocks, self.hidden) < 1 or not 0 < self.gain <= 1:
            raise BadInput(
                f"blocks={self.blocks}, hidden={self.hidden}, gain={self.gain}: the first two must be 1 or more, the"
                " last above 0 and at most 1"
            )

    def tamper(
        self, model: Model, public_data: Batch | None, round: int, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Tampered:
        """Another network for the same pictures and classes, and its readout.

        Raises:
            NotApplicable: the model takes no pictures of which two streams can be made, or gives no logits (n, k).
        """
        channels, height, width = image_spec(model.input).shape
        network = ReversibleNetwork((channels, height, width), _classes(model), self.blocks, self.hidden)
        params = dict(drawn(network, self.gain, rng, model.like))
        if self.flat_head:
            params[f"{HEAD}.weight"] = torch.zeros_like(params[f"{HEAD}.weight"])
        network.train(model.training)
        sent = replace(model, module=network, params=params, buffers={}, frozen=frozenset[str]())
        return Tampered(sent, ReversibleReadout())


def _classes(model: Model) -> int:
    with torch.no_grad():
        logits: Tensor = model.logits(model.params, probe_inputs(model.input, 2, model.like))
    if logits.ndim != 2:
        raise NotApplicable(f"the network gives logits of shape {tuple(logits.shape)}; one row an example is needed")
    return logits.shape[1]


@dataclass(frozen=True)
class ReversibleReadout:
    """Reads the classification layer's input off its gradient and runs the blocks backwards."""

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """One example exactly; of several one picture for each class, exact if the head is flat.

        Raises:
            NotApplicable: the classification layer was not trained, or the clients' optimiser leaves no ratios.
        """
        return read_reversible(update, knowledge, rng)


CARD: Card[Tampering] = Card(
    title="Reversible blocks",
    paper="Geiping et al., NeurIPS 2020, arXiv:2003.14053, appendix A.1",
    summary="Sends a network of reversible blocks and runs it back from the head's exactly known input.",
    presets={
        "paper": ReversibleBlocks(),
        "quick": ReversibleBlocks(blocks=2),
        "strong": ReversibleBlocks(flat_head=True),
    },
    reads=True,
    role=ServerRole.MALICIOUS_ARCHITECTURE,
)
