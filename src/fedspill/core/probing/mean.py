"""Whether the loss of a batch is the mean of its examples' own, or of its parts', found by trying."""

from collections.abc import Hashable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fedspill.core.model import Model
from fedspill.core.probing.inputs import probe_inputs, random_like

KINDS, FIRST = 64, 4
"""Examples of different labels, and of whatever labels, by which a loss is tried, at most."""
ON_GPU = 3e-3
"""Share by which a GPU's rounding may depend on the size of the batch."""


_found: WeakKeyDictionary[nn.Module, dict[Hashable, bool]] = WeakKeyDictionary()
"""By network, loss, and kinds of labels."""


def is_mean_of_examples(model: Model, labels: Tensor) -> bool:
    """Whether loss and gradient of examples with such labels are the means of the single examples' own.

    Not with batch statistics (BatchNorm in train mode, or without running ones) or dropout, nor with class weights that
    differ, sums, losses of pairs, or labels that are ignored. Then neither micro-batches nor the examples of several
    clients may be put together; and whoever may not asks for each by itself.

    Args:
        model: in the mode in which it is run.
        labels: (n, ...), of any kind that the loss takes.
    """
    known = _found.setdefault(model.module, {})
    kinds = None if labels.is_floating_point() else tuple(labels.unique().tolist())
    key = (model.loss_fn, labels.shape, labels.dtype, kinds)
    try:
        if key not in known:
            known[key] = _tried(model, labels)
        return known[key]
    except TypeError:  # a loss that has no hash
        return _tried(model, labels)


def is_mean_of_batches(model: Model, labels: Tensor) -> bool:
    """Whether the loss of r batches in one is the mean of theirs, by value and gradient at arbitrary logits.

    So it is of class weights where all batches have the same labels; not of sums, of the worst examples of a batch, or
    of pairs.

    Args:
        labels: (r, n, ...), of any kind that the loss takes.
    """
    known = _found.setdefault(model.module, {})
    same = bool((labels == labels[:1]).all())
    kinds = None if labels.is_floating_point() else tuple((labels[:1] if same else labels).flatten().tolist())
    key = (model.loss_fn, "batches", labels.shape, labels.dtype, kinds)
    try:
        if key not in known:
            known[key] = _adds_up(model, labels.detach())
        return known[key]
    except TypeError:  # a loss that has no hash
        return _adds_up(model, labels.detach())


def _adds_up(model: Model, labels: Tensor) -> bool:
    with torch.no_grad():
        shape = model.in_eval_mode().logits(model.params, probe_inputs(model.input, 1, model.like)).shape[1:]
    drawn = random_like(model.like.new_empty(*labels.shape[:2], *shape), "batches")
    # Batches of unlike size, so that what chooses among examples chooses unevenly.
    scale = torch.linspace(0.3, 3.0, len(labels)).to(drawn).reshape(-1, *(1 for _ in drawn.shape[1:]))
    logits = (scale * drawn).requires_grad_()
    try:
        with torch.enable_grad():
            whole = model.loss_fn(logits.flatten(0, 1), labels.flatten(0, 1))
            each = torch.stack([model.loss_fn(*one) for one in zip(logits, labels, strict=True)]).mean()
        return _agree(whole, each, logits)
    except (RuntimeError, ValueError, IndexError):
        return False


def _tried(model: Model, labels: Tensor) -> bool:
    try:
        with torch.random.fork_rng(devices=[]):  # dropout in train mode draws
            return not _mixes_examples(model) and _is_mean(model, _chosen(labels.detach()))
    except (RuntimeError, ValueError, IndexError):  # BatchNorm or a loss that takes no single example
        return False


def _mixes_examples(model: Model) -> bool:
    z = probe_inputs(model.input, 3, model.like)
    with torch.no_grad():
        together = model.logits(model.params, z)
        apart = torch.cat([model.logits(model.params, one[None]) for one in z])
    return not _close(together, apart)


def _chosen(labels: Tensor) -> Tensor:
    """One example of each kind of label, and the first ones."""
    kinds, inverse = labels.unique(dim=0, return_inverse=True)
    order = torch.arange(len(labels) - 1, -1, -1, device=labels.device)
    first = torch.zeros(len(kinds), dtype=torch.long, device=labels.device).scatter_(0, inverse[order], order)
    return torch.cat([labels[first[:KINDS]], labels[:FIRST]])


def _is_mean(model: Model, labels: Tensor) -> bool:
    with torch.no_grad():
        shape = model.logits(model.params, probe_inputs(model.input, 2, model.like)).shape[1:]
    logits = random_like(model.like.new_empty(len(labels), *shape), "loss").requires_grad_()
    with torch.enable_grad():
        whole = model.loss_fn(logits, labels)
        each = torch.stack([model.loss_fn(logits[i : i + 1], labels[i : i + 1]) for i in range(len(labels))]).mean()
    return _agree(whole, each, logits)


def _agree(one: Tensor, two: Tensor, logits: Tensor) -> bool:
    gradients = [torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (one, two)]
    return _close(one.detach(), two.detach()) and _close(*gradients)


def _close(a: Tensor, b: Tensor) -> bool:
    """Equal up to rounding; what is not finite is not."""
    tolerance = torch.finfo(a.dtype).eps ** 0.5
    return bool((a - b).norm() <= (max(tolerance, ON_GPU) if a.is_cuda else tolerance) * b.norm())
