"""The input of a fully connected network from one example (Geiping et al. 2020, Prop. 3.1 and D.2)."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.types import Params
from fedspill.inversion.gradients.linear import layer_input, rank_one_residual
from fedspill.inversion.network.activations import slope_from_output
from fedspill.inversion.network.dense import Dense


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
