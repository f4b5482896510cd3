"""Reads the examples behind the gradient of linear layers with ReLUs between them, where they own units of their own.

Pan et al., "Exploring the Security Boundary of Data Reconstruction via Neuron Exclusivity Analysis", USENIX Security
2022, arXiv 2010.13356: clusters of ratios at the last layer give the number of examples, their labels and the input of
the last hidden layer; with the patterns of activation known, every other layer's gradient is linear in its inputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from fedspill.core.types import Params
from fedspill.inversion.exclusivity.candidates import Candidate, Evidence, Scale, candidates
from fedspill.inversion.exclusivity.certificate import ROUGH, Told, told
from fedspill.inversion.exclusivity.dense_end import DenseEnd, Passed, derivatives, gradients, passed
from fedspill.inversion.exclusivity.earlier_layers import EXPLAINED, Rebuilt, shared_errors, walked_back

SAME = 5e-3
"""Relative distance below which two candidates are one."""
LEFT = 1e-2
"""Of a column, what must be left after others were taken out, so that its rounding does not drown it."""
GONE = 1e-5
"""Of a column, below what is left nobody else fired the unit."""
WEAK = 1e-5
"""Of the strongest row: below this size errors are rounding."""


@dataclass(frozen=True)
class Readout:
    """What was read.

    Attributes:
        found: certified ones first.
        count: n as granted, or as inferred from the certified ones' sizes; None if there are none.
        clusters: sets of units that agree, by which the paper counts the examples.
        unexplained: share of the rows of all gradients that the certified ones together do not reproduce.
        shares: of the candidates whose own direction and sizes fit, whatever their scale: their weights in the mean.
        multiple: by what the update is a multiple of the mean gradient.
    """

    found: tuple[Rebuilt, ...]
    count: int | None
    clusters: int
    unexplained: float
    shares: tuple[float, ...] = ()
    multiple: float = 1.0

    @property
    def certified(self) -> int:
        """Examples that are certified, with their copies."""
        return sum(f.copies for f in self.found if f.mark == "alone")

    @property
    def complete(self) -> bool:
        """All n examples are certified, and together they reproduce every row."""
        return self.certified > 0 and self.certified == self.count and self.unexplained == 0


@dataclass(frozen=True)
class Rules:
    """How units are read.

    Attributes:
        tolerance: angle in radians below which columns, or rows, agree.
        least: units that must agree.
        peel: take certified examples out of the gradient and look again.
        scale: where no bias tells it.
    """

    tolerance: float
    least: int
    peel: bool
    scale: Scale


def read_neurons(
    end: DenseEnd, params: Params, gradient: Params, count: int | None, rules: Rules, *, eps: float, noise: float
) -> Readout:
    """The examples behind a gradient.

    Args:
        end: two linear layers or more.
        params: of the layers, float64.
        gradient: mean gradient of one step, float64; of every weight, and of the biases that were trained.
        count: n, if granted.
        rules: how.
        eps: relative rounding of the gradient.
        noise: standard deviation of absolute rounding in one entry, of a delta.
    """
    tail = end.last(2)
    evidence = _evidence(tail, params, gradient, count, eps, noise)
    sure, others, clusters, shares = _certified(evidence, rules)
    count = count if count is not None else _count(sure)
    rebuilt = [_alone(f, t, count) for f, t in sure if count is not None]
    rebuilt = [r for r in rebuilt if r.copies]
    if rebuilt and len(end.layers) > 2:
        rebuilt = walked_back(end, params, gradient, rebuilt, count or 0, eps)
    unexplained = unexplained_rows(end, params, gradient, rebuilt, count or 0, eps, noise) if rebuilt else 1.0
    rest = [_unsure(f, t) for f, t in others] if len(end.layers) == 2 else []
    examples = (*rebuilt, *sorted(rest, key=lambda r: -r.confidence))
    return Readout(examples, count, clusters, unexplained, shares)


def _evidence(
    tail: DenseEnd, params: Params, gradient: Params, count: int | None, eps: float, noise: float
) -> Evidence:
    first, last = tail.layers
    columns = gradient[last.weight]
    silent = (columns == 0).all(0) if noise == 0 else torch.zeros_like(columns[0], dtype=torch.bool)
    blurred = torch.full_like(columns[0], eps)
    return Evidence((first, last), params, gradient, (columns != 0).any(0), silent, blurred, eps, noise, count)


def _certified(
    evidence: Evidence, rules: Rules
) -> tuple[list[tuple[Candidate, Told]], list[tuple[Candidate, Told]], int, tuple[float, ...]]:
    """Candidates that the network confirms, the others, and at first how many clusters and which shares there were."""
    sure, rest, clusters, remaining = list[tuple[Candidate, Told]](), list[tuple[Candidate, Told]](), 0, evidence
    shares = tuple[float, ...]()
    while True:
        proposed = candidates(remaining, tolerance=rules.tolerance, least=rules.least, scale=rules.scale)
        # The least blurred first: a unit in which others have a tiny part shows the same example, but less well.
        judged = sorted(zip(proposed, told(remaining, proposed), strict=True), key=lambda pair: pair[1].rough)
        clusters = clusters or len(proposed)
        shares = shares or tuple(t.share for f, t in judged if t.fits and not f.assumed)
        fresh = list[tuple[Candidate, Told]]()
        for f, t in judged:
            if _single(remaining, t) and not f.assumed and not _known(f, [*sure, *fresh]):
                fresh.append((f, t))
        rest = [(f, t) for f, t in judged if not t.fits and not _known(f, [*sure, *fresh])] or rest
        sure += fresh
        if not rules.peel or not fresh:
            return sure, [(f, t) for f, t in rest if not _known(f, sure)], clusters, shares
        remaining = _peeled(evidence, sure)


def _single(evidence: Evidence, t: Told) -> bool:
    """The candidate fits, and as a whole number of examples; with two classes directions say nothing, so as one."""
    if not t.fits:
        return False
    classes = evidence.last.shape[0]
    if evidence.count is None:
        return classes > 2
    copies = t.copies(evidence.count)
    return copies == 1 or (copies > 1 and classes > 2)


def _known(candidate: Candidate, others: Sequence[tuple[Candidate, Told]]) -> bool:
    return any(float((candidate.x - o.x).norm()) < SAME * float(o.x.norm()) for o, _ in others)


def _peeled(evidence: Evidence, sure: Sequence[tuple[Candidate, Told]]) -> Evidence:
    x = torch.stack([f.x for f, _ in sure])
    labels = torch.tensor([int(f.cluster.direction.argmin()) for f, _ in sure], device=x.device)
    share = x.new_tensor([t.share for _, t in sure])
    way = passed(evidence.layers, evidence.params, x)
    shown = gradients(
        evidence.layers, way, derivatives(evidence.layers, evidence.params, way, share[:, None] * way.errors(labels))
    )
    remaining = {k: evidence.gradient[k] - v for k, v in shown.items() if k in evidence.gradient}
    before, after = (g[evidence.layers[1].weight].norm(dim=0) for g in (evidence.gradient, remaining))
    usable = evidence.usable & (after > LEFT * before)
    silent = evidence.silent | (after < GONE * before) if evidence.noise == 0 else evidence.silent
    blurred = evidence.eps * (before / after.clamp_min(1e-300)).clamp_min(1)
    return replace(evidence, gradient=remaining, usable=usable, silent=silent, blurred=blurred)


def _count(sure: Sequence[tuple[Candidate, Told]]) -> int | None:
    """The number of examples by the sizes of the certified: an example that is there once has the smallest share."""
    return round(1 / min(t.share for _, t in sure)) if sure else None


def _alone(candidate: Candidate, t: Told, count: int) -> Rebuilt:
    label = int(candidate.cluster.direction.argmin())
    return Rebuilt(candidate.x, label, candidate.cluster.units, t.copies(count), "alone", 1.0)


def _unsure(candidate: Candidate, t: Told) -> Rebuilt:
    unsure = candidate.assumed or t.rough >= ROUGH
    label = int(candidate.cluster.direction.argmin())
    return Rebuilt(
        candidate.x, label, candidate.cluster.units, 1, "unsure" if unsure else "mixture", 0.5 if unsure else 0.0
    )


def unexplained_rows(
    end: DenseEnd,
    params: Params,
    gradient: Params,
    rebuilt: Sequence[Rebuilt],
    count: int,
    eps: float,
    noise: float,
) -> float:
    """Share of the gradient's rows that these examples together do not reproduce, beyond rounding."""
    x = torch.stack([r.x for r in rebuilt])
    way = passed(end.layers, params, x)
    shown = gradients(end.layers, way, derivatives(end.layers, params, way, shared_errors(way, rebuilt, count)))
    missed, rows = 0, 0
    for number, layer in enumerate(end.layers):
        decided = _decided(params[layer.weight], way, number, eps, last=number == len(end.layers) - 1)
        for name in (layer.weight, layer.bias):
            if name is not None and name in gradient:
                wrong = _wrong(gradient[name], shown[name], noise)
                missed, rows = missed + int((wrong & decided).sum()), rows + len(wrong)
    return missed / rows


def _decided(weight: Tensor, way: Passed, number: int, eps: float, *, last: bool) -> Bool[Tensor, " out"]:
    """Rows of which rounding does not tell whether they fired are not judged."""
    if last:
        return torch.ones_like(weight[:, 0], dtype=torch.bool)
    slack = 8 * eps * weight.shape[1] ** 0.5 * (way.inputs[number].norm(dim=1)[:, None] * weight.norm(dim=1) + 1)
    return (way.outputs[number].abs() > slack).all(0)


def _wrong(observed: Tensor, shown: Tensor, noise: float) -> Bool[Tensor, " out"]:
    observed, shown = observed.reshape(len(observed), -1), shown.reshape(len(shown), -1)
    size = observed.norm(dim=1)
    floor = WEAK * float(size.max()) + 4 * noise * observed.shape[1] ** 0.5
    return (observed - shown).norm(dim=1) > EXPLAINED * size + floor
