"""Which units fired, as far as the gradient of their layer tells."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fedspill.core.model import Model
from fedspill.core.types import Params
from fedspill.inversion.gradients.layer import Layer, LayerGradient
from fedspill.inversion.gradients.linear import RowGroup
from fedspill.inversion.network.layers import layer_inputs


def gated(model: Model, at: str, layer: Layer, z: Float[Tensor, "n ..."]) -> bool:
    """Rows of a linear layer that are negative have a gradient of exactly 0, as before a ReLU; measured on `z`."""
    bias = model.params[layer.bias].detach().requires_grad_()
    closed = layer_outputs(model, at, layer, z) < 0
    for one, shut in zip(z, closed, strict=True):
        logits = model.logits({**model.params, layer.bias: bias}, one[None])
        # Any function of the logits tells, so that it need not be the loss, which may take other labels.
        mixed = (logits.flatten() * torch.linspace(1, 2, logits.numel(), device=one.device).to(logits)).sum()
        if bool((torch.autograd.grad(mixed, bias)[0][shut] != 0).any()):
            return False
    return bool(closed.any())


def layer_outputs(model: Model, at: str, layer: Layer, z: Float[Tensor, "n ..."]) -> Float[Tensor, "n rows"]:
    """What a linear layer puts out, in the model's own precision."""
    return row_outputs(model.params, layer, layer_inputs(model, at, z).flatten(1))


def row_outputs(params: Params, layer: Layer, x: Float[Tensor, "n d"]) -> Float[Tensor, "n rows"]:
    """What a linear layer makes of its inputs, in their precision."""
    return nn.functional.linear(x, params[layer.weight].to(x), params[layer.bias].to(x))


def contradicted(
    params: Params,
    layer: Layer,
    gradient: LayerGradient,
    groups: Sequence[RowGroup],
    x: Float[Tensor, "m d"],
) -> Bool[Tensor, " m"]:
    """Candidates that do not fire their own rows, or fire a row that no example fired, beyond rounding.

    Of one gradient behind a ReLU only: a row that fires has a gradient, one that does not has none.
    """
    weight, output = params[layer.weight], row_outputs(params, layer, x)
    rounding = 8 * torch.finfo(weight.dtype).eps * x.shape[1] ** 0.5
    slack = rounding * x.norm(dim=1)[:, None] * weight.double().norm(dim=1) + rounding
    claimed = torch.zeros_like(output, dtype=torch.bool)
    for number, group in enumerate(groups):
        claimed[number, group.rows] = True
    silent = gradient.bias == 0
    return ((claimed & (output < -slack)) | (silent & (output > slack))).any(1)
