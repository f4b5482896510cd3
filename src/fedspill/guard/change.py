"""What changed since the round before, beyond what a round of training changes.

Geiping et al., arXiv:2003.14053, appendix A.2 (permuted rows of the head); a server that plants late, or in turns, must
exchange weights from one round to the next.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput, few
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.model import Model
from fedspill.core.roles import Card, Check, Finding, Incoming
from fedspill.inversion.network.weights import head_weight, some_columns, spread_rows

NAME = "change"
READS = (
    "A layer that was exchanged between rounds can be one that records examples; rows of the head that changed places"
    " make a client train against its labels, so that its update is large and shows its examples to the server."
)
ADVICE = "Do not train on it; ask the server what was done between the rounds, and keep the model of the last one."
MOST, FILLED = 2048, 4
"""Rows and columns that are compared, and numbers of a row that must not be 0: few that pruning leaves are alike."""


@dataclass(frozen=True)
class Change:
    """Compares with the round before: layers exchanged, layers that jumped, rows and biases that changed places.

    Attributes:
        turned: cosine between a layer's weights and its own of the round before, below which it was exchanged.
        jump: relative change above which a layer is reported, if it also is `above` times the median layer's.
        above: see `jump`.
        clearer: by so much more like another row than like itself a row must be to have changed places.
        statistics: factor by which a running variance may have moved.

    Raises:
        BadInput: a field out of range.
    """

    turned: float = 0.5
    jump: float = 0.5
    above: float = 8.0
    clearer: float = 0.2
    statistics: float = 1e4

    def __post_init__(self) -> None:
        inside = 0 < self.turned < 1 and 0 < self.clearer < 1
        if not (inside and self.jump > 0 and self.above > 1 and self.statistics > 1):
            raise BadInput(
                f"turned={self.turned} and clearer={self.clearer} must lie between 0 and 1, jump={self.jump} above 0,"
                f" above={self.above} and statistics={self.statistics} above 1"
            )

    def inspect(self, incoming: Incoming) -> list[Finding]:
        """One finding for each place that changed; [] without a previous model."""
        now, before = incoming.model, incoming.previous
        if before is None:
            return []
        shared = [n for n, v in now.params.items() if n in before.params and before.params[n].shape == v.shape]
        shared = [n for n in shared if bool(now.params[n].isfinite().all() & before.params[n].isfinite().all())]
        permuted = [f for n in shared for f in self._places(n, now.params[n], before.params[n])]
        told = {f.where for f in permuted}
        moved = [f for f in self._jumps(now, before, shared) if f.where not in told]
        return [*_architecture(now, before), *permuted, *moved, *self._buffers(now, before)]

    def _places(self, name: str, now: Tensor, before: Tensor) -> Iterator[Finding]:
        if now.ndim > 1 and 2 <= len(now) <= MOST:
            at = _moved_rows(now.flatten(1), before.flatten(1), self.clearer)
        elif now.ndim == 1 and len(now) > 1 and not torch.equal(now, before):
            same = torch.equal(now.sort().values, before.sort().values) and len(now.unique()) > 1
            at = (now != before).nonzero()[:, 0].tolist() if same else []
        else:
            return
        if len(at) >= 2:
            evidence = {"moved": float(len(at)), "rows": float(len(now))}
            said = f"{len(at)} of {len(now)} rows changed places since the last round: {few(at)}."
            yield _finding(name, "permuted", 0.9, evidence, said)

    def _jumps(self, now: Model, before: Model, shared: list[str]) -> Iterator[Finding]:
        head, facts = head_weight(now), dict[str, tuple[float, float]]()
        for name in shared:
            if now.params[name].ndim > 1 and bool(before.params[name].any()):
                facts[name] = _motion(now.params[name], before.params[name])
        usual = float(torch.tensor([jump for jump, _ in facts.values()]).median()) if facts else 0.0
        for name, (jump, cosine) in facts.items():
            evidence = {"relative_change": jump, "cosine": cosine, "median_change": usual}
            if cosine < self.turned:
                what, rule = ("The head", "head") if name == head else ("The layer", "layer")
                said = f"{what} was exchanged: the cosine with its weights of the last round is {cosine:.2f}."
                yield _finding(name, rule, 0.8, evidence, said)
            elif jump > self.jump and jump > self.above * usual:
                said = f"It changed by {jump:.0%} since the last round, the median layer by {usual:.2%}."
                yield _finding(name, "jump", 0.6, evidence, said)

    def _buffers(self, now: Model, before: Model) -> Iterator[Finding]:
        for name, value in now.buffers.items():
            old = before.buffers.get(name)
            if name.endswith("running_var") and old is not None and old.shape == value.shape:
                alive = (old > 1e-9) & value.isfinite()  # a dead channel's variance is rounding
                apart = (value[alive].clamp_min(1e-30) / old[alive]).double().log10().abs()
                if apart.numel() and float(apart.max()) > torch.tensor(self.statistics).log10():
                    said = f"A running variance moved by a factor of 10^{float(apart.max()):.1f} since the last round."
                    yield _finding(name, "statistics", 0.7, {"powers_of_ten": float(apart.max())}, said)


def _moved_rows(now: Float[Tensor, "m n"], before: Float[Tensor, "m n"], clearer: float) -> list[int]:
    """The rows that are much more like another row of the round before than like their own."""
    one, two = (_normalised(some_columns(rows, MOST)) for rows in (now, before))
    cosines = one @ two.T
    own, best = cosines.diagonal(), cosines.max(1)
    moved = (best.values > own + clearer) & (best.values > 0.9) & ((one != 0).sum(1) >= min(FILLED, one.shape[1]))
    return moved.nonzero()[:, 0].tolist()


def _normalised(rows: Tensor) -> Tensor:
    exact = rows.double()
    return exact / exact.norm(dim=1, keepdim=True).clamp_min(1e-300)


def _motion(now: Tensor, before: Tensor) -> tuple[float, float]:
    """Change over the old size, and the cosine of new and old; of a large layer by a part of it."""
    a, b = (spread_rows(some_columns(t.flatten(1), MOST), MOST).double().flatten() for t in (now, before))
    size = b.norm().clamp_min(1e-300)
    return float((a - b).norm() / size), float(a @ b / (a.norm().clamp_min(1e-300) * size))


def _architecture(now: Model, before: Model) -> Iterator[Finding]:
    new = [n for n in now.params if n not in before.params or before.params[n].shape != now.params[n].shape]
    gone = [n for n in before.params if n not in now.params]
    if new or gone:
        evidence = {"new": float(len(new)), "gone": float(len(gone))}
        said = (
            f"Its parameters are not those of the last round: new or reshaped {few(new) or 'none'}, gone"
            f" {few(gone) or 'none'}."
        )
        first, *others = dict.fromkeys([*new, *gone])
        yield replace(_finding(first, "architecture", 0.9, evidence, said), also=tuple(others))


def _finding(where: str, rule: str, severity: float, evidence: dict[str, float], seen: str) -> Finding:
    return Finding(NAME, where, severity, evidence, seen, rule=rule, reads=READS, advice=ADVICE)


CARD: Card[Check] = Card(
    title="Change since the round before",
    paper="Geiping et al., NeurIPS 2020, arXiv:2003.14053, appendix A.2",
    summary="Reports layers exchanged or moved far since the last round, and rows that changed places.",
    presets={"paper": Change(), "quick": Change()},
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
)
