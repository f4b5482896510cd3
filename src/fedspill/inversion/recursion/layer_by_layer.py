"""Layer by layer from the head to the input: what one example's gradient says exactly of a network's activations.

R-GAP (Zhu and Blaschko, ICLR 2021, arXiv 2010.07733) goes back through a chain of layers; this goes through any graph
that `torch.fx` traces, residual sums included. A layer whose output's cotangent is known gives its input by least
squares, since the gradient of its weight is linear in it (`least_squares`); one of which nothing is known may give it
by the rank of its gradient (`rank`). What follows from it is in `facts`. Units of which rounding hid whether they fire
are told by a gradient afterwards.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedspill.core.model import parameter_name
from fedspill.core.roles import UNWATCHED, Watch
from fedspill.core.types import Params
from fedspill.core.watching.clock import Clock, OutOfTime
from fedspill.inversion.recursion.equations.least_squares import CERTAIN, Equations, solved
from fedspill.inversion.recursion.equations.partly_known import solved_around
from fedspill.inversion.recursion.equations.sharpened import with_zeros
from fedspill.inversion.recursion.equations.spoiled import spoiled
from fedspill.inversion.recursion.facts import TINY, Fact, KnownValues
from fedspill.inversion.recursion.firing import corrected, doubted, settled
from fedspill.inversion.recursion.graph import Dataflow, Node
from fedspill.inversion.recursion.mixing import Softmax, above, refined
from fedspill.inversion.shift_structure.maps import maps_by_rank
from fedspill.inversion.shift_structure.patches import cotangent_of
from fedspill.inversion.shift_structure.unmixing import FOUND, NEARLY, unmixed

INDEPENDENT = 1e-10
"""Share of the largest eigenvalue of the cotangents' products from which on they are independent."""
ROUNDINGS = 8
"""Of the gradient that values solved for are off, relative to their root mean square, if they show no more."""
ERRORS = 4.0
"""Standard errors that the worst of many values is off."""
AGREES = 1e-3
"""Relative deviation at which the sums of the cotangents still are those that a bias's gradient tells."""


@dataclass(frozen=True)
class Head:
    """What is known of a batch at the last linear layer.

    Attributes:
        features: its inputs (b, d).
        cotangents: the loss's derivatives by its outputs (b, classes).
    """

    features: Tensor
    cotangents: Tensor


