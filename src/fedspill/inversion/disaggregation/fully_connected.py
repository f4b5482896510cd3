"""Down through fully connected layers, from each example's features at the head to its input.

A layer's gradient is Delta^T [X, 1], so its row space holds the inputs of all examples while Delta has their rank:
[X, 1] = Q R. What the layer puts out is known for every example, and where its activation can be undone these are
linear equations in the example's own row of Q, far more than it has unknowns. The mask of a ReLU follows from the
solution, not from the features, whose small values are uncertain. Delta^T Q = T is then left over as a check.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fedspill.core.types import Params
from fedspill.inversion.disaggregation.certificate.spaces import Space, redrawn_spaces
from fedspill.inversion.disaggregation.readout import Disaggregated
from fedspill.inversion.network.activations import Invertible, slope_from_output
from fedspill.inversion.network.dense import Dense

SURE = 1e-2
"""Share of an example's root mean square from which on a unit of a ReLU surely fires."""
STEEP = 3e-3
"""Derivative of a saturating activation below which it is not undone."""
ROUNDS = 3
STRAY = 20.0
"""Of the median error of an example's equations: those beyond it are left out, and the fit repeated."""
LEVELS, DOUBTFUL = (0.0, 1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 1e-2), 48
"""Shares of an example's root mean square up to which outputs of a ReLU may be 0, and how many are turned over then."""
SPARE = 2
"""Equations that must be left over for an output to tell the input."""
APART, UNSHOWN, MIXED = 1e-3, 1e-2, 2e-3
"""Relative errors up to which an example is certified: of its own features, of the gradients of all, and the share of
another example that may be in it unseen."""
AGREES = 1e-5
"""Relative error of equations that rounding explains."""
BEYOND, ALIKE = 4.0, 2.0
"""Times the median misfit of redraws beyond which a solution does not hold; times its own up to which they count."""
SURELY = 0.75
"""Share of what is certified up to which the worst redraw that counts may be off."""
FLIPPED = 0.03
"""Relative error of the gradient that a few units make whose mask is uncertain: inputs do not follow from masks."""
FULL = 1e-7
"""Share of the largest singular value below which a layer's gradient lacks an example."""


@dataclass(frozen=True)
class Redraws:
    """Inputs of the deepest layer that was reached, of gradients that are disturbed alike.

    Attributes:
        inputs: of each.
        alike: which of them fit the layers as well as what was found does: the others say nothing of its error.
        beyond: how much worse than the median redraw what was found fits, in the worst layer.
    """

    inputs: Float[Tensor, "r m d"]
    alike: Bool[Tensor, "r m"]
    beyond: Float[Tensor, " m"]


@dataclass(frozen=True)
class Descended:
    """Inputs of the deepest layer that was reached.

    Attributes:
        inputs: of the m examples, float64.
        left: layers before it that were not passed; 0: these are the network's inputs.
        apart: relative error with which each example's inputs reproduce what is known of it above, in the worst layer.
        mixed: the same over what half a mixture with another example would give: how much of one may be in it unseen.
        unshown: relative error with which all together reproduce the gradient, in the worst layer.
        ended: why it went no further; "" if it did.
        again: the same for gradients that are disturbed as this one is; None where the head was not solved again.
    """

    inputs: Float[Tensor, "m d"]
    left: int
    apart: Float[Tensor, " m"]
    mixed: Float[Tensor, " m"]
    unshown: float
    ended: str = ""
    again: Redraws | None = None


@dataclass(frozen=True)
class _Layer:
    """One layer's weights and gradient, with their bias's column where that was trained."""

    weight: Float[Tensor, "out d"]
    bias: Float[Tensor, " out"]
    rows: Float[Tensor, "out k"]
    activation: Invertible | None

    @property
    def affine(self) -> bool:
        return self.rows.shape[1] > self.weight.shape[1]


