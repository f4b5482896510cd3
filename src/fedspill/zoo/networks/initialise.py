"""Initial weights drawn from a generator; the global random state is never read.

A network is built on the `meta` device, where drawing is free, and every parameter and buffer is then filled
here. The schemes are those of the networks' papers.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedspill.core.errors import BadInput
from fedspill.core.memory import free_bytes, words

Scheme = Callable[[nn.Module, torch.Generator], None]
"""Fills one leaf module (a convolution, a linear layer or an embedding) in place."""

_DRAWN = (nn.Conv2d, nn.Linear, nn.Embedding)
_CONSTANT = (nn.BatchNorm2d, nn.LayerNorm)


def materialise(build: Callable[[], nn.Module], scheme: Scheme, rng: torch.Generator) -> nn.Module:
    """The network that `build` makes, on the CPU in float32, with weights from `rng`.

    Raises:
        BadInput: the network holds parameters of a kind of layer that no scheme fills, or more than memory does.
    """
    with torch.device("meta"):
        module = build()
    needed, there = sum(v.numel() * v.element_size() for v in module.parameters()), free_bytes(torch.device("cpu"))
    if needed > there:
        raise BadInput(f"its weights need {words(needed)} of memory, this machine has {words(there)} free")
    module = module.to_empty(device="cpu")
    for name, layer in module.named_modules():
        if isinstance(layer, (*_DRAWN, *_CONSTANT)):
            _fill(layer, scheme, rng)
        elif next(layer.parameters(recurse=False), None) is not None:
            raise BadInput(f"layer {name!r} is a {type(layer).__name__}; only {_DRAWN} and {_CONSTANT} are filled")
    return module


def _fill(layer: nn.Module, scheme: Scheme, rng: torch.Generator) -> None:
    if isinstance(layer, _CONSTANT):
        layer.reset_parameters()  # constants: scale 1, shift 0, running mean 0, variance 1
    else:
        with torch.no_grad():
            scheme(layer, rng)


def half_uniform(layer: nn.Module, rng: torch.Generator) -> None:
    """Weights and biases from U(-0.5, 0.5): Zhu et al. 2019 (arXiv 1906.08935), the authors' code."""
    for value in layer.parameters(recurse=False):
        value.uniform_(-0.5, 0.5, generator=rng)


def torch_default(layer: nn.Module, rng: torch.Generator) -> None:
    """PyTorch's own: weights and biases from U(-1/sqrt(fan in), 1/sqrt(fan in))."""
    weight = _weight(layer)
    bound = 1 / math.sqrt(weight[0].numel())
    for value in layer.parameters(recurse=False):
        value.uniform_(-bound, bound, generator=rng)


def language_model(layer: nn.Module, rng: torch.Generator) -> None:
    """Embeddings from U(-0.1, 0.1), as in PyTorch's own example of a language model; the rest by PyTorch's default."""
    if isinstance(layer, nn.Embedding):
        layer.weight.uniform_(-0.1, 0.1, generator=rng)
    else:
        torch_default(layer, rng)


def gpt2(layer: nn.Module, rng: torch.Generator) -> None:
    """Every weight from N(0, 0.02), biases 0 (Radford et al. 2018), without GPT-2's scale by depth."""
    for name, value in layer.named_parameters(recurse=False):
        if name == "bias":
            value.zero_()
        else:
            value.normal_(0, 0.02, generator=rng)


def kaiming_fan_out(layer: nn.Module, rng: torch.Generator) -> None:
    """He et al. 2015, normal, fan out, for convolutions; PyTorch's default for linear layers."""
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=rng)
    else:
        torch_default(layer, rng)


def kaiming_fan_in(layer: nn.Module, rng: torch.Generator) -> None:
    """He et al. 2015, normal, fan in, for every weight; biases by PyTorch's default."""
    torch_default(layer, rng)
    nn.init.kaiming_normal_(_weight(layer), generator=rng)


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight
