"""Who fires: units of which rounding hides it, told by the gradient of the layer below them.

A unit that fires more weakly than rounding shows is taken for silent, or the other way round. This spoils the
cotangents of its channel, and, through the layer's weights, all those below.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fedspill.core.model import parameter_name
from fedspill.core.types import Params
from fedspill.inversion.recursion.facts import KnownValues
from fedspill.inversion.recursion.graph import Dataflow, Node
from fedspill.inversion.shift_structure.patches import cotangent_of, is_plain, patches

DIFFERS = 0.03
"""Share of a channel's largest cotangent by which one must differ to be wrong."""
SILENT = 0.3
"""Share of its supposed cotangent below which a unit does not fire."""
SETTLES = 2e-5
"""What a channel's gradient may be off, of the channels' mean, where it decides who fires."""
STRAY = 6.0
"""Times the median misfit of a layer's channels beyond which one may have a wrong unit."""
ROUNDING = 1e-6
"""Misfit of a channel, of the channels' mean gradient, that is never held against it."""
MOST_TURNED = 16
"""Wrong units that one channel may have."""


def corrected(known: KnownValues, gradient: Params, stray: list[tuple[Node, int]]) -> None:
    """Compares the supposed cotangents of stray channels with what input and gradient say, and notes who fires.

    Every cotangent that follows from others must then be found anew; one wrong unit touches all below it.

    Args:
        stray: layers whose input is known, with an out channel whose rows contradict the others.
    """
    for node in {n for n, _ in stray}:
        layer, relu = known.flow.module(node), activation_above(known.flow, node)
        if relu is None or not isinstance(layer, nn.Conv2d):
            continue
        weight = gradient[parameter_name(str(node.target), "weight")]
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
    path = _path_above(flow, node)
    return path[-1] if path else None


def _path_above(flow: Dataflow, node: Node) -> list[Node]:
    """From a layer to that ReLU, both included; empty if there is none."""
    path = [node]
    while len(users := flow.users(path[-1])) == 1:
        above, shape = users[0], flow.blank(node).shape
        if flow.blank(above).shape != shape:
            return []
        if flow.kind(above) == "relu":
            return [*path, above]
        if flow.kind(above) != "affine" or flow.diagonal(above, path[-1]) is None:
            return []
        path.append(above)
    return []


def doubted(known: KnownValues, node: Node) -> Bool[Tensor, " channels"] | None:
    """Out channels of a layer of which it is not known whether some unit above fires; None if there is none."""
    relu = activation_above(known.flow, node)
    where = None if relu is None else known.doubtful.get(relu)
    return None if where is None else where.transpose(0, 1).flatten(1).any(1)


def settled(known: KnownValues, gradient: Params, node: Node) -> bool:
    """Decides who fires above a layer whose input is known, by its weight's gradient; whether anything was changed.

    The gradient of a channel is the sum over all positions of cotangents times patches. Where it is not, some weak unit
    is wrongly taken to fire, or to be silent: the one that explains most of what is missing, and so on. Channels that
    no few units explain stay as they are, and in doubt.
    """
    relu, layer, target = activation_above(known.flow, node), known.flow.module(node), known.flow.inputs(node)[0]
    if relu is None or relu not in known.weak or node not in known.cotangents or not known.complete(target):
        return False
    if not isinstance(layer, nn.Conv2d) or not is_plain(layer):
        return False
    sent = gradient[parameter_name(str(node.target), "weight")].flatten(1)
    channels = _Channels(sent, patches(known.facts[target].value, layer).T, _by_channel(_handed_on(known, node)))
    fires = known.fires(relu)
    now, weak, doubt = (_by_channel(m) for m in (fires, known.weak[relu], known.doubtful[relu]))
    found = {c: channels.told(c, now[c], weak[c], doubt[c]) for c in channels.stray(now)}
    right = {c: mask for c, mask in found.items() if mask is not None}
    wrong = [c for c in found if c not in right]
    after = now.clone()
    for channel, mask in right.items():
        after[channel] = mask
    known.doubtful[relu] = known.doubtful[relu] & _in_channels(wrong, fires)
    if not right:
        return False
    known.force(relu, after.reshape(fires.transpose(0, 1).shape).transpose(0, 1))
    return True


@dataclass(frozen=True)
class _Channels:
    """Gradients of the out channels of a layer, as sums over examples and positions p.

    Attributes:
        sent: their gradients.
        seen: patches of the input.
        handed: cotangents of the output if every unit above fired.
    """

    sent: Float[Tensor, "o d"]
    seen: Float[Tensor, "p d"]
    handed: Float[Tensor, "o p"]

    @property
    def exact(self) -> float:
        """Misfit of a channel that is never held against it."""
        return ROUNDING * float(self.sent.norm(dim=1).mean())

    def stray(self, fires: Bool[Tensor, "o p"]) -> list[int]:
        """Channels that miss by far more than the others."""
        misfit = (self.sent - (self.handed * fires) @ self.seen).norm(dim=1)
        level = max(self.exact, STRAY * float(misfit.median()))
        return (misfit > level).nonzero()[:, 0].tolist()

    def told(self, channel: int, fires: Tensor, weak: Tensor, doubt: Tensor) -> Bool[Tensor, " p"] | None:
        """Which units of a channel fire, if its gradient says so."""
        starts = [fires, self._decided(channel, fires, doubt)] if bool(doubt.any()) else [fires]
        for start in starts:
            mask, misfit = self._corrected(channel, start, weak | doubt)
            if misfit <= SETTLES * self.exact / ROUNDING:
                return mask
        return None

    def _decided(self, channel: int, fires: Tensor, doubt: Tensor) -> Tensor:
        """Each doubtful unit's factor, nearer to 1 or to 0, by least squares."""
        parts = self.seen[doubt] * self.handed[channel, doubt, None]
        rest = self.sent[channel] - (self.handed[channel] * (fires & ~doubt)) @ self.seen
        shares = torch.linalg.lstsq(parts.T, rest[:, None]).solution[:, 0]
        return fires.masked_scatter(doubt, shares > 0.5)

    def _corrected(self, channel: int, fires: Tensor, weak: Tensor) -> tuple[Tensor, float]:
        """Units turned over one by one, each the one that leaves the least misfit."""
        fires, handed = fires.clone(), self.handed[channel]
        rest = self.sent[channel] - (handed * fires) @ self.seen
        sizes = handed.square() * self.seen.square().sum(1)
        for _ in range(MOST_TURNED):
            change = torch.where(fires, -handed, handed)
            gain = (2 * change * (self.seen @ rest) - sizes).where(weak, 0.0)
            best = int(gain.argmax())
            if not float(gain[best]) > 0:
                break
            rest = rest - change[best] * self.seen[best]
            fires[best] = ~fires[best]
        return fires, float(rest.norm())


def _by_channel(values: Float[Tensor, "b o p q"] | Bool[Tensor, "b o p q"]) -> Tensor:
    return values.transpose(0, 1).flatten(1)


def _in_channels(channels: list[int], like: Bool[Tensor, "b o p q"]) -> Bool[Tensor, "b o p q"]:
    mask = torch.zeros_like(like)
    mask[:, channels] = True
    return mask


def _handed_on(known: KnownValues, node: Node) -> Tensor:
    """What the cotangents of a layer's output would be if every unit above it fired."""
    *path, relu = _path_above(known.flow, node)
    cotangent = known.cotangents[relu]
    for user, used in zip(path[:0:-1], path[-2::-1], strict=True):
        cotangent = known.flow.pull(user, used, cotangent)
    return cotangent
