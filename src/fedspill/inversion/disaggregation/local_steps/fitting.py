"""Levenberg-Marquardt for the inputs behind several local steps, and the search for the order of the examples.

A step is Q + X Q with unknown X, as at the head, so that loud and quiet directions are alike to it. Which of two
examples came first is of second order in the step size, so that a wrong order leaves a residual that no movement of
the inputs takes away; that tells which two are to change places.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.types import Params
from fedspill.inversion.disaggregation.local_steps.orders import Freedom, Order, neighbours
from fedspill.inversion.disaggregation.local_steps.replay import Clients, Gate, Space
from fedspill.inversion.disaggregation.local_steps.slopes import update_slopes

STEPS = 60
"""Of one fit, at most."""
HIGH, LOW = 1e8, 1e-12
"""Bounds of the damping."""
PATIENCE = 3
"""Steps in a row without gain after which a fit has come to its end."""
STALLED = 1e-3
"""Relative gain of the cost below which a fit has come to its end."""
SETTLED = 1.0
"""Times the noise below which nothing is left to gain."""
TURNS, HELD, TURNED = 10, 3, 0.3
"""How often gates are turned over at most, for how many steps they are held then, and the share of the cost that this
must take off."""
ASKED, NEAR, TAKEN = 150, 0.5, 0.01
"""Gates that may be turned over, how near to its jump a unit must be, and the share of what is left that it takes."""
CHUNK = 64
"""Derivatives that are taken side by side."""
ENOUGH = 3.0
"""Times the noise up to which a residual is a solution's."""
WORTH = 0.05
"""Relative gain of the cost from which on another order is believed."""
TRIED = 3
"""Orders that are fitted, the most promising first, before one is given up."""


@dataclass(frozen=True)
class Target:
    """What the clients' training has to give.

    Attributes:
        clients: their training.
        space: in which the inputs are sought.
        seen: the update in its coordinates.
        noise: what an entry of each tensor may be off.
    """

    clients: Clients
    space: Space
    seen: Params
    noise: dict[str, float]

    def missed(
        self, mixing: Float[Tensor, "n m"], order: Order, gates: Sequence[Gate] | None = None
    ) -> Float[Tensor, " e"]:
        """How far the training of these inputs is off, in units of the noise; and the bias's feature off 1."""
        made = self.clients.update(mixing, order, gates)
        off = [((made[k] - self.seen[k]) / self.noise[k]).flatten() for k in self.seen]
        return torch.cat([*off, self._unit(mixing)])

    def _unit(self, mixing: Tensor) -> Float[Tensor, " n"]:
        ones = self.space.basis[:, -1]
        return self.size * (mixing @ ones - 1) if self.space.affine else mixing[:, 0] * 0

    @property
    def size(self) -> float:
        """Of the update, in units of the noise."""
        return float(torch.stack([(v / self.noise[k]).square().sum() for k, v in self.seen.items()]).sum().sqrt())

    def slopes(
        self, mixing: Float[Tensor, "n m"], order: Order, gates: Sequence[Gate] | None = None
    ) -> Float[Tensor, "x e"]:
        """The derivative of what is missed by X, for X[0, 0], X[0, 1], ..."""
        n = len(mixing)
        units = torch.eye(n * n, dtype=mixing.dtype, device=mixing.device).reshape(-1, n, n)
        parts = [units[k : k + CHUNK] @ mixing for k in range(0, n * n, CHUNK)]
        return torch.cat([self._slopes(mixing, along, order, gates) for along in parts])

    def _slopes(
        self, mixing: Tensor, along: Tensor, order: Order, gates: Sequence[Gate] | None
    ) -> Float[Tensor, "x e"]:
        changes = update_slopes(self.clients, mixing, along, order, gates)
        off = [(changes[k] / self.noise[k]).flatten(1) for k in self.seen]
        ones = self.space.basis[:, -1] if self.space.affine else along.new_zeros(along.shape[2])
        return torch.cat([*off, self.size * (along @ ones)], 1)

    def of(self, names: Sequence[str]) -> "Target":
        """Of some tensors alone."""
        return replace(self, seen={k: v for k, v in self.seen.items() if k in names})


@dataclass(frozen=True)
class Fit:
    """Inputs that give the update as well as can be.

    Attributes:
        mixing: Q.
        order: of the examples.
        missed: what they are off, in units of the noise.
    """

    mixing: Float[Tensor, "n m"]
    order: Order
    missed: Float[Tensor, " e"]

    @property
    def cost(self) -> float:
        """The square of what is missed."""
        return float(self.missed.square().sum())

    @property
    def residual(self) -> float:
        """The root mean square of what is missed, in units of the noise."""
        return (self.cost / len(self.missed)) ** 0.5


def fitted(
    target: Target, mixing: Float[Tensor, "n m"], order: Order, is_up: Callable[[], bool], steps: int = STEPS
) -> Fit:
    """The nearest minimum in one order, and beyond it where units that hardly fire, or nearly, are on the wrong side.

    Steps are judged with the gates before them, as wrong ones make the update jump.
    """
    best = _descended(target, Fit(mixing, order, target.missed(mixing, order)), is_up, steps)
    for _ in range(TURNS):
        better = None if best.residual <= ENOUGH or is_up() else _beyond(target, best, is_up, steps)
        if better is None:
            break
        best = better
    return best


