"""What a random layer drew for a single example, read off the linear layers before and behind it.

Of one example a linear layer's gradient tells what entered it (Geiping et al. 2020, Prop. D.1). So the layer before
tells what entered the random one, the layer behind what left it, and both together what it drew: then the network is
no longer random, and all of it can be matched. Not in a paper that we know of.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.errors import NotApplicable
from fedspill.core.model import Model, Stochastic, parameter_name
from fedspill.core.module.twins import copied
from fedspill.core.probing.inputs import probe_inputs
from fedspill.core.types import Params
from fedspill.inversion.gradients.linear import layer_input, rank_one_residual

ONE = 1e-3
"""Share of a linear layer's gradient that may be left beside that of one example."""


def with_draws_read(model: Model, gradient: Params, layers: frozenset[str]) -> Model | None:
    """The model whose random layers take what they drew for one example; None if the gradient does not tell all of it.

    Args:
        gradient: of a single example, or any multiple of it.
        layers: names of modules that are `Stochastic`, or hold such.
    """
    root = copied(model.module)
    drawing = {k: m for k, m in root.named_modules() if isinstance(m, Stochastic) and _is_in(k, layers)}
    if not drawing:
        return None
    for name, layer in drawing.items():
        sides = _sides(model, name)
        if sides is None:
            return None
        before, behind = (_entered(gradient, side) for side in sides)
        if before is None or behind is None:
            return None
        layer.given = layer.drawn(_left(model, sides[0], before)[None], behind[None]).to(model.like)
    return replace(model, module=root)


def _is_in(name: str, layers: frozenset[str]) -> bool:
    return any(name == layer or name.startswith(f"{layer}.") for layer in layers)


def _entered(gradient: Params, layer: str) -> Tensor | None:
    """What entered a linear layer, in float64; None if it was not one example, or cannot be told."""
    weight, bias = (gradient.get(parameter_name(layer, own)) for own in ("weight", "bias"))
    if weight is None or bias is None:
        return None
    try:
        entered = layer_input(weight, bias)
    except NotApplicable:
        return None
    return entered if rank_one_residual(weight, bias, entered) < ONE else None


def _left(model: Model, layer: str, entered: Tensor) -> Tensor:
    weight, bias = (model.params[parameter_name(layer, own)].double() for own in ("weight", "bias"))
    return functional.linear(entered, weight, bias)


def _sides(model: Model, layer: str) -> tuple[str, str] | None:
    """The linear layer whose output enters a layer, and the one that its output enters, with nothing between."""
    calm = model.in_eval_mode()
    names = [k for k, m in calm.module.named_modules() if type(m) is nn.Linear]
    with torch.no_grad(), _passing(calm.module, [layer, *names]) as seen:
        calm.logits(calm.params, probe_inputs(calm.input, 2, calm.like))
    if layer not in seen:
        return None
    entering, leaving = seen[layer]
    before = [k for k in names if k in seen and seen[k][1] is entering]
    behind = [k for k in names if k in seen and seen[k][0] is leaving]
    return (before[0], behind[0]) if len(before) == len(behind) == 1 and entering.ndim == 2 else None


@contextmanager
def _passing(network: nn.Module, names: list[str]) -> Generator[dict[str, tuple[Tensor, Tensor]]]:
    """Inside, what enters and what leaves each of these modules."""
    seen = dict[str, tuple[Tensor, Tensor]]()

    def listen(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = inputs[0], output

        return network.get_submodule(name).register_forward_hook(hook)

    handles = [listen(name) for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
