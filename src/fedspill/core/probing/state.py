"""Whether a network remembers, outside its buffers, what it was called with."""

import torch
from torch import Tensor, nn

from fedspill.core.errors import BadInput
from fedspill.core.model import Model
from fedspill.core.module.answers import logits_of
from fedspill.core.probing.inputs import probe_inputs


def check_memory(model: Model) -> None:
    """Asks the network twice, with the same buffers and the same random numbers.

    Raises:
        BadInput: it answers differently: it keeps something between calls that is no buffer, which a simulated client
            cannot carry from one local step to the next.
    """
    network, z = model.own_module(), probe_inputs(model.input, 2 if model.training else 1, model.like)
    kept = {k: v.clone() for k, v in network.named_buffers()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        state = torch.random.get_rng_state()
        first = _answer(network, z)
        for name, buffer in network.named_buffers():
            if name in kept:
                buffer.copy_(kept[name])
        torch.random.set_rng_state(state)
        again = _answer(network, z)
    size = float(first.nan_to_num(0.0, 0.0, 0.0).abs().max())
    if not torch.allclose(first, again, rtol=1e-3, atol=1e-3 * size, equal_nan=True):
        raise BadInput(
            f"{type(network).__name__} answers differently when it is asked again: it keeps something between calls"
            " that is no buffer; register it as one (register_buffer)"
        )


def _answer(network: nn.Module, z: Tensor) -> Tensor:
    return logits_of(network(z.clone())).clone()
