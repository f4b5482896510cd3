"""The recursion as R-GAP publishes it: a chain of layers, each solved by both kinds of constraints at once.

Zhu and Blaschko, ICLR 2021, arXiv 2010.07733, algorithm 1. From the last layer to the first: the gradient of a layer's
weight is linear in its input by the cotangents of its output (gradient constraints), and so is what the layer puts out,
by its weight (weight constraints). The input is their least squares solution, the shortest where they leave directions
open; the activation below is undone, and the cotangents go on through it. Zeros in the padding, which the paper adds as
constraints, are left out of the unknowns. Activations must be invertible. A linear layer's input is the least squares
solution of its gradient constraints, where the authors' code takes the mean over units of equal weight.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedspill.core.errors import NotApplicable
from fedspill.core.model import parameter_name
from fedspill.core.roles import UNWATCHED, Watch
from fedspill.core.types import Params
from fedspill.inversion.recursion.facts import TINY, KnownValues
from fedspill.inversion.recursion.graph import Dataflow, Node
from fedspill.inversion.recursion.layer_by_layer import Head
from fedspill.inversion.shift_structure.patches import design, is_plain

MOST_VALUES = 6144
"""Of a convolution's input: beyond, its equations do not fit into memory at once."""
DEPENDENT = 1e-13
"""Share of the largest eigenvalue, or pivot, of the normal equations below which a direction is left open."""
INVERTIBLE = ("leaky", "sigmoid", "tanh")


@dataclass(frozen=True)
class Solved:
    """One layer.

    Attributes:
        layer: its name in the network.
        values: of its input.
        open: directions of the input that its constraints leave open.
    """

    layer: str
    values: int
    open: int


@dataclass(frozen=True)
class ChainReading:
    """The input of the first layer.

    Attributes:
        picture: encoded, float64.
        layers: from the last to the first, those below the head.
    """

    picture: Float[Tensor, "1 ..."]
    layers: tuple[Solved, ...]

    def described(self) -> str:
        """What was left open, in the words of a report."""
        left = [f"{s.layer} ({s.open:,} of {s.values:,})" for s in self.layers if s.open]
        if not left:
            return "The constraints determine the input of every layer."
        return f"Constraints leave directions open of the inputs of {', '.join(left)}; the shortest solution was taken."


def read_chain(
    flow: Dataflow, gradient: Params, head: Head, watch: Watch = UNWATCHED, *, balanced: bool = False
) -> ChainReading:
    """Goes back from the head to the input.

    Args:
        gradient: of one example's loss.
        head: where to start.
        balanced: divide the gradient constraints by the size of their cotangents; as published they are not.

    Raises:
        NotApplicable: the network is no chain of convolutions in one group, linear layers and invertible activations,
            a weight of it was not sent, or a layer is too large; says which.
    """
    layers = _layers(flow, gradient)
    known, solved = KnownValues(flow), list[Solved]()
    with torch.no_grad():
        known.learn_all(flow.inputs(flow.output)[0], head.features)
        known.found_cotangent(flow.output, head.cotangents)
        known.conclude()
        for node in layers:
            value, left = _input_of(known, node, gradient[_weight(node)].double(), balanced=balanced)
            known.learn_all(flow.inputs(node)[0], value)
            known.conclude()
            solved.append(Solved(str(node.target), value.numel(), left))
            watch.progress(len(solved), len(layers), math.inf)
        picture = known.facts.get(flow.nodes[0])
    if picture is None or not picture.complete:
        raise NotApplicable("what stands before the first layer cannot be undone")
    return ChainReading(picture.value, tuple(solved))


def _weight(node: Node) -> str:
    return parameter_name(str(node.target), "weight")


def _layers(flow: Dataflow, gradient: Params) -> list[Node]:
    """The layers below the head, the last one first."""
    for node in flow:
        if len(flow.inputs(node)) > 1 or len(flow.users(node)) > 1:
            raise NotApplicable(f"the network is no chain: {node.name!r} takes or gives more than one value")
        if (reason := _refused(flow, node)) is not None:
            raise NotApplicable(reason)
    layers = [n for n in reversed(flow.nodes) if isinstance(flow.module(n), nn.Conv2d | nn.Linear)]
    if not layers or layers[0] is not flow.output:
        raise NotApplicable("the network does not end in a linear layer")
    names = [str(n.target) for n in layers]
    for node in layers[1:]:
        if _weight(node) not in gradient:
            raise NotApplicable(f"the update does not hold {_weight(node)!r}, which the way to the input needs")
        if names.count(str(node.target)) > 1 or not flow.owns_weight(node):
            raise NotApplicable(f"the weight of {node.name!r} is used twice, and its gradient is the sum of both uses")
    return layers[1:]


