"""The input of a fully connected network from one example (Geiping et al. 2020, Prop. 3.1 and D.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedspill.core.errors import NotApplicable
from fedspill.core.types import Params
from fedspill.inversion.chain import Step, Trace
from fedspill.inversion.linear_leakage import layer_input, rank_one_residual

Invertible = nn.ReLU | nn.LeakyReLU | nn.Sigmoid | nn.Tanh | nn.ELU | nn.Softplus | nn.Identity


@dataclass(frozen=True)
class Dense:
    """One fully connected layer: names of its parameters, and what follows it.

    Attributes:
        activation: element-wise, with a derivative that its output tells; None if nothing follows.
    """

    weight: str
    bias: str | None
    activation: Invertible | None = None


def slope_from_output(activation: Invertible | None, output: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    """The derivative of an activation, computed from its output alone."""
    one = torch.ones_like(output)
    match activation:
        case nn.ReLU():
            return (output > 0).to(output)
        case nn.LeakyReLU():
            return torch.where(output > 0, one, one * activation.negative_slope)
        case nn.Sigmoid():
            return output * (1 - output)
        case nn.Tanh():
            return 1 - output.square()
        case nn.ELU():
            return torch.where(output > 0, one, output + activation.alpha)
        case nn.Softplus():
            return -torch.expm1(-activation.beta * output)
        case _:
            return one


def dense_layers(traced: Trace) -> list[Dense]:
    """The layers of a plain fully connected network, from its input to its logits.

    Raises:
        NotApplicable: something else is among them; names it.
    """
    layers = list[Dense]()
    for step in traced.steps:
        if not step.linked:
            raise NotApplicable(f"something that is not a layer happens before {step.describe()}")
        if isinstance(step.module, nn.Linear):
            layers.append(_dense(step))
        elif isinstance(step.module, Invertible) and layers:
            if layers[-1].activation is not None:
                raise NotApplicable(f"two activations follow each other at {step.describe()}")
            layers[-1] = Dense(layers[-1].weight, layers[-1].bias, step.module)
        elif not step.passes():
            raise NotApplicable(f"{step.describe()} is neither fully connected nor an activation of known slope")
    if not layers or not traced.closed:
        raise NotApplicable("the network is not a chain of fully connected layers")
    return layers


def _dense(step: Step) -> Dense:
    weight = step.parameter("weight")
    if weight is None:
        raise NotApplicable(f"{step.describe()} holds no weight of its own")
    return Dense(weight, step.parameter("bias"))


def recursive_input(layers: Sequence[Dense], params: Params, gradient: Params) -> tuple[Float[Tensor, " in"], float]:
    """The input of the first layer, walking back from the earliest layer whose bias gradient is known.

    There x = dW^T delta / delta^2 with delta = dL/db (Prop. D.1). This x is the activation's output of the
    layer below, so there dL/dy = (A^T delta) * slope, and its dW gives the next input (Prop. D.2).

    Args:
        layers: from the input on; layers after the earliest biased one are not looked at.
        params: the network's parameters, of which the weights of the layers that are walked through are read.
        gradient: one example's gradient, in any scale; float64 is advised.

    Returns:
        The input in float64, and the worst `rank_one_residual` on the way (near 0 for one example).

    Raises:
        NotApplicable: no layer has a bias gradient, a weight gradient is missing, or a derivative is zero.
    """
    start = next((i for i, layer in enumerate(layers) if layer.bias in gradient), None)
    if start is None:
        raise NotApplicable("no fully connected layer has a trained bias; one is needed to start from")
    missing = [layer.weight for layer in layers[: start + 1] if layer.weight not in gradient]
    if missing:
        raise NotApplicable(f"the update does not hold {missing[-1]!r}, which the walk to the input needs")
    delta = gradient[layers[start].bias or ""].double()
    x, worst = _read(gradient[layers[start].weight], delta)
    for above, layer in zip(layers[start:0:-1], layers[start - 1 :: -1], strict=False):
        delta = params[above.weight].double().T @ delta * slope_from_output(layer.activation, x)
        x, residual = _read(gradient[layer.weight], delta)
        worst = max(worst, residual)
    return x, worst


def _read(weight_grad: Tensor, delta: Tensor) -> tuple[Tensor, float]:
    x = layer_input(weight_grad, delta)
    return x, rank_one_residual(weight_grad, delta, x)
