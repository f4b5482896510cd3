"""Initial weights drawn from a generator; the global random state is never read.

A network is built on the `meta` device, where drawing is free, and every parameter and buffer is then filled
here. The schemes are those of the networks' papers.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedspill.core.errors import BadInput

Scheme = Callable[[nn.Module, torch.Generator], None]
"""Fills one leaf module (a convolution, a linear layer or an embedding) in place."""

_DRAWN = (nn.Conv2d, nn.Linear, nn.Embedding)
_CONSTANT = (nn.BatchNorm2d, nn.LayerNorm)


def materialise(build: Callable[[], nn.Module], scheme: Scheme, rng: torch.Generator) -> nn.Module:
    """The network that `build` makes, on the CPU in float32, with weights from `rng`.

    Raises:
        BadInput: the network holds parameters of a kind of layer that no scheme fills.
    """
    with torch.device("meta"):
        module = build()
    module = module.to_empty(device="cpu")
    for name, part in module.named_modules():
        if isinstance(part, (*_DRAWN, *_CONSTANT)):
            _fill(part, scheme, rng)
        elif next(part.parameters(recurse=False), None) is not None:
            raise BadInput(f"layer {name!r} is a {type(part).__name__}; only {_DRAWN} and {_CONSTANT} are filled")
    return module


def _fill(part: nn.Module, scheme: Scheme, rng: torch.Generator) -> None:
    if isinstance(part, _CONSTANT):
        part.reset_parameters()  # constants: scale 1, shift 0, running mean 0, variance 1
    else:
        with torch.no_grad():
            scheme(part, rng)


def half_uniform(part: nn.Module, rng: torch.Generator) -> None:
    """Weights and biases from U(-0.5, 0.5): Zhu et al. 2019 (arXiv 1906.08935), the authors' code."""
    for value in part.parameters(recurse=False):
        value.uniform_(-0.5, 0.5, generator=rng)


def torch_default(part: nn.Module, rng: torch.Generator) -> None:
    """PyTorch's own: weights and biases from U(-1/sqrt(fan in), 1/sqrt(fan in))."""
    weight = _weight(part)
    bound = 1 / math.sqrt(weight[0].numel())
    for value in part.parameters(recurse=False):
        value.uniform_(-bound, bound, generator=rng)


def language_model(part: nn.Module, rng: torch.Generator) -> None:
    """Embeddings from U(-0.1, 0.1), as in PyTorch's own example of a language model; the rest by PyTorch's default."""
    if isinstance(part, nn.Embedding):
        part.weight.uniform_(-0.1, 0.1, generator=rng)
    else:
        torch_default(part, rng)


def kaiming_fan_out(part: nn.Module, rng: torch.Generator) -> None:
    """He et al. 2015, normal, fan out, for convolutions; PyTorch's default for linear layers."""
    if isinstance(part, nn.Conv2d):
        nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu", generator=rng)
    else:
        torch_default(part, rng)


def kaiming_fan_in(part: nn.Module, rng: torch.Generator) -> None:
    """He et al. 2015, normal, fan in, for every weight; biases by PyTorch's default."""
    torch_default(part, rng)
    nn.init.kaiming_normal_(_weight(part), generator=rng)


def _weight(part: nn.Module) -> Tensor:
    weight = part.weight
    assert isinstance(weight, Tensor)
    return weight
