"""Activations that the gradient tells exactly, and how far a picture is from giving them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedspill.core.errors import NotApplicable, few
from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model, parameter_name
from fedspill.core.rng import randn
from fedspill.core.roles import UNWATCHED, Watch
from fedspill.core.types import Params
from fedspill.core.watching.clock import OutOfTime, Pace
from fedspill.inversion.priors.total_variation import each_vectorial_variation
from fedspill.inversion.recursion.graph import Dataflow, Node
from fedspill.inversion.recursion.layer_by_layer import Head, Recursion

OVERDETERMINED = 8
"""Times the number of the picture's values: with so many active units known, these alone are inverted.

Measured on ResNets: with 12 times as many gradient descent finds the picture, with 3 times it does not."""
ROUNDS = ((240, 0.3), (240, 0.03), (480, 0.01))
"""Steps of Adam on a batch and their rate, at first on signs; nothing else follows, so that they end at rounding."""
ALONE = (240, 0.1)
"""The same on one example."""
SMOOTH = 0.7
"""Weight of the total variation by which the misfit of signed steps is multiplied, so that it fades with the misfit.

With it eight pictures behind two stages of a ResNet-18 are 68 dB after 240 steps; plain steps end at 10 to 18."""
HOPE = 1e-2
"""Relative squared error of a batch's activations up to which finer steps lead on."""
SPREAD = 0.3
"""Of the start, in normalised units."""
ENOUGH = 1e-9
"""Relative squared error of the activations at which a picture is found."""
EXACTLY = 1e-13
"""The same of a batch, which nothing judges afterwards but these activations."""


