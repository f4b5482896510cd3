"""What there is of weights in a model: each layer's as a matrix, whatever its class, by the parameter's name."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedspill.core.model import Model, parameter_name
from fedspill.core.probing.head import last_linear
from fedspill.core.rng import stream
from fedspill.core.types import Params

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # pyright: ignore[reportPrivateUsage]


@dataclass(frozen=True)
class Weights:
    """The weights of one layer; a row is what one unit multiplies its inputs with.

    Attributes:
        name: of the parameter.
        rows: all finite.
        kernel: how many numbers of a row belong to one input channel; 1 of a linear layer.
        bias: one number for each row.
        embedding: a row is looked up rather than multiplied.
    """

    name: str
    rows: Float[Tensor, "m n"]
    kernel: int = 1
    bias: Float[Tensor, " m"] | None = None
    embedding: bool = False

    @property
    def layer(self) -> str:
        """Name of the module that holds the parameter."""
        return self.name.rpartition(".")[0]

    @property
    def bias_name(self) -> str:
        """Name of the bias, whether or not there is one."""
        return bias_name(self.name)


def bias_name(weight: str) -> str:
    """The name that the bias beside a weight has."""
    head, _, last = weight.rpartition("weight")
    return f"{head}bias{last}"


def layer_weights(model: Model, foreign: Params | None = None) -> Iterator[Weights]:
    """Every layer's weights, in the model's order, except norms and tensors that hold NaN or infinity.

    Args:
        model: looked at, not run.
        foreign: further tensors that came with it and for which it has no place; they are taken for layers by their
            shapes.
    """
    homes = {id(p): m for m in model.module.modules() for p in m.parameters(recurse=False)}
    owners = {name: homes.get(id(p)) for name, p in model.module.named_parameters()}
    every = {**model.params, **(foreign or {})}
    for name, value in every.items():
        owner = owners.get(name)
        if value.ndim < 2 or not value.is_floating_point() or not value.numel() or isinstance(owner, NORMS):
            continue
        if bool(value.isfinite().all()):
            yield _weights(name, value.detach(), owner, every)


def _weights(name: str, value: Tensor, owner: nn.Module | None, every: Params) -> Weights:
    if isinstance(owner, TRANSPOSED):
        value = value.transpose(0, 1)
    bias = every.get(bias_name(name)) if "weight" in name else None
    if bias is not None and (bias.shape != value.shape[:1] or not bool(bias.isfinite().all())):
        bias = None
    return Weights(
        name,
        value.flatten(1),
        kernel=value[0, 0].numel(),
        bias=None if bias is None else bias.detach(),
        embedding=isinstance(owner, nn.Embedding),
    )


def some_columns(matrix: Float[Tensor, "m n"], most: int) -> Float[Tensor, "m k"]:
    """At most so many columns, drawn by chance but the same ones at every call."""
    if matrix.shape[1] <= most:
        return matrix
    drawn = torch.randperm(matrix.shape[1], generator=stream(0, "columns"))[:most]
    return matrix[:, drawn.to(matrix.device)]


def spread_rows(matrix: Float[Tensor, "m n"], most: int) -> Float[Tensor, "k n"]:
    """At most so many rows, evenly spread."""
    return matrix[:: -(-len(matrix) // most)] if len(matrix) else matrix


def unit_rows(matrix: Float[Tensor, "m n"]) -> Float[Tensor, "k n"]:
    """The rows that are not 0, in float32 or better, each of length 1."""
    exact = matrix.double() if matrix.numel() <= 2**20 else matrix.float()
    top = exact.abs().amax(1, keepdim=True)
    scaled = exact[top[:, 0] > 0] / top[top[:, 0] > 0]  # before squaring, which small numbers do not survive
    return scaled / scaled.norm(dim=1, keepdim=True)


def head_weight(model: Model) -> str | None:
    """Name of the head's weight; the last linear layer's where the network cannot be run to find it."""
    try:
        name = last_linear(model).weight
        return name if name in model.params else None
    except Exception:  # a network of anyone's, on inputs of which only the channels may be known
        named = model.module.named_modules()
        linear = [parameter_name(path, "weight") for path, m in named if isinstance(m, nn.Linear)]
        return next((name for name in reversed(linear) if name in model.params), None)
