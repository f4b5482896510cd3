"""What follows from what is known of a network's activations and of the loss's derivatives by them."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from fedspill.inversion.network.activations import slope, undone
from fedspill.inversion.recursion.graph import Dataflow, Node

TINY = 1e-9
NOISE = 2.0
"""Times the most negative value that a ReLU seems to have put out: up to there a value is taken for 0."""
DOUBTFUL = (0.85, 3.0)
"""Times the same: between these a value may be 0 or not."""
HANDED_ON = 2.0
"""Times the relative noise of what was solved for that values computed from it are taken to be off."""
WEAK = 10.0
"""Times that, or the most negative value, which a value is off at worst."""


@dataclass(frozen=True)
class Fact:
    """What is known of a node's values.

    Attributes:
        value: (examples, ...), 0 where unknown.
        known: where.
    """

    value: Tensor
    known: Bool[Tensor, "b ..."]

    @property
    def complete(self) -> bool:
        """All of it is known."""
        return bool(self.known.all())


class KnownValues:
    """Values go forward through the operations, and back where these can be undone; cotangents go back.

    Attributes:
        facts: of nodes.
        cotangents: the loss's derivative by a node's values.
        sources: those cotangents that do not follow from others.
        forced: at a ReLU: 1 where a unit fires, -1 where it does not, whatever its value seems to be.
        doubtful: at a ReLU: where noise may hide whether a unit fires.
        weak: at a ReLU: where it can hide it, at worst.
        noise: the largest error that values solved for have shown, relative to their root mean square.
    """

    def __init__(self, flow: Dataflow) -> None:
        self.flow = flow
        self.facts: dict[Node, Fact] = {}
        self.cotangents: dict[Node, Tensor] = {}
        self.sources: dict[Node, Tensor] = {}
        self.forced: dict[Node, Tensor] = {}
        self.doubtful: dict[Node, Tensor] = {}
        self.weak: dict[Node, Tensor] = {}
        self.noise = 0.0

    def complete(self, node: Node) -> bool:
        """All its values are known."""
        return node in self.facts and self.facts[node].complete

    def values(self, nodes: list[Node]) -> dict[Node, Tensor]:
        """The values of those nodes that are complete."""
        return {n: self.facts[n].value for n in nodes if self.complete(n)}

    def learn(self, node: Node, value: Tensor, known: Tensor) -> bool:
        """Adds what is not known yet; whether there was any."""
        old, known = self.facts.get(node), known & value.isfinite()
        fresh = known if old is None else known & ~old.known
        if not bool(fresh.any()):
            return False
        value = self._cleaned(node, value.where(fresh, 0.0), fresh)
        if old is not None:
            value, fresh = value.where(fresh, old.value), fresh | old.known
        self.facts[node] = Fact(value, fresh)
        return True

    def learn_all(self, node: Node, value: Tensor) -> bool:
        """`learn` of all values."""
        return self.learn(node, value, torch.ones_like(value, dtype=torch.bool))

    def found_cotangent(self, node: Node, cotangent: Tensor) -> None:
        """Notes one that does not follow from others."""
        self.cotangents[node] = self.sources[node] = cotangent

    def forget_cotangents(self) -> None:
        """All that follow from others."""
        self.cotangents = dict(self.sources)

    def forget(self) -> None:
        """Everything, but how large errors were."""
        for known in (self.facts, self.cotangents, self.sources, self.forced, self.doubtful, self.weak):
            known.clear()

    def conclude(self) -> None:
        """Draws every conclusion."""
        changed = True
        while changed:
            changed = False
            for node in self.flow:
                changed |= self._forward(node)
            for node in reversed(self.flow.nodes):
                changed |= self._undo(node) | self._backward(node) | self._upward(node)

    def fires(self, relu: Node) -> Tensor:
        """Which units of a ReLU fire, as far as is known, by its complete values."""
        value = self.facts[relu].value
        forced = self.forced.get(relu, torch.zeros_like(value))
        return torch.where(forced == 0, value > 0, forced > 0)

    def force(self, relu: Node, fires: Tensor) -> None:
        """Notes who fires; every cotangent that follows from others must then be found anew."""
        differs = fires != self.fires(relu)
        forced = self.forced.get(relu, torch.zeros_like(self.facts[relu].value))
        self.forced[relu] = torch.where(differs, torch.where(fires, 1.0, -1.0).to(forced), forced)
        self.forget_cotangents()

    def _cleaned(self, node: Node, value: Tensor, fresh: Tensor) -> Tensor:
        """What a ReLU puts out is not negative; how negative it seems to be tells how large the noise is."""
        if self.flow.kind(node) != "relu":
            return value
        # Errors grow from layer to layer, so that few values which happen to show none have some nevertheless.
        size = _size(value) / _size(fresh.to(value))
        shown = (-value / size).amax().clamp_min(self.noise)
        noise = shown * size
        low, high = DOUBTFUL
        self._doubt(node, fresh & (value > low * noise) & (value < high * noise), fresh & (value < WEAK * noise))
        self.noise = float(shown)
        return value.where(value > NOISE * noise, 0.0)

    def _doubt(self, node: Node, doubtful: Tensor, weak: Tensor) -> None:
        nowhere = torch.zeros_like(weak)
        self.doubtful[node] = doubtful | self.doubtful.get(node, nowhere)
        self.weak[node] = weak | self.weak.get(node, nowhere)

    def _forward(self, node: Node) -> bool:
        inputs = self.flow.inputs(node)
        if self.complete(node) or not inputs or self.flow.opaque(node) or not all(self.complete(n) for n in inputs):
            return False
        if self.flow.kind(node) == "relu":
            entering = self.facts[inputs[0]].value
            noise = HANDED_ON * self.noise * _size(entering)
            self._doubt(node, entering.abs() < noise, entering.abs() < WEAK * noise)
        return self.learn_all(node, self.flow.apply(node, self.values(inputs)))

    def _undo(self, node: Node) -> bool:
        """Learns an operation's only unknown input from its output."""
        inputs = self.flow.inputs(node)
        unknown = [n for n in inputs if not self.complete(n)]
        if node not in self.facts or len(unknown) != 1:
            return False
        fact, target = self.facts[node], unknown[0]
        if self.flow.kind(node) == "affine":
            return self._undo_affine(node, target, fact)
        value = undone(self.flow.kind(node), fact.value, self.flow.below(node)) if len(inputs) == 1 else None
        return value is not None and self.learn(target, value.nan_to_num(), fact.known & value.isfinite())

    def _undo_affine(self, node: Node, target: Node, fact: Fact) -> bool:
        scale = None if self._weighs(node) else self.flow.diagonal(node, target)
        if scale is None:
            return False
        rest = fact.value - self.flow.apply(node, self.values(self.flow.inputs(node)))
        value = self.flow.pull(node, target, rest.where(fact.known, 0.0)) / scale.clamp_min(TINY)
        unknown = self.flow.pull(node, target, (~fact.known).to(rest)).abs()
        return self.learn(target, value, (scale > TINY) & (unknown < TINY))

    def _backward(self, node: Node) -> bool:
        users = self.flow.users(node)
        if node in self.cotangents or not users:
            return False
        parts = [self._part(user, node) for user in users]
        if any(p is None for p in parts):
            return False
        self.cotangents[node] = torch.stack([p for p in parts if p is not None]).sum(0)
        return True

    def _part(self, user: Node, node: Node) -> Tensor | None:
        """What one use of a node adds to its cotangent."""
        if user not in self.cotangents:
            return None
        cotangent, kind, inputs = self.cotangents[user], self.flow.kind(user), self.flow.inputs(user)
        if kind == "affine":
            return self.flow.pull(user, node, cotangent)
        if kind == "relu" and self.complete(user):
            return cotangent * self.fires(user)
        steep = slope(kind, self.facts[user].value, self.flow.below(user)) if self.complete(user) else None
        if steep is not None:
            return cotangent * steep
        if not self.flow.opaque(user) and all(self.complete(n) for n in inputs):
            return self.flow.pull(user, node, cotangent, self.values(inputs))
        return None

    def _upward(self, node: Node) -> bool:
        """Learns a cotangent from that of an input without another use, to which the operation only hands it on."""
        if node in self.cotangents or self.flow.kind(node) != "affine" or self._weighs(node):
            return False
        for n in self.flow.inputs(node):
            scale = self.flow.diagonal(node, n) if n in self.cotangents and self.flow.users(n) == [node] else None
            if scale is not None and bool((scale > TINY).all()) and scale.numel() == self.flow.blank(node).numel():
                self.cotangents[node] = self.flow.linear(node, {n: self.cotangents[n] / scale})
                return True
        return False

    def _weighs(self, node: Node) -> bool:
        return isinstance(self.flow.module(node), nn.Conv2d | nn.Linear)


def _by_example(numbers: Tensor, like: Tensor) -> Tensor:
    return numbers.reshape(-1, *[1] * (like.dim() - 1))


def _size(value: Tensor) -> Tensor:
    """Of every example: the root mean square of its values."""
    return _by_example(value.flatten(1).pow(2).mean(1).sqrt(), value).clamp_min(TINY)
