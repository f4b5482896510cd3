"""The classification head: where the labels show, and whose input can be computed from its gradient.

It is found by what it does, not by its kind, its name or its place: the head's weight has a row for each logit, which
that logit alone depends on, and linearly. Hence the derivative of logit c by row c is what enters the head.
"""

from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedspill.core.errors import NotApplicable
from fedspill.core.model import Model
from fedspill.core.module.answers import is_log_probabilities
from fedspill.core.probing.inputs import probe_inputs, random_like
from fedspill.core.types import Encoded, Params

NAMES = ("head", "fc", "classifier", "heads")
"""What networks call their head, in the zoo and in torchvision, timm and transformers."""
PROBES = 4
"""Examples by which the head is found."""


@dataclass(frozen=True)
class Head:
    """The linear layer that makes the logits.

    Attributes:
        name: of the module that holds the weight; "" when that is the network itself.
        weight: name of the weight among the model's parameters: (classes, features), or a convolution's.
        bias: name of the bias (classes,), None for a head without one.
        across: the weight is (features, classes).
    """

    name: str
    weight: str
    bias: str | None
    across: bool = False

    def rows(self, weight: Tensor) -> Float[Tensor, "k d"]:
        """The weight, or its gradient, with one row for each class."""
        return (weight.T if self.across else weight).flatten(1)


_found: WeakKeyDictionary[nn.Module, Head | None] = WeakKeyDictionary()


def last_linear(model: Model) -> Head:
    """The head, found once for each network.

    Raises:
        NotApplicable: no parameter acts as one.
    """
    if model.module not in _found:
        calm = model.in_eval_mode()
        # With weights of its own by which nothing enters the head, a network still has one.
        _found[model.module] = _find(calm) or _find(replace(calm, params=_drawn(calm.params)))
    head = _found[model.module]
    if head is None:
        raise NotApplicable(
            f"{type(model.module).__name__} has no linear layer that makes its logits: no classification head was found"
        )
    return head


def _drawn(params: Params) -> dict[str, Tensor]:
    """Random weights of ordinary size; scales and biases near 1."""
    return {
        k: random_like(v, k) / v[0].numel() ** 0.5 if v.ndim > 1 else 1 + 0.1 * random_like(v, k)
        for k, v in params.items()
    }


def _find(model: Model) -> Head | None:
    """The registered last among the weights that act as heads; rather one with a bias."""
    leaves = {k: v.detach().clone().requires_grad_() for k, v in model.params.items()}
    logits = _logits(model, leaves, probe_inputs(model.input, PROBES, model.like))
    if not logits.requires_grad:
        return None
    ends = [_Cotangent(logits, leaves, name) for name in ("one", "other")]
    biases = [k for k, v in leaves.items() if v.shape == logits.shape[-1:] and _is_bias(k, ends)]
    heads = list[Head]()
    for weight in reversed(list(leaves)):
        for across in _ways(leaves[weight], logits.shape[-1]):
            name, _, _ = weight.rpartition(".")
            bias = next((b for b in biases if b.rpartition(".")[0] == name), None)
            head = Head(name, weight, bias, across)
            if _is_head(head, model, ends):
                if bias is not None:
                    return head
                heads.append(head)
    return heads[0] if heads else None


def _logits(model: Model, params: Params, z: Tensor) -> Float[Tensor, "n ... k"]:
    """With a graph; a single output (n,) is one class."""
    with torch.enable_grad():
        logits = model.logits(params, z)
    return logits[:, None] if logits.ndim == 1 else logits


def _ways(weight: Tensor, classes: int) -> list[bool]:
    """How a parameter may hold one row for each class: along its first axis, or along its second."""
    along = [False] if weight.ndim >= 2 and weight.shape[0] == classes else []
    return along + ([True] if weight.ndim == 2 and weight.shape[1] == classes else [])


class _Cotangent:
    """A random weighting of examples and classes, and the gradients of the logits that are weighted by it."""

    def __init__(self, logits: Tensor, leaves: Params, name: str) -> None:
        self.logits, self.leaves = logits, leaves
        self.examples = random_like(logits[..., 0], "examples")
        self.classes = random_like(logits.flatten(0, -2)[0], name)
        if is_log_probabilities(logits):  # a log-softmax takes a number off all of an example's: that weighs nothing
            self.classes -= self.classes.mean()

    def gradient(self, name: str) -> Tensor | None:
        """By one parameter; None if the logits do not depend on it."""
        along = self.examples[..., None] * self.classes
        return torch.autograd.grad(self.logits, self.leaves[name], along, retain_graph=True, allow_unused=True)[0]


