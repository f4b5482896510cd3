"""The fully connected end of a network: linear layers with ReLUs between them, forwards and backwards.

For a fully connected network it is the whole network, for a feature extractor with a head it is the head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.errors import NotApplicable
from fedspill.core.model import Model
from fedspill.core.types import Params
from fedspill.inversion.network.dense import Dense
from fedspill.inversion.network.extractor import Extractor, with_module
from fedspill.inversion.network.trace import Step, Trace, trace


@dataclass(frozen=True)
class DenseEnd:
    """Linear layers that end in the logits.

    Attributes:
        layers: from the first on; a ReLU follows each but the last.
        names: of the modules from the first layer to the last, ReLUs among them.
        at_input: the first reads the network's flattened encoded input.
        gated: a ReLU hands its output to the first, so that inputs are 0 or more.
    """

    layers: tuple[Dense, ...]
    names: tuple[str, ...]
    at_input: bool
    gated: bool

    @property
    def first(self) -> str:
        """Name of the first layer."""
        return self.names[0]

    def last(self, number: int) -> "DenseEnd":
        """The last layers alone; their inputs come out of a ReLU if there are layers before."""
        if number >= len(self.layers):
            return self
        layers = self.layers[-number:]
        start = self.names.index(layers[0].weight.rpartition(".")[0])
        return DenseEnd(layers, self.names[start:], at_input=False, gated=True)


def dense_end(model: Model) -> DenseEnd:
    """What a network ends in.

    Raises:
        NotApplicable: it does not end in a linear layer; names what it ends in.
    """
    traced = trace(model)
    if not traced.closed or not traced.steps:
        raise NotApplicable("the network's answer is not what its last layer puts out")
    chain, remaining, gated, linked = list[Step](), list(traced.steps), False, True
    while remaining and linked and _belongs(remaining[-1], chain, gated=gated):
        step = remaining.pop()
        if isinstance(step.module, nn.Linear):
            chain.insert(0, step)
        gated = (gated and step.passes()) or isinstance(step.module, nn.ReLU)
        linked = step.linked
    if not chain:
        raise NotApplicable(f"the network ends in {_ending(traced)}, not in a linear layer")
    layers = [_dense(s, None if s is chain[-1] else nn.ReLU()) for s in chain]
    names = [s.name for s in traced.steps]
    behind = tuple(names[len(names) - names[::-1].index(chain[0].name) - 1 :])
    return DenseEnd(tuple(layers), behind, at_input=not remaining and linked and not gated, gated=gated)


def _belongs(step: Step, chain: Sequence[Step], *, gated: bool) -> bool:
    if isinstance(step.module, nn.Linear):
        return len(step.input_shape) == 1 and (gated or not chain)
    return step.passes() or (isinstance(step.module, nn.ReLU) and bool(chain) and not gated)


def _ending(traced: Trace) -> str:
    return traced.steps[-1].describe()


def _dense(step: Step, activation: nn.ReLU | None) -> Dense:
    weight = step.parameter("weight")
    if weight is None:
        raise NotApplicable(f"{step.describe()} holds no weight of its own")
    return Dense(weight, step.parameter("bias"), activation)


def extractor(model: Model, end: DenseEnd) -> Extractor:
    """What comes before the end of a network, as a function of its encoded inputs.

    Raises:
        NotApplicable: a module of the end is also called elsewhere, so that it cannot be taken out.
    """
    called = [s.name for s in trace(model).steps]
    twice = [name for name in end.names if called.count(name) > 1]
    if twice:
        raise NotApplicable(f"{twice[0]!r} is called more than once, so the network cannot be cut before {end.first!r}")
    for name in end.names[1:]:
        model = with_module(model, name, nn.Identity())
    return Extractor(model, end.first)


@dataclass(frozen=True)
class Passed:
    """Examples on their way through linear layers.

    Attributes:
        inputs: of each layer, (n, d); those of all but the first come out of a ReLU.
        outputs: of each layer before its ReLU, (n, out); the last are the logits.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def errors(self, labels: Int[Tensor, " n"]) -> Float[Tensor, "n classes"]:
        """The derivative of each example's cross-entropy by its logits: p - [y]."""
        logits = self.outputs[-1]
        return logits.softmax(1) - functional.one_hot(labels.to(logits.device), logits.shape[1]).to(logits)


def passed(layers: Sequence[Dense], params: Params, x: Float[Tensor, "n d"]) -> Passed:
    """Passes inputs of the first layer on, in their own precision."""
    inputs, outputs, entering = list[Tensor](), list[Tensor](), x
    for layer in layers:
        inputs.append(entering)
        bias = None if layer.bias is None else params[layer.bias].to(x)
        outputs.append(functional.linear(entering, params[layer.weight].to(x), bias))
        entering = outputs[-1].relu()
    return Passed(tuple(inputs), tuple(outputs))


def derivatives(
    layers: Sequence[Dense], params: Params, way: Passed, errors: Float[Tensor, "n classes"]
) -> list[Tensor]:
    """The derivatives of the loss by each layer's output, (n, out), in the order of the layers.

    Args:
        layers: those that were passed.
        params: their weights are read.
        way: the examples.
        errors: the derivative by the logits, with each example's weight in the mean.
    """
    cotangents = [errors]
    for layer, before in zip(layers[:0:-1], way.outputs[-2::-1], strict=True):
        cotangents.insert(0, (cotangents[0] @ params[layer.weight].to(errors)) * (before > 0))
    return cotangents


def gradients(layers: Sequence[Dense], way: Passed, by_output: Sequence[Tensor]) -> dict[str, Tensor]:
    """The gradients of the layers' weights and biases, from the derivatives by their outputs."""
    values = dict[str, Tensor]()
    for layer, x, delta in zip(layers, way.inputs, by_output, strict=True):
        values[layer.weight] = delta.T @ x
        if layer.bias is not None:
            values[layer.bias] = delta.sum(0)
    return values


def parameter_names(layers: Sequence[Dense]) -> list[str]:
    """Weights and biases."""
    return [n for layer in layers for n in (layer.weight, layer.bias) if n is not None]