def descend(
    layers: Sequence[Dense], params: Params, gradient: Params, told: Disaggregated, factor: float = 1.0
) -> Descended:
    """The inputs of a fully connected network.

    Args:
        layers: of the network, the head last.
        params: as they were when the gradient was taken.
        gradient: the mean one, in float64; layers that it lacks end the descent.
        told: what was read at the head.
        factor: of the update over the mean gradient.
    """
    head = params[layers[-1].weight].to(told.features)
    nothing = torch.zeros_like(told.features[:, 0])
    again = _Again.of(told, factor, head)
    drawn = None if again is None else Redraws(again.inputs, again.alike(), again.beyond)
    at = Descended(told.features, len(layers) - 1, nothing, nothing, 0.0, again=drawn)
    by_output = factor * told.errors @ head
    for number in range(len(layers) - 2, -1, -1):
        layer = _layer(layers[number], params, gradient)
        passed = layer if isinstance(layer, str) else _whole(layer, at.inputs, by_output)
        if isinstance(passed, str):
            return replace(at, ended=f"{layers[number].weight!r}: {passed}")
        assert not isinstance(layer, str)
        again = None if again is None else again.passed(layer, passed)
        at, by_output = _joined(at, passed, again, number), passed.by_input
    return at


def _layer(dense: Dense, params: Params, gradient: Params) -> _Layer | str:
    if dense.weight not in gradient:
        return "its gradient was not sent"
    weight = params[dense.weight].to(gradient[dense.weight])
    bias = weight.new_zeros(len(weight)) if dense.bias is None else params[dense.bias].to(weight)
    rows = gradient[dense.weight]
    if dense.bias is not None and dense.bias in gradient:
        rows = torch.cat([rows, gradient[dense.bias][:, None]], 1)
    return _Layer(weight, bias, rows, dense.activation)


@dataclass(frozen=True)
class _Passed:
    inputs: Tensor
    by_input: Tensor
    apart: Tensor
    mixed: Tensor
    unshown: float
    noise: float
    whole: Tensor
    delta: Tensor


@dataclass(frozen=True)
class _Again:
    """The same for gradients that are disturbed as this one is."""

    inputs: Float[Tensor, "r m d"]
    by_output: Float[Tensor, "r m d"]
    worse: Float[Tensor, "r m"]
    beyond: Float[Tensor, " m"]

    @classmethod
    def of(cls, told: Disaggregated, factor: float, head: Tensor) -> "_Again | None":
        """At the head."""
        if told.redrawn is None:
            return None
        nothing = torch.zeros_like(told.redrawn.features[:, :, 0])
        return cls(told.redrawn.features, factor * told.redrawn.errors @ head, nothing, nothing[0])

    def passed(self, layer: _Layer, found: _Passed) -> "_Again":
        """Behind one more layer."""
        spaces = redrawn_spaces(found.delta, found.whole, found.noise, len(self.inputs))
        drawn = [_passed(layer, *each) for each in zip(spaces, self.inputs, self.by_output, strict=True)]
        worse = torch.stack([d.apart for d in drawn]).clamp_min(AGREES) / found.apart.clamp_min(AGREES)
        unshown = found.unshown / max(FLIPPED, *(d.unshown for d in drawn))
        beyond = (1 / worse.median(0).values).clamp_min(unshown)
        return _Again(
            torch.stack([d.inputs for d in drawn]),
            torch.stack([d.by_input for d in drawn]),
            torch.maximum(self.worse, worse),
            torch.maximum(self.beyond, beyond),
        )

    def alike(self) -> Bool[Tensor, "r m"]:
        """Which fit the layers about as well as what was found does, or are of the half that fits better."""
        return self.worse <= self.worse.median(0).values.clamp_min(ALIKE)


def _joined(at: Descended, passed: _Passed, again: _Again | None, left: int) -> Descended:
    apart, mixed = torch.maximum(at.apart, passed.apart), torch.maximum(at.mixed, passed.mixed)
    found = Descended(passed.inputs, left, apart, mixed, max(at.unshown, passed.unshown))
    return found if again is None else replace(found, again=Redraws(again.inputs, again.alike(), again.beyond))


