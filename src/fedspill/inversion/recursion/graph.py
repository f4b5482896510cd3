"""A network as a graph of operations on examples, each of which can be run, transposed and, often, undone."""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from fedspill.core.errors import NotApplicable
from fedspill.core.model import Model
from fedspill.core.module.answers import is_log_probabilities
from fedspill.core.rng import randn, stream
from fedspill.inversion.network.activations import STEEP, Kind, named_kind

Node = fx.Node
Values = Mapping[Node, Tensor]
LINEAR = 1e-9
"""Relative deviation below which an operation passes for an affine one, in float64."""
SAME = 1e-4
"""Relative deviation, in float32 or better, up to which the traced network is the network."""


class Dataflow:
    """The operations of a network in eval mode, for so many examples at once.

    Args:
        examples: their number, the first size of all values.

    Attributes:
        nodes: those that hold the examples' values, in the order of computation, the network's input first.
        output: what the network puts out.

    Raises:
        NotApplicable: the network is in train mode, or cannot be traced by `torch.fx`, or the trace is another network.
    """

    def __init__(self, model: Model, dtype: torch.dtype = torch.float64, examples: int = 1) -> None:
        self.examples = examples
        if model.training:
            raise NotApplicable("the network is in train mode: its layers do not work on single examples")
        self._traced = _before_log_softmax(_of_logits(_traced(_copied(model, dtype))))
        self._modules, self._run = dict(self._traced.named_modules()), fx.Interpreter(self._traced)
        shape, like = (examples, *model.input.encoded_shape), model.like.to(dtype)
        inputs = [randn(shape, stream(seed, "dataflow"), like) for seed in (0, 1)]
        self._probes = [self._tried(z) for z in inputs]
        reached = _reached(self._traced.graph)
        self.nodes = [n for n in reached if n.op != "output" and _is_held(self._probes[0][n], examples)]
        self.output = next(n for n in self._traced.graph.nodes if n.op == "output").all_input_nodes[0]
        if not self.nodes or self.nodes[0].op != "placeholder" or not self._is_network(model, inputs[0]):
            raise NotApplicable(
                "what torch.fx traces is not the network, which changes values in place, branches by values, or takes"
                " more than one picture"
            )
        self._held = set(self.nodes)
        # Bits, tuples and the like that come from the picture: what uses them is no function of what is held.
        self._opaque = {n for n in self.nodes if any(m in reached and m not in self._held for m in n.all_input_nodes)}
        self._kinds: dict[Node, Kind] = {}
        self._diagonals: dict[tuple[Node, Node], Tensor | None] = {}
        self._below: dict[Node, Tensor] = {}

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def module(self, node: Node) -> nn.Module | None:
        """The layer that the operation calls, if it is one."""
        return self._modules[str(node.target)] if node.op == "call_module" else None

    def owns_weight(self, node: Node) -> bool:
        """No other name of the network stands for the layer's weight."""
        weight = getattr(self.module(node), "weight", None)
        names = [k for k, v in self._traced.named_parameters(remove_duplicate=False) if v is weight]
        return len(names) == 1

    def opaque(self, node: Node) -> bool:
        """It takes more from the picture than values that are held, so that it cannot be computed from these."""
        return node in self._opaque

    def inputs(self, node: Node) -> list[Node]:
        """The arguments of an operation that hold examples' values."""
        return [n for n in node.all_input_nodes if n in self._held]

    def users(self, node: Node) -> list[Node]:
        """Operations that take its values."""
        return [n for n in node.users if n in self._held]

    def blank(self, node: Node) -> Tensor:
        """Zeros in the shape of its values, (examples, ...)."""
        return torch.zeros_like(self._probes[0][node])

    def apply(self, node: Node, values: Values) -> Tensor:
        """The operation at these values (n, ...) of its inputs; what is missing is 0."""

        def one(n: Node) -> Any:
            if n not in self._held:
                return self._probes[0][n]
            return values[n] if n in values else self.blank(n)

        return self._called(node, one)

    def linear(self, node: Node, values: Values) -> Tensor:
        """An affine operation less its constant."""
        return self.apply(node, values) - self.apply(node, {})

    def pull(self, node: Node, target: Node, cotangent: Tensor, at: Values | None = None) -> Tensor:
        """The operation's transposed derivative by one input, at these values of its inputs (any, if it is affine)."""
        at = at or {}
        leaf = (at[target] if target in at else self.blank(target)).detach().clone().requires_grad_()
        with torch.enable_grad():
            value = self.apply(node, {**at, target: leaf})
        pulled: Any = torch.autograd.grad(value, leaf, cotangent, allow_unused=True)[0]
        return torch.zeros_like(leaf) if pulled is None else pulled

    def kind(self, node: Node) -> Kind:
        """What can be done with it; affine operations are found by trial, so that no list of them is needed."""
        if node in self._opaque:
            return "other"
        if node not in self._kinds:
            target: Any = type(self.module(node)) if node.op == "call_module" else node.target
            kind = named_kind(target) or ("affine" if self._is_affine(node) else "other")
            self._kinds[node] = kind if kind != "leaky" or self._can_be_undone(node) else "other"
        return self._kinds[node]

    def below(self, node: Node) -> Tensor | None:
        """The factor of a leaky activation below 0, in the shape of its values; None of any other operation."""
        if self.kind(node) != "leaky":
            return None
        if node not in self._below:
            self._below[node] = -self.apply(node, {self.inputs(node)[0]: -torch.ones_like(self.blank(node))})
        return self._below[node]

    def _can_be_undone(self, node: Node) -> bool:
        """A leaky activation with a positive factor everywhere, which is the same every time."""
        ones, inputs = torch.ones_like(self.blank(node)), self.inputs(node)
        if len(inputs) != 1 or self.blank(inputs[0]).shape != ones.shape:
            return False
        above, *low = (self.apply(node, {inputs[0]: f * ones}) for f in (1.0, -1.0, -2.0, -1.0))
        steady = torch.equal(low[0], low[2]) and torch.allclose(low[1], 2 * low[0])
        return steady and torch.equal(above, ones) and bool((-low[0] > STEEP).all())

    def diagonal(self, node: Node, target: Node) -> Tensor | None:
        """The diagonal of L' L, L the affine operation as a function of this input; None where L mixes values."""
        key = (node, target)
        if key not in self._diagonals:
            ones = torch.ones_like(self.blank(target))
            probe = torch.linspace(1, 2, ones.numel(), dtype=ones.dtype, device=ones.device).reshape(ones.shape)
            d, again = (self.pull(node, target, self.linear(node, {target: x})) for x in (ones, probe))
            fits = bool((again - d * probe).abs().max() <= LINEAR * d.abs().max())
            self._diagonals[key] = d if fits else None
        return self._diagonals[key]

    def until(self, names: list[str]) -> Callable[[Tensor], list[Tensor]]:
        """The function from the encoded input (n, ...) to the values of these nodes; nothing past them is computed."""
        function = self.between(self.nodes[0], [next(n for n in self.nodes if n.name == name) for name in names])
        assert function is not None, "everything follows from the input"
        return function

    def between(self, start: Node, ends: list[Node]) -> Callable[[Tensor], list[Tensor]] | None:
        """The function from one node's values (n, ...) to those of others; None where these take more of the input."""
        needed, remaining = {start}, list(ends)
        while remaining:
            node = remaining.pop()
            if node not in needed:
                needed.add(node)
                remaining += node.all_input_nodes
        order = [n for n in self._traced.graph.nodes if n in needed]
        if any(n.op == "placeholder" and n is not start for n in order):
            return None

        def run(x: Tensor) -> list[Tensor]:
            values = dict[Node, Any]()
            for node in order:
                values[node] = x if node is start else self._called(node, values.__getitem__)
            return [values[n] for n in ends]

        return run

    def cut(self, node: Node) -> nn.Module:
        """The network up to a node's values, with parameters of its own by the network's names, and no others."""
        traced = copy.deepcopy(self._traced)
        output = next(n for n in traced.graph.nodes if n.op == "output")
        output.args = (next(n for n in traced.graph.nodes if n.name == node.name),)
        traced.graph.eliminate_dead_code()
        traced.delete_all_unused_submodules()
        read = {str(n.target) for n in traced.graph.nodes if n.op == "get_attr"}
        for name in [k for k, _ in traced.named_parameters(recurse=False) if k not in read]:
            delattr(traced, name)
        traced.recompile()
        return traced

    def _is_network(self, model: Model, z: Tensor) -> bool:
        """A branch by values, or a value that is changed after it was used, makes the trace another network."""
        logits, traced = model.logits(model.params, z.to(model.like)), self._probes[0][self.output]
        if not isinstance(traced, Tensor) or traced.shape != logits.shape:
            return False
        if is_log_probabilities(logits):  # of which the trace has what enters the log-softmax
            traced = traced.log_softmax(-1)
        return bool((traced - logits).norm() <= SAME * logits.norm())

    def _is_affine(self, node: Node) -> bool:
        inputs = self.inputs(node)
        if not inputs:
            return False
        a, b = ({n: probe[n] for n in inputs} for probe in self._probes)
        both = self.linear(node, {n: a[n] + 2 * b[n] for n in inputs})
        return bool((both - self.linear(node, a) - 2 * self.linear(node, b)).norm() <= LINEAR * both.norm())

    def _tried(self, z: Tensor) -> dict[Node, Any]:
        try:
            return self._through(z)
        except Exception as error:  # of anyone's operations
            raise NotApplicable(f"what torch.fx traces of the network does not run: {error}") from error

    def _through(self, z: Tensor) -> dict[Node, Any]:
        """Every node's value at an input."""
        env: dict[Node, Any] = {}
        with torch.no_grad():
            for node in self._traced.graph.nodes:
                env[node] = z if node.op == "placeholder" else self._called(node, env.__getitem__)
        return env

    def _called(self, node: Node, value: Callable[[Node], Any]) -> Any:
        def given(n: Node) -> Any:
            argument = value(n)
            # An operation in place must not change it.
            return argument.clone() if isinstance(argument, Tensor) else argument

        args, kwargs = map_arg(node.args, given), map_arg(node.kwargs, given)
        return getattr(self._run, node.op)(node.target, args, kwargs)


