"""What the classification layer tells of sentences whose tokens are known: their labels, and how often each was there.

The layer's gradient is a sum over rows, (p - y)^T h, of which features h and probabilities p are known now: the left
factors follow by least squares as long as the rows are independent.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.model import Model
from fedspill.core.probing.head import Head, last_linear
from fedspill.core.types import Params
from fedspill.inversion.subspace.calls import Weight, linear_calls
from fedspill.inversion.subspace.readers import ordered

QUIET = 0.25
"""Share of one label's weight below which a row has none."""


@dataclass(frozen=True)
class Read:
    """Labels of sentences, as the loss takes them.

    Attributes:
        labels: (m,) classes, or (m, t) next tokens; -100 where a position has none.
        counts: how often each sentence was there, 0 for one that was not.
    """

    labels: Int[Tensor, "m ..."]
    counts: Int[Tensor, " m"]


@dataclass(frozen=True)
class _Rows:
    """What enters the classification layer, and the probabilities that leave it; a row each, float64."""

    features: Float[Tensor, "m d"]
    probabilities: Float[Tensor, "m c"]


def read_labels(model: Model, values: Params, tokens: Int[Tensor, "m t"], count: int | None) -> Read | None:
    """Labels and counts of sentences; None where the layer or its gradient tells none.

    Args:
        model: as sent; plain cross-entropy, or a loss near it.
        values: mean gradients or a multiple of them, float64.
        tokens: different sentences.
        count: sentences in the update, if known.
    """
    head = _head(model)
    rows = _rows(model, tokens) if len(tokens) else None
    if rows is None or head is None or head.weight not in values:
        return None
    same, place = torch.unique(rows.features, dim=0, return_inverse=True)
    if len(same) > same.shape[1]:
        return None
    spread = torch.zeros(len(same), dtype=torch.long, device=place.device).scatter_(
        0, place, torch.arange(len(place), device=place.device)
    )
    pulls = _pulls(values, head, same)
    weights = _label_weights(rows.probabilities[spread], pulls)
    places, each = place.view(len(tokens), -1), len(rows.features) // len(tokens)
    ends = weights[places[:, -1]].sum(1)
    unit = _unit(ends, float(weights.sum()), None if count is None else count * each)
    return _assigned(weights / unit, places, tokens)


def _head(model: Model) -> Head | None:
    try:
        return last_linear(model)
    except NotApplicable:
        return None


def _rows(model: Model, tokens: Int[Tensor, "m t"]) -> _Rows | None:
    """One row for each sentence, or for each token of each."""
    head = _head(model)
    calls = [] if head is None else linear_calls(model, tokens)
    calls = [c for c in calls if head is not None and c.weight == Weight(head.weight, head.across, 0, c.weight.size)]
    if len(calls) != 1 or len(calls[0].rows) not in (len(tokens), tokens.numel()):
        return None
    with torch.no_grad():
        logits = model.logits(model.params, tokens)
    if logits.ndim not in (2, 3) or logits.shape[:-1].numel() != len(calls[0].rows):
        return None
    features = calls[0].rows
    if logits.ndim == 3:
        features = _by_sentence(features, logits, head, model)
    return _Rows(features.double(), logits.double().softmax(-1).flatten(0, -2))


def _by_sentence(features: Tensor, logits: Tensor, head: Head | None, model: Model) -> Tensor:
    """The rows in the order of the logits, whichever way the network keeps them."""
    assert head is not None
    weight = head.rows(model.params[head.weight])
    bias = 0 if head.bias is None else model.params[head.bias]
    both = [ordered(features, len(logits), way) for way in (True, False)]
    errors = [float((rows @ weight.T + bias - logits).norm()) for rows in both]
    return both[errors.index(min(errors))].flatten(0, 1)


def _pulls(values: Params, head: Head, features: Float[Tensor, "m d"]) -> Float[Tensor, "m c"]:
    """The derivative of the loss by each row's logits."""
    gradient = head.rows(values[head.weight])
    if head.bias is not None and head.bias in values:
        scale = features.norm(dim=1).mean()  # so that the bias weighs no less than a feature, nor more
        gradient = torch.cat([gradient, scale * values[head.bias][:, None]], 1)
        features = torch.cat([features, scale.expand(len(features), 1)], 1)
    return torch.linalg.lstsq(features.T, gradient.T).solution


def _label_weights(probabilities: Float[Tensor, "m c"], pulls: Float[Tensor, "m c"]) -> Float[Tensor, "m c"]:
    """By how much each class is a row's label: the pull is the row's weight times p, less this."""
    few = probabilities.shape[1] < 4
    if few:  # one label a row: the only class that is pulled up
        label = pulls.argmin(1, keepdim=True)
        share = -pulls.gather(1, label) / (1 - probabilities.gather(1, label)).clamp_min(1e-300)
        return torch.zeros_like(pulls).scatter(1, label, share)
    weight = (pulls / probabilities.clamp_min(1e-300)).median(1, keepdim=True).values
    return weight * probabilities - pulls


def _unit(ends: Float[Tensor, " m"], total: float, labels: int | None) -> float:
    """What one label weighs: the whole over their number, or the least that a sentence has at its end.

    Positions without a label make the others weigh more than their number tells.
    """
    unit = 0.0 if labels is None else total / labels
    if unit > 0 and bool(((ends / unit - (ends / unit).round()).abs() < QUIET).all()):
        return unit
    loudest = float(ends.max())
    return float(ends[ends > QUIET * loudest].min()) if loudest > 0 else 1.0


def _assigned(weights: Float[Tensor, "k c"], place: Int[Tensor, "m r"], tokens: Tensor) -> Read:
    """Labels of sentences; rows that several sentences share hand out theirs, the next tokens first."""
    left, each = weights.clone(), place.shape[1]
    ends = place[:, -1]
    counts = weights[ends].sum(1).round().long().clamp_min(0)
    if each == 1:
        return Read(weights[ends].argmax(1), counts)
    labels = torch.full((len(place), each), -100, dtype=torch.long, device=tokens.device)
    for s in range(len(place)):
        if not counts[s]:
            continue
        for r in range(each):
            row = left[place[s, r]]
            follows = int(tokens[s, r + 1]) if r + 1 < each and each == tokens.shape[1] else -1
            label = follows if follows >= 0 and row[follows] > 0.5 else int(row.argmax())
            if row[label] > QUIET:
                labels[s, r] = label
                row[label] -= counts[s]
    return Read(labels, counts)


def matched_labels(tokens: Int[Tensor, "m t"], labels: Int[Tensor, "n t"]) -> Read:
    """Granted next tokens, handed to the sentences that they follow best.

    Args:
        tokens: different sentences; at least one.
        labels: of the private sentences, in an order that tells nothing of this one.
    """
    agree = (tokens[:, None, 1:] == labels[None, :, :-1].to(tokens.device)).sum(2)
    owner = agree.argmax(0)
    counts = torch.bincount(owner, minlength=len(tokens))
    return Read(labels.to(tokens.device)[agree.argmax(1)], counts)
