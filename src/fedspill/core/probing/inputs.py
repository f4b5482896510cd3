"""Arbitrary inputs of a model's kind."""

import torch
from torch import Tensor

from fedspill.core.inputs import InputSpec, TokenSpec
from fedspill.core.rng import rand, stream


def probe_inputs(spec: InputSpec, count: int, like: Tensor) -> Tensor:
    """Arbitrary valid encoded inputs (count, ...), the same at every call."""
    drawn = rand((count, *spec.encoded_shape), stream(0, "trace"), like)
    return spec.decode(drawn * spec.vocabulary) if isinstance(spec, TokenSpec) else spec.project(drawn)


def random_like(tensor: Tensor, name: str) -> Tensor:
    """Random numbers of mean 0 and variance 1 in the tensor's shape, the same at every call."""
    drawn = torch.randn(tensor.shape, generator=stream(0, "probe", name), dtype=torch.float64)
    return drawn.to(tensor)
