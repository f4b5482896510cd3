"""How a batch's maps are mixed, told by the gradients of all layers above them at once.

Maps in a known span are B numbers an example, and all that lies above them follows from them: features, probabilities,
and the gradient of every layer. So a network's upper layers are some hundred thousand equations for B^2 unknowns, where
the features that the head tells are exact only up to what its gradient shows weakly. Gauss-Newton, from the mixing that
fits these features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedspill.core.model import parameter_name
from fedspill.core.rng import randn, stream
from fedspill.core.types import Params
from fedspill.inversion.recursion.graph import Dataflow, Node
from fedspill.inversion.shift_structure.patches import is_plain, patches

SKETCHED = 8
"""Mixtures of a layer's out channels that stand for its gradient."""
STEPS = 12
GAIN, PATIENCE = 0.05, 2
"""Relative gain of the misfit below which a step led nowhere, and how many such steps end it."""
SECANT, SMALLEST, LARGEST = 0.1, 1e-6, 1e-2
"""Relative step of the derivatives by differences, times the misfit: as far as the solution may be off.

A gradient jumps wherever a unit of a ReLU begins to fire, which derivatives in a point do not show."""


@dataclass(frozen=True)
class Softmax:
    """The loss's derivative by the logits: slope * probabilities - target.

    Attributes:
        slope: of every example, (b, 1).
        target: (b, classes).
    """

    slope: Float[Tensor, "b 1"]
    target: Float[Tensor, "b classes"]

    @classmethod
    def of(cls, logits: Float[Tensor, "b classes"], cotangents: Float[Tensor, "b classes"]) -> "Softmax":
        """Told by logits and derivatives, as every class but an example's own has the same target."""
        p = logits.softmax(1)
        others = torch.ones_like(p).scatter(1, cotangents.argmin(1, keepdim=True), 0.0)
        count = others.sum(1, keepdim=True)
        apart = others * (p - (others * p).sum(1, keepdim=True) / count)
        slope = (apart * cotangents).sum(1, keepdim=True) / apart.square().sum(1, keepdim=True).clamp_min(1e-300)
        return cls(slope, slope * p - cotangents)

    def cotangents(self, logits: Float[Tensor, "b classes"]) -> Float[Tensor, "b classes"]:
        """The derivatives at other logits."""
        return self.slope * logits.softmax(1) - self.target


@dataclass(frozen=True)
class Mixed:
    """Maps whose gradients are the ones that were sent.

    Attributes:
        maps: of every example.
        cotangents: the loss's derivatives by the logits that follow from them.
        misfit: of all gradients above, relative, what is left.
    """

    maps: Float[Tensor, "b i h w"]
    cotangents: Float[Tensor, "b classes"]
    misfit: float