def _whole(layer: _Layer, outputs: Float[Tensor, "m out"], by_output: Float[Tensor, "m out"]) -> _Passed | str:
    """What entered a layer, if its gradient shows all examples."""
    m, space = len(outputs), Space.of(layer.rows, len(outputs))
    if len(space.sizes) < m or not float(space.sizes[m - 1]) > FULL * float(space.sizes[0]):
        return f"its gradient has not the rank of {m} examples"
    return _passed(layer, space, outputs, by_output)


def _passed(layer: _Layer, space: Space, outputs: Float[Tensor, "m out"], by_output: Float[Tensor, "m out"]) -> _Passed:
    """What entered a layer, and the derivative by it, from what came out behind its activation."""
    m, basis = len(outputs), space.basis
    whole = torch.cat([layer.weight, layer.bias[:, None]], 1) if layer.affine else layer.weight
    offset = torch.zeros_like(layer.bias) if layer.affine else layer.bias
    keys = basis @ whole.T
    entered, weight = undone(layer.activation, outputs)
    if int((weight > 0).sum(1).min()) < m + SPARE - layer.affine:
        mixing = _by_gradient(layer, outputs, by_output, space.seen)
    else:
        ones = basis[:, -1] if layer.affine else None
        mixing = torch.stack([_row(keys, e - offset, w, ones) for e, w in zip(entered, weight, strict=True)])
    again = _activated(layer.activation, mixing @ keys + offset)
    delta = _delta(layer, again, by_output)
    apart = (again - outputs).norm(dim=1) / _spread(outputs)
    return _Passed(
        inputs=mixing @ (basis[:, :-1] if layer.affine else basis),
        by_input=delta @ layer.weight,
        apart=apart,
        mixed=apart / _bent(layer, mixing @ keys + offset, again),
        unshown=float((delta.T @ mixing - space.seen).norm() / space.seen.norm().clamp_min(1e-300)),
        noise=space.noise,
        whole=mixing @ basis,
        delta=delta,
    )


def _by_gradient(layer: _Layer, outputs: Tensor, by_output: Tensor, seen: Tensor) -> Float[Tensor, "m m"]:
    """Q from Delta^T Q = T alone, where outputs are too few; which units of a ReLU fire is told by how well that holds.

    Outputs are tried as 0 up to several levels, and then those nearest to the best level one by one.
    """
    if not isinstance(layer.activation, nn.ReLU):
        return torch.linalg.pinv(_delta(layer, outputs, by_output).T) @ seen
    share = outputs / outputs.square().mean(1, keepdim=True).sqrt().clamp_min(1e-300)
    tried = [(level, *_masked(by_output, share > level, seen)) for level in LEVELS]
    level, mixing, missed = min(tried, key=lambda t: t[2])
    fires = share > level
    doubt = (share.clamp_min(1e-12) / max(level, LEVELS[1])).log().abs()
    for index in doubt.flatten().argsort()[:DOUBTFUL]:
        turned = fires.flatten().index_fill(0, index, not bool(fires.flatten()[index])).reshape(fires.shape)
        again, less = _masked(by_output, turned, seen)
        if less < missed:
            fires, mixing, missed = turned, again, less
    return mixing


def _masked(by_output: Tensor, fires: Bool[Tensor, "m out"], seen: Tensor) -> tuple[Float[Tensor, "m m"], float]:
    """Q where these units fire, and what the equations miss then."""
    delta = by_output * fires
    mixing = torch.linalg.pinv(delta.T) @ seen
    return mixing, float((delta.T @ mixing - seen).norm())


def _bent(layer: _Layer, entering: Float[Tensor, "m out"], outputs: Float[Tensor, "m out"]) -> Float[Tensor, " m"]:
    """How far the output of half a mixture is from half a mixture of outputs, for the other example where it is least.

    Where the layer is linear between two examples, mixtures of them cannot be told from themselves.
    """
    least = torch.ones_like(outputs[:, 0])
    for k in range(len(outputs)):
        half = _activated(layer.activation, (entering + entering[k]) / 2) - (outputs + outputs[k]) / 2
        bent = half.norm(dim=1) / _spread(outputs)
        least = torch.minimum(least, bent.index_fill(0, torch.tensor([k], device=bent.device), torch.inf))
    return least.clamp_min(1e-300)


