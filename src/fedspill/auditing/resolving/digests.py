"""By what a network, its weights and its loss are known again."""

import torch
from torch.nn import functional

from fedspill.core.inputs import TokenSpec
from fedspill.core.model import Model, next_token_loss
from fedspill.core.probing.inputs import random_like
from fedspill.core.rng import randn, stream
from fedspill.core.tensor_files import sha256
from fedspill.inversion.network.trace import probe_inputs

MOST_LOGITS = 1000
"""Logits by which a network's behaviour is known again, at most."""


def behaviour(model: Model) -> list[str]:
    """What the network says of one input, to the digits that no number of threads changes: its code may have."""
    calm = model.in_eval_mode()
    z = randn((1, *model.input.encoded_shape), stream(0, "key"), model.like)
    if isinstance(model.input, TokenSpec):
        z = probe_inputs(model.input, 1, model.like)
    with torch.no_grad():
        return [f"{v:.2e}" for v in calm.logits(calm.params, z).flatten()[:MOST_LOGITS].tolist()]


def loss_digits(model: Model) -> list[str]:
    """What the loss says of arbitrary logits: by its code alone no loss is known again; [] for plain cross-entropy."""
    if model.loss_fn in (functional.cross_entropy, next_token_loss):
        return []
    with torch.no_grad():
        shape = model.in_eval_mode().logits(model.params, probe_inputs(model.input, 1, model.like)).shape
        count = min(max(2, shape[-1]), MOST_LOGITS)
        logits = random_like(model.like.new_empty(count, *shape[1:]), "loss")
        classes = torch.arange(count, device=logits.device)
        for labels in (classes, (classes[:, None] == torch.arange(shape[-1], device=logits.device)).to(logits)):
            try:
                return [f"{float(model.loss_fn(logits, labels)):.4e}"]
            except Exception:  # a loss of anyone's, that takes other labels
                continue
    return [type(model.loss_fn).__qualname__]


def weights_sha256(model: Model) -> str:
    """A digest of names and values of all parameters and buffers."""
    return sha256({**model.params, **model.buffers})
