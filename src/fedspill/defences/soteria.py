"""Soteria: hides a part of what enters one fully connected layer, chosen by what it says of the inputs.

Sun, Li, Wang, Yang, Li and Chen, "Soteria: Provable Defense against Privacy Leakage in Federated Learning from
Representation Perspective", CVPR 2021, arXiv:2012.06043. As the authors' code does it: for each feature r_f that enters
the layer, ||r_f|| / ||d r_f / d x|| stands for ||r_f (d r_f / d x)^-1||, and the largest of these are hidden, so that
the columns with the smallest ||d r_f / d x|| / (|r_f| + 0.1) are set to 0. The biases and all other layers are sent as
they are, which is how it is broken: an attacker leaves the layer out (Balunovic et al., ICLR 2022, arXiv:2111.04706).
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fedspill.core.errors import BadInput, some
from fedspill.core.inputs import ImageSpec, TableSpec
from fedspill.core.knowledge import KnownDefence
from fedspill.core.model import Model, parameter_name
from fedspill.core.probing.head import last_linear
from fedspill.core.roles import Card, ClientContext, Defence, PrivacyCost, Stages
from fedspill.core.types import Encoded, Update

OFFSET = 0.1
"""Added to |r_f|, so that a feature of 0 has a score; as in the authors' code against Inverting Gradients."""


@dataclass(frozen=True)
class Soteria:
    """Sends 0 for those columns of one layer's weight that a percentile of scores lies above.

    Features that are dead for the whole batch have a score of 0 and count among the columns.

    Attributes:
        percentile: of the scores, in [0, 100]: columns with a score below it are not sent; 1 against DLG and 60
            against Inverting Gradients in the authors' code.
        layer: name of the fully connected layer; "" is the head, as in the authors' code.

    Raises:
        BadInput: a percentile out of range.
    """

    percentile: float = 60.0
    layer: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.percentile <= 100:
            raise BadInput(f"percentile={self.percentile} must lie in [0, 100]")

    def stages(self) -> Stages:
        """Protects the update."""
        return Stages(protect=self._protect)

    def cost(self) -> PrivacyCost | None:
        """Nothing is proven in the sense of differential privacy."""
        return None

    def known(self, model: Model) -> KnownDefence:
        """Which layer's weight is altered."""
        weight = parameter_name(self.layer_of(model), "weight")
        return KnownDefence(names=("soteria",), left_out=frozenset({weight} if self.percentile else ()))

    def layer_of(self, model: Model) -> str:
        """Name of the layer.

        Raises:
            BadInput: it is no fully connected layer of this network.
        """
        layers = [k for k, m in model.module.named_modules() if isinstance(m, nn.Linear)]
        name = self.layer or last_linear(model).name
        if name not in layers:
            raise BadInput(f"soteria: layer={name!r} is no torch.nn.Linear of the network; it has {some(layers)}")
        return name

    def _protect(self, update: Update, context: ClientContext, rng: torch.Generator) -> Update:
        name = self.layer_of(context.model)
        weight = parameter_name(name, "weight")
        if weight not in update.values:
            raise BadInput(f"soteria: the clients do not send {weight!r}, so there is nothing to hide in it")
        batch = context.batch.to(context.model.like)
        kept = self.kept(scores(context.model, name, context.model.input.encode(batch.inputs)))
        return replace(update, values={**update.values, weight: update.values[weight] * kept})

    def kept(self, scores: Float[Tensor, " d"]) -> Bool[Tensor, " d"]:
        """The columns that are sent."""
        return scores >= torch.quantile(scores, self.percentile / 100)


def scores(model: Model, layer: str, z: Encoded) -> Float[Tensor, " d"]:
    """||d r_f / d z|| / (|r_f| + 0.1) of each feature that enters a layer, summed over encoded examples z (n, ...).

    In float64; dropout is off.

    Raises:
        BadInput: no single vector of each example enters the layer, or none that depends on the input.
    """
    z = z.detach().clone().requires_grad_()
    with torch.enable_grad(), _entering(model, layer) as seen:
        model.without_masks().logits(model.params, z)
    if len(seen) != 1 or seen[0].ndim != 2 or len(seen[0]) != len(z):
        raise BadInput(f"soteria: layer={layer!r} must take one vector of each example, once in a pass")
    features = seen[0]
    if not features.requires_grad:
        raise BadInput(f"soteria: no gradient reaches the input from what enters the layer {layer!r}")
    norms = torch.stack([_slopes(features[:, f], z) for f in range(features.shape[1])], 1)
    return (norms / (features.detach().double().abs() + OFFSET)).sum(0)


def _slopes(feature: Float[Tensor, " n"], z: Tensor) -> Float[Tensor, " n"]:
    """The norm of a feature's derivative by each example."""
    (derivative,) = torch.autograd.grad(feature.sum(), z, retain_graph=True)
    return derivative.double().flatten(1).norm(dim=1)


@contextmanager
def _entering(model: Model, layer: str) -> Generator[list[Tensor]]:
    """What enters a layer in calls of the model inside."""
    seen = list[Tensor]()

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])

    handle = model.module.get_submodule(layer).register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


CARD: Card[Defence] = Card(
    title="Soteria",
    paper="Sun et al., CVPR 2021, arXiv:2012.06043",
    summary="Sends 0 for the columns of one fully connected layer that say most of the inputs; a heuristic.",
    presets={
        "paper": Soteria(),
        "quick": Soteria(),
        "dlg": Soteria(percentile=1.0),
        "weak": Soteria(percentile=20.0),
        "strong": Soteria(percentile=90.0),
    },
    accepts=frozenset({ImageSpec, TableSpec}),
)
