"""Honest models: several architectures, however initialised, trained, fine-tuned, pruned and stored."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache

from torch import Tensor, nn

from benchmarks.vetting.worlds import CHECKPOINTS, ELSEWHERE, EVERY, NETWORKS, after_steps
from fedspill.core.model import Model
from fedspill.core.rng import seeded_globals, stream

SCHEMES: dict[str, Callable[[Tensor], object]] = {
    "kaiming_normal": nn.init.kaiming_normal_,
    "xavier_uniform": nn.init.xavier_uniform_,
    "orthogonal": nn.init.orthogonal_,
    "truncated_normal": lambda w: nn.init.trunc_normal_(w, std=0.02),
}
SEEDS, TUNING = 2, 10


def rounded(rows: Tensor) -> Tensor:
    """To 8 bits by the largest number of each row, or of a vector."""
    step = (rows.abs().amax(1, keepdim=True) if rows.ndim > 1 else rows.abs().amax()).clamp_min(1e-30) / 127
    return (rows / step).round() * step


def by_row(value: Tensor) -> Tensor:
    return rounded(value.flatten(1)).view_as(value) if value.ndim > 1 else value


def thinned(value: Tensor, share: float) -> Tensor:
    if value.ndim < 2:
        return value
    return value * (value.abs() > value.abs().flatten().kthvalue(max(1, int(share * value.numel()))).values)


STORED: dict[str, Callable[[Tensor], Tensor]] = {
    "float32": lambda v: v,
    "float16": lambda v: v.half().float(),
    "bfloat16": lambda v: v.bfloat16().float(),
    "int8 by tensor": lambda v: rounded(v.flatten()).view_as(v),
    "int8 by row": by_row,
    "pruned 50 %": lambda v: thinned(v, 0.5),
    "pruned 90 %": lambda v: thinned(v, 0.9),
}
FEW = ("float32", "float16", "int8 by tensor", "pruned 90 %")
"""For networks from elsewhere, for large ones and further seeds."""
LARGE = ("shufflenet_v2", "resnet20", "strided_cnn")


@dataclass(frozen=True)
class Honest:
    """One honest model.

    Attributes:
        network: of `EVERY`.
        made: how its numbers came about.
    """

    network: str
    made: str
    stored: str

    @property
    def name(self) -> str:
        """Of the record."""
        return f"honest/{self.network}/{self.made}/{self.stored}"

    def models(self) -> tuple[Model, Model | None]:
        """The model, and that of the round before where there was one; both stored so.

        Raises:
            FedspillError: its library or its weights are not there.
        """
        now, before = made(self.network, self.made)
        return _stored(now, self.stored), None if before is None else _stored(before, self.stored)


def _stored(model: Model, how: str) -> Model:
    return replace(model, params={k: STORED[how](v) for k, v in model.params.items()})


@cache
def made(network: str, how: str) -> tuple[Model, Model | None]:
    """The model, and the one that it was trained from within a round."""
    net = EVERY[network]
    kind, _, seed = how.partition(" #")
    if kind == "default":
        return net.build(seed=int(seed or 0)), None
    if kind in SCHEMES:
        return initialised(net.build(), kind), None
    if kind in ("trained", "robust"):
        return _trained(network, kind), None
    base = net.build() if kind == "default, fine-tuned" else _trained(network, "trained")
    return after_steps(base, TUNING, 1e-3), base


def _trained(network: str, kind: str) -> Model:
    net = EVERY[network]
    if kind in net.trained:
        return net.build(kind)
    if kind == "robust":
        return after_steps(made(network, "trained")[0], net.steps // 5, 1e-3, adversarial=True)
    return after_steps(net.build(), net.steps, 1e-3)


def initialised(model: Model, scheme: str) -> Model:
    params = {k: v.clone() for k, v in model.params.items()}
    with seeded_globals(stream(0, "scheme", scheme)):
        for value in params.values():
            SCHEMES[scheme](value) if value.ndim > 1 else None
    return replace(model, params=params)


def cases() -> Iterator[Honest]:
    """All of them; what cannot be built here says so when it is."""
    ways = ("default #0", *SCHEMES, "trained", "robust", "default, fine-tuned", "trained, fine-tuned")
    for network in NETWORKS:
        kinds = FEW if network in LARGE else STORED
        yield from (Honest(network, how, stored) for how in ways for stored in kinds)
        yield from (Honest(network, f"default #{k}", stored) for k in range(1, SEEDS) for stored in FEW)
    for network in CHECKPOINTS:
        yield from (Honest(network, "trained", stored) for stored in FEW)
    for network in ELSEWHERE:
        yield from (Honest(network, "default #0", stored) for stored in FEW)
