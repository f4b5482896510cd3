"""Of every layer, how much of its input its constraints determine, if all that lies above is known.

R-GAP's rank analysis (Zhu and Blaschko, ICLR 2021, arXiv 2010.07733, section 3.4), on any graph: gradient constraints
(the gradient of a weight is linear in the layer's input) and weight constraints (so is what the layer puts out, where
that is known: behind a ReLU, where it fires). A layer is safe from the recursion where their rank is below the number
of values of its input. Chen and Campbell (arXiv 2210.13231) make a measure of a network's security of such ranks. They
are computed for one drawn picture and drawn derivatives by the logits, from which all others follow; without data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedspill.core.errors import NotApplicable
from fedspill.core.model import Model
from fedspill.core.rng import randn, stream
from fedspill.inversion.recursion.equations.least_squares import MOST_PIXELS, RANK, Outputs, as_pictures, recovers
from fedspill.inversion.recursion.facts import KnownValues
from fedspill.inversion.recursion.graph import Dataflow, Node
from fedspill.inversion.shift_structure.maps import LOST, MOST_POSITIONS
from fedspill.inversion.shift_structure.patches import design, is_plain

MOST_UNKNOWNS = 3000
"""Directions left open by a gradient up to which the rank of what the outputs say of them is computed."""
MOST_ENTRIES = 2**26
"""Of the matrix from these directions to the outputs."""

Way = Literal["head", "constraints", "patches", "known"]


@dataclass(frozen=True)
class LayerRank:
    """One input of one or more layers.

    Attributes:
        layers: the layers that take it.
        values: how many values it has.
        gradient: rank of the gradient constraints; 0 where the loss's derivatives by the outputs are hidden, as behind
            a pooling.
        rank: of gradient and weight constraints together.
        exact: the rank was computed; False: it is at most this, by counting, or the layer is too large to be solved.
        way: what determines the input: "head" (it is the last layer's), "constraints", "patches" (the rank of the
            gradient alone, docs/recursion.md), "known" (it follows from what lies above); None: nothing does.
        reached: the recursion comes to know the input: all inputs above are determined, too, or "patches" need none of
            them, or it follows from an input below.
    """

    layers: tuple[str, ...]
    values: int
    gradient: int
    rank: int
    exact: bool
    way: Way | None
    reached: bool

    @property
    def determined(self) -> bool:
        """Nothing of the input is left open."""
        return self.way is not None

    @property
    def open(self) -> int:
        """Values that no constraint determines, at least."""
        return 0 if self.determined else max(0, self.values - self.rank)


def rank_analysis(model: Model, seed: int = 0) -> list[LayerRank]:
    """The inputs of all layers with weights, in the order of computation.

    Args:
        model: in eval mode.
        seed: of the picture that is drawn.

    Raises:
        NotApplicable: the network cannot be traced, is in train mode, or does not end in a linear layer.
    """
    flow = Dataflow(model)
    if not isinstance(flow.module(flow.output), nn.Linear) or flow.blank(flow.output).dim() != 2:
        raise NotApplicable("the network does not end in a linear layer, where the recursion begins")
    with torch.no_grad():
        return _Analysis(flow, _truth(flow, model, seed)).run()


def _truth(flow: Dataflow, model: Model, seed: int) -> KnownValues:
    """All values and cotangents of a drawn picture."""
    truth, start = KnownValues(flow), flow.nodes[0]
    drawn = randn(flow.blank(start).shape, stream(seed, "rank analysis"), flow.blank(start))
    truth.learn_all(start, model.input.project(drawn))
    shape = flow.blank(flow.output).shape
    truth.found_cotangent(flow.output, randn(shape, stream(seed, "rank analysis", "loss"), flow.blank(start)))
    truth.conclude()
    return truth


class _Analysis(KnownValues):
    """The recursion with the truth in place of what it solves for."""

    def __init__(self, flow: Dataflow, truth: KnownValues) -> None:
        super().__init__(flow)
        self.truth = truth
        self.layers = [n for n in flow if isinstance(flow.module(n), nn.Conv2d | nn.Linear)]
        self.found_cotangent(flow.output, truth.cotangents[flow.output])

    def run(self) -> list[LayerRank]:
        """From the last layer to the first."""
        targets = dict.fromkeys(self.flow.inputs(n)[0] for n in reversed(self.layers))
        order = sorted(targets, key=self.flow.nodes.index, reverse=True)
        counts, heard = dict[Node, _Count](), dict[Node, int]()
        for target in order:
            self.conclude()
            counts[target], heard[target] = self._counted(target, self._users(target)), self._heard(target)
            self._learn(target)
        known = self._reached(counts, heard)
        return [self._ranked(target, counts[target], reached=target in known) for target in reversed(order)]

    def _reached(self, counts: "Mapping[Node, _Count]", heard: Mapping[Node, int]) -> set[Node]:
        """The inputs that the recursion comes to know, without the truth where nothing determines it.

        Args:
            heard: values and derivatives by which they were counted.
        """
        again = _Analysis(self.flow, self.truth)
        for target, count in counts.items():
            again.conclude()
            told = count.way is not None and again._heard(target) >= heard[target]
            if told or any(self._by_patches(u) for u in self._users(target)):
                again._learn(target)
        again.conclude()
        return {target for target in counts if again.complete(target)}

    def _heard(self, target: Node) -> int:
        """How much is known of what the layers that take an input put out: values, and derivatives."""
        outputs = sum(int(o.known.sum()) for o in self._outputs(target))
        return outputs + sum(self.cotangents[u].numel() for u in self._users(target) if u in self.cotangents)

    def _users(self, target: Node) -> list[Node]:
        return [n for n in self.layers if self.flow.inputs(n)[0] is target]

    def _learn(self, target: Node) -> None:
        """What the recursion would know, had it found the input."""
        self.learn_all(target, self.truth.facts[target].value)
        for user in self._users(target):
            if user not in self.cotangents and user in self.truth.cotangents:
                self.found_cotangent(user, self.truth.cotangents[user])

    def _ranked(self, target: Node, count: "_Count", *, reached: bool) -> LayerRank:
        return LayerRank(
            layers=tuple(str(u.target) for u in self._users(target)),
            values=self.flow.blank(target).numel(),
            gradient=count.gradient,
            rank=count.rank,
            exact=count.exact,
            way=count.way,
            reached=reached,
        )

    def _counted(self, target: Node, users: Sequence[Node]) -> "_Count":
        values = self.flow.blank(target).numel()
        if self.complete(target):
            return _Count(0, values, "known")
        if any(isinstance(self.flow.module(u), nn.Linear) for u in users):
            # One unit whose derivative is not 0 gives all of a linear layer's input.
            flat = all(self.flow.blank(u).dim() == 2 for u in users)
            heard = flat and any(u in self.cotangents and bool(self.cotangents[u].any()) for u in users)
            return _Count(values, values, "head" if self.flow.output in users else "constraints") if heard else _NOTHING
        heard = [u for u in users if u in self.cotangents and bool(self.cotangents[u].any()) and self._is_used(u)]
        if heard:
            return self._constrained(target, heard)
        return _Count(0, values, "patches") if any(self._by_patches(u) for u in users) else _NOTHING

    def _is_used(self, user: Node) -> bool:
        layer = self.flow.module(user)
        calls = [n for n in self.layers if n.target == user.target]
        return isinstance(layer, nn.Conv2d) and is_plain(layer) and len(calls) == 1 and self.flow.owns_weight(user)

    def _by_patches(self, user: Node) -> bool:
        """Whether the gradient's rank alone tells a convolution's input, without derivatives by its output."""
        layer, cotangent = self.flow.module(user), self.truth.cotangents.get(user)
        if cotangent is None or not isinstance(layer, nn.Conv2d) or not self._is_used(user):
            return False
        rows = cotangent[0].flatten(1)
        taps = layer.kernel_size[0] * layer.kernel_size[1] * layer.in_channels
        few = rows.shape[1] <= min(rows.shape[0], taps, MOST_POSITIONS)
        if not few or max(layer.stride) > 1 or min(layer.kernel_size) < 2 or not self._tells_scale(user, layer):
            return False
        sizes = torch.linalg.svdvals(rows)
        return bool(sizes[-1] > LOST * sizes[0])

    def _tells_scale(self, user: Node, layer: nn.Conv2d) -> bool:
        above = self.flow.users(user)
        norm = self.flow.module(above[0]) if len(above) == 1 else None
        return layer.bias is not None or (isinstance(norm, nn.BatchNorm2d) and norm.affine)

    def _constrained(self, target: Node, heard: Sequence[Node]) -> "_Count":
        """Ranks of what the gradients say, and of what is known of the outputs."""
        shape = self.flow.blank(target).shape
        channels, pixels = shape[1], shape[2] * shape[3]
        outputs = self._outputs(target)
        known = sum(int(o.known.sum()) for o in outputs)
        if pixels > MOST_PIXELS:
            most = channels * min(pixels, sum(self._equations(u) for u in heard))
            return _Count(most, min(channels * pixels, most + known), None, exact=False)
        rows = torch.cat([self._rows(u, shape) for u in heard])
        spread, vectors = torch.linalg.eigh(rows.T @ rows)
        nullspace = vectors[:, spread <= RANK * spread[-1]]
        told, unknown = channels * (pixels - nullspace.shape[1]), channels * nullspace.shape[1]
        if unknown == 0 or known == 0:
            return _Count(told, told, None if unknown else "constraints")
        if unknown <= MOST_UNKNOWNS and unknown * sum(o.known.numel() for o in outputs) <= MOST_ENTRIES:
            more = _rank_of(outputs, nullspace, shape)
            return _Count(told, told + more, "constraints" if more == unknown else None)
        found = known >= unknown and _recovered(outputs, nullspace, shape)
        return _Count(told, told + min(known, unknown), "constraints" if found else None, exact=found)

    def _equations(self, user: Node) -> int:
        layer = self.flow.module(user)
        assert isinstance(layer, nn.Conv2d)
        return layer.out_channels * layer.kernel_size[0] * layer.kernel_size[1]

    def _rows(self, user: Node, shape: torch.Size) -> Tensor:
        layer, cotangent = self.flow.module(user), self.cotangents[user]
        assert isinstance(layer, nn.Conv2d)
        return design(cotangent / cotangent.norm(), layer, shape)

    def _outputs(self, target: Node) -> list[Outputs]:
        """What is known of affine functions of an input, itself among them."""
        found = [Outputs(lambda x: x, f.value, f.known) for t, f in self.facts.items() if t is target]
        for user in self.flow.users(target):
            others = [n for n in self.flow.inputs(user) if n is not target]
            if user in self.facts and self.flow.kind(user) == "affine" and all(map(self.complete, others)):
                fact = self.facts[user]
                found.append(Outputs(partial(self._changed, user, target), fact.value, fact.known))
        return found

    def _changed(self, user: Node, target: Node, x: Tensor) -> Tensor:
        """What changes in a node's values with one of its inputs."""
        others = {n: self.flow.blank(n).expand(len(x), *self.flow.blank(n).shape[1:]) for n in self.flow.inputs(user)}
        return self.flow.apply(user, {**others, target: x}) - self.flow.apply(user, {})


