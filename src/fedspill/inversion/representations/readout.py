"""Intermediate representations (IRs) from the gradient of a head's first linear layer, judged without the truth.

Dabholkar et al. 2025 (Maui, arXiv 2509.11451), eq. 6: behind a ReLU a row that one example alone fires has the
gradient (delta x, delta). Which rows these are the paper counts with the truth. Here the head itself tells: what a row
shows is passed through it (`replay`), the rows of one example are combined by least squares, and its share is taken
away from all rows, so that rows which two examples fire show the other one. The last step is not in the paper.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.types import Mark, Update, UpdateKind
from fedspill.inversion.gradients.firing import contradicted
from fedspill.inversion.gradients.layer import Layer, LayerGradient, row_gradient
from fedspill.inversion.gradients.linear import RowGroup, layer_input
from fedspill.inversion.gradients.losses import evidence
from fedspill.inversion.gradients.mean import one_step
from fedspill.inversion.gradients.scale import Fitted, Multiple, common_multiple
from fedspill.inversion.network.layers import layer_inputs
from fedspill.inversion.network.trace import probe_inputs
from fedspill.inversion.representations.certificate import Judged, Replay
from fedspill.inversion.representations.two_layer import TwoLayer, TwoLayerGradient, head_gradient, two_layer

SAME = 2e-2
"""Distance, in units of the norm, below which two certified representations are one example's."""
AGREE = 1e-4
"""Distance below which rows are put together; what lies between holds a small share of another example."""
BELOW_ZERO = 1e-3
"""Of the largest value: what rounding may leave below 0 behind a ReLU."""
PROBES = 8
UNKNOWN = -1


@dataclass(frozen=True)
class Representations:
    """Candidates for what entered the head, certified ones first.

    Attributes:
        values: float64.
        neurons: for each candidate the rows that show it and it alone, the strongest first; of a peeled one after
            others were taken away.
        marks: "alone" is certified; "unsure" and "mixture" are not.
        confidence: 1 certified, 0.5 if rows agree, 0.2 for a row that nothing contradicts, 0 for a mixture.
        labels: of certified candidates; -1 elsewhere.
        peeled: it owned no row until others were taken away, so that it is not counted by the paper's leakage rate.
    """

    values: Float[Tensor, "m d"]
    neurons: tuple[tuple[int, ...], ...]
    marks: tuple[Mark, ...]
    confidence: Float[Tensor, " m"]
    labels: Int[Tensor, " m"]
    peeled: Bool[Tensor, " m"]

    @property
    def certified(self) -> Bool[Tensor, " m"]:
        """Candidates that the update itself confirms."""
        return torch.tensor([mark == "alone" for mark in self.marks], dtype=torch.bool, device=self.values.device)

    def leakage_rate(self, num_examples: int) -> float:
        """Blind IR leakage rate: distinct certified examples that own a row from the start, over n."""
        return int((self.certified & ~self.peeled).sum()) / num_examples


@dataclass(frozen=True)
class _Found:
    x: Tensor
    rows: Tensor
    mark: Mark
    confidence: float
    label: int = UNKNOWN
    peeled: bool = False


def read_representations(
    update: Update, knowledge: ServerKnowledge, layer: Layer, *, peel: bool = True, told: Multiple | None = None
) -> Representations:
    """Representations that the gradient of a head's first layer shows, each once.

    Candidates that are not certified are put out too, the likelier ones first, as far as examples are still missing.

    Args:
        update: gradient, or delta; only a single local step is certified.
        knowledge: of the server; without the number of examples it is fitted.
        layer: the first one behind the feature extractor, with a ReLU behind it.
        peel: take certified examples away, so that more rows show one example.
        told: by what the update is a multiple of the mean gradient, by the classification layer (`labels.scale`).

    Raises:
        NotApplicable: the layer was not trained, or its gradient is zero.
    """
    plain = row_gradient(update, knowledge, layer)
    head = two_layer(knowledge.model, layer) if one_step(update, knowledge) and _adds_up(knowledge.model) else None
    examples, remaining = list[_Found](), plain
    tested = False
    if head is not None:
        gradient = head_gradient(update, knowledge, head, plain.floor)
        replay = _replay(update, knowledge, head, gradient, told)
        if replay is not None:
            examples, gradient = _certified(replay, gradient, _floor(knowledge.model, head), peel)
            bias = torch.zeros_like(gradient.bias).index_copy(0, rows := gradient.usable(), gradient.bias[rows])
            remaining = LayerGradient(gradient.weight, bias, plain.floor, plain.noise, plain.scale)
            tested = True
    missing = None if knowledge.num_examples is None else knowledge.num_examples - len(examples)
    examples += _others(update, knowledge, layer, remaining, examples, tested)[:missing]
    return _together(examples, plain.weight)


