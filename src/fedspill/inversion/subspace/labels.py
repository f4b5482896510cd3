"""What the classification layer tells of sentences whose tokens are known: their labels, and how often each was there.

The layer's gradient is a sum over rows, (p - y)^T h, of which features h and probabilities p are known now: the left
factors follow by least squares as long as the rows are independent.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.model import Model
from fedspill.core.types import Params
from fedspill.inversion.subspace.calls import Weight, is_looked_up, linear_calls
from fedspill.inversion.subspace.growing import Sentences
from fedspill.inversion.subspace.readers import ordered

QUIET = 0.25
"""Share of one label's weight below which a row has none."""

LINEAR = 100.0
"""Units in the last place of the largest logit, up to which a product is the logits."""


@dataclass(frozen=True)
class Read:
    """Labels of sentences, as the loss takes them.

    Attributes:
        labels: (m,) classes, or (m, t) next tokens; -100 where a position has none.
        counts: how often each sentence was there, 0 for one that was not.
    """

    labels: Int[Tensor, "m ..."]
    counts: Int[Tensor, " m"]

    @property
    def may_be_shifted(self) -> bool:
        """No last position has a label: the loss may compare each logit with the token after its own."""
        return self.labels.ndim == 2 and self.labels.shape[1] > 1 and bool((self.labels[:, -1] < 0).all())

    def given(self, tokens: Int[Tensor, "m t"], *, shifted: bool) -> Int[Tensor, "m ..."]:
        """Labels as the loss is handed them; one that shifts by itself takes them a position later."""
        return torch.cat([tokens[:, :1], self.labels[:, :-1]], 1) if shifted else self.labels

    @property
    def total(self) -> int:
        """Labels in the batch."""
        each = (self.labels.view(len(self.labels), -1) >= 0).sum(1)
        return int((each * self.counts).sum())


@dataclass(frozen=True)
class _Rows:
    """The layer that makes the logits, what enters it and the probabilities that leave it; a row each, float64.

    Attributes:
        bias: name of its bias, if it has one.
        by_token: there are logits for every token.
    """

    weight: Weight
    bias: str | None
    by_token: bool
    features: Float[Tensor, "m d"]
    probabilities: Float[Tensor, "m c"]


def label_layer(model: Model, tokens: Int[Tensor, "m t"]) -> tuple[str, ...]:
    """Names of the parameters of the layer that makes the logits; () if there is none."""
    rows = _rows(model, tokens)
    if rows is None:
        return ()
    return (rows.weight.name,) if rows.bias is None else (rows.weight.name, rows.bias)


@dataclass(frozen=True)
class _Same:
    """Different rows of the classification layer.

    Attributes:
        place: of each sentence's rows among the different ones.
    """

    features: Float[Tensor, "k d"]
    probabilities: Float[Tensor, "k c"]
    place: Int[Tensor, "m r"]


def read_labels(model: Model, values: Params, tokens: Int[Tensor, "m t"], count: int | None) -> Read | None:
    """Labels and counts of sentences; None where the layer or its gradient tells none.

    Where the layer is the embedding, too, as in GPT-2, the rows of tokens that stand in the sentences hold more than
    the layer's gradient: labels among these are the next tokens, and each last one a guess, see `relabelled`.

    Args:
        model: as sent; plain cross-entropy, or a loss near it.
        values: mean gradients or a multiple of them, float64.
        tokens: different sentences.
        count: sentences in the update, if known.
    """
    rows = _rows(model, tokens)
    if rows is None or rows.weight.name not in values:
        return None
    same = _same_rows(rows, len(tokens))
    if len(same.features) > same.features.shape[1]:
        return None
    pulls = _pulls(values, rows, same.features)
    weights = _label_weights(same.probabilities, pulls)
    if is_looked_up(model, rows.weight.name, tokens[:1]):
        weights = _with_followers(same, pulls, tokens)
        if weights is None:
            return None
    ends = _ends(weights, same.place)
    unit = _unit(ends, float(weights.sum()), None if count is None else count * same.place.shape[1])
    return _assigned(weights / unit, same.place, tokens) if rows.by_token else _classes(weights / unit, same.place)


