"""A network as a frozen feature extractor with a head: federated transfer learning.

Dabholkar et al. 2025 (Maui, arXiv 2509.11451), section 2.1: clients train and send the head alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedspill.core.model import Model
from fedspill.core.module.twins import copied
from fedspill.core.types import Params
from fedspill.inversion.network.layers import layer_at, layer_inputs, reaching


@dataclass(frozen=True)
class Extractor:
    """What the head `at` is given: the intermediate representation (IR), differentiable in z.

    Everything is computed in eval mode, as a frozen extractor is run.

    Attributes:
        model: the network.
        at: name of the head.
        inside: layers follow the head, which could not take what enters it: the network is left there.
    """

    model: Model
    at: str
    inside: bool = False

    def __call__(self, z: Float[Tensor, "n ..."]) -> Float[Tensor, "n d"]:
        """Representations of encoded inputs."""
        return self.function()(z)

    def function(self) -> Callable[[Tensor], Tensor]:
        """The same, with the head cut off once and for all: for loops."""
        calm = self.model.in_eval_mode()
        if self.inside:
            return partial(_flat, reaching(calm, self.at), calm.params)
        cut = with_module(calm, self.at, nn.Flatten())

        def represent(z: Tensor) -> Tensor:
            return cut.logits(cut.params, z).flatten(1)

        return represent

    def of(self, inputs: Tensor, chunk: int = 500) -> Float[Tensor, "n d"]:
        """Representations of inputs as people see them, without a graph, few at a time."""
        represent = self.function()
        with torch.no_grad():
            parts = [represent(self.model.input.encode(p.to(self.model.like))) for p in inputs.split(chunk)]
        return torch.cat(parts)


def _flat(entering: Callable[[Params, Tensor], Tensor], params: Params, z: Tensor) -> Tensor:
    return entering(params, z).flatten(1)


def with_module(model: Model, at: str, module: nn.Module) -> Model:
    """The model with another module in the place of `at`; the module brings its weights.

    Raises:
        NotApplicable: there is no such place.
    """
    layer_at(model, at)
    network = copied(model.module)
    parent, _, name = at.rpartition(".")
    setattr(network.get_submodule(parent), name, module.train(model.training))
    inside = f"{at}."
    params = {k: v for k, v in model.params.items() if not k.startswith(inside)}
    buffers = {k: v for k, v in model.buffers.items() if not k.startswith(inside)}
    params |= {inside + k: v.detach().to(model.like) for k, v in module.named_parameters()}
    buffers |= {inside + k: v.detach().to(model.like.device) for k, v in module.named_buffers()}
    frozen = {k for k in model.frozen if not k.startswith(inside)}
    frozen |= {inside + k for k, v in module.named_parameters() if not v.requires_grad}
    order = [k for k, _ in network.named_parameters()], [k for k, _ in network.named_buffers()]
    return replace(
        model,
        module=network,
        params={k: params[k] for k in order[0]},
        buffers={k: buffers[k] for k in order[1]},
        frozen=frozenset(frozen),
    )


def two_layer_head(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], *, flatten: bool = False
) -> nn.Sequential:
    """Linear, ReLU, Linear with these weights and biases: (h, d), (h,) and (classes, h), (classes,).

    Args:
        flatten: representations come with more than one axis.
    """
    layers: list[nn.Module] = [nn.Flatten()] if flatten else []
    layers += [_linear(*first), nn.ReLU(), _linear(*second)]
    return nn.Sequential(*layers)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight.detach().clone()), nn.Parameter(bias.detach().clone())
    return layer


def representation_shape(model: Model, at: str) -> tuple[int, ...]:
    """The shape of one representation, as the head is given it."""
    z = model.like.new_zeros(1, *model.input.encoded_shape)
    return tuple(layer_inputs(model.in_eval_mode(), at, z).shape[1:])
