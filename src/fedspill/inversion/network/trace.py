"""Which layers a network calls, in which order, and whether they form a plain chain."""

import weakref
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import InputSpec
from fedspill.core.model import Model, parameter_name
from fedspill.core.probing.inputs import probe_inputs

SEEN_THROUGH = (nn.Flatten, nn.Unflatten, nn.Identity)


@dataclass(frozen=True)
class Step:
    """One call of a layer that has no layers inside.

    Attributes:
        name: the module's name in the network.
        linked: its input is the previous step's output (the network's input for the first), at most reshaped.
    """

    name: str
    module: nn.Module
    linked: bool
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    def parameter(self, which: str) -> str | None:
        """Name of the step's parameter among the network's, None if it has none."""
        held = getattr(self.module, which, None)
        return parameter_name(self.name, which) if isinstance(held, nn.Parameter) else None

    def passes(self) -> bool:
        """The step hands its input on, at most reshaped."""
        idle = isinstance(self.module, nn.modules.dropout._DropoutNd) and not self.module.training  # pyright: ignore[reportPrivateUsage]
        return isinstance(self.module, SEEN_THROUGH) or idle

    def describe(self) -> str:
        """The step in an error message."""
        return f"{type(self.module).__name__} {self.name!r}"


@dataclass(frozen=True)
class Trace:
    """The steps of one forward pass; `closed` if what the last step put out is what the network puts out."""

    steps: tuple[Step, ...]
    closed: bool

    def is_chain(self) -> bool:
        """Every step feeds the next one and nothing else happens in between."""
        return self.closed and all(s.linked for s in self.steps)


_LAST: list[tuple[weakref.ReferenceType[Model], Trace]] = []
"""Of the model that was asked of last: attack after attack asks of the same one, and a pass may take seconds."""


def trace(model: Model) -> Trace:
    """Runs the network once and watches its layers.

    A residual sum, a functional activation or an in-place change between two layers breaks the link.
    """
    if not _LAST or _LAST[0][0]() is not model:
        _LAST[:] = [(weakref.ref(model), _traced(model))]
    return _LAST[0][1]


def _traced(model: Model) -> Trace:
    calls: list[tuple[str, nn.Module, object, object]] = []
    links: list[bool] = []
    z = probe_inputs(model.input, 2, model.like)
    last: list[tuple[object, int]] = []

    def entering(module: nn.Module, inputs: tuple[object, ...]) -> None:
        given = inputs[0]  # the network's own copy of the input
        last.append((given, given._version if isinstance(given, Tensor) else 0))

    def before(module: nn.Module, inputs: tuple[object, ...]) -> None:
        links.append(bool(inputs) and _same(inputs[0], *last[-1]))

    handles = [model.module.register_forward_pre_hook(entering)]
    for name, module in model.module.named_modules():
        if any(True for _ in module.children()):
            continue

        def after(
            _: nn.Module,
            inputs: tuple[object, ...],
            output: object,
            name: str = name,
            module: nn.Module = module,
        ) -> None:
            # All outputs are kept, so that no new tensor can stand at an old one's address.
            calls.append((name, module, inputs[0] if inputs else None, output))
            last.append((output, output._version if isinstance(output, Tensor) else 0))

        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        with torch.no_grad():
            logits = model.logits(model.params, z)
    finally:
        for handle in handles:
            handle.remove()
    steps = [
        Step(name, module, link, _shape(x), _shape(y)) for (name, module, x, y), link in zip(calls, links, strict=True)
    ]
    return Trace(tuple(steps), _same(logits, *last[-1]))


def _shape(value: object) -> tuple[int, ...]:
    return tuple(value.shape[1:]) if isinstance(value, Tensor) else ()


def _same(got: object, previous: object, version: int) -> bool:
    if not isinstance(got, Tensor) or not isinstance(previous, Tensor):
        return False
    reshaped = got.data_ptr() == previous.data_ptr() and got.numel() == previous.numel()
    return (got is previous or reshaped) and got._version == version


def first_linear(traced: Trace, spec: InputSpec) -> Step:
    """The linear layer that reads the network's (flattened) input.

    Raises:
        NotApplicable: something else comes first; names it.
    """
    for step in traced.steps:
        if not step.linked:
            raise NotApplicable(f"the input is transformed before {step.describe()}, its first layer")
        if isinstance(step.module, nn.Linear):
            if step.input_shape != (torch.Size(spec.encoded_shape).numel(),):
                raise NotApplicable(f"{step.describe()} does not read the whole flattened input at once")
            return step
        if not step.passes():
            raise NotApplicable(f"the first layer is {step.describe()}, not a fully connected one")
    raise NotApplicable("the network calls no fully connected layer")