def relabelled(
    model: Model, left: Params, tokens: Int[Tensor, "m t"], read: Read, factor: float, level: float = 0.5
) -> Read | None:
    """Labels put right by what of the observed gradient the sentences with these labels leave; None: none is wrong.

    A wrong label leaves its row's features in two rows of the classification layer: in its own, and in the right one's.

    Args:
        model: as sent.
        left: observed mean gradients less those of the sentences.
        tokens: different sentences.
        read: their labels so far.
        factor: by which the update is larger than a mean gradient.
        level: share of a label's weight that must be missing at one label and too much at the other.
    """
    rows = _rows(model, tokens)
    if rows is None or rows.weight.name not in left or read.labels.numel() != len(rows.features):
        return None
    same = _same_rows(rows, len(tokens))
    wrong = -_pulls(left, rows, same.features) * read.total / max(factor, 1e-300)
    labels, changed = read.labels.clone(), False
    for s, place in enumerate(same.place.tolist()):
        for r, row in enumerate(place):
            better = int(wrong[row].argmax())
            worse = int(labels[s, r] if labels.ndim == 2 else labels[s])
            if float(wrong[row, better]) > level and worse >= 0 and float(wrong[row, worse]) < -level:
                labels.view(len(tokens), -1)[s, r] = better
                wrong[row, better] -= read.counts[s]
                wrong[row, worse] += read.counts[s]
                changed = True
    return Read(labels, read.counts) if changed else None


def _same_rows(rows: _Rows, sentences: int) -> _Same:
    same, place = torch.unique(rows.features, dim=0, return_inverse=True)
    at = place.new_zeros(len(same)).scatter_(0, place, torch.arange(len(place), device=place.device))
    return _Same(same, rows.probabilities[at], place.view(sentences, -1))


def _with_followers(same: _Same, pulls: Float[Tensor, "k c"], tokens: Int[Tensor, "m t"]) -> Tensor | None:
    """Label weights where the pulls of tokens in the sentences are unknown: what is missing goes to the next token."""
    if same.place.shape != tokens.shape:
        return None
    known = torch.ones(pulls.shape[1], dtype=torch.bool, device=pulls.device).index_fill(0, tokens.unique(), False)
    if int(known.sum()) < 4:
        return None
    ratio = pulls[:, known] / same.probabilities[:, known].clamp_min(1e-300)
    each = ratio.median(1, keepdim=True).values
    weights = (each * same.probabilities - pulls) * known
    missing = (each[:, 0] - weights.sum(1)).clamp_min(0)
    followers = torch.cat([tokens[:, 1:], tokens[:, -1:]], 1)
    share = 1 / torch.bincount(same.place.flatten(), minlength=len(missing)).clamp_min(1)
    add = (missing * share)[same.place]
    return weights.index_put((same.place, followers), add, accumulate=True)


def _rows(model: Model, tokens: Int[Tensor, "m t"]) -> _Rows | None:
    """One row for each sentence, or for each token of each, sentence by sentence; None where no layer makes logits.

    The layer is known by its product being the logits, but for a constant.
    """
    if not len(tokens):
        return None
    calls = linear_calls(model, tokens)
    with torch.no_grad():
        logits = model.logits(model.params, tokens)
    if logits.ndim not in (2, 3):
        return None
    flat = logits.flatten(0, -2)
    for call in reversed(calls):
        if call.weight.size == flat.shape[1] and len(call.rows) == len(flat):
            for by_sentence in (True, False):
                rows = ordered(call.rows, len(tokens), by_sentence).flatten(0, 1)
                rest = flat - rows @ call.weight.part(model.params).T
                if _constant(rest, flat):
                    bias = _bias_of(model.params, call.weight, rest.mean(0), flat)
                    return _Rows(call.weight, bias, logits.ndim == 3, rows.double(), flat.double().softmax(1))
    return None


def _constant(rest: Float[Tensor, "m c"], logits: Float[Tensor, "m c"]) -> bool:
    return float((rest - rest[:1]).abs().max()) <= LINEAR * torch.finfo(logits.dtype).eps * float(logits.abs().max())


