"""Robbing the Fed with identity kernels against honest, random and Maui-style models, by their entropy alone.

Dabholkar et al. (Maui), arXiv:2509.11451, section 7.4.1: 0.17 of handcrafted vectors, 0.99 of all others.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks import weight_entropy
from benchmarks.vetting.worlds import NETWORKS, after_steps, public
from fedspill.core.model import Model
from fedspill.guard.weight_entropy import WeightEntropy

WIDTH = 256
"""Of the two-layer heads."""


@dataclass(frozen=True)
class Entropies:
    """Of the kernels and rows of a model.

    Attributes:
        mean: over all of them.
        lowest: of all of them.
        low: share that lies below the check's level.
        highest_low: the highest of these, 0 if there is none.
    """

    mean: float
    lowest: float
    low: float
    highest_low: float


def of(model: Model) -> Entropies:
    """The layers as a whole are left out."""
    parts = [h.clamp_min(0) for unit, h in weight_entropy.measured(model).items() if unit != "layer"]
    every = [float(x) for part in parts for x in part]
    low = [x for x in every if x < WeightEntropy().threshold]
    return Entropies(sum(every) / len(every), min(every), len(low) / len(every), max(low, default=0.0))


def _cnn(weights: str) -> Model:
    return NETWORKS["cnn"].build(weights)


MODELS: Mapping[str, Callable[[], Model]] = {
    "random: cnn": lambda: _cnn("untrained"),
    "random: convnet 16": lambda: NETWORKS["convnet 16"].build(),
    "random: resnet20": lambda: NETWORKS["resnet20"].build(),
    "honest: cnn, trained": lambda: _cnn("trained"),
    "honest: cnn, robust": lambda: _cnn("robust"),
    "honest: cnn, fine-tuned": lambda: after_steps(_cnn("trained"), 10, 1e-3),
    "honest: resnet20, trained": lambda: NETWORKS["resnet20"].build("trained"),
    "Maui-style: quantile head on the trained cnn": lambda: weight_entropy.quantile_head(
        _cnn("trained"), public(), WIDTH
    ),
    "Maui-style: quantile head on the robust cnn": lambda: weight_entropy.quantile_head(
        _cnn("robust"), public(), WIDTH
    ),
    "RtF + identity kernels in the trained cnn": lambda: weight_entropy.handcrafted(_cnn("trained"), public(), WIDTH),
    "RtF + identity kernels in the random cnn": lambda: weight_entropy.handcrafted(_cnn("untrained"), public(), WIDTH),
}


def measured() -> list[dict[str, Any]]:
    """A record for every model."""
    return [{"case": f"entropy/{name}", "kind": "entropy", **vars(of(make()))} for name, make in MODELS.items()]