def _refused(flow: Dataflow, node: Node) -> str | None:
    layer, inputs = flow.module(node), flow.inputs(node)
    if isinstance(layer, nn.Conv2d):
        return None if is_plain(layer) else f"{node.name!r} has groups, or padding other than zeros on both sides"
    if isinstance(layer, nn.Linear):
        return None if flow.blank(node).dim() == 2 else f"{node.name!r} is applied at many places"
    if not inputs or flow.kind(node) in INVERTIBLE:
        return None
    scale = flow.diagonal(node, inputs[0]) if flow.kind(node) == "affine" else None
    if scale is not None and bool((scale > TINY).all()):
        return None
    return f"the operation {node.name!r} cannot be undone (the paper's recursion takes no ReLU and no pooling)"


def _input_of(known: KnownValues, node: Node, sent: Tensor, *, balanced: bool) -> tuple[Tensor, int]:
    """The input, and how many directions of it are open."""
    flow, layer, shape = known.flow, known.flow.module(node), known.flow.blank(known.flow.inputs(node)[0]).shape
    cotangent, fact = known.cotangents.get(node), known.facts.get(node)
    if cotangent is None or not bool(cotangent.any()):
        raise NotApplicable(f"the loss's derivative by the output of {node.name!r} is not known, or is 0")
    if isinstance(layer, nn.Linear):
        k = cotangent[0]
        return (k @ sent / (k @ k))[None], 0
    assert isinstance(layer, nn.Conv2d)
    if shape.numel() > MOST_VALUES:
        raise NotApplicable(f"{node.name!r} takes {shape.numel():,} values; up to {MOST_VALUES:,} are solved for")
    size = cotangent.norm() if balanced else 1.0
    rows = design(cotangent / size, layer, shape)
    targets = sent.transpose(0, 1).flatten(1).T / size
    zero = flow.apply(node, {})
    seen = torch.zeros_like(zero, dtype=torch.bool) if fact is None else fact.known
    weights = (_columns(flow, node, shape) - zero)[:, seen[0]]
    wanted = weights.new_zeros(0) if fact is None else (fact.value - zero)[seen]
    x, left = least_squares(rows, targets, weights, wanted)
    return x.T.reshape(shape), left


def _columns(flow: Dataflow, node: Node, shape: torch.Size) -> Float[Tensor, "n o p q"]:
    """What the layer makes of every single value of its input."""
    units = torch.eye(shape.numel(), dtype=flow.blank(node).dtype, device=flow.blank(node).device)
    return flow.apply(node, {flow.inputs(node)[0]: units.reshape(-1, *shape[1:])})


def least_squares(
    rows: Float[Tensor, "e f"],
    targets: Float[Tensor, "e c"],
    weights: Float[Tensor, "n m"],
    wanted: Float[Tensor, " m"],
) -> tuple[Float[Tensor, "f c"], int]:
    """The shortest x with the least |rows x - targets|^2 + |weights' x - wanted|^2, and its open directions.

    Args:
        weights: transposed, of the values of x channel by channel, n = c * f.
    """
    channels = targets.shape[1]
    normal = weights @ weights.T
    blocks = normal.reshape(channels, len(normal) // channels, channels, -1).diagonal(dim1=0, dim2=2)
    blocks += (rows.T @ rows)[:, :, None]
    moment = (rows.T @ targets).T.flatten() + weights @ wanted
    factor, failed = torch.linalg.cholesky_ex(normal)
    pivots = factor.diagonal().square()
    if not int(failed) and float(pivots.min()) > DEPENDENT * float(pivots.max()):
        x = _refined(normal, moment, factor)
        return x.reshape(channels, -1).T, 0
    values, vectors = torch.linalg.eigh(normal)
    safe = values > DEPENDENT * values[-1]
    x = vectors[:, safe] @ ((vectors[:, safe].T @ moment) / values[safe])
    return x.reshape(channels, -1).T, int((~safe).sum())


def _refined(normal: Tensor, moment: Tensor, factor: Tensor) -> Tensor:
    x = torch.cholesky_solve(moment[:, None], factor)[:, 0]
    return x + torch.cholesky_solve((moment - normal @ x)[:, None], factor)[:, 0]