def _bias_of(params: Params, weight: Weight, constant: Float[Tensor, " c"], logits: Tensor) -> str | None:
    """The parameter that the constant is; one beside the weight first."""
    close = LINEAR * torch.finfo(logits.dtype).eps * float(logits.abs().max())
    fits = [k for k, v in params.items() if v.shape == constant.shape and float((v - constant).abs().max()) <= close]
    beside = [k for k in fits if k.rpartition(".")[0] == weight.name.rpartition(".")[0]]
    return next(iter(beside), None)


def _pulls(values: Params, layer: _Rows, features: Float[Tensor, "m d"]) -> Float[Tensor, "m c"]:
    """The derivative of the loss by each row's logits."""
    gradient = layer.weight.part(values)
    if layer.bias is not None and layer.bias in values:
        scale = features.norm(dim=1).mean()  # so that the bias weighs no less than a feature, nor more
        gradient = torch.cat([gradient, scale * values[layer.bias][:, None]], 1)
        features = torch.cat([features, scale.expand(len(features), 1)], 1)
    return (gradient @ torch.linalg.pinv(features)).T


def _label_weights(probabilities: Float[Tensor, "m c"], pulls: Float[Tensor, "m c"]) -> Float[Tensor, "m c"]:
    """By how much each class is a row's label: the pull is the row's weight times p, less this."""
    few = probabilities.shape[1] < 4
    if few:  # one label a row: the only class that is pulled up
        label = pulls.argmin(1, keepdim=True)
        share = -pulls.gather(1, label) / (1 - probabilities.gather(1, label)).clamp_min(1e-300)
        return torch.zeros_like(pulls).scatter(1, label, share)
    weight = (pulls / probabilities.clamp_min(1e-300)).median(1, keepdim=True).values
    return weight * probabilities - pulls


def _ends(weights: Float[Tensor, "k c"], place: Int[Tensor, "m r"]) -> Float[Tensor, " m"]:
    """What the labels of each sentence's last row that has any weigh: no other sentence shares this row."""
    sums = weights.sum(1)[place]
    heard = sums > QUIET * sums.max() / len(place)  # the loudest row may be shared by all
    last = (heard * torch.arange(1, place.shape[1] + 1, device=place.device)).argmax(1, keepdim=True)
    return torch.where(heard.any(1), sums.gather(1, last)[:, 0], 0.0)


def _unit(ends: Float[Tensor, " m"], total: float, labels: int | None) -> float:
    """What one label weighs: the whole over their number, or the least that a sentence has at its end.

    Positions without a label make the others weigh more than their number tells.
    """
    unit = 0.0 if labels is None else total / labels
    if unit > 0 and bool(((ends / unit - (ends / unit).round()).abs() < QUIET).all()):
        return unit
    loudest = float(ends.max())
    return float(ends[ends > QUIET * loudest / len(ends)].min()) if loudest > 0 else 1.0


def _classes(weights: Float[Tensor, "k c"], place: Int[Tensor, "m 1"]) -> Read:
    """A class for each sentence."""
    return Read(weights[place[:, 0]].argmax(1), _ends(weights, place).round().long().clamp_min(0))


def _assigned(weights: Float[Tensor, "k c"], place: Int[Tensor, "m r"], tokens: Tensor) -> Read:
    """Labels of sentences; rows that several sentences share hand out theirs, the next tokens first."""
    left, each = weights.clone(), place.shape[1]
    counts = _ends(weights, place).round().long().clamp_min(0)
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


def with_last_token(found: Sentences, read: Read) -> Sentences:
    """Sentences of which all was read but the last token, where this is the label of the one before.

    So it is under a loss that compares each logit with the token after its own: the last one has none and leaves no
    gradient.
    """
    length = found.tokens.shape[1]
    if read.labels.ndim != 2 or length < 2:
        return found
    open_ = (found.lengths == length - 1) & (read.labels[:, -1] < 0) & (read.labels[:, -2] >= 0)
    tokens = found.tokens.clone()
    tokens[open_, -1] = read.labels[open_, -2]
    return Sentences(tokens, found.excess, torch.where(open_, length, found.lengths))