@dataclass(frozen=True)
class KnownActivations:
    """Activations of one example or of several, known up to rounding.

    Attributes:
        values: by the name of the operation in the traced network, (examples, ...) each, in the model's dtype; those
            nearest to the input, which determine all others that are known.
        picture: the encoded input itself, where the recursion reached it.
        layers: how many layers with weights have a known input.
    """

    model: Model
    values: dict[str, Tensor]
    picture: Float[Tensor, "b ..."] | None
    layers: int = 0

    @property
    def suffices(self) -> bool:
        """Whether so much is known that the picture is found without its gradient."""
        active = sum(int(v.count_nonzero()) for v in self.values.values())
        unknown = self.examples * math.prod(self.model.input.encoded_shape)
        return self.picture is not None or active > OVERDETERMINED * unknown

    @property
    def examples(self) -> int:
        """How many there are."""
        return len(next(iter(self.values.values())))

    def described(self) -> str:
        """Which they are, in the words of a report."""
        return "the picture itself" if self.picture is not None else few(self.values)

    def distance(self, z: Float[Tensor, "b ..."]) -> Float[Tensor, ""]:
        """Relative squared error of candidates' activations, their mean, differentiable."""
        return self.errors(z).mean()

    def errors(self, z: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
        """Of each candidate, differentiable."""
        pairs = zip(self._function(z), self.values.values(), strict=True)
        return torch.stack([_squares(f - v) for f, v in pairs]).sum(0) / self._sizes

    def distances(self, z: Float[Tensor, "r 1 ..."]) -> Float[Tensor, " r"]:
        """`distance` of each candidate in a stack."""
        return torch.stack([self.distance(one) for one in z])

    def inverted(self, rng: torch.Generator, watch: Watch) -> Float[Tensor, "b ..."]:
        """The pictures with these activations, by gradient descent through the layers below them (Adam, cosine)."""
        if self.picture is not None:
            return self.picture
        z = SPREAD * randn((self.examples, *self.model.input.encoded_shape), rng, self.model.like)
        if self.examples == 1:
            return self._descended(z, *ALONE, watch)[0]
        for number, (steps, rate) in enumerate(ROUNDS):
            signed = number == 0 and isinstance(self.model.input, ImageSpec)
            z, misfit = self._descended(z, steps, rate, watch, signed=signed)
            if not ENOUGH * self.examples < misfit < HOPE * self.examples or watch.out_of_time():
                break
        return z

    def _descended(
        self, z: Float[Tensor, "b ..."], steps: int, rate: float, watch: Watch, *, signed: bool = False
    ) -> tuple[Float[Tensor, "b ..."], float]:
        """After so many steps of Adam, or fewer if they found the pictures; and the misfit before the last of them.

        Args:
            signed: take the signs of the gradients, and pictures that are smooth first.
        """
        spec, enough = self.model.input, ENOUGH if self.examples == 1 else EXACTLY
        z, misfit = z.clone(), math.inf
        adam = torch.optim.Adam([z.requires_grad_()], lr=rate)
        rule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
        pace = Pace(watch.out_of_time)
        for step in range(steps):
            try:
                with pace.evaluation():
                    off = self.misfits(z) / self._sizes
                    value = (off * (SMOOTH * each_vectorial_variation(z)).exp()).sum() if signed else off.sum()
                    (gradient,) = torch.autograd.grad(value, z)
            except OutOfTime:
                break
            z.grad = gradient.sign() if signed else gradient
            misfit = float(off.detach().sum())
            watch.progress(step + 1, steps, misfit)
            if misfit < enough * self.examples or watch.out_of_time():
                break
            adam.step()
            rule.step()
            with torch.no_grad():
                z.copy_(spec.project(z))
        return z.detach(), misfit

    def misfits(self, z: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
        """Squared errors of what enters ReLUs where they fire, and of what enters them above 0 where they do not.

        Of each candidate, differentiable. Seen from what they put out, a unit that wrongly does not fire has no slope.
        """
        total = torch.zeros_like(self._sizes)
        for entering, value, relu in zip(self._entering(z), self.values.values(), self._relus, strict=True):
            off = torch.where(value > 0, entering - value, entering.clamp_min(0)) if relu else entering - value
            total = total + _squares(off)
        return total

    @cached_property
    def _flow(self) -> Dataflow:
        return Dataflow(self.model, self.model.like.dtype)

    @cached_property
    def _function(self) -> Callable[[Tensor], list[Tensor]]:
        return self._flow.until(list(self.values))

    @cached_property
    def _nodes(self) -> list[Node]:
        return [next(n for n in self._flow if n.name == name) for name in self.values]

    @cached_property
    def _relus(self) -> list[bool]:
        return [self._flow.kind(n) == "relu" for n in self._nodes]

    @cached_property
    def _entering(self) -> Callable[[Tensor], list[Tensor]]:
        pairs = zip(self._nodes, self._relus, strict=True)
        return self._flow.until([(self._flow.inputs(n)[0] if relu else n).name for n, relu in pairs])

    @cached_property
    def _sizes(self) -> Float[Tensor, " b"]:
        return torch.stack([_squares(v) for v in self.values.values()]).sum(0)


def _squares(values: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
    return values.flatten(1).square().sum(1)


@dataclass(frozen=True)
class Below:
    """What the recursion knows at the place nearest to the input past which all of it goes, and the network to there.

    Attributes:
        network: from the encoded input to these values; its parameters have the names of the whole network's.
        value: of the place.
        cotangent: the loss's derivative by it.
        gradient: of the parameters below, as observed, float64.
        linear: those of them that are linear in their layer's input by known cotangents; the others change abruptly
            where a unit changes sides of an activation's kink.
    """

    network: nn.Module
    value: Tensor
    cotangent: Tensor
    gradient: Params
    linear: frozenset[str]


def below(model: Model, gradient: Params, head: Head | None = None) -> Below:
    """What is left to find, where the recursion ends before the picture.

    Args:
        gradient: of one example.
        head: as of `known_activations`.

    Raises:
        NotApplicable: nothing is left, no place is known past which all of the input goes, or too little is known.
    """
    flow = Dataflow(model)
    with torch.no_grad():
        known = Recursion(flow, gradient, head)
        known.run()
    place = next((n for n in flow if _divides(known, n)), None)
    if place is None or place is flow.nodes[0]:
        raise NotApplicable("the recursion ends where nothing more can be solved for")
    network = flow.cut(place)
    sent = {k: gradient[k].double() for k, _ in network.named_parameters() if k in gradient and bool(gradient[k].any())}
    heard = {parameter_name(str(n.target), "weight") for n in flow if n.op == "call_module" and n in known.cotangents}
    linear, value = frozenset(heard.intersection(sent)), known.facts[place].value
    equations, unknowns = value.numel() + sum(sent[k].numel() for k in linear), flow.blank(flow.nodes[0]).numel()
    if equations < unknowns:
        raise NotApplicable(f"{equations:,} equations where the recursion ends are too few for {unknowns:,} values")
    return Below(network, value, known.cotangents[place], sent, linear)


def _divides(recursion: Recursion, node: Node) -> bool:
    if not recursion.complete(node) or node not in recursion.cotangents:
        return False
    return recursion.flow.between(node, [recursion.flow.output]) is not None


def known_activations(
    model: Model, gradient: Params, watch: Watch = UNWATCHED, head: Head | None = None
) -> KnownActivations:
    """What the gradient of one example tells.

    Args:
        head: what is known at the last layer; None where the gradient of its bias tells it.

    Raises:
        NotApplicable: nothing; says why.
    """
    flow = Dataflow(model)
    with torch.no_grad():
        recursion = Recursion(flow, gradient, head)
        recursion.run(watch)
    frontier = recursion.frontier()
    values = {n.name: fact.value.to(model.like) for n, fact in frontier.items()}
    if not values:
        raise NotApplicable("no layer's input follows from the gradient")
    known = KnownActivations(model, values, values.get(flow.nodes[0].name), recursion.progress()[0])
    at = torch.zeros_like(model.like.new_empty(1, *model.input.encoded_shape)).requires_grad_()
    value = known.distance(at)
    slope: Any = torch.autograd.grad(value, at, allow_unused=True)[0]
    if not bool(value.isfinite()) or slope is None or not bool(slope.isfinite().all()):
        raise NotApplicable("what follows from the gradient cannot be compared with a candidate")
    return known
