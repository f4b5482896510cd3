"""A network with a small model beside it for every place of a batch, which answers to the example at that place."""

from dataclasses import replace
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedspill.core.errors import NotApplicable
from fedspill.core.model import Model
from fedspill.core.module.answers import logits_of
from fedspill.core.rng import randn
from fedspill.inversion.network.planting import enclosed
from fedspill.inversion.network.trace import probe_inputs

WEIGHT, BIAS, OUT, SHIFT, SEEN = "bank.weight", "bank.bias", "bank.out", "bank.shift", "bank.seen"
AUDIBLE = 0.1
"""Share of the logits' size that the shift adds: who tries whether a batch is the mean of its examples must hear it."""


class Bank(nn.Module):
    """A linear model of few rows for every slot; all share the way from rows to logits.

    Args:
        features: numbers in one flattened example.
        slots: models. Example i of a batch is the affair of slot i, and the first slots come again after the last.
        rows: of each model.
        classes: logits.
        gain: what an example is multiplied by on its way in.
        counts: slots go on from batch to batch, by a buffer that counts examples, instead of beginning with the first.
    """

    shift: Tensor
    seen: Tensor

    def __init__(self, features: int, slots: int, rows: int, classes: int, gain: float, *, counts: bool) -> None:
        super().__init__()
        with torch.device("meta"):
            self.weight = nn.Parameter(torch.empty(slots, rows, features))
            self.bias = nn.Parameter(torch.empty(slots, rows))
            self.out = nn.Parameter(torch.empty(rows, classes))
            # Not trained: what starts at zero holds the client's steps to the last bit, and this may not be zero.
            self.register_buffer("shift", torch.empty(slots, rows))
            if counts:
                self.register_buffer("seen", torch.empty((), dtype=torch.long))
        self.gain, self.counts = gain, counts

    def forward(self, x: Tensor) -> Tensor:
        """Logits of examples (n, ...)."""
        slot = torch.arange(len(x), device=x.device)
        if self.counts:
            slot = slot + self.seen
            self.seen += len(x)
        slot = slot % len(self.weight)
        rows = (self.weight[slot] @ (self.gain * x.flatten(1))[..., None])[..., 0]
        return (rows + self.bias[slot] + self.shift[slot]) @ self.out


class BankedNetwork(nn.Module):
    """The network's logits plus those of the bank."""

    def __init__(self, base: nn.Module, bank: Bank) -> None:
        super().__init__()
        self.base, self.bank = base, bank

    def forward(self, x: Tensor) -> Tensor:
        """Logits of examples (n, ...)."""
        return logits_of(self.base(x)) + self.bank(x)


def banked(model: Model, slots: int, rows: int, gain: float, rng: torch.Generator, *, counts: bool) -> Model:
    """The model with a bank beside it, whose weights and biases start at zero.

    Raises:
        NotApplicable: it gives no logits (n, k).
    """
    logits = _logits(model)
    classes, features = logits.shape[1], prod(model.input.encoded_shape)
    bank = Bank(features, slots, rows, classes, gain, counts=counts)
    like, size = model.like, float(logits.square().mean().sqrt())
    values = {
        WEIGHT: like.new_zeros(slots, rows, features),
        BIAS: like.new_zeros(slots, rows),
        OUT: randn((rows, classes), rng, like) / rows**0.5,
    }
    sent = enclosed(model, "", lambda base: BankedNetwork(base, bank), values)
    buffers = {**sent.buffers, SHIFT: randn((slots, rows), rng, like) * AUDIBLE * max(size, AUDIBLE)}
    if counts:
        buffers[SEEN] = torch.zeros((), dtype=torch.long, device=like.device)
    return replace(sent, buffers={name: buffers[name] for name, _ in sent.module.named_buffers()})


def _logits(model: Model) -> Float[Tensor, "n k"]:
    with torch.no_grad():
        logits = model.in_eval_mode().logits(model.params, probe_inputs(model.input, 2, model.like))
    if logits.ndim != 2:
        raise NotApplicable(f"the network gives logits of shape {tuple(logits.shape)}; one row an example is needed")
    return logits
