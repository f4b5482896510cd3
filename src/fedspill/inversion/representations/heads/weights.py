"""Two-layer classification heads on frozen features, by what they leak: plain, random, quantile-bias, and SpAB.

Dabholkar et al. 2025 (Maui, arXiv 2509.11451), section 5.2.2. The first layer's rows that one example of a batch fires
alone show its representation; the kinds differ in how rare that is.

A trained one is kept as one safetensors file.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.errors import BadInput, few
from fedspill.core.rng import rand, randn
from fedspill.inversion.network.extractor import Extractor, representation_shape, two_layer_head
from fedspill.inversion.theory.ownership import leakage_rates

Kind = Literal["plain", "random", "quantile", "spab"]
"""Trained for accuracy alone; untrained; untrained with rows that fire rarely; trained to leak."""
CHUNK = 4096


@dataclass(frozen=True)
class HeadWeights:
    """Linear, ReLU, Linear.

    Attributes:
        weight: of the first layer.
        bias: of the first layer.
        last_weight: of the second layer.
        last_bias: of the second layer.
    """

    weight: Float[Tensor, "h d"]
    bias: Float[Tensor, " h"]
    last_weight: Float[Tensor, "classes h"]
    last_bias: Float[Tensor, " classes"]

    def module(self, *, flatten: bool = False) -> nn.Sequential:
        """The module to put in the place of a network's head; see `network.extractor.two_layer_head`."""
        return two_layer_head((self.weight, self.bias), (self.last_weight, self.last_bias), flatten=flatten)

    def outputs(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n h"]:
        """The outputs of the first layer, before the ReLU."""
        return functional.linear(features, self.weight, self.bias)

    def logits(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n classes"]:
        """What the head says of representations."""
        return functional.linear(self.outputs(features).relu(), self.last_weight, self.last_bias)

    def accuracy(self, features: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> float:
        """Share of right answers."""
        parts = zip(features.split(CHUNK), labels.split(CHUNK), strict=True)
        return sum(int((self.logits(f).argmax(1) == y).sum()) for f, y in parts) / len(labels)

    def leakage(self, features: Float[Tensor, "n d"], size: int) -> float:
        """IR leakage rate, with the truth, averaged over consecutive batches of `size`."""
        chunk = CHUNK // size * size or size
        rates = [leakage_rates(self.outputs(f), size) for f in features.split(chunk) if len(f) >= size]
        return float(torch.cat(rates).mean()) if rates else float("nan")


def default_layers(length: int, width: int, classes: int, rng: torch.Generator, like: Tensor) -> HeadWeights:
    """A head drawn as PyTorch draws linear layers: uniform within 1 / sqrt(inputs)."""

    def draw(shape: tuple[int, ...], inputs: int) -> Tensor:
        return (2 * rand(shape, rng, like) - 1) / inputs**0.5

    first = draw((width, length), length), draw((width,), length)
    return HeadWeights(*first, draw((classes, width), width), draw((classes,), width))


def quantile_bias(
    weight: Float[Tensor, "h d"], features: Float[Tensor, "n d"], rates: Float[Tensor, " h"]
) -> Float[Tensor, " h"]:
    """Biases with which row j fires for a share `rates[j]` of the features."""
    silent = ((1 - rates) * len(features)).round().long().clamp(0, len(features) - 1)
    out = torch.empty_like(rates)
    for rows in torch.arange(len(weight)).split(256):  # all rows at once would fill the memory for many features
        ordered = (features @ weight[rows].T).sort(0).values
        below = ordered.gather(0, (silent[rows] - 1).clamp_min(0)[None])[0]
        out[rows] = -(below + ordered.gather(0, silent[rows][None])[0]) / 2
    return out


def quantile_head(
    features: Float[Tensor, "n d"], classes: int, width: int, rate: float, rng: torch.Generator
) -> HeadWeights:
    """Random rows, each of which fires for a share `rate` of public features; nothing is trained.

    Args:
        features: public representations.
        classes: of the labels.
        width: rows.
        rate: 1 / (expected examples of an update) is best if examples are alike.
        rng: on the CPU.
    """
    drawn = default_layers(features.shape[1], width, classes, rng, features)
    weight = randn((width, features.shape[1]), rng, features) / features.shape[1] ** 0.5
    bias = quantile_bias(weight, features, torch.full_like(drawn.bias, rate))
    return replace(drawn, weight=weight, bias=bias)


def check_features(features: Tensor, labels: Tensor, classes: int, width: int) -> None:
    """Raises BadInput unless these can train a head."""
    if features.ndim != 2 or len(features) != len(labels) or len(features) < 2:
        raise BadInput(
            f"features {tuple(features.shape)} and labels {tuple(labels.shape)}: (n, d) and (n,), n >= 2, are needed"
        )
    if width < 1 or classes < 2 or int(labels.max()) >= classes:
        raise BadInput(f"width={width}, classes={classes}, largest label {int(labels.max())}: they do not fit together")


def check_kind(kind: str) -> None:
    """Raises BadInput for an unknown kind of head."""
    if kind not in get_args(Kind):
        raise BadInput(f"unknown head {kind!r}; there are {', '.join(get_args(Kind))}")


NAMES = ("0.weight", "0.bias", "2.weight", "2.bias")
"""As `HeadWeights.module` calls them."""


def read_head(path: str | Path, extractor: Extractor) -> HeadWeights:
    """The head in a file that `fedspill train spab` wrote, on the extractor's device and in its dtype.

    Raises:
        BadInput: there is no such file, it holds no head of two layers, or one for other representations.
    """
    path, like = Path(path), extractor.model.like
    if not path.is_file():
        raise BadInput(f"head file {str(path)!r} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(f"{str(path)!r} is no whole safetensors file: {str(error)[:160]}") from error
    if sorted(tensors) != sorted(NAMES) or not all(bool(v.isfinite().all()) for v in tensors.values()):
        raise BadInput(
            f"{str(path)!r} holds {few(sorted(tensors))}; finite {', '.join(sorted(NAMES))} are needed, a head of two"
            " layers"
        )
    head = HeadWeights(*(tensors[name].to(like) for name in NAMES))
    length = int(torch.tensor(representation_shape(extractor.model, extractor.at)).prod())
    (rows, inputs), classes = head.weight.shape, len(head.last_bias)
    if inputs != length or head.bias.shape != (rows,) or head.last_weight.shape != (classes, rows):
        shapes = {name: tuple(tensors[name].shape) for name in NAMES}
        raise BadInput(f"{str(path)!r} holds {shapes}; the extractor gives {length} values to its head")
    return head
