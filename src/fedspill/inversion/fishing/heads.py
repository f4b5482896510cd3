"""A classification head by which few examples of a batch send a gradient to the layers before it.

All rows but one are 0, so that an example's gradient goes back along that row alone, times p - [y] there. Where the
logits lie so far apart that the softmax is one-hot in the client's own precision, that factor is exactly 0 or 1.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.model import BATCH_NORMS, Model
from fedspill.core.probing.head import Head, features_and_logits, last_linear
from fedspill.core.rng import rand, stream
from fedspill.core.types import Batch, Params
from fedspill.inversion.gradients.losses import evidence
from fedspill.inversion.network.trace import probe_inputs

Speaks = Literal["low", "high"]
"""Who is heard: members of the row's class whose logit of it is low, or others whose logit of it is high."""
PROBES = 32
"""Inputs of which features are looked at, and public examples, of these at most `PUBLIC`."""
PUBLIC = 512


@dataclass(frozen=True)
class Bait:
    """A head that was sent, as it was meant.

    Attributes:
        head: its parameters.
        row: the class whose row is not 0.
        label: of the examples that speak; of "high" ones any other class than the row's, as theirs does not show.
        answer: the loss's derivative by the logits of whoever speaks, (classes,) in float64.
        silent: probabilities of the classes for whoever is silent because the row's logit is low, likewise.
        reference: the mean gradient of a round in which nobody passed the cutoff, what the row's own members
            send at any cutoff; None where the row has none.
    """

    head: Head
    row: int
    label: int
    answer: Float[Tensor, " k"]
    silent: Float[Tensor, " k"]
    reference: Params | None = None


def fished_head(model: Model) -> Head:
    """The head by which examples can be told apart.

    Raises:
        NotApplicable: there is none with a bias and at least two classes; the loss is not plain cross-entropy; or
            BatchNorm in train mode mixes the examples, so that nobody can be heard alone.
    """
    head = last_linear(model)
    if head.bias is None:
        raise NotApplicable(f"fishing sets the biases of the classification head, and {head.name!r} has none")
    if len(model.params[head.bias]) < 2:
        raise NotApplicable("fishing needs a head of at least 2 classes; the model's has 1 output")
    if not evidence(model).exact:
        raise NotApplicable("fishing silences examples by a softmax that is sure of them; the loss is no cross-entropy")
    mixing = [n for n, m in model.module.named_modules() if isinstance(m, BATCH_NORMS)] if model.training else []
    if mixing:
        raise NotApplicable(
            f"BatchNorm in train mode ({mixing[0]!r}) mixes the examples of a batch: whoever speaks, all are heard"
        )
    return head


def with_head(model: Model, head: Head, row: int, weight: Float[Tensor, " d"], biases: Float[Tensor, " k"]) -> Model:
    """The model with a head of zeros but for one row."""
    assert head.bias is not None, "fished_head() takes only heads with biases"
    old = model.params[head.weight]
    rows = torch.zeros_like(head.rows(old))
    rows[row] = weight.to(rows)
    changed = {head.weight: as_weight(head, rows, old), head.bias: biases.to(model.params[head.bias])}
    return model.with_params({**model.params, **changed})


def as_weight(head: Head, rows: Float[Tensor, "k d"], like: Tensor) -> Tensor:
    """Rows, one for each class, in the layout of the head's weight."""
    return (rows.T if head.across else rows).reshape(like.shape)


def bait_of(sent: Model, head: Head, row: int, speaks: Speaks, label: int | None = None) -> Bait:
    """What a head of zeros but for one row makes of examples, by the biases as they were rounded and sent.

    Args:
        label: of "high" examples, None for any.
    """
    assert head.bias is not None, "fished_head() takes only heads with biases"
    biases = sent.params[head.bias].double()
    others = torch.ones_like(biases, dtype=torch.bool)
    others[row] = False
    silent = biases.where(others, -torch.inf).softmax(0)
    if speaks == "low":
        return Bait(head, row, row, silent - _one_hot(row, silent), silent)
    label = (row + 1) % len(biases) if label is None else label
    return Bait(head, row, label, _one_hot(row, silent) - _one_hot(label, silent), silent)


def _one_hot(row: int, like: Tensor) -> Tensor:
    vector = torch.zeros_like(like)
    vector[row] = 1.0
    return vector


def with_reference(bait: Bait, reference: Params | None) -> Bait:
    """The same, of which a round in which nobody passed is taken off."""
    return replace(bait, reference=reference)


def known_features(model: Model, head: Head, public: Batch | None) -> Float[Tensor, "n d"]:
    """What enters the head for public examples, and without them for inputs without meaning, in float64.

    The latter are of all colours, and more or less noisy, so that their features differ as pictures' do.
    """
    calm, spec = model.in_eval_mode(), model.input
    if public is None:
        noise = probe_inputs(spec, PROBES, model.like)
        shape = (PROBES, noise.shape[1], *(1,) * (noise.ndim - 2))
        level, share = (rand(shape, stream(0, "fishing", name), noise) for name in ("level", "share"))
        z = spec.project(4 * (level - 0.5) + 4 * share * (noise - noise.mean()))
    else:
        z = spec.encode(public[:PUBLIC].to(model.like).inputs)
    return torch.cat([features_and_logits(calm, calm.params, part, head)[0] for part in z.split(PROBES)]).double()