@dataclass(frozen=True)
class Above:
    """Gradients of the layers above a node, as functions of its values.

    Attributes:
        run: from the node's values to the layers' inputs, then their outputs, the logits last.
        layers: convolutions and linear layers, the head last.
        sketches: mixtures of each layer's out channels, (k, o), over the size of the gradient that they leave.
        sent: what they leave of the gradients that were sent.
        softmax: of every example.
    """

    run: Callable[[Tensor], list[Tensor]]
    layers: Sequence[nn.Conv2d | nn.Linear]
    sketches: Sequence[Tensor]
    sent: Float[Tensor, " e"]
    softmax: Softmax

    def shares(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b e"]:
        """Every example's part of the gradients, sketched, those of each layer relative to its own size."""
        inputs, cotangents = self._carried(x)
        parts = [
            torch.einsum("ko,bop,bdp->bkd", w, _positions(d), _seen(layer, a)).flatten(1)
            for layer, w, a, d in zip(self.layers, self.sketches, inputs, cotangents, strict=True)
        ]
        return torch.cat(parts, 1)

    def logits_cotangents(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b classes"]:
        """The loss's derivatives by the logits."""
        return self.softmax.cotangents(self.run(x)[-1])

    def _carried(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The inputs of the layers and the loss's derivatives by their outputs."""
        leaf = x.detach().clone().requires_grad_()
        with torch.enable_grad():
            values = self.run(leaf)
            inputs, outputs = values[: len(self.layers)], values[len(self.layers) :]
        cotangent = self.softmax.cotangents(outputs[-1].detach())
        below: tuple[Any, ...] = ()
        if len(outputs) > 1:
            below = torch.autograd.grad(outputs[-1], outputs[:-1], cotangent, allow_unused=True)
        told = [torch.zeros_like(v) if d is None else d for v, d in zip(outputs[:-1], below, strict=True)]
        return [v.detach() for v in inputs], [*told, cotangent]


def _positions(values: Tensor) -> Float[Tensor, "b o p"]:
    return values.flatten(2) if values.dim() > 2 else values[..., None]


def _seen(layer: nn.Conv2d | nn.Linear, inputs: Tensor) -> Float[Tensor, "b d p"]:
    """What a layer sees at each position."""
    columns = patches(inputs, layer) if isinstance(layer, nn.Conv2d) else inputs.T
    return columns.reshape(len(columns), len(inputs), -1).transpose(0, 1)


def above(flow: Dataflow, gradient: Params, start: Node, layers: Sequence[Node], softmax: Softmax) -> Above | None:
    """The layers above a node; None where the logits take more of the input than its values.

    Args:
        layers: those of which the gradient is that of one use.
        softmax: of every example.
    """
    later = set(flow.nodes[flow.nodes.index(start) + 1 :])
    nodes = [n for n in layers if n in later and n is not flow.output and _usable(flow, n)] + [flow.output]
    run = flow.between(start, [*(flow.inputs(n)[0] for n in nodes), *nodes])
    if run is None:
        return None
    modules = [m for m in map(flow.module, nodes) if isinstance(m, nn.Conv2d | nn.Linear)]
    sent = [gradient[parameter_name(str(n.target), "weight")].flatten(1) for n in nodes]
    sketches = [_sketch(s, number) for number, s in enumerate(sent)]
    shown = torch.cat([(w @ s).flatten() for w, s in zip(sketches, sent, strict=True)])
    return Above(run, modules, sketches, shown, softmax)


def _usable(flow: Dataflow, node: Node) -> bool:
    layer = flow.module(node)
    return is_plain(layer) if isinstance(layer, nn.Conv2d) else flow.blank(node).dim() == 2


def _sketch(sent: Float[Tensor, "o d"], number: int) -> Float[Tensor, "k o"]:
    few = min(SKETCHED, len(sent))
    mixtures = randn((few, len(sent)), stream(number, "mixing"), sent)
    return mixtures / (mixtures @ sent).norm().clamp_min(1e-300)


def refined(known: Above, span: Float[Tensor, "b i h w"], maps: Float[Tensor, "b i h w"]) -> Mixed:
    """The maps in the span whose gradients are nearest to those sent, found from ones that are nearly so."""
    span = span / span.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) * maps.flatten(1).norm(dim=1).mean()
    flat = span.flatten(1)
    c = torch.linalg.lstsq(flat.T, maps.flatten(1).T).solution.T
    best, least, idle = c, float("inf"), 0
    for _ in range(STEPS):
        at = known.shares(_mixed(c, span))
        misfit = _misfit(at, known)
        idle = idle + 1 if misfit > (1 - GAIN) * least else 0
        best, least = (c, misfit) if misfit < least else (best, least)
        if idle == PATIENCE:
            break
        c = c - _step(known, span, c, at, min(max(SECANT * misfit, SMALLEST), LARGEST))
    x = _mixed(best, span)
    return Mixed(x, known.logits_cotangents(x), least)


def _mixed(c: Tensor, span: Tensor) -> Tensor:
    return (c @ span.flatten(1)).reshape(len(c), *span.shape[1:])


def _misfit(shares: Tensor, known: Above) -> float:
    return float((shares.sum(0) - known.sent).norm() / known.sent.norm())


def _step(known: Above, span: Tensor, c: Tensor, at: Tensor, difference: float) -> Float[Tensor, "b b"]:
    """Of Gauss-Newton: every example's coefficients move its own part of the gradients."""
    x = _mixed(c, span)
    moved = [(known.shares(x + difference * direction) - at) / difference for direction in span]
    j = torch.stack(moved, 1).flatten(0, 1)  # (b * directions, e)
    products, slope = j @ j.T, j @ (at.sum(0) - known.sent)
    scale = products.diagonal().clamp_min(1e-300).rsqrt()
    even = products * scale[:, None] * scale
    even.diagonal().add_(1e-14)
    return (scale * torch.linalg.solve(even, scale * slope)).reshape(c.shape)
