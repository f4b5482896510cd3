"""Passes what a row shows through the head and asks whether the row's gradient comes out: a blind certificate.

The ratio dW / db of a row that several examples fire is a mixture that may look like a representation and fires
the same rows. What it cannot do is give that row's bias gradient and the second layer's gradient of that unit: with
K classes these are K + 1 numbers, and the head was sent by the server.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedspill.inversion.representations.two_layer import Share, TwoLayer, TwoLayerGradient

EXPLAINED = 1e-2
"""Relative error above which nothing is believed, however rough the update is."""
LIKELY = 3
"""Labels tried per row where the second layer's gradient tells the likely ones."""


@dataclass(frozen=True)
class Judged:
    """What the head says of the inputs that single rows show.

    Attributes:
        x: the ratio dW / db of each row.
        label: that fits best.
        residual: relative error with that label.
        scale: the factor of the replayed gradient that fits best; 1 for one example alone.
        limit: the residual that rounding excuses.
    """

    x: Float[Tensor, "m d"]
    label: Int[Tensor, " m"]
    residual: Float[Tensor, " m"]
    scale: Float[Tensor, " m"]
    limit: Float[Tensor, " m"]

    @property
    def explained(self) -> Tensor:
        """One example with one label accounts for the row."""
        return self.residual < self.limit


@dataclass(frozen=True)
class Replay:
    """The head, and what is known of the examples.

    Attributes:
        labels: that may occur.
        share: weight of one example in the mean, 1/n; None fits it to every row.
        tolerance: relative error of an exact row, from the update's precision.
        rounding: relative error of the first layer's outputs at the client, at most.
        step: distance of 1 from the next number, in the client's precision, with some reserve.
    """

    head: TwoLayer
    labels: Int[Tensor, " labels"]
    share: float | None
    tolerance: float
    rounding: float
    step: float

    def slack(self, x: Float[Tensor, "m d"]) -> Float[Tensor, "m h"]:
        """The size of the first layer's outputs below which it is open whether a row fires."""
        return self.rounding * self._size(x)

    def _size(self, x: Float[Tensor, "m d"]) -> Float[Tensor, "m h"]:
        return x.norm(dim=1)[:, None] * self.head.weight.norm(dim=1) + self.head.bias.abs()

    def judge(self, gradient: TwoLayerGradient, rows: Int[Tensor, " m"]) -> Judged:
        """The input that each of these rows shows, and whether one example with it accounts for the row."""
        head, bias = self.head, gradient.bias[rows]
        x = gradient.weight[rows] / bias[:, None]
        outputs = head.outputs(x)
        activation = outputs.gather(1, rows[:, None])[:, 0].clamp_min(0)
        seen = None if gradient.last_weight is None else gradient.last_weight[:, rows].T
        tried = self._tried(seen, len(rows))
        errors = head.errors(head.logits(outputs), tried)
        first = (errors * head.last_weight.T[rows]).sum(2)
        second = None if seen is None else errors * activation[:, None]
        scale = self._scale(first, second, bias, seen)
        used = scale if self.share is None else torch.full_like(scale, self.share)
        # An error of the logits is p - 1 at the label, so that a client rounds it by eps and not by its size.
        step = used * self.step
        residual = _beyond(used * first - bias, step * head.last_weight[tried, rows].abs(), bias)
        limit = self.tolerance + gradient.noise[rows] / bias.abs()
        if second is not None and seen is not None:
            at_label = nn.functional.one_hot(tried, head.classes) * (step * activation)[..., None]
            off = ((used[..., None] * second - seen).abs() - at_label).clamp_min(0).norm(dim=2)
            open_ = self.step * self._size(x).gather(1, rows[:, None])[:, 0] / activation.clamp_min(1e-300)
            excused = (limit / (limit + open_)).expand_as(off)
            residual = torch.maximum(residual, excused * off / seen.norm(dim=1).clamp_min(1e-300))
        else:
            vague = step * head.last_weight[tried, rows].abs() > EXPLAINED * bias.abs()
            residual = residual.masked_fill(vague, torch.inf)
        best = residual.argmin(0, keepdim=True)
        label, residual, scale = (t.gather(0, best)[0] for t in (tried, residual, scale))
        return Judged(x, label, residual, scale / (self.share or 1.0), limit.clamp_max(EXPLAINED))

    def _tried(self, seen: Tensor | None, rows: int) -> Int[Tensor, "labels m"]:
        labels = self.labels.to(self.head.bias.device)
        if seen is None or len(labels) <= LIKELY:
            return labels[:, None].expand(-1, rows)
        # The logits' error is p - y: the second layer's gradient is negative at the label.
        return labels[seen[:, labels].argsort(1)[:, :LIKELY].T]

    def _scale(self, first: Tensor, second: Tensor | None, bias: Tensor, seen: Tensor | None) -> Tensor:
        if second is None or seen is None:
            return bias / first
        return (second * seen).sum(2) / second.square().sum(2).clamp_min(1e-300)

    def share_of(self, x: Float[Tensor, "m d"], labels: Int[Tensor, " m"], error: Float[Tensor, " m"]) -> list[Share]:
        """What examples with these labels add to the mean gradient.

        Args:
            x: representations.
            labels: theirs.
            error: relative, of what is replayed.
        """
        head, one = self.head, 1.0 if self.share is None else self.share
        outputs = head.outputs(x)
        errors = one * head.errors(head.logits(outputs), labels[None])[0]
        fires = outputs > 0
        delta = (errors @ head.last_weight) * fires
        size = (errors.abs() @ head.last_weight.abs()) * fires * error[:, None]
        noise = size.masked_fill(outputs.abs() < self.slack(x), torch.inf)
        hidden = outputs.relu()
        return [Share(*parts) for parts in zip(x, delta, errors, hidden, noise, strict=True)]


def _beyond(off: Tensor, excused: Tensor, size: Tensor) -> Tensor:
    """Relative error beyond what is excused."""
    return (off.abs() - excused).clamp_min(0) / size.abs()
