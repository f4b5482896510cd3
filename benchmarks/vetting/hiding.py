"""How what was planted is hidden: small changes of any plant, and what the catalogue's own hiding offers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedspill.core.model import Model
from fedspill.core.rng import rand, randn, stream
from fedspill.core.roles import Tampering
from fedspill.core.types import Params
from fedspill.tamperings.loki import Loki
from fedspill.tamperings.robbing_linear_layer import RobbingLinearLayer
from fedspill.tamperings.robbing_the_fed import RobbingTheFed

Change = Callable[[Params, Params], Params]
"""Planted parameters, and the host's, to what stands in their place."""
DORMANT = "dormant until round 5"
ROUND = 5


def noisy(share: float) -> Change:
    """Noise of this share of a row, and of the spread of biases."""
    return lambda planted, host: {
        k: v + share * _size(v) * randn(tuple(v.shape), stream(1, k), v) for k, v in planted.items()
    }


def _size(value: Tensor) -> Tensor:
    return value.square().mean().sqrt() if value.ndim > 1 else value.std(correction=0)


def scaled(planted: Params, host: Params) -> Params:
    """The rows of the first planted layer times random numbers between 0.3 and 3, and their biases likewise."""
    weight, bias = _first(planted)
    factors = 10 ** (rand((len(planted[weight]),), stream(2, "scaled"), planted[weight]) - 0.5)
    rows = planted[weight] * factors.view(-1, *[1] * (planted[weight].ndim - 1))
    return {**planted, weight: rows} | ({bias: planted[bias] * factors} if bias in planted else {})


def mixed(planted: Params, host: Params) -> Params:
    """Every second row of the first planted layer as it was in the host, or random where the host has none such."""
    weight, bias = _first(planted)
    every = torch.arange(len(planted[weight])) % 2 == 1
    return {**planted} | {k: _replaced(k, planted[k], host, every) for k in (weight, bias) if k in planted}


def _replaced(name: str, value: Tensor, host: Params, at: Tensor) -> Tensor:
    ordinary = host.get(name)
    if ordinary is None or ordinary.shape != value.shape:
        ordinary = _size(value) * randn(tuple(value.shape), stream(3, name), value)
    return torch.where(at.view(-1, *[1] * (value.ndim - 1)), ordinary, value)


def _first(planted: Params) -> tuple[str, str]:
    weight = next(k for k, v in planted.items() if v.ndim > 1)
    return weight, weight.removesuffix("weight") + "bias"


ANY: Mapping[str, Change] = {
    "noise 1e-4": noisy(1e-4),
    "noise 0.1 %": noisy(1e-3),
    "noise 1 %": noisy(1e-2),
    "noise 10 %": noisy(0.1),
    "noise 30 %": noisy(0.3),
    "scaled rows": scaled,
    "half ordinary rows": mixed,
}
"""Tricks for any plant."""


def planted(sent: Model, host: Model) -> Params:
    """The parameters that are new or not the host's."""
    old = host.params
    return {
        k: v for k, v in sent.params.items() if k not in old or v.shape != old[k].shape or not torch.equal(v, old[k])
    }


def applies(trick: str, sent: Model, host: Model) -> bool:
    """Whether there are rows to scale, or enough to mix others in."""
    found = planted(sent, host)
    matrices = [v for v in found.values() if v.ndim > 1]
    return bool(matrices) and (trick != "half ordinary rows" or len(matrices[0]) >= 8)


def hidden(trick: str, sent: Model, host: Model) -> Model:
    """The sent model with the trick played on what was planted."""
    return replace(sent, params={**sent.params, **ANY[trick](planted(sent, host), host.params)})


@dataclass(frozen=True)
class Own:
    """A trick that is a setting of the tampering itself.

    Attributes:
        fits: a network in which it can be done.
    """

    name: str
    tampering: Tampering
    convolutional: bool | None = None


def own(tampering: Tampering) -> list[Own]:
    """The tricks that a tampering brings itself; its readout knows of them."""
    if isinstance(tampering, RobbingTheFed):
        return _of_imprint(tampering)
    if isinstance(tampering, RobbingLinearLayer):
        return _of_layer(tampering)
    if isinstance(tampering, Loki):
        return [Own("a share of the bins", replace(tampering, bins=replace(tampering.bins, rows=32)))]
    return []


def _of_imprint(one: RobbingTheFed) -> list[Own]:
    few, module = max(16, 4 * len(one.bins.functions)), one.module
    ordinary = replace(
        one, bins=replace(one.bins, rows=few), module=replace(module, ordinary_rows=9 * few, shuffle=True)
    )
    return [
        Own("permuted rows", replace(one, module=replace(module, shuffle=True))),
        Own("nine in ten ordinary rows", ordinary),
        Own("a share of the bins", replace(one, bins=replace(one.bins, rows=few))),
        Own(DORMANT, replace(one, module=replace(module, active_from=ROUND))),
    ]


def _of_layer(one: RobbingLinearLayer) -> list[Own]:
    return [
        Own("permuted rows", replace(one, shuffle=True)),
        Own("nine in ten ordinary rows", replace(one, rows=20, shuffle=True)),
        Own("a share of the bins", replace(one, rows=64, shuffle=True)),
        Own(DORMANT, replace(one, active_from=ROUND)),
    ]


def deep(one: RobbingTheFed, at: str) -> Own:
    """Spread over layers: convolutions hand the picture on to an imprint that stands deeper."""
    return Own("spread over layers", replace(one, place=replace(one.place, at=at, lanes="three")), convolutional=True)
