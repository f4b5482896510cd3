"""PRECODE: a variational bottleneck before the head, whose noise no attacker can compute again.

Scheliga, Mäder and Seeland, "PRECODE - A Generic Model Extension to Prevent Deep Gradient Leakage", WACV 2022,
arXiv:2108.04725. The published loss has a term beta KL(N(mu, sigma^2), N(0, 1)) with beta = 1e-3 besides; it is left
out here, as a loss sees logits and labels alone. Broken by the authors themselves, who leave out the gradients of the
bottleneck and of what lies behind it ("Combining Variational Modeling with Partial Gradient Perturbation to Prevent
Deep Gradient Leakage", 2022, arXiv:2208.04767); a fully connected first layer it never protected (Balunovic et al.,
ICLR 2022, arXiv:2111.04706); and of a single example the bottleneck's own gradient tells what was drawn
(`fedspill.inversion.gradients.drawn`).
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.errors import BadInput, some
from fedspill.core.inputs import ImageSpec, TableSpec
from fedspill.core.knowledge import KnownDefence
from fedspill.core.model import Model, Stochastic
from fedspill.core.module.twins import copied
from fedspill.core.probing.head import last_linear
from fedspill.core.probing.inputs import probe_inputs
from fedspill.core.rng import seeded_globals, stream
from fedspill.core.roles import Card, Defence, PrivacyCost, Stages


class Draw(Stochastic):
    """One draw of a Gaussian, from mu and what sigma is the softplus of, side by side.

    Without draws it is mu: what an attacker computes who does not know them.
    """

    def forward(self, x: Float[Tensor, "n ... both"]) -> Float[Tensor, "n ... k"]:
        """Mu + sigma * noise."""
        mu, spread = x.chunk(2, -1)
        if self.given is not None:
            return mu + functional.softplus(spread) * self.given.to(mu)
        return mu + functional.softplus(spread) * torch.randn_like(mu) if self.training else mu

    def drawn(self, entered: Float[Tensor, "n ... both"], left: Float[Tensor, "n ... k"]) -> Float[Tensor, "n ... k"]:
        """The noise."""
        mu, spread = entered.chunk(2, -1)
        return (left - mu) / functional.softplus(spread)


@dataclass(frozen=True)
class Precode:
    """Puts a variational bottleneck before the head, which draws in every step of a client, in eval mode too.

    The head's parameters are then those of "HEAD.1", the bottleneck's those of "HEAD.0". The network needs training
    with it; what is measured without is an untrained bottleneck.

    Attributes:
        k: numbers in the bottleneck.
        seed: of the bottleneck's first weights.

    Raises:
        BadInput: k below 1.
    """

    k: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.k < 1:
            raise BadInput(f"k={self.k} must be at least 1")

    def stages(self) -> Stages:
        """Prepares the architecture."""
        return Stages(prepare=self._prepare)

    def cost(self) -> PrivacyCost | None:
        """Nothing is proven."""
        return None

    def known(self, model: Model) -> KnownDefence:
        """Which layers make the bottleneck."""
        layers = [k.rpartition(".")[0] for k, m in model.module.named_modules() if isinstance(m, Draw)]
        return KnownDefence(names=("precode",), random_layers=frozenset(layers))

    def _prepare(self, model: Model) -> Model:
        name = last_linear(model).name
        layers = [k for k, m in model.module.named_modules() if isinstance(m, nn.Linear)]
        if name not in layers:
            raise BadInput(f"precode: the head {name!r} is no torch.nn.Linear; the network has {some(layers)}")
        root = copied(model.module)
        head = root.get_submodule(name)
        assert isinstance(head, nn.Linear)
        with seeded_globals(stream(self.seed, "precode")):
            size, k = head.in_features, self.k
            bottleneck = nn.Sequential(nn.Linear(size, 2 * k), Draw(), nn.Linear(k, size)).to(model.like)
        return _called(_rebuilt(model, _put(root, name, nn.Sequential(bottleneck, head)), name))


def _put(root: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """The network with another layer in this place; "" is the network itself."""
    if not name:
        return layer
    parent, _, own = name.rpartition(".")
    setattr(root.get_submodule(parent), own, layer)
    return root


def _rebuilt(model: Model, module: nn.Module, head: str) -> Model:
    """The model with another module, in which the head has moved to "HEAD.1"."""
    before, after = (f"{head}." if head else ""), f"{head}.1." if head else "1."
    moved = {after + k.removeprefix(before) if k.startswith(before) else k: k for k in model.params}
    params = {
        k: model.params[moved[k]] if k in moved else v.detach().clone().to(model.like)
        for k, v in module.named_parameters()
    }
    frozen = frozenset(k for k, old in moved.items() if old in model.frozen)
    return replace(model, module=module, params=params, frozen=frozen)


def _called(model: Model) -> Model:
    """The model, which can be called.

    Raises:
        BadInput: the network's own code uses its head otherwise than by calling it.
    """
    calm = model.in_eval_mode()
    try:
        with torch.no_grad():
            calm.logits(model.params, probe_inputs(model.input, 2, model.like))
    except (AttributeError, RuntimeError) as error:
        raise BadInput(f"precode: the network does not run with a bottleneck before its head: {error}") from error
    return model


CARD: Card[Defence] = Card(
    title="PRECODE",
    paper="Scheliga et al., WACV 2022, arXiv:2108.04725",
    summary="Puts a random bottleneck before the head, so that its gradients cannot be computed again; a heuristic.",
    presets={"paper": Precode(), "quick": Precode(), "weak": Precode(k=1024), "strong": Precode(k=16)},
    accepts=frozenset({ImageSpec, TableSpec}),
)