def _is_bias(name: str, ends: list[_Cotangent]) -> bool:
    for end in ends:
        gradient = end.gradient(name)
        if gradient is None or not _close(gradient, end.classes * end.examples.sum()):
            return False
    return True


def _is_head(head: Head, model: Model, ends: list[_Cotangent]) -> bool:
    features = _features_of_rows(head, ends)
    if features is None:
        return False
    moved = {k: v.detach().clone() for k, v in ends[0].leaves.items()}
    weight = moved[head.weight]
    scale = weight.norm() / weight.numel() ** 0.5 if bool(weight.any()) else 1.0
    moved[head.weight] = (weight + scale * random_like(weight, "moved")).requires_grad_()
    logits = _logits(model, moved, probe_inputs(model.input, PROBES, model.like))
    again = _features_of_rows(head, [_Cotangent(logits, moved, "one")])
    return again is not None and _close(again, features)


def _features_of_rows(head: Head, ends: list[_Cotangent]) -> Tensor | None:
    """What enters the head, weighted by examples; None if a row is used for another logit too, or for it otherwise."""
    features: Tensor | None = None
    for end in ends:
        gradient = end.gradient(head.weight)
        if gradient is None or not bool(gradient.any()):
            return None
        rows = head.rows(gradient)
        if features is None:
            features = end.classes @ rows / end.classes.square().sum()
        if not _close(rows, torch.outer(end.classes, features)):
            return None
    return features


def _close(a: Tensor, b: Tensor) -> bool:
    """Equal up to rounding."""
    return bool((a - b).norm() <= torch.finfo(a.dtype).eps ** 0.5 * b.norm())


def features_and_logits(
    model: Model, params: Params, z: Encoded, head: Head
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n k"]]:
    """What enters the head for encoded inputs, and the network's outputs, without a graph.

    Of a network that ends in a log-softmax the outputs are the logits less a number for each example.

    Raises:
        NotApplicable: there is more than one answer for each example.
    """
    weight = params[head.weight].detach().clone().requires_grad_()
    logits = _logits(model, {**params, head.weight: weight}, z)
    if logits.ndim != 2:
        raise NotApplicable(f"the head {head.name!r} must answer once for each example, with (n, classes)")
    # Log-probabilities are logits less a number for each example, which the difference of two is not to know of.
    apart = 2 if is_log_probabilities(logits) else 1
    at_once, features = logits.shape[1] // apart, list[Tensor]()
    for first in range(0, len(z), at_once):
        # A class each for as many examples as there are classes: row c is what enters for the c-th of them.
        along, count = torch.zeros_like(logits), min(at_once, len(z) - first)
        along[range(first, first + count), range(count)] = 1
        if apart == 2:
            along[range(first, first + count), range(at_once, at_once + count)] = -1
        gradient = torch.autograd.grad(logits, weight, along, retain_graph=True)[0]
        features.append(head.rows(gradient)[:count])
    return torch.cat(features), logits.detach()


def head_module(model: Model) -> str:
    """Name of the module whose output are the logits: one of a usual name at the top, else that of the head's weight.

    Raises:
        NotApplicable: there is neither.
    """
    ends, top = _makers_of_logits(model), dict(model.module.named_children())
    for name in NAMES:
        if name in ends and any(isinstance(m, nn.Linear) for m in top[name].modules()):
            return name
    name = last_linear(model).name
    if name not in ends:
        raise NotApplicable("the network has no linear layer behind a feature extractor, so no head to share")
    return name


def _makers_of_logits(model: Model) -> set[str]:
    """Names of the modules, other than the network, that hand the logits out, at most reshaped or log-softmax."""
    outputs = dict[str, Tensor]()

    def keep(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor):
                outputs[name] = output

        return model.module.get_submodule(name).register_forward_hook(hook)

    handles = [keep(name) for name, _ in model.module.named_modules() if name]
    try:
        with torch.no_grad():
            logits = model.logits(model.params, probe_inputs(model.input, 2, model.like))
    finally:
        for handle in handles:
            handle.remove()
    if is_log_probabilities(logits):
        alike = {k: v for k, v in outputs.items() if v.shape == logits.shape and v.is_floating_point()}
        return {k for k, v in alike.items() if _close(v.log_softmax(-1), logits) and v.data_ptr() != logits.data_ptr()}
    return {k for k, v in outputs.items() if v.data_ptr() == logits.data_ptr() and v.numel() == logits.numel()}
