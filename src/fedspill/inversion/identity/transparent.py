"""A network made transparent: what enters a module deep inside is the picture, pixel by pixel.

Fowl et al., "Robbing the Fed", ICLR 2022, arXiv:2110.13057, section 4.3 and Figs. 14-18 (flexible placement), after
Goldblum et al., "Truth or Backpropaganda?", 2019, arXiv:1910.00359.
"""

from dataclasses import replace
from typing import Literal

from torch import nn

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import image_spec
from fedspill.core.model import Model
from fedspill.core.module.twins import copied
from fedspill.inversion.identity.lanes import identity_params
from fedspill.inversion.identity.resnet import PASSING, Residual, is_residual, residual_before
from fedspill.inversion.identity.resnet_lanes import residual_params
from fedspill.inversion.network.trace import trace

Lanes = Literal["three", "all"]
Relu = Literal["shift", "remove"]


def linearised(model: Model, at: str, *, lanes: Lanes, relu: Relu) -> Model:
    """The model with everything before the module named `at` as an identity for pixels; what follows is kept.

    Args:
        model: a ResNet (of the zoo, or with parts named as torchvision's), or a plain stack of convolutions; in
            eval mode.
        at: a stage, a block, a pool, the average (`avgpool`), or what comes after it; read what enters it with
            `pixel_map`, which behind an average over the picture is impossible.
        lanes: "three" hands on one channel per colour, as the paper does; "all" fills the others with shifted
            copies (the paper: "off-set pixels"), so that strides lose as few pixels as possible.
        relu: "shift" changes parameters only; "remove" also takes the activations before `at` out of the
            architecture. What enters `at` is the same.

    Raises:
        NotApplicable: the model is of another kind, or in train mode (batch statistics); names the layer.
    """
    spec = image_spec(model.input)
    if model.training:
        raise NotApplicable("the model is in train mode: with batch statistics no BatchNorm is an identity")
    if is_residual(model):
        residual = residual_before(model, at)
        changed = model.with_params(residual_params(model, spec, residual, fill=lanes == "all"))
        names = _activations(model, residual)
    else:
        traced = trace(model)
        params, end = identity_params(model, traced, phases=lanes == "all", at=at)
        changed = model.with_params(params)
        names = [s.name for s in traced.steps[: traced.steps.index(end)] if isinstance(s.module, PASSING)]
    return _without(changed, names) if relu == "remove" else changed


def _activations(model: Model, residual: Residual) -> list[str]:
    """Names of those in the stem and in the blocks."""
    inside = tuple(f"{block.name}." for block in residual.blocks)
    return [
        name
        for name, layer in model.module.named_modules(remove_duplicate=False)
        if isinstance(layer, PASSING) and (name.startswith(inside) if "." in name else residual.stem is not None)
    ]


def _without(model: Model, names: list[str]) -> Model:
    module = copied(model.module)
    for name in names:
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, nn.Identity())
    return replace(model, module=module)
