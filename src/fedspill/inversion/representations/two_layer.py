"""A head of two linear layers with a ReLU between, as numbers: what it does to representations, and its gradient."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model, parameter_name
from fedspill.core.types import LossFn, Update
from fedspill.inversion.gradients.layer import Layer
from fedspill.inversion.gradients.mean import mean_gradient
from fedspill.inversion.gradients.rounding import largest_rounding
from fedspill.inversion.network.layers import layer_inputs
from fedspill.inversion.network.trace import probe_inputs

PROBES = 2
SKIPPED = (nn.Identity, nn.Dropout, nn.Flatten)
"""Modules that do nothing to a row of numbers in eval mode."""


@dataclass(frozen=True)
class TwoLayer:
    """Linear, ReLU, Linear at the end of a network, in float64.

    Attributes:
        at: name of the first layer; what enters it is the intermediate representation (IR).
        first: names of its weight (h, d) and bias (h,).
        last: names of weight (classes, h) and bias (classes,) of the second layer.
        loss_fn: of the network, a mean over examples.
    """

    at: str
    first: Layer
    last: Layer
    weight: Float[Tensor, "h d"]
    bias: Float[Tensor, " h"]
    last_weight: Float[Tensor, "classes h"]
    last_bias: Float[Tensor, " classes"]
    loss_fn: LossFn

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.last_bias)

    def outputs(self, x: Float[Tensor, "m d"]) -> Float[Tensor, "m h"]:
        """The outputs of the first layer, before the ReLU."""
        return x.double() @ self.weight.T + self.bias

    def logits(self, outputs: Float[Tensor, "m h"]) -> Float[Tensor, "m classes"]:
        """The logits behind the first layer's outputs."""
        return outputs.relu() @ self.last_weight.T + self.last_bias

    def errors(
        self, logits: Float[Tensor, "m classes"], labels: Int[Tensor, "labels m"]
    ) -> Float[Tensor, "labels m classes"]:
        """The derivative of each example's own loss by its logits, for the labels that it may have."""
        leaf = logits.detach().requires_grad_()
        with torch.enable_grad():
            losses = [self.loss_fn(leaf, label) * len(leaf) for label in labels.to(leaf.device)]
            return torch.stack([torch.autograd.grad(loss, leaf, retain_graph=True)[0] for loss in losses])


def two_layer(model: Model, layer: Layer) -> TwoLayer | None:
    """The two-layer head whose first layer is `layer`; None if what follows that layer is anything else."""
    at = layer.weight.rpartition(".")[0]
    last = _behind(model, at) if at else None
    if last is None:
        return None
    names = Layer(parameter_name(last, "weight"), parameter_name(last, "bias"))
    required = (layer.weight, layer.bias, names.weight, names.bias)
    if any(name not in model.params for name in required):
        return None
    values = [model.params[name].double() for name in required]
    head = TwoLayer(at, layer, names, values[0], values[1], values[2], values[3], model.loss_fn)
    return head if _is_all(model, head) else None


def _behind(model: Model, at: str) -> str | None:
    """Name of the linear layer behind `at` and a ReLU in one nn.Sequential, if nothing else follows."""
    parent, _, name = at.rpartition(".")
    block = model.module.get_submodule(parent)
    if not isinstance(block, nn.Sequential):
        return None
    names = list(dict(block.named_children()))
    after = names[names.index(name) + 1 :]
    kinds = [(n, block.get_submodule(n)) for n in after]
    kept = [(n, m) for n, m in kinds if not isinstance(m, SKIPPED)]
    if len(kept) != 2 or not isinstance(kept[0][1], nn.ReLU) or not isinstance(kept[1][1], nn.Linear):
        return None
    return parameter_name(parent, kept[1][0])


def _is_all(model: Model, head: TwoLayer) -> bool:
    """The head alone gives the network's logits."""
    calm = replace(model, training=False)
    z = probe_inputs(model.input, PROBES, model.like)
    try:
        x = layer_inputs(calm, head.at, z)
    except NotApplicable:
        return False
    if x.ndim != 2:
        return False
    with torch.no_grad():
        expected = calm.logits(calm.params, z).double()
    got = head.logits(head.outputs(x))
    size = 1 + float(expected.abs().max())
    return expected.shape == got.shape and float((got - expected).abs().max()) < 1e-3 * size


@dataclass(frozen=True)
class TwoLayerGradient:
    """The mean gradient of a two-layer head in float64, and how exact it is.

    Attributes:
        last_weight: of the second layer; None if it was not trained.
        floor: the smallest bias gradient that may be divided by.
        noise: rounding error of each row's bias gradient; it grows as examples' shares are taken away.
    """

    weight: Float[Tensor, "h d"]
    bias: Float[Tensor, " h"]
    last_weight: Float[Tensor, "classes h"] | None
    floor: float
    noise: Float[Tensor, " h"]

    def usable(self) -> Int[Tensor, " rows"]:
        """Rows that may be divided, the strongest first."""
        size = self.bias.abs()
        order = size.argsort(descending=True, stable=True)
        return order[(size > self.floor)[order] & (size > 10 * self.noise)[order]]

    def without(self, shares: Sequence["Share"]) -> "TwoLayerGradient":
        """What is left when examples' shares are taken away."""
        x, delta = torch.stack([s.x for s in shares]), torch.stack([s.bias_grad for s in shares])
        last, noise = self.last_weight, self.noise
        if last is not None:
            last = last - torch.stack([s.error for s in shares]).T @ torch.stack([s.hidden for s in shares])
        noise = noise + torch.stack([s.noise for s in shares]).sum(0)
        return replace(
            self, weight=self.weight - delta.T @ x, bias=self.bias - delta.sum(0), last_weight=last, noise=noise
        )


@dataclass(frozen=True)
class Share:
    """What one example adds to the mean gradient.

    Attributes:
        x: its representation.
        bias_grad: of the first layer.
        error: of the logits, that is the second layer's bias gradient.
        hidden: after the ReLU.
        noise: what rounding may have made of `bias_grad`; infinite where it is open whether the row fired.
    """

    x: Float[Tensor, " d"]
    bias_grad: Float[Tensor, " h"]
    error: Float[Tensor, " classes"]
    hidden: Float[Tensor, " h"]
    noise: Float[Tensor, " h"]


def head_gradient(update: Update, knowledge: ServerKnowledge, head: TwoLayer, floor: float) -> TwoLayerGradient:
    """The head's mean gradient.

    Args:
        update: holds at least the first layer.
        knowledge: of the server.
        head: of the model as sent.
        floor: see `TwoLayerGradient`.
    """
    mean = mean_gradient(update, knowledge, (head.first.weight, head.first.bias, head.last.weight))
    bias = mean.values[head.first.bias]
    # The worst entry of the whole layer stands for each row: it is compared with 10 times as much.
    error = largest_rounding(update, knowledge.model.params, (head.first.weight, head.first.bias), mean.scale)
    noise = torch.full_like(bias, error)
    return TwoLayerGradient(mean.values[head.first.weight], bias, mean.values.get(head.last.weight), floor, noise)
