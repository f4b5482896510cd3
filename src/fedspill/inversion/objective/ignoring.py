"""Which parameters' gradients are not to be matched, as the clients' defences spoil them.

Balunovic et al., "Bayesian Framework for Gradient Leakage", ICLR 2022, arXiv:2111.04706: the layer that Soteria alters
is left out. Scheliga, Mäder and Seeland, "Combining Variational Modeling with Partial Gradient Perturbation", 2022,
arXiv:2208.04767: so are PRECODE's bottleneck and what lies behind it.
"""

from typing import Any

import torch
from torch import Tensor

from fedspill.core.knowledge import KnownDefence
from fedspill.core.model import Model
from fedspill.core.probing.inputs import probe_inputs, random_like


def ignored(defence: KnownDefence | None, model: Model) -> frozenset[str]:
    """Names of the parameters that are left out: those that a defence altered, and those from a random layer on."""
    if defence is None:
        return frozenset()
    behind = (behind_or_in(model, name) for name in sorted(defence.random_layers))
    return defence.left_out.union(*behind)


def behind_or_in(model: Model, layer: str) -> frozenset[str]:
    """Parameters of a layer, and those that its output does not depend on."""
    before = _reaching(model.in_eval_mode(), layer)
    return frozenset(k for k in model.params if k not in before or k.startswith(f"{layer}."))


def _reaching(model: Model, layer: str) -> set[str]:
    """Parameters that a layer's output depends on, its own among them."""
    seen = list[Tensor]()

    def keep(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(output)

    leaves = {k: v.detach().clone().requires_grad_() for k, v in model.params.items()}
    handle = model.module.get_submodule(layer).register_forward_hook(keep)
    try:
        with torch.enable_grad():
            model.logits(leaves, probe_inputs(model.input, 2, model.like))
    finally:
        handle.remove()
    attached = [v for v in seen if v.requires_grad]
    if not attached:
        return set()
    along = [random_like(v, "reaching") for v in attached]
    gradients: Any = torch.autograd.grad(attached, list(leaves.values()), along, allow_unused=True)
    return {k for k, g in zip(leaves, gradients, strict=True) if g is not None}