def _beyond(target: Target, best: Fit, is_up: Callable[[], bool], steps: int) -> Fit | None:
    """A better minimum with some gates on the other side: all that look wrong, or those alone that do most."""
    gates = target.clients.gates(best.mixing, best.order)
    wrong = _wrong(target, best, gates)
    for number in sorted({len(wrong), -(-len(wrong) // 3), len(wrong) > 0}, reverse=True):
        held = list(gates)
        for k, i in wrong[:number]:
            held[k] = held[k].flipped(i)
        here, damping = best, 1e-3
        for _ in range(HELD if number else 0):
            here, damping = _stepped(target, here, held, damping)
        here = _descended(target, replace(here, missed=target.missed(here.mixing, here.order)), is_up, steps)
        if here.cost < (1 - TURNED) * best.cost:
            return here
    return None


def _descended(target: Target, here: Fit, is_up: Callable[[], bool], steps: int) -> Fit:
    best, damping, idle = here, 1e-3, 0
    for _ in range(steps):
        if is_up() or idle >= PATIENCE or best.residual <= SETTLED:
            break
        here, damping = _stepped(target, here, target.clients.gates(here.mixing, here.order), damping)
        here = replace(here, missed=target.missed(here.mixing, here.order))
        idle = 0 if here.cost < (1 - STALLED) * best.cost else idle + 1
        best = here if here.cost < best.cost else best
    return best


def _stepped(target: Target, here: Fit, gates: Sequence[Gate], damping: float) -> tuple[Fit, float]:
    """The first step that is better with these gates, with ever more damping, and the damping of the next one."""
    missed = target.missed(here.mixing, here.order, gates)
    slopes, n = target.slopes(here.mixing, here.order, gates), len(here.mixing)
    matrix, along, cost = slopes @ slopes.T, slopes @ missed, float(missed.square().sum())
    diagonal = matrix.diagonal()
    floor = 1e-12 * diagonal.max()
    while damping < HIGH:
        damped = matrix + torch.diag(damping * diagonal.clamp_min(floor) + floor * 1e-3)
        factorised, failed = torch.linalg.cholesky_ex(damped)
        step = -torch.cholesky_solve(along[:, None], factorised).reshape(n, n)
        mixing = here.mixing + step @ here.mixing
        if not int(failed) and bool(mixing.isfinite().all()):
            after = target.missed(mixing, here.order, gates)
            if float(after.square().sum()) < cost:
                return Fit(mixing, here.order, after), max(LOW, damping / 5)
        damping *= 5
    return here, 1e-3


def _wrong(target: Target, fit: Fit, gates: Sequence[Gate]) -> list[tuple[int, int]]:
    """Places of gates whose other side takes off what no movement of the inputs could, the most first."""
    places = sorted((float(m), k, i) for k, g in enumerate(gates) for m, i in _least(g))[:ASKED]
    if not places:
        return []
    basis = torch.linalg.qr(target.slopes(fit.mixing, fit.order, gates).T).Q
    turned = [[*gates[:k], gates[k].flipped(i), *gates[k + 1 :]] for _, k, i in places]
    changes = torch.stack([target.missed(fit.mixing, fit.order, g) for g in turned]) - fit.missed
    changes, left = changes - (changes @ basis) @ basis.T, fit.missed - basis @ (basis.T @ fit.missed)
    return [places[j][1:] for j in _taking_off(changes, left)]


def _least(gate: Gate) -> list[tuple[Tensor, int]]:
    margin = gate.margin.flatten()
    found = margin.topk(min(ASKED, len(margin)), largest=False)
    return [(m, int(i)) for m, i in zip(found.values, found.indices, strict=True) if float(m) < NEAR]


def _taking_off(changes: Float[Tensor, "k e"], left: Float[Tensor, " e"]) -> list[int]:
    """Changes that together leave least, one after the other."""
    chosen = list[int]()
    for _ in range(len(changes)):
        costs = (left + changes).square().sum(1)
        costs[chosen] = torch.inf
        first = int(costs.argmin())
        if float(costs[first]) > (1 - TAKEN) * float(left.square().sum()):
            break
        chosen.append(first)
        left = left + changes[first]
    return chosen


def solved(
    target: Target,
    head: Sequence[str],
    mixing: Float[Tensor, "n m"],
    order: Order,
    free: Freedom,
    is_up: Callable[[], bool],
) -> Fit:
    """Inputs and their order by the head's update; then the inputs by those of all layers.

    A ReLU that is wrongly taken to fire makes the updates of the layers below jump, and the head's but in later steps.

    Args:
        head: names of its parameters.
        mixing: a first guess of the inputs.
        order: a first guess of that.
        free: what is open of it.
        is_up: whether the time is over.
    """
    first = target.of(head)
    fit = _ordered(first, fitted(first, mixing, order, is_up), free, is_up)
    return fitted(target, fit.mixing, fit.order, is_up)


def _ordered(target: Target, fit: Fit, free: Freedom, is_up: Callable[[], bool]) -> Fit:
    """The fit in the order that gives the update best, by exchanging two examples after the other."""
    while fit.residual > ENOUGH and not is_up():
        better = _exchanged(target, fit, free, is_up)
        if better is None:
            return fit
        fit = better
    return fit


def _exchanged(target: Target, fit: Fit, free: Freedom, is_up: Callable[[], bool]) -> Fit | None:
    basis = torch.linalg.qr(target.slopes(fit.mixing, fit.order).T).Q

    def left(order: Order) -> float:  # what no movement of the inputs takes away
        missed = target.missed(fit.mixing, order)
        return float((missed - basis @ (basis.T @ missed)).square().sum())

    orders = neighbours(fit.order, target.clients.labels, free)
    ranked = sorted((left(order), k, order) for k, order in enumerate(orders))
    for _, _, order in ranked[:TRIED]:
        tried = fitted(target, fit.mixing, order, is_up)
        if tried.cost < (1 - WORTH) * fit.cost:
            return tried
    return None