def _together(examples: list[_Found], like: Tensor) -> Representations:
    return Representations(
        values=torch.stack([f.x for f in examples]) if examples else like.new_zeros(0, like.shape[1]),
        neurons=tuple(tuple(f.rows.tolist()) for f in examples),
        marks=tuple(f.mark for f in examples),
        confidence=like.new_tensor([f.confidence for f in examples]),
        labels=torch.tensor([f.label for f in examples], dtype=torch.long, device=like.device),
        peeled=torch.tensor([f.peeled for f in examples], dtype=torch.bool, device=like.device),
    )


def _adds_up(model: Model) -> bool:
    """The loss is the mean over examples of one class each, so that one example's part can be computed."""
    try:
        return evidence(model).even
    except NotApplicable:
        return False


def _replay(
    update: Update,
    knowledge: ServerKnowledge,
    head: TwoLayer,
    gradient: TwoLayerGradient,
    told: Multiple | None,
) -> Replay | None:
    """None if neither the number of examples nor the second layer's gradient is there to say how large a share is."""
    granted = knowledge.labels is not None and knowledge.labels.ndim == 1
    labels = knowledge.labels.unique() if granted and knowledge.labels is not None else torch.arange(head.classes)
    eps = torch.finfo(update.values[head.first.weight].dtype).eps
    tolerance = 1e-9 if eps < 1e-12 else 2e-4
    rounding = 4 * eps * head.weight.shape[1] ** 0.5
    count = knowledge.num_examples
    replay = Replay(head, labels, None if count is None else 1 / count, tolerance, rounding, 4 * eps)
    if count is not None and (
        gradient.last_weight is None or bool(replay.judge(gradient, gradient.usable()).explained.any())
    ):
        return replay
    if count is not None:
        return _scaled(replay, gradient, count, told)
    if gradient.last_weight is None:
        return None
    judged = replay.judge(gradient, gradient.usable())
    fitted = judged.scale[judged.explained]
    return replace(replay, share=float(fitted.median())) if len(fitted) else None


def _scaled(replay: Replay, gradient: TwoLayerGradient, count: int, told: Multiple | None) -> Replay:
    """The replay with the share that examples have in a multiple of the mean gradient, if rows tell the factor."""
    judged = replace(replay, share=None).judge(gradient, rows := gradient.usable())
    good = judged.explained.nonzero()[:, 0]
    bias = gradient.bias.new_zeros(len(good), len(gradient.bias))
    bias[torch.arange(len(good), device=bias.device), rows[good]] = gradient.bias[rows[good]]
    fits = [Fitted(float(judged.scale[k]) * count, own) for k, own in zip(good, bias, strict=True)]
    factor = common_multiple(fits, gradient.bias, told, None)
    return replay if factor is None else replace(replay, share=factor / count)


def _floor(model: Model, head: TwoLayer) -> float | None:
    """The least value of representations, relative to the largest: 0 behind a ReLU, else None; the server tries."""
    shown = layer_inputs(model.in_eval_mode(), head.at, probe_inputs(model.input, PROBES, model.like))
    return 0.0 if float(shown.min()) >= 0 else None


def _certified(
    replay: Replay, gradient: TwoLayerGradient, floor: float | None, peel: bool
) -> tuple[list[_Found], TwoLayerGradient]:
    """Examples that the update confirms, and what is left of the gradient without them."""
    silent, sure, remaining = gradient.bias == 0, list[_Found](), gradient
    while True:
        rows = remaining.usable()
        judged = replay.judge(remaining, rows)
        good = judged.explained & ~_impossible(replay, judged, silent, floor)
        fresh = _examples(replay, remaining, rows, judged, good, sure)
        if not fresh:
            return sure, remaining
        x, labels = torch.stack([f.x for f in fresh]), torch.tensor([f.label for f in fresh], device=rows.device)
        error = _error(replay, remaining, fresh)
        remaining = remaining.without(replay.share_of(x, labels, error))
        sure += fresh
        if not peel:
            return sure, remaining


