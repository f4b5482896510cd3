"""Labels by what the loss itself says of every label: for any loss with one class per example that adds up. Own method.

The head's bias gradient is the weighted mean of the examples' derivatives by their logits, and what these are for every
label is asked of the loss. For one example the rows show its features, and so its logits exactly; for several, counts
are fitted by least squares, in turns with the features that the rows then show.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.inversion.gradients.head import ClassifierGradient
from fedspill.inversion.gradients.linear import layer_input
from fedspill.inversion.gradients.losses import Evidence, logit_gradients
from fedspill.inversion.gradients.scale import best_factor
from fedspill.inversion.labels.probe import nearest_counts

ROUNDS = 6
SIZES = 120
"""Feature lengths, or factors of the update, that are tried where they are not known."""
PLAIN = 0.05
"""Relative error of the bias gradient up to which counts count as those of the mean gradient itself."""


def fitted(
    gradient: ClassifierGradient,
    found: Evidence,
    logits: Float[Tensor, " k"],
    level: float,
) -> Int[Tensor, " n"]:
    """The labels whose derivatives add up to the head's gradient.

    Args:
        gradient: of the head, whose output are the logits.
        found: what the loss says.
        logits: that the network gives to inputs that the server holds, on average.
        level: the sum of the head's features then, which stands in for a missing bias.

    Raises:
        NotApplicable: the loss does not add up over examples, or the head has no bias and its features add up to 0.
    """
    weights = found.weights().to(gradient.rows())
    sent = gradient.head.bias is not None and gradient.head.bias in gradient.values
    if gradient.num_examples == 1:
        return (_with_bias(gradient, found) if sent else _without_bias(gradient, found)).view(1)
    if not sent and not abs(level) > 0:
        raise NotApplicable("without the head's bias labels are read of its rows' sums, and its features add up to 0")
    shown = gradient.bias() if sent else gradient.row_sums() / level
    return _several(gradient, found, weights, shown, logits.to(shown), scaled=sent and gradient.scaled)


def _logits(gradient: ClassifierGradient, features: Float[Tensor, "m d"]) -> Float[Tensor, "m k"]:
    logits = features @ gradient.weight.T
    return logits if gradient.offset is None else logits + gradient.offset


def _with_bias(gradient: ClassifierGradient, found: Evidence) -> Tensor:
    """The label whose derivative has the bias gradient's direction, at the logits that the rows show."""
    bias = gradient.bias()
    derivatives = found.derivatives(_logits(gradient, layer_input(gradient.rows(), bias)[None]))[0]
    return _cosines(derivatives, bias).argmax()


def _without_bias(gradient: ClassifierGradient, found: Evidence) -> Tensor:
    """The label whose derivative the rows are multiples of, over all lengths of the features and both signs."""
    left, sizes, right = torch.linalg.svd(gradient.rows(), full_matrices=False)
    lengths = torch.logspace(-4, 4, SIZES, dtype=sizes.dtype, device=sizes.device)
    lengths = torch.cat([lengths, -lengths])
    derivatives = found.derivatives(_logits(gradient, lengths[:, None] * right[:1]))
    cosines = _cosines(derivatives, left[:, 0]) * lengths.sign()[:, None]
    return cosines.amax(0).argmax()


def _cosines(derivatives: Float[Tensor, "*m k"], observed: Float[Tensor, " k"]) -> Float[Tensor, "*m"]:
    size = derivatives.norm(dim=-1).clamp_min(1e-300) * observed.norm().clamp_min(1e-300)
    return (derivatives @ observed) / size


@dataclass(frozen=True)
class _Fit:
    """Counts, and how well they account for the bias gradient."""

    counts: Int[Tensor, " classes"]
    factor: float
    off: float


def _several(
    gradient: ClassifierGradient,
    found: Evidence,
    weights: Float[Tensor, " classes"],
    shown: Float[Tensor, " k"],
    logits: Float[Tensor, " k"],
    *,
    scaled: bool,
) -> Int[Tensor, " n"]:
    derivatives = found.derivatives(logits[None])[0].to(shown)
    best = fit = _counted(derivatives, weights, shown, gradient.num_examples, scaled=scaled)
    for _ in range(ROUNDS):
        present = fit.counts.nonzero()[:, 0]
        if len(present) >= len(shown):
            break  # too few rows for the features of each class
        share = (fit.counts * weights)[present] / (fit.counts * weights).sum()
        features = torch.linalg.pinv(fit.factor * (share[:, None] * derivatives[present]).T) @ gradient.rows()
        own = _logits(gradient, features)
        if not bool(own.isfinite().all()):
            break
        derivatives = found.derivatives((fit.counts[present].to(own) @ own / gradient.num_examples)[None])[0]
        derivatives[present] = logit_gradients(found.loss_fn, own, present)
        fit = _counted(derivatives, weights, shown, gradient.num_examples, scaled=scaled)
        best = fit if fit.off < best.off else best
    return torch.repeat_interleave(best.counts)


def _counted(
    derivatives: Float[Tensor, "classes k"],
    weights: Float[Tensor, " classes"],
    shown: Float[Tensor, " k"],
    n: int,
    *,
    scaled: bool,
) -> _Fit:
    """Counts whose derivatives give the bias gradient; or, where none do, a multiple of it."""
    # Shares add up to 1, weighed so that they do so exactly.
    heavy = 10 * float(derivatives.norm())
    inverse = torch.linalg.pinv(torch.cat([derivatives.T, derivatives.new_full((1, len(derivatives)), heavy)]))

    def at(factor: float) -> _Fit:
        share = inverse @ torch.cat([shown / factor, shown.new_tensor([heavy])]) / weights
        counts = nearest_counts(n * share / share.sum(), n)
        counts = torch.bincount(counts, minlength=len(weights)).to(shown.device)
        total = (counts * weights / (counts * weights).sum()) @ derivatives
        refined = factor if factor == 1 else best_factor(total, shown)
        return _Fit(counts, refined, float((shown - refined * total).norm() / shown.norm().clamp_min(1e-300)))

    plain = at(1.0)
    if (scaled and plain.off < PLAIN) or len(shown) < 2:
        return plain
    usual = float(shown.norm() / derivatives.norm(dim=1).mean().clamp_min(1e-300))
    tried = [at(usual * float(f)) for f in torch.logspace(-0.5, 2, SIZES // 2)]
    best = min((f for f in tried if f.factor > 0), key=lambda f: f.off, default=plain)
    return plain if scaled and plain.off < 2 * best.off else best
