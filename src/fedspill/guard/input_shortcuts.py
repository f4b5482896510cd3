"""Fully connected layers that see the input itself where other layers do, too: planted in front, or beside.

Geiping et al., "Inverting Gradients", NeurIPS 2020, arXiv:2003.14053, appendix A.1 (a layer in front, the input
concatenated to the features of the head); Fowl et al., arXiv:2110.13057. The gradient of such a layer is made of the
inputs: of one example it is the example, exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor, nn

from fedspill.core.inputs import ImageSpec, TableSpec
from fedspill.core.model import Model
from fedspill.core.probing.inputs import probe_inputs
from fedspill.core.roles import Card, Check, Finding, Incoming

NAME = "input_shortcuts"
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
PROBES = 2


@dataclass
class Consumers:
    """The layers that see the whole input, in the order of their calls.

    Attributes:
        connected: names of fully connected ones.
        others: names of convolutions.
    """

    connected: list[str] = field(default_factory=list[str])
    others: list[str] = field(default_factory=list[str])


def is_input(value: Tensor, z: Tensor, tolerance: float) -> bool:
    """Whether each row of a value holds the numbers of an input, scaled and shifted at most, in whatever order."""
    if value.ndim < 2 or len(value) != len(z) or value[0].numel() != z[0].numel():
        return False
    one, two = (t.detach().double().flatten(1) for t in (value, z))
    direct = [_fits(a, b, tolerance) for a, b in zip(one, two, strict=True)]
    return all(direct) or all(_fits(a.sort().values, b.sort().values, tolerance) for a, b in zip(one, two, strict=True))


def _fits(a: Tensor, b: Tensor, tolerance: float) -> bool:
    a, b = a - a.mean(), b - b.mean()
    size = a.norm() * b.norm()
    return bool(size > 0) and float(1 - (a @ b).abs() / size) <= tolerance


def consumers(model: Model, tolerance: float) -> Consumers:
    """Runs the network once on arbitrary inputs and watches who is called with them.

    Raises:
        Exception: whatever a network of anyone's raises.
    """
    z, found, handles = (
        probe_inputs(model.input, PROBES, model.like),
        Consumers(),
        list[torch.utils.hooks.RemovableHandle](),
    )

    def watch(name: str, names: list[str]) -> Callable[[nn.Module, tuple[object, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[object, ...]) -> None:
            if inputs and isinstance(inputs[0], Tensor) and is_input(inputs[0], z, tolerance):
                names.append(name)

        return hook

    for name, module in model.module.named_modules():
        if isinstance(module, (nn.Linear, *CONVOLUTIONS)):
            names = found.connected if isinstance(module, nn.Linear) or _covers(module, z) else found.others
            handles.append(module.register_forward_pre_hook(watch(name, names)))
    try:
        with torch.no_grad():
            model.in_eval_mode().logits(model.params, z)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _is_convolutional(model: Model) -> bool:
    z = probe_inputs(model.input, 1, model.like)
    return any(isinstance(m, CONVOLUTIONS) and not _covers(m, z) for m in model.module.modules())


def _covers(module: nn.Module, z: Tensor) -> bool:
    """A convolution as large as the picture is a fully connected layer."""
    return isinstance(module, nn.Conv2d) and tuple(module.kernel_size) == tuple(z.shape[2:])


@dataclass(frozen=True)
class InputShortcuts:
    """Finds a fully connected layer that sees the input of a convolutional network, or a second one that does.

    A network that is fully connected throughout has one, which is no finding; of several each is one, since only the
    agreed architecture tells which of them was planted. A network that cannot be run is a note.

    Attributes:
        tolerance: 1 less the correlation of what a layer gets with the input.
    """

    tolerance: float = 1e-3

    def inspect(self, incoming: Incoming) -> list[Finding]:
        """One finding for each such layer."""
        if incoming.misfit.missing or not bool(incoming.model.params):
            return []
        try:
            seen = consumers(incoming.model, self.tolerance)
        except Exception as error:  # a network of anyone's, on inputs whose size may be a guess
            return [_not_run(error)]
        convolutional = _is_convolutional(incoming.model)
        taps = list(dict.fromkeys(seen.connected))
        if not convolutional and len(taps) == 1:
            return []
        return [_finding(name, incoming.model, len(taps), convolutional=convolutional) for name in taps]


def _finding(name: str, model: Model, count: int, *, convolutional: bool) -> Finding:
    features = prod(model.input.encoded_shape)
    beside = " of a convolutional network" if convolutional else f", one of {count},"
    return Finding(
        check=NAME,
        where=name,
        severity=0.8,
        evidence={"inputs": float(features), "convolutional": float(convolutional)},
        explanation=f"A fully connected layer{beside} sees all {features} numbers of the input as they are.",
        rule="front" if convolutional else "beside",
        reads="Its gradient, divided by its bias's, is the input: of a client with one example that example, exactly,"
        " of several each that has a row, or a class, of its own.",
        advice="Do not train on it unless this layer was agreed on; build the network from the agreed code.",
    )


def _not_run(error: Exception) -> Finding:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
    return Finding(
        check=NAME,
        where="network",
        severity=0.4,
        evidence={"ran": 0.0},
        explanation=f"The network could not be run on arbitrary inputs, so its wiring was not looked at: {reason}.",
        rule="not_run",
        reads="A layer that sees the input by a way of its own would not have been noticed.",
        advice="Say what one input is (--shape, or shape= in Python), and compare with the agreed architecture.",
    )


CARD: Card[Check] = Card(
    title="Input-to-head shortcuts and fully connected first layers",
    paper="Geiping et al., NeurIPS 2020, arXiv:2003.14053, appendix A.1; Fowl et al., ICLR 2022, arXiv:2110.13057",
    summary="Reports fully connected layers that see the input of a convolutional network, or beside the first layer.",
    presets={"paper": InputShortcuts(), "quick": InputShortcuts()},
    accepts=frozenset({ImageSpec, TableSpec}),
)
