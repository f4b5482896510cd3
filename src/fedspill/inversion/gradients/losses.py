"""What a loss makes of logits and a label, found by asking the loss itself: which evidence of labels then holds.

With softmax and cross-entropy an example's loss has the derivative p - [y] by its logits: negative for its own class
alone, summing to 0, the same for every label but for its place. Label smoothing, class weights, a focal factor,
logistic or squared losses have some of this or none; what reads labels states what it needs of it.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from fedspill.core.errors import NotApplicable
from fedspill.core.model import Model
from fedspill.core.rng import randn, stream
from fedspill.core.types import LossFn
from fedspill.inversion.network.trace import probe_inputs

PROBES = 2
ASKED = 1024
"""Labels that are asked at most."""
SAME = 1e-4
"""Relative difference below which two derivatives are one, in float32 or better."""
SPREAD = 2.0
"""Standard deviation of the logits that are drawn besides the network's own."""


@dataclass(frozen=True)
class Evidence:
    """What a loss with one class per example says of labels by its derivative by the logits.

    Attributes:
        loss_fn: the loss.
        outputs: logits per example.
        own: logits of the network itself, for inputs without meaning.
    """

    loss_fn: LossFn
    outputs: int
    own: Float[Tensor, "m k"]

    @property
    def classes(self) -> int:
        """Labels that the loss takes; one output stands for two classes."""
        return max(2, self.outputs)

    @cached_property
    def asked(self) -> Int[Tensor, " labels"]:
        """The labels that are asked: all, or some of very many."""
        labels = torch.arange(self.classes, device=self.own.device)
        return labels if len(labels) <= ASKED else labels[:: -(-len(labels) // ASKED)]

    @cached_property
    def exact(self) -> bool:
        """It is plain cross-entropy: softmax less one-hot for every example, and the mean over examples."""
        if self.loss_fn is functional.cross_entropy:
            return True
        return (
            self.outputs > 1
            and self.even
            and all(
                _close(logit_gradients(self.loss_fn, z.expand(len(self.asked), -1), self.asked), self._plain(z))
                for z in self._probes
            )
        )

    @cached_property
    def opposed(self) -> bool:
        """At the network's own logits only the example's class has a negative derivative: signs tell labels."""
        if self.loss_fn is functional.cross_entropy:
            return True
        own = functional.one_hot(self.asked, self.classes)[:, : self.outputs].bool()
        signs = [logit_gradients(self.loss_fn, z.expand(len(self.asked), -1), self.asked) < 0 for z in self.own]
        return self.outputs > 1 and all(bool((s == own).all()) for s in signs)

    @cached_property
    def separable(self) -> bool:
        """Examples add up, each by its own logits and label and a weight; no loss of pairs or ranks."""
        return self._weights is not None

    @cached_property
    def even(self) -> bool:
        """The loss of a batch is the mean of its examples' losses."""
        if self.loss_fn is functional.cross_entropy:
            return True
        weights = self._weights
        return weights is not None and bool(((weights * len(weights) - 1).abs() < SAME).all())

    def weights(self) -> Float[Tensor, " classes"]:
        """How much an example of each class counts among the others of its batch; the mean is 1, whatever it is.

        Raises:
            NotApplicable: examples do not add up, or there are too many classes with weights of their own.
        """
        if self._weights is None:
            raise NotApplicable("this loss is no sum over examples, so that no label's share can be told")
        shares = self._weights / self._weights.mean()
        if len(shares) == self.classes:
            return shares
        if not bool(((shares - 1).abs() < SAME).all()):
            raise NotApplicable(f"this loss weighs classes, and no more than {ASKED} are asked how; got {self.classes}")
        return shares.new_ones(self.classes)

    def derivatives(self, logits: Float[Tensor, "m k"]) -> Float[Tensor, "m classes k"]:
        """The derivative of an example's own loss by its logits, for every label, float64."""
        labels, weights = torch.arange(self.classes, device=logits.device), self._weights
        rows = [z.expand(self.classes, -1) for z in logits]
        if weights is None or len(weights) != self.classes:
            return torch.stack([logit_gradients(self.loss_fn, z, labels) for z in rows])
        return torch.stack([batch_gradients(self.loss_fn, z, labels) / weights[:, None] for z in rows])

    @cached_property
    def _probes(self) -> Float[Tensor, "m k"]:
        drawn = randn((PROBES, self.outputs), stream(0, "logits"), self.own)
        return torch.cat([self.own, SPREAD * drawn])

    def _plain(self, z: Tensor) -> Tensor:
        return z.double().softmax(0) - functional.one_hot(self.asked, self.outputs).double()

    @cached_property
    def _weights(self) -> Float[Tensor, " labels"] | None:
        """What multiplies each asked label's own derivative in the batch of all; None if the batch is no sum."""
        z = SPREAD * randn((len(self.asked), self.outputs), stream(1, "logits"), self.own)
        alone = logit_gradients(self.loss_fn, z, self.asked)
        together = batch_gradients(self.loss_fn, z, self.asked)
        weights = (alone * together).sum(1) / alone.square().sum(1).clamp_min(1e-300)
        return weights if _close(together, weights[:, None] * alone) and bool((weights > 0).all()) else None


def evidence(model: Model) -> Evidence:
    """What the model's loss says of labels.

    Raises:
        NotApplicable: the loss takes no classes (n,), such as one of several labels per example, or of tokens.
    """
    with torch.no_grad():
        logits = model.logits(model.params, probe_inputs(model.input, PROBES, model.like))
    loss_fn = model.loss_fn
    if logits.ndim == 1:
        logits, loss_fn = logits[:, None], _of_one_output(loss_fn)
    if logits.ndim != 2:
        raise NotApplicable("labels are read of one class per example; this network predicts next tokens")
    found = Evidence(loss_fn, logits.shape[1], logits.detach())
    if loss_fn is not functional.cross_entropy:
        _check_takes_classes(found)
    return found


def _of_one_output(loss_fn: LossFn) -> LossFn:
    return lambda logits, labels: loss_fn(logits[:, 0], labels)


def is_cross_entropy(model: Model) -> bool:
    """The loss is plain cross-entropy over classes, whatever it is called."""
    if model.loss_fn is functional.cross_entropy:
        return True
    try:
        return evidence(model).exact
    except NotApplicable:
        return False


def takes_probabilities(model: Model) -> bool:
    """The loss takes class probabilities (n, classes) as well as classes, and says the same of both."""
    if model.loss_fn is functional.cross_entropy:
        return True
    try:
        found = evidence(model)
        labels, z = found.asked, found.own[:1].expand(len(found.asked), -1)
        whole = functional.one_hot(labels, found.outputs).to(z)
        return _close(found.loss_fn(z, whole), found.loss_fn(z, labels))
    except Exception:
        return False


def _check_takes_classes(found: Evidence) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # PyTorch only warns of targets of another shape than the outputs
            losses = logit_gradients(found.loss_fn, found.own[:1].expand(len(found.asked), -1), found.asked)
    except Exception as error:  # a loss says in as many ways as there are losses that it takes other targets
        raise NotApplicable(
            "labels are read of a loss that takes one class per example; this one does not"
            f" ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'})"
        ) from error
    if not bool(losses.isfinite().all()):
        raise NotApplicable("labels are read of a loss with finite derivatives by the logits; this one has others")
    if found.outputs == 1 and not _is_binary(found):
        raise NotApplicable("labels are read of classes; this loss compares one output with a number, so grant them")


def _is_binary(found: Evidence) -> bool:
    """One output is pushed up by class 1 and down by class 0, whatever it is."""
    z = torch.linspace(-3, 3, 7).to(found.own)[:, None]
    down, up = (logit_gradients(found.loss_fn, z, torch.full((len(z),), k, device=z.device)) for k in (0, 1))
    return bool((down >= 0).all() and (up <= 0).all())


def logit_gradients(loss_fn: LossFn, logits: Float[Tensor, "m k"], labels: Int[Tensor, " m"]) -> Float[Tensor, "m k"]:
    """The derivative of each example's own loss by its logits, float64; what a batch of it alone would send."""

    def whole(leaf: Tensor) -> Tensor:
        rows = zip(leaf.split(1), labels.split(1), strict=True)
        return torch.stack([loss_fn(row, label) for row, label in rows]).sum()

    return _differentiated(whole, logits)


def batch_gradients(loss_fn: LossFn, logits: Float[Tensor, "m k"], labels: Int[Tensor, " m"]) -> Float[Tensor, "m k"]:
    """The derivative of the loss of all examples together by their logits, float64."""
    return _differentiated(lambda leaf: loss_fn(leaf, labels), logits)


def _differentiated(function: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    def at(dtype: torch.dtype) -> Tensor:
        leaf = logits.detach().to(dtype).clone().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(function(leaf), leaf)[0].double()

    try:
        return at(torch.float64)
    except RuntimeError:  # a loss that holds weights in the network's own precision
        return at(torch.float32)


def _close(got: Tensor, expected: Tensor) -> bool:
    size = expected.abs().max().clamp_min(1e-300)
    return bool(((got - expected).abs().max() <= SAME * size).item())