def _impossible(replay: Replay, judged: Judged, silent: Tensor, floor: float | None) -> Bool[Tensor, " m"]:
    """Candidates that fire a row which no example fired, or that no ReLU lets through."""
    out = ((replay.head.outputs(judged.x) > replay.slack(judged.x)) & silent).any(1)
    if floor is not None:
        out |= judged.x.amin(1) < -BELOW_ZERO * judged.x.abs().amax(1)
    return out


def _examples(
    replay: Replay, remaining: TwoLayerGradient, rows: Tensor, judged: Judged, good: Tensor, sure: list[_Found]
) -> list[_Found]:
    """Good rows that agree, put together: one example each, none that is known; the surest row decides."""
    order = good.nonzero()[:, 0]
    order = order[judged.residual[order].argsort(stable=True)]
    x, numbers, labels, limit = judged.x[order], rows[order], judged.label[order], judged.limit[order]
    if not len(numbers):
        return []
    distance = torch.cdist(x, x) / x.norm(dim=1)[:, None]
    free = torch.ones_like(numbers, dtype=torch.bool)
    if sure:
        free = ~(torch.cdist(x, torch.stack([f.x for f in sure])) < SAME * x.norm(dim=1)[:, None]).any(1)
    out = list[_Found]()
    for first in range(len(numbers)):
        if free[first]:
            near = distance[first] < torch.maximum(limit, limit[first]).clamp_max(SAME)
            members = numbers[free & (distance[first] < SAME) & (near | (distance[first] < AGREE))]
            free &= distance[first] >= SAME
            members = members[remaining.bias[members].abs().argsort(descending=True, stable=True)]
            mean = layer_input(remaining.weight[members], remaining.bias[members])
            out.append(_Found(mean, members, "alone", 1.0, int(labels[first]), bool(sure)))
    return out


def _error(replay: Replay, remaining: TwoLayerGradient, fresh: list[_Found]) -> Float[Tensor, " m"]:
    """Relative error of the replayed bias gradients on the rows that each example owns."""
    x = torch.stack([f.x for f in fresh])
    labels = torch.tensor([f.label for f in fresh], device=x.device)
    shares = replay.share_of(x, labels, x.new_zeros(len(x)))
    off = [
        float((s.bias_grad - remaining.bias)[f.rows].norm() / remaining.bias[f.rows].norm())
        for s, f in zip(shares, fresh, strict=True)
    ]
    return x.new_tensor(off).clamp_min(replay.tolerance / 10)


def _others(
    update: Update,
    knowledge: ServerKnowledge,
    layer: Layer,
    remaining: LayerGradient,
    sure: list[_Found],
    tested: bool,
) -> list[_Found]:
    """What is not certified: rows that agree first, those that are contradicted last."""
    groups = remaining.groups()
    if not groups:
        return []
    x = torch.stack([g.x for g in groups])
    wrong = torch.full((len(groups),), tested, dtype=torch.bool, device=x.device)
    if one_step(update, knowledge) and update.kind is UpdateKind.GRADIENT and not sure:
        wrong |= contradicted(knowledge.model.params, layer, remaining, groups, x)
    known = torch.zeros_like(wrong)
    if sure:
        known = (torch.cdist(x, torch.stack([f.x for f in sure])) < SAME * x.norm(dim=1, keepdim=True)).any(1)
    kept = [_guess(g, bool(w)) for g, w, k in zip(groups, wrong, known, strict=True) if not bool(k)]
    return sorted(kept, key=lambda f: -f.confidence)


def _guess(group: RowGroup, wrong: bool) -> _Found:
    if wrong:
        return _Found(group.x, group.rows, "mixture", 0.0)
    return _Found(group.x, group.rows, "unsure", 0.5 if len(group.rows) > 1 else 0.2)
