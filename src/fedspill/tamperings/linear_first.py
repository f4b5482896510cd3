"""A fully connected layer in front of the network, whose gradient gives the input away.

Geiping, Bauermeister, Dröge, Moeller: "Inverting Gradients", NeurIPS 2020, arXiv:2003.14053, appendix A.1
(dishonest architectures). For several examples the rows fire rarely, as the random rows of Boenisch et al.,
"When the Curious Abandon Honesty", EuroS&P 2023, arXiv:2112.02918, do.
"""

from dataclasses import dataclass
from math import log, prod

import torch
from torch import Tensor, nn

from fedspill.core.inputs import ImageSpec, TableSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.rng import randn
from fedspill.core.roles import UNWATCHED, Card, Tampered, Tampering, Watch
from fedspill.core.types import Batch, Reconstruction, ServerRole, Update
from fedspill.inversion.analytic.readout import read_layer
from fedspill.inversion.gradients.layer import Layer
from fedspill.inversion.network.planting import enclosed

PLANTED, BACK = "planted", "back"


class LinearFirstNetwork(nn.Module):
    """x + V relu(U x + b), then the network. Takes and returns what the network does."""

    def __init__(self, base: nn.Module, features: int, rows: int) -> None:
        super().__init__()
        with torch.device("meta"):
            self.planted = nn.Linear(features, rows)
            self.back = nn.Linear(rows, features, bias=False)
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.base(x + self.back(torch.relu(self.planted(x.flatten(1)))).view_as(x))


@dataclass(frozen=True)
class LinearFirst:
    """Puts a biased layer of random rows in front; the network goes on working, on a slightly changed input.

    Attributes:
        rows: outputs of the planted layer.
        rarest: the row that fires least does so for this share of inputs; the others are spread up to one
            half, since the number of examples is not known beforehand.
        scale: size of the change of the input, where it is about 1.
        balance: size of the planted rows; what is taken from them is added to the map back, which leaves the
            network as it is and lets local training move the rows more than float32 rounds.
        peel: see `inversion.readout.read_layer`.
    """

    rows: int = 64
    rarest: float = 1 / 64
    scale: float = 0.05
    balance: float = 0.1
    peel: bool = False

    def tamper(
        self, model: Model, public_data: Batch | None, round: int, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Tampered:
        """The network behind a planted layer; public data, if there are any, tell how often a row fires."""
        features = prod(model.input.encoded_shape)
        forth = randn((self.rows, features), rng, model.like)
        # Without its mean a row does not measure brightness, which all pixels share.
        forth = (forth - forth.mean(1, keepdim=True)) * self.balance / features**0.5
        back = self.scale / self.balance / self.rows**0.5
        values = {
            f"{PLANTED}.weight": forth,
            f"{PLANTED}.bias": self._biases(model, forth, public_data),
            f"{BACK}.weight": randn((features, self.rows), rng, model.like) * back,
        }
        changed = enclosed(model, "", lambda base: LinearFirstNetwork(base, features, self.rows), values)
        return Tampered(changed, LinearFirstReadout(self.peel))

    def _biases(self, model: Model, forth: Tensor, public_data: Batch | None) -> Tensor:
        share = torch.linspace(log(0.5), log(self.rarest), self.rows).exp()
        quantile = torch.special.ndtri(1 - share).to(forth)
        if public_data is None or len(public_data) < 2:
            return -quantile * self.balance
        answers = model.input.encode(public_data.to(forth).inputs).flatten(1) @ forth.T
        return -(answers.mean(0) + quantile * answers.std(0))


@dataclass(frozen=True)
class LinearFirstReadout:
    """Reads the rows of the planted layer.

    Attributes:
        peel: see `inversion.readout.read_layer`.
    """

    peel: bool = False

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """The inputs, exact for one example and for those that own rows."""
        layer = Layer(f"{PLANTED}.weight", f"{PLANTED}.bias")
        return read_layer(update, knowledge, layer, rng, peel=self.peel)


CARD: Card[Tampering] = Card(
    title="Fully connected layer in front",
    paper="Geiping et al., NeurIPS 2020, arXiv:2003.14053, appendix A.1",
    summary="Plants a fully connected layer before the network and reads the inputs off its gradient.",
    presets={"paper": LinearFirst(), "quick": LinearFirst(), "strong": LinearFirst(rows=512, peel=True)},
    reads=True,
    role=ServerRole.MALICIOUS_ARCHITECTURE,
    accepts=frozenset({ImageSpec, TableSpec}),
)
