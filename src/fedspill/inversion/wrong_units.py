"""Units of which rounding hid whether they fire: a gradient tells it afterwards."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fedspill.inversion.dataflow import Dataflow, Node
from fedspill.inversion.head import joined
from fedspill.inversion.patches import cotangent_of

if TYPE_CHECKING:
    from fedspill.inversion.recursion import Recursion

DIFFERS = 0.03
"""Share of a channel's largest cotangent by which one must differ to be wrong."""
SILENT = 0.3
"""Share of its supposed cotangent below which a unit does not fire."""


def corrected(known: "Recursion", stray: list[tuple[Node, int]]) -> None:
    """Compares the supposed cotangents of stray channels with what input and gradient say, and notes who fires.

    Every cotangent that follows from others must then be found anew; one wrong unit touches all below it.

    Args:
        stray: layers whose input is known, with an out channel whose rows contradict the others.
    """
    for node in {n for n, _ in stray}:
        layer, relu = known.flow.module(node), activation_above(known.flow, node)
        if relu is None or not isinstance(layer, nn.Conv2d):
            continue
        weight = known.gradient[joined(str(node.target), "weight")]
        truth = cotangent_of(weight, known.facts[known.flow.inputs(node)[0]].value, layer)
        if truth is None:
            continue
        channels = [c for n, c in stray if n is node]
        forced = known.forced.setdefault(relu, torch.zeros_like(truth))
        forced[:, channels] = _judged(known.cotangents[node][:, channels], truth[:, channels], forced[:, channels])
    known.forget_cotangents()


def _judged(supposed: Tensor, truth: Tensor, before: Tensor) -> Tensor:
    size = supposed.abs().amax((2, 3), keepdim=True).maximum(truth.abs().amax((2, 3), keepdim=True))
    wrong = (supposed - truth).abs() > DIFFERS * size
    silent = truth.abs() < SILENT * supposed.abs()
    return before.where(~wrong, torch.where(silent, -1.0, 1.0).to(before))


def activation_above(flow: Dataflow, node: Node) -> Node | None:
    """The ReLU that a layer's output reaches value by value."""
    while len(users := flow.users(node)) == 1:
        above = users[0]
        if flow.blank(above).shape != flow.blank(node).shape:
            return None
        if flow.kind(above) == "relu":
            return above
        if flow.kind(above) != "affine" or flow.diagonal(above, node) is None:
            return None
        node = above
    return None
