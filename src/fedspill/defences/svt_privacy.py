"""SVT privacy as NVIDIA FLARE ships it: named after the sparse vector technique; a heuristic, no guarantee.

Li et al., "Privacy-Preserving Federated Brain Tumour Segmentation", MLMI 2019, arXiv:1910.00962. NVFlare's filter
`SVTPrivacy` goes on drawing noise for what it refused until enough values have passed, and the noise of a query grows
only with the cube root of their number. The sparse vector technique is proven for neither (Lyu, Su and Li,
"Understanding the Sparse Vector Technique", VLDB 2017, arXiv:1603.01699), so that no epsilon is stated here.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.knowledge import KnownDefence
from fedspill.core.local_training.update import FedAvg
from fedspill.core.model import Model
from fedspill.core.rng import rand
from fedspill.core.roles import Card, ClientContext, Defence, PrivacyCost, Stages
from fedspill.core.types import Params, Update

MOST_PASSES = 1000


@dataclass(frozen=True)
class SVTPrivacy:
    """Sends a share of the values, chosen by noisy comparisons with a noisy threshold, noised and cut to +-gamma.

    A heuristic without any guarantee. All is per local step. Numbers without a shape, and BatchNorm statistics, pass as
    they are.

    Attributes:
        fraction: of the values that are drawn to be sent, in (0, 1].
        epsilon: NVFlare's word for what scales the noise of threshold (2 gamma / epsilon) and queries; it is none.
        noise_var: likewise of the noise on what is sent, of scale 2 gamma / noise_var; it is no variance.
        gamma: the largest absolute value of what is sent, in the update's unit.
        tau: the threshold without noise, in the update's unit.
        replace: values are drawn with replacement from those that passed, so that fewer than `fraction` are sent.

    Raises:
        BadInput: a value out of range.
    """

    fraction: float = 0.1
    epsilon: float = 0.1
    noise_var: float = 0.1
    gamma: float = 1e-5
    tau: float = 1e-6
    replace: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise BadInput(f"fraction={self.fraction} must be above 0 and at most 1")
        for name, value in (("epsilon", self.epsilon), ("noise_var", self.noise_var), ("gamma", self.gamma)):
            if not 0 < value < math.inf:
                raise BadInput(f"{name}={value} must be above 0 and finite")
        if not math.isfinite(self.tau):
            raise BadInput(f"tau={self.tau} must be finite")

    def stages(self) -> Stages:
        """Protects the update."""
        return Stages(protect=self._protect)

    def cost(self) -> PrivacyCost | None:
        """Nothing is proven."""
        return None

    def known(self, model: Model) -> KnownDefence:
        """What is 0 was not sent; of the rest the noise is cut with the value, so that its length says nothing."""
        noise = min(self.gamma, math.sqrt(2) * self._noise_scale)
        return KnownDefence(("svt_privacy",), noise_of_step=noise, survivors=True, scale_free=True)

    @property
    def _noise_scale(self) -> float:
        return 2 * self.gamma / self.noise_var

    def _protect(self, update: Update, context: ClientContext, rng: torch.Generator) -> Update:
        training = context.training
        steps = training.local_steps(len(context.batch)) if isinstance(training, FedAvg) else 1
        names = sorted(update.values)
        each = torch.cat([update.values[k].flatten().double().cpu() / steps for k in names])
        sent = torch.zeros_like(each)
        chosen = self._chosen(each, rng)
        noisy = each[chosen] + laplace(self._noise_scale, len(chosen), rng)
        sent[chosen] = noisy.clamp(-self.gamma, self.gamma)
        return replace(update, values=_like(update.values, names, sent * steps))

    def _chosen(self, values: Tensor, rng: torch.Generator) -> Tensor:
        """Places of what is sent, each once, ascending."""
        count = math.ceil(self.fraction * len(values))
        threshold = self.tau + float(laplace(2 * self.gamma / self.epsilon, 1, rng))
        per_query = 4 * self.gamma * count / (self.epsilon * (2 * count) ** (2 / 3))
        sizes, passed = values.abs().clamp_max(self.gamma), torch.zeros(len(values), dtype=torch.bool)
        for _ in range(MOST_PASSES):
            passed |= sizes + laplace(per_query, len(values), rng) >= threshold
            if int(passed.sum()) >= count:
                accepted = passed.nonzero()[:, 0]
                return accepted[_places(len(accepted), count, rng, again=self.replace)].unique()
        raise BadInput(f"tau={self.tau}, gamma={self.gamma}: in {MOST_PASSES} passes too few values are above tau")


def _places(size: int, count: int, rng: torch.Generator, *, again: bool) -> Tensor:
    return torch.randint(size, (count,), generator=rng) if again else torch.randperm(size, generator=rng)[:count]


def laplace(scale: float, count: int, rng: torch.Generator) -> Tensor:
    """Laplace noise (count,) in float64."""
    centred = rand((count,), rng, torch.empty(0, dtype=torch.float64)) - 0.5
    return -scale * centred.sign() * (1 - 2 * centred.abs()).clamp_min(1e-12).log()


def _like(values: Params, names: list[str], flat: Tensor) -> Params:
    """The flat numbers in the tensors' places; what has no shape stays."""
    parts = dict(zip(names, flat.split([values[k].numel() for k in names]), strict=True))
    return {k: parts[k].view_as(v).to(v) if v.ndim else v for k, v in values.items()}


CARD: Card[Defence] = Card(
    title="SVT privacy",
    paper="NVFlare's filter SVTPrivacy; Li et al., MLMI 2019, arXiv:1910.00962",
    summary="Sends a share of the values, noised and cut, as NVFlare ships it; a heuristic, no guarantee.",
    presets={
        "paper": SVTPrivacy(),
        "quick": SVTPrivacy(),
        "strong": SVTPrivacy(fraction=0.01),
        "weak": SVTPrivacy(fraction=0.9, epsilon=10.0, noise_var=100.0, gamma=0.1),
    },
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
)