def _spread(outputs: Float[Tensor, "m out"]) -> Float[Tensor, " m"]:
    """By how much the units differ: what a sigmoid adds to all of them says nothing of an example."""
    return (outputs - outputs.mean(1, keepdim=True)).norm(dim=1).clamp_min(1e-300)


def _delta(layer: _Layer, outputs: Tensor, by_output: Tensor) -> Tensor:
    return by_output * slope_from_output(layer.activation, outputs)


def _activated(activation: Invertible | None, entering: Tensor) -> Tensor:
    return entering if activation is None else activation.forward(entering.clone())


def _row(keys: Tensor, entered: Tensor, weight: Tensor, ones: Tensor | None) -> Float[Tensor, " m"]:
    """One example's row of Q: least squares, without equations that stray."""
    known, solution = weight.clone(), keys.new_zeros(len(keys))
    size = (weight * entered).norm().clamp_min(1e-300)
    for _ in range(ROUNDS):
        matrix, target = (known * keys).T, known * entered
        if ones is not None:
            matrix, target = torch.cat([matrix, size * ones[None]]), torch.cat([target, size[None]])
        solution = torch.linalg.lstsq(matrix, target[:, None], driver="gelsd").solution[:, 0]
        missed = (known * (solution @ keys - entered)).abs()
        kept = missed <= STRAY * missed[known > 0].median()
        if int((known.where(kept, 0) > 0).sum()) < len(keys) + SPARE or bool(kept.all()):
            break
        known = known.where(kept, 0)
    return solution


def undone(
    activation: Invertible | None, outputs: Float[Tensor, "m out"]
) -> tuple[Float[Tensor, "m out"], Float[Tensor, "m out"]]:
    """What entered an activation, and how much each value is worth: its derivative there; 0 where it is not told."""
    slope = slope_from_output(activation, outputs)
    match activation:
        case nn.ReLU():
            level = SURE * outputs.square().mean(1, keepdim=True).sqrt()
            return outputs, (outputs > level).to(outputs)
        case nn.LeakyReLU():
            if not activation.negative_slope > 0:
                return undone(nn.ReLU(), outputs)
            return outputs / slope, slope
        case nn.Sigmoid():
            return _where_steep(outputs.logit(), slope)
        case nn.Tanh():
            return _where_steep(outputs.atanh(), slope)
        case nn.ELU():
            low = torch.log1p(outputs.clamp_max(0) / activation.alpha)
            return _where_steep(torch.where(outputs > 0, outputs, low), slope)
        case nn.Softplus():
            scaled = activation.beta * outputs
            return _where_steep((scaled + torch.log(-torch.expm1(-scaled))) / activation.beta, slope)
        case _:
            return outputs, torch.ones_like(outputs)


def _where_steep(entered: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    told = entered.isfinite() & (slope > STEEP)
    return entered.where(told, 0.0), slope.where(told, 0.0)


def certified(
    down: Descended, told: Disaggregated, away: Callable[[Float[Tensor, "r m d"]], Float[Tensor, "r m"]]
) -> Bool[Tensor, " m"]:
    """The examples that are right beyond doubt: by the error that noise lets expect, or by how layers bend.

    Layers below the head tell an example from mixtures only where they bend between examples; of one layer alone they
    tell nothing. Where noise disturbs the head, they may be surer than the head is, if at least one redraw comes near.

    Args:
        down: what was reached.
        told: what it was reached from.
        away: how far inputs are from those that were reached, over what is certified.
    """
    alone = (told.copies == 1) & told.fits
    below = (down.mixed < MIXED) & (down.mixed > 0) & alone
    below = (told.certain | below) & (down.apart < APART) & (down.unshown < UNSHOWN)
    if down.again is None:
        return below
    error = away(down.again.inputs)
    drawn = ((error * down.again.alike).amax(0) < SURELY) & (down.again.beyond < BEYOND) & alone
    return drawn | (below & (error.amin(0) < SURELY))