class Recursion(KnownValues):
    """What one gradient says of the activations.

    Args:
        gradient: of the examples' mean loss.
        head: where the recursion starts if there are several examples; of a single one it follows from the gradient.

    Attributes:
        layers: those with weights whose gradient was sent and is that of one use, in the order of computation.
    """

    def __init__(self, flow: Dataflow, gradient: Params, head: Head | None = None) -> None:
        super().__init__(flow)
        if flow.examples > 1:
            # What two examples take from each other need not show as values below 0.
            self.noise = ROUNDINGS * max(torch.finfo(v.dtype).eps for v in gradient.values())
        if head is not None:
            self.learn_all(flow.inputs(flow.output)[0], head.features)
            self.found_cotangent(flow.output, head.cotangents)
        self.gradient = {k: v.double() for k, v in gradient.items()}
        self._tried = set[tuple[Node, str]]()
        self._spans: dict[Node, Tensor | None] = {}
        called = [str(n.target) for n in flow if n.op == "call_module"]
        # A weight that is used twice, by two calls or under two names, has the gradients of both uses.
        self.layers = [
            n
            for n in flow
            if self._weighs(n)
            and called.count(str(n.target)) == 1
            and self._sent(n, "weight") is not None
            and flow.owns_weight(n)
        ]

    def run(self, watch: Watch = UNWATCHED) -> None:
        """Goes back as far as the gradient allows; `watch` hears of the layers whose input is known."""
        # A single layer's equations may take minutes; what was read before them stays.
        with suppress(OutOfTime), Clock(watch.out_of_time):
            self.conclude()
            while any(self._open(node) for node in reversed(self.layers)):
                self.conclude()
                self._settle()
                watch.progress(*self.progress(), math.inf)

    def progress(self) -> tuple[int, int]:
        """How many layers' inputs are known, and how many layers there are."""
        return sum(self.complete(self.flow.inputs(node)[0]) for node in self.layers), len(self.layers)

    def _settle(self) -> None:
        """Decides who fires from above downwards, since each decision touches all cotangents below."""
        for node in reversed(self.layers):
            if settled(self, self.gradient, node):
                self.conclude()

    def frontier(self) -> dict[Node, Fact]:
        """The completely known nodes nearest to the input, which determine all others that are known."""
        behind, facts = set[Node](), dict[Node, Fact]()
        for node in self.flow:
            if any(n in behind or n in facts for n in self.flow.inputs(node)):
                behind.add(node)
            elif self.complete(node):
                facts[node] = self.facts[node]
        return facts

    def told(self) -> dict[Node, Fact]:
        """The completely known nodes that do not follow from others, from which all that is known follows."""
        return {
            n: self.facts[n]
            for n in self.flow
            if self.complete(n) and not (self.flow.inputs(n) and all(map(self.complete, self.flow.inputs(n))))
        }

    def _sent(self, node: Node, which: str) -> Tensor | None:
        return self.gradient.get(parameter_name(str(node.target), which))

    def _once(self, node: Node, what: str) -> bool:
        fresh = (node, what) not in self._tried
        self._tried.add((node, what))
        return fresh

    def _open(self, node: Node) -> bool:
        """Tries to find a layer's input, or else its cotangent; whether anything was learnt."""
        layer, target, weight = self.flow.module(node), self.flow.inputs(node)[0], self._sent(node, "weight")
        assert weight is not None, "only layers with a gradient are looked at"
        if isinstance(layer, nn.Linear):
            return self._open_linear(node, target, weight)
        assert isinstance(layer, nn.Conv2d)
        if not self.complete(target):
            if node in self.cotangents:
                return self._by_least_squares(target)
            return self._by_rank(node, layer, target, weight)
        if node in self.cotangents or not self._once(node, "cotangent"):
            return False
        cotangent = cotangent_of(weight, self.facts[target].value, layer)
        if cotangent is not None:
            self.found_cotangent(node, cotangent)
        return cotangent is not None

    def _open_linear(self, node: Node, target: Node, weight: Tensor) -> bool:
        if self.flow.blank(node).dim() != 2:
            return False
        if node in self.cotangents and not self.complete(target):
            return self._once(node, "least squares") and self._linear_by_least_squares(node, target, weight)
        if self.flow.examples > 1 or not self._once(node, "linear"):
            return False
        return self._single_linear(node, target, weight)

    def _single_linear(self, node: Node, target: Node, weight: Tensor) -> bool:
        """The gradient of the bias is the cotangent, and that of the weight its product with the input."""
        bias = self._sent(node, "bias")
        if bias is None or not bool(bias.any()):
            return False
        value = bias @ weight / (bias @ bias)
        if (weight - bias[:, None] * value).norm() > AGREES * weight.norm():
            return False  # more than one example
        self.found_cotangent(node, bias[None])
        self.learn_all(target, value[None])
        return True

    def _linear_by_least_squares(self, node: Node, target: Node, weight: Tensor) -> bool:
        """The weight's gradient is linear in the inputs, by the cotangents; these must be as many as examples.

        Units that are wrongly taken to fire or not are told by the others, so that their cotangents follow.
        """
        wrong = spoiled(self.cotangents[node].T, weight)
        used, sent = self.cotangents[node][:, ~wrong], weight[~wrong]
        value = _solved(used @ used.T, used @ sent)
        if value is None or (sent - used.T @ value).norm() > CERTAIN * sent.norm():
            return False
        if not self.learn_all(target, value):
            return False
        truth = _solved(value @ value.T, value @ weight.T) if bool(wrong.any()) else None
        if truth is not None:
            self.found_cotangent(node, truth)
            self.forget_cotangents()
        return True

    def _by_rank(self, node: Node, layer: nn.Conv2d, target: Node, weight: Tensor) -> bool:
        if self._once(node, "rank"):
            self._spans[node] = maps_by_rank(weight, layer, self.flow.blank(target).shape)
            if self.flow.examples == 1:
                span = self._spans[node]
                return span is not None and self._by_scale(node, layer, target, span)
        span = self._spans[node] if self.flow.examples > 1 else None
        return span is not None and self._by_unmixing(target, span)

    def _by_scale(self, node: Node, layer: nn.Conv2d, target: Node, value: Tensor) -> bool:
        """A single map is known up to its factor."""
        weight = self._sent(node, "weight")
        cotangent = None if weight is None else cotangent_of(weight, value, layer)
        scale = None if cotangent is None else self._scale(node, cotangent)
        if cotangent is None or scale is None:
            return False
        self.found_cotangent(node, cotangent * scale)
        return self.learn_all(target, value / scale)

    def _by_unmixing(self, target: Node, span: Tensor) -> bool:
        """Several maps are known up to their mixtures, which what is known above tells."""
        for end in self.flow.nodes[self.flow.nodes.index(target) + 1 :]:
            run = self.flow.between(target, [end]) if self.complete(end) else None
            if run is not None:
                return self._once(target, end.name) and self._unmixed(
                    target, span, run, self.facts[end].value.flatten(1)
                )
        return False

    def _unmixed(self, target: Node, span: Tensor, run: Callable[[Tensor], list[Tensor]], features: Tensor) -> bool:
        non_negative = self.flow.kind(target) == "relu"
        found = unmixed(lambda x: run(x)[0], span, features, non_negative=non_negative)
        if not bool((found.misfit < NEARLY).all()):
            return False
        if self._agreeing(target, span, found.maps):
            return True
        return bool((found.misfit < FOUND).all()) and self.learn_all(target, found.maps)

    def _agreeing(self, target: Node, span: Tensor, maps: Tensor) -> bool:
        """Learns maps near these with which all gradients above agree; what lies above follows from them anew."""
        cotangents, logits = (d.get(self.flow.output) for d in (self.cotangents, self.values([self.flow.output])))
        if cotangents is None or logits is None:
            return False
        known = above(self.flow, self.gradient, target, self.layers, Softmax.of(logits, cotangents))
        better = None if known is None else refined(known, span, maps)
        if better is None or better.misfit > CERTAIN:
            return False
        self.forget()
        self.found_cotangent(self.flow.output, better.cotangents)
        return self.learn_all(target, better.maps)

    def _scale(self, node: Node, cotangent: Tensor) -> Tensor | None:
        """What the cotangents must be multiplied with: a bias's gradient, the layer's or its BatchNorm's, sums them."""
        bias, users = self._sent(node, "bias"), self.flow.users(node)
        if bias is None and len(users) == 1 and isinstance(self.flow.module(users[0]), nn.BatchNorm2d):
            bias, scale = self._sent(users[0], "bias"), self.flow.diagonal(users[0], node)
            if scale is not None:
                cotangent = self.flow.linear(users[0], {node: cotangent / scale.clamp_min(TINY)})
        if bias is None or not bool(bias.any()):
            return None
        sums = cotangent.sum((0, 2, 3))
        factor = (sums @ bias) / (sums @ sums)
        return factor if bool((sums * factor - bias).norm() <= AGREES * bias.norm()) else None

    def _by_least_squares(self, target: Node) -> bool:
        equations, layers = Equations(self.flow.blank(target).shape), list[Node]()
        for user in self.flow.users(target):
            layer, weight = self.flow.module(user), self._sent(user, "weight") if user in self.layers else None
            if weight is not None and user in self.cotangents and isinstance(layer, nn.Conv2d):
                left_out = doubted(self, user)
                layers += [user] if equations.add_gradient(layer, self.cotangents[user], weight, left_out) else []
        users = [u for u in self.flow.users(target) if self._tells(u, target)]
        for user in users:
            equations.add_output(self._as_function(user, target), self.facts[user].value, self.facts[user].known)
        state = " ".join([*(n.name for n in layers), *(f"{n.name}={int(self.facts[n].known.sum())}" for n in users)])
        if not self._once(target, state):
            return False
        channels = [len(self.cotangents[n][0]) for n in layers]
        fact = self.facts.get(target)
        solution = (solved_around(equations, channels, fact) if fact else None) or solved(equations, channels)
        if solution is None:
            return False
        if self.flow.examples > 1 and self.flow.kind(target) == "relu":
            solution = with_zeros(equations, solution, fact)
            self.noise = max(self.noise, ERRORS * solution.error)
        if not self.learn(target, solution.value, solution.known):
            return False
        if solution.stray and self.complete(target):
            corrected(self, self.gradient, [(layers[i], channel) for i, channel in solution.stray])
        return True

    def _tells(self, user: Node, target: Node) -> bool:
        others = [n for n in self.flow.inputs(user) if n is not target]
        return user in self.facts and self.flow.kind(user) == "affine" and all(self.complete(n) for n in others)

    def _as_function(self, user: Node, target: Node) -> Callable[[Tensor], Tensor]:
        values = self.values([n for n in self.flow.inputs(user) if n is not target])
        return lambda x: self.flow.apply(user, {**values, target: x})


def _solved(products: Tensor, moments: Tensor) -> Tensor | None:
    values = torch.linalg.eigvalsh(products)
    return torch.linalg.solve(products, moments) if values[0] > INDEPENDENT * values[-1] else None
