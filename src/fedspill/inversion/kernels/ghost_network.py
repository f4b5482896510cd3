"""The cosine distance of a candidate's gradient without the gradient: from what its layers tell of it.

Six to seven convolutions of the network's size an iteration, instead of eight by plain double differentiation, none
of them over a graph of the weights; and several candidates in one batch, since no weight depends on them. They may be
candidates for different updates.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fedspill.core.local_training.update import FedSGD, encoded_update
from fedspill.core.model import Model
from fedspill.core.module.answers import logits_of
from fedspill.core.module.calling import only_reads, without_checkpoints
from fedspill.core.rng import randn, stream
from fedspill.core.types import Params
from fedspill.inversion.kernels.ghost_layers import GhostBatchNorm2d, GhostConv2d, GhostLinear, Tape
from fedspill.inversion.kernels.products import Products, cosine_of, formed
from fedspill.inversion.kernels.winograd_network import LARGE, VIEW

Labels = Tensor
"""Of r candidates with n examples: (r, n, ...), classes or class probabilities."""

SMALL = 1 << 14
"""Parameters of a tensor that is joined with others."""
CHECKED = 2
"""Examples by which a network is checked."""
TOLERANCE = 1e-3
"""Share by which the products may differ in the check; float32 is off by less than 1e-4."""

TAPPED: dict[type[nn.Module], Any] = {
    nn.Conv2d: GhostConv2d,
    nn.Linear: GhostLinear,
    nn.BatchNorm2d: GhostBatchNorm2d,
}


class GhostNetwork:
    """A network in eval mode with constant weights, beside observed gradients.

    Attributes:
        observed: (j, ...) each, of j updates; the first r / j of r candidates are compared with the first, and so on.
        others: trained parameters of layers without taps, whose gradients are formed as usual.
    """

    def __init__(self, model: Model, observed: Params) -> None:
        self.model, self.observed, self.tape = model, observed, Tape()
        self._agreements: dict[int, bool] = {}
        self.wanted = torch.stack([v.pow(2).reshape(len(v), -1).sum(1) for v in observed.values()]).sum(0)
        self.module = model.own_module()
        remaining = set(observed)
        for name, layer in self.module.named_modules():
            if type(layer) in TAPPED and _has_ghost(layer):
                names = [f"{name}.{end}" if name else end for end in ("weight", "bias")]
                tap = TAPPED[type(layer)](layer, *(observed.get(n) for n in names), self.tape)
                layer.forward = tap
                remaining -= set(names)
            if hasattr(layer, "inplace"):
                setattr(layer, "inplace", False)  # noqa: B010 - a point must stay as it was noted
        parameters = dict(self.module.named_parameters())
        self.others = {k: parameters[k].requires_grad_() for k in observed if k in remaining}

    def close(self) -> None:
        """Takes the taps off for good: with them layers hold themselves, and the observed gradients, in a circle."""
        for layer in self.module.modules():
            layer.__dict__.pop("forward", None)

    @property
    def pays(self) -> bool:
        """Whether one candidate by itself is cheaper this way: the taps' own calls cost more on a small network."""
        like = next(iter(self.observed.values()))
        return like.is_cuda or sum(v[0].numel() for v in self.observed.values()) >= LARGE

    def agrees(self, labels: Labels) -> bool:
        """Whether what the layers tell is true of this network; it is not where a weight is used outside its layer.

        Args:
            labels: of the candidates by which it is checked.
        """
        if len(labels) not in self._agreements:
            self._agreements[len(labels)] = self._measured(labels.detach()[:, :CHECKED])
        return self._agreements[len(labels)]

    def stackable(self, labels: Labels) -> bool:
        """Whether these candidates may share a batch: no layer mixes examples; the loss has to be asked besides."""
        return not self.others and self.agrees(labels)

    def _measured(self, labels: Tensor) -> bool:
        z = randn((*labels.shape[:2], *self.model.input.encoded_shape), stream(0, "taps"), self.model.like)
        training, runs = FedSGD(trainable=tuple(self.observed)), len(z) // len(self.wanted)
        guesses = [encoded_update(self.model, *one, training).values for one in zip(z, labels, strict=True)]
        norms = torch.stack([torch.stack([g.pow(2).sum() for g in guess.values()]).sum() for guess in guesses])
        dots = torch.stack(
            [
                torch.stack([(g * self.observed[k][i // runs]).sum() for k, g in guess.items()]).sum()
                for i, guess in enumerate(guesses)
            ]
        )
        before = {k: v.clone() for k, v in self.module.named_buffers()}
        dot, norm = self.products(z.requires_grad_(), labels).detach()
        if not all(torch.equal(v, before[k]) for k, v in self.module.named_buffers()):
            return False  # one call would tell on the next
        observed = self.wanted.repeat_interleave(runs)
        off = (dot - dots).abs() / (norms * observed).sqrt() + (norm - norms).abs() / norms
        return bool((off < TOLERANCE).all())

    def products(self, z: Float[Tensor, "r n ..."], labels: Labels) -> Products:
        """The product of each of r candidates' gradients with its observed one, and its squared norm."""
        try:
            return self._products(z, labels)
        except RuntimeError as error:
            if VIEW not in str(error) or self.tape.contiguous:
                raise
        self.tape.contiguous = True
        return self._products(z, labels)

    def _products(self, z: Tensor, labels: Tensor) -> Products:
        tape = self.tape
        tape.stack = len(z)
        try:
            # Layers called again in the backward pass would be noted again.
            with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), without_checkpoints():
                self._read(z, labels)
                return _sum(tape)
        finally:
            for notes in (tape.tensors, tape.readings, tape.formed, tape.products):
                notes.clear()

    def _read(self, z: Tensor, labels: Tensor) -> None:
        tape, others = self.tape, list(self.others.values())
        examples = z.flatten(0, 1)
        logits = logits_of(self.module(examples if only_reads(self.model.module) else examples.clone()))
        # The mean over all, times their number, is the sum of the candidates' means; who stacks asks the loss.
        loss = self.model.loss_fn(logits, labels.flatten(0, 1)) * len(z)
        gradients: Any = torch.autograd.grad(loss, [*tape.tensors, *others], create_graph=True, allow_unused=True)
        for reading, gradient in zip(tape.readings, gradients, strict=False):
            if gradient is not None:
                reading(gradient)
        for name, gradient in zip(self.others, gradients[len(tape.readings) :], strict=True):
            if gradient is not None:
                tape.form(gradient[None], self.observed[name])

    def distances(self, z: Float[Tensor, "r n ..."], labels: Labels) -> Float[Tensor, " r"]:
        """1 - cosine for every candidate, differentiable once."""
        dot, norm = self.products(z, labels).unflatten(1, (len(self.wanted), -1))
        return cosine_of(dot, norm, self.wanted[:, None]).flatten()


def _sum(tape: Tape) -> Products:
    """The sum of all products on the tape; the many small gradients go together, as their calls would take longest."""
    small = [(g, o) for g, o in tape.formed if g.shape[1] <= SMALL]
    terms = [*tape.products, *(formed(g, o) for g, o in tape.formed if g.shape[1] > SMALL)]
    if small:
        gradients, observed = zip(*small, strict=True)
        terms.append(formed(torch.cat(gradients, 1), torch.cat(observed, 1)))
    return torch.stack(terms).sum(0)


def _has_ghost(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return not isinstance(layer.padding, str)
    return not isinstance(layer, nn.BatchNorm2d) or (layer.running_mean is not None and layer.affine)