@dataclass(frozen=True)
class _Count:
    """What was found of one input, as in `LayerRank`."""

    gradient: int
    rank: int
    way: Way | None
    exact: bool = True


_NOTHING = _Count(0, 0, None)


def _rank_of(outputs: Sequence[Outputs], nullspace: Float[Tensor, "f k"], shape: torch.Size) -> int:
    """Of what outputs say of the open directions of all channels."""
    channels, directions = shape[1], nullspace.shape[1]
    units = torch.eye(channels, dtype=nullspace.dtype, device=nullspace.device)
    pictures = torch.einsum("ab,fk->akbf", units, nullspace).reshape(channels * directions, *shape[1:])
    seen = torch.cat([o.function(pictures)[:, o.known[0]] for o in outputs], 1)
    sizes = torch.linalg.eigvalsh(seen @ seen.T)
    return int((sizes > RANK * sizes[-1]).sum())


def _recovered(outputs: Sequence[Outputs], nullspace: Float[Tensor, "f k"], shape: torch.Size) -> bool:
    """Whether conjugate gradients find the open directions from the outputs, as the recursion has them do."""

    def seen(amounts: Tensor) -> Tensor:
        x = as_pictures(nullspace @ amounts.T, shape)
        return torch.cat([o.function(x)[o.known] for o in outputs])

    return recovers(seen, nullspace.new_zeros(shape[1], nullspace.shape[1]))
