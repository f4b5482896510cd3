"""A client that trains with Opacus: gradients of single examples clipped, summed, noised and averaged.

Yousefpour et al., "Opacus", 2021, arXiv:2109.12298. `package.module:factory` is called with a copy of the network and
returns what `PrivacyEngine.make_private` returns: the module, the optimizer and the loader. The gradient that the
optimizer is about to step along is what leaves the client.
"""

import copy
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from fedspill.core.errors import BadInput
from fedspill.core.libraries.named import named
from fedspill.core.model import Model
from fedspill.core.types import Params
from fedspill.filtering.chains.chain import Chain, Declared, Offer, Refused, Unit, reason

PACKAGE = "opacus"
WRAPPED = "_module."
"""Before the names of parameters in Opacus' module."""


@dataclass(frozen=True)
class OpacusChain:
    """The gradient of one step.

    Attributes:
        name: for a reader.
        factory: from a network to (module, optimizer, loader).
        network: a copy of what was received.
        module: that Opacus made of it.
        optimizer: Opacus', which clips and adds noise.
    """

    name: str
    factory: Callable[[nn.Module], Any]
    network: nn.Module
    module: Any
    optimizer: Any
    carries_weights: bool = False
    computes: bool = True
    unit: Unit = "example"

    @property
    def steps(self) -> tuple[str, ...]:
        """Its name, and Opacus' two numbers."""
        made = self.optimizer
        return (f"{self.name}: Opacus(noise_multiplier={made.noise_multiplier}, max_grad_norm={made.max_grad_norm})",)

    @property
    def declared(self) -> Declared:
        """The norm, and the noise of the averaged gradient."""
        made = self.optimizer
        share = made.expected_batch_size if made.loss_reduction == "mean" else 1
        multiplier, clip = float(made.noise_multiplier), float(made.max_grad_norm)
        return Declared(clip=clip, noise=multiplier * clip / share, multiplier=multiplier)

    def send(self, offer: Offer) -> Params | None:
        """See `Chain`."""
        batch = offer.batch.to(offer.model.like)
        try:
            self.optimizer.zero_grad()
            loss = offer.model.loss_fn(self.module(offer.model.input.encode(batch.inputs)), batch.labels)
            loss.backward()
            self.optimizer.pre_step()
        except Exception as error:  # of Opacus, on a network of anyone's
            raise Refused(reason(error)) from error
        named = {n.removeprefix(WRAPPED): p for n, p in self.module.named_parameters()}
        return {n: -p.grad.detach().clone() for n, p in named.items() if isinstance(p.grad, torch.Tensor)}

    def renewed(self) -> Chain:
        """Another client with the same network."""
        return _client(self.name, self.factory, self.network)


def read_client(name: str, model: Model) -> OpacusChain:
    """The client of `package.module:factory`, with the model's network in train mode.

    Raises:
        BadInput: there is no such factory, it fails or returns something else; or Opacus is not installed.
    """
    if find_spec(PACKAGE) is None:
        raise BadInput(f"{name!r} needs Opacus; install it: pip install 'fedspill[opacus]'")
    factory = named(name, "chain", "factory")
    if not callable(factory):
        raise BadInput(f"chain {name!r} is a {type(factory).__name__}; a function of the network is needed")
    return _client(name, factory, _trainable(model))


def _trainable(model: Model) -> nn.Module:
    """A network of parameters, as a client gets it."""
    network = copy.deepcopy(model.module)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(model.params[name])
            parameter.requires_grad_(name not in model.frozen)
        for name, buffer in network.named_buffers():
            buffer.copy_(model.buffers[name])
    return network.to(model.like.device, model.like.dtype).train()


def _client(name: str, factory: Callable[[nn.Module], Any], network: nn.Module) -> OpacusChain:
    try:
        returned = factory(copy.deepcopy(network))
    except Exception as error:  # of the user's code
        raise BadInput(f"chain {name!r}: the factory failed with {reason(error)}") from error
    optimizers: Any = importlib.import_module("opacus.optimizers")
    if not isinstance(returned, tuple) or len(returned) < 2 or not isinstance(returned[1], optimizers.DPOptimizer):
        raise BadInput(
            f"chain {name!r} returned no (module, optimizer, loader) of Opacus; return what make_private returns"
        )
    return OpacusChain(name, factory, network, returned[0], returned[1])