def _traced(module: nn.Module) -> fx.GraphModule:
    try:
        return _of_one_argument(module)
    except Exception:  # tracing fails in as many ways as there are networks
        # Decorators that check the types of arguments do not take what a trace passes for a tensor.
        for layer in module.modules():
            kind, forward = type(layer), inspect.unwrap(type(layer).forward)
            if forward is not kind.forward:
                layer.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
    try:
        return _of_one_argument(module)
    except Exception as error:
        raise NotApplicable(f"torch.fx cannot trace the network: {error}") from error


def _of_one_argument(module: nn.Module) -> fx.GraphModule:
    """The trace of `module(z)`: what `forward` takes besides has its default, and is no input of the graph."""
    kind = type(module)

    def forward(self: nn.Module, z: Any) -> Any:
        return kind.forward(self, z)

    module.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
    try:
        return fx.symbolic_trace(module)
    finally:
        module.__class__ = kind


def _of_logits(traced: fx.GraphModule) -> fx.GraphModule:
    """The network that puts out its logits alone, where it answers with a mapping or a tuple."""
    output = next(n for n in traced.graph.nodes if n.op == "output")
    answer = output.args[0]
    if isinstance(answer, Mapping):
        answer = answer.get("logits", next(iter(answer.values()), None))
    elif isinstance(answer, tuple | list):
        answer = answer[0] if answer else None
    if isinstance(answer, Node) and answer is not output.args[0]:
        output.args = (answer,)
        traced.graph.eliminate_dead_code()
        traced.recompile()
    return traced


def _before_log_softmax(traced: fx.GraphModule) -> fx.GraphModule:
    """The network that puts out what enters its last log-softmax, if it ends in one."""
    output = next(n for n in traced.graph.nodes if n.op == "output")
    last = output.args[0]
    if not isinstance(last, Node):
        return traced
    modules = dict(traced.named_modules())
    named = last.op in ("call_function", "call_method") and "log_softmax" in str(
        getattr(last.target, "__name__", last.target)
    )
    layer = last.op == "call_module" and isinstance(modules[str(last.target)], nn.LogSoftmax)
    if named or layer:
        output.args = (last.all_input_nodes[0],)
        traced.graph.eliminate_dead_code()
        traced.recompile()
    return traced


def _copied(model: Model, dtype: torch.dtype) -> nn.Module:
    return model.to(model.like.device, dtype).own_module()


def _reached(graph: fx.Graph) -> dict[Node, None]:
    """What depends on the network's input, in the order of computation."""
    reached = dict[Node, None]()
    for node in graph.nodes:
        if node.op == "placeholder" or any(n in reached for n in node.all_input_nodes):
            reached[node] = None
    return reached


def _is_held(value: Any, examples: int) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1 and len(value) == examples
