"""The derivative of the clients' training by its inputs, along many directions at once, forward through all steps.

SGD is linear, so that what it does to parameters it does to their derivatives. Where a ReLU begins to fire there is no
derivative; what jumps there counts for nothing.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedspill.core.local_training.steps import LocalState, Turn, followed
from fedspill.core.types import Params
from fedspill.inversion.disaggregation.local_steps.orders import Order, Part, Step
from fedspill.inversion.disaggregation.local_steps.replay import Clients, Gate, Gates, Pass
from fedspill.inversion.network.activations import Invertible, slope_from_output


def update_slopes(
    clients: Clients,
    mixing: Float[Tensor, "n m"],
    along: Float[Tensor, "x n m"],
    order: Order,
    gates: Sequence[Gate] | None = None,
) -> dict[str, Float[Tensor, "x *p"]]:
    """What moving the inputs changes of the update.

    Args:
        clients: their training.
        mixing: the inputs.
        along: directions in which they are moved.
        order: of the examples.
        gates: see `Clients.update`.
    """
    held = None if gates is None else iter(gates)
    each = [_of_client(clients, mixing, along, steps, Gates(held)) for steps in order.clients]
    return {k: torch.stack([u[k] for u in each]).sum(0) / len(each) for k in clients.trained}


def _of_client(
    clients: Clients, mixing: Tensor, along: Tensor, steps: Sequence[Step], gates: Gates
) -> dict[str, Tensor]:
    state = LocalState({k: clients.params[k] for k in clients.trained}, {}, {})
    moved = LocalState({k: v.new_zeros(len(along), *v.shape) for k, v in state.params.items()}, {}, {})
    for number, step in enumerate(steps):
        turn = Turn(number, len(steps), list(step))
        parts = [clients.passed(state.params, mixing, part, gates) for part in step]
        changes = [
            _moved(clients, state.params, moved.params, one, along, part) for one, part in zip(parts, step, strict=True)
        ]
        moved = followed(moved, clients.combined(changes, moved.params, {}), clients.training, turn, True)
        gradients = clients.combined([p.gradients for p in parts], state.params, clients.params)
        state = followed(state, gradients, clients.training, turn, True)
    return {k: -moved.params[k] for k in clients.trained}


def _moved(
    clients: Clients, current: Params, moved: Params, here: Pass, along: Tensor, part: Part
) -> dict[str, Tensor]:
    """The change of a mini-batch's mean gradient."""
    params = {**clients.params, **current}
    outputs = [along[:, list(part)]]
    for layer, (before, after) in zip(clients.layers, pairwise(here.outputs), strict=True):
        entering = outputs[-1] @ params[layer.weight].T
        if layer.weight in moved:
            entering = entering + before @ moved[layer.weight].mT
        if layer.bias is not None and layer.bias in moved:
            entering = entering + moved[layer.bias][:, None]
        outputs.append(slope_from_output(layer.activation, after) * entering)
    p, change = here.probabilities, outputs[-1]
    delta = here.slope * p * (change - (p * change).sum(-1, keepdim=True))
    found = dict[str, Tensor]()
    for number in range(len(clients.layers) - 1, -1, -1):
        layer, own = clients.layers[number], here.deltas[number]
        found[layer.weight] = delta.mT @ here.outputs[number] + own.T @ outputs[number]
        if layer.bias is not None:
            found[layer.bias] = delta.sum(-2)
        if number:
            delta = delta @ params[layer.weight]
            if layer.weight in moved:
                delta = delta + own @ moved[layer.weight]
            below, value = clients.layers[number - 1].activation, here.outputs[number]
            bent = _bend(below, value)
            delta = delta * here.slopes[number - 1]
            delta = delta if bent is None else delta + (own @ params[layer.weight]) * bent * outputs[number]
    return {k: found[k] for k in clients.trained}


def _bend(activation: Invertible | None, output: Tensor) -> Tensor | None:
    """The derivative of an activation's slope by its output; None where it is 0."""
    match activation:
        case nn.Sigmoid():
            return 1 - 2 * output
        case nn.Tanh():
            return -2 * output
        case nn.ELU():
            return (output <= 0).to(output)
        case nn.Softplus():
            return activation.beta * torch.exp(-activation.beta * output)
        case _:
            return None
