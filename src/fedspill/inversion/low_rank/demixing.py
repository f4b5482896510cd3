"""MixUp undone: whoever reads all mixtures of a batch reads the examples, where no class comes twice.

Of cross-entropy the head's gradient is the mean over the mixtures of (p - y) [h, 1]^T. With the mixtures a server
computes p and h, and solves for the soft targets y, which hold each mixture's coefficients, summed by class. Where
every example has a class of its own these are the coefficients, and the mixtures are a linear map of the examples.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.probing.head import Head, last_linear
from fedspill.core.types import Mark, Reconstruction, Update
from fedspill.inversion.gradients.losses import is_cross_entropy
from fedspill.inversion.gradients.mean import mean_gradient, one_step
from fedspill.inversion.network.layers import layer_inputs

FITS = 1e-3
"""Of the head's gradient, what the soft targets may leave open."""
NOTHING = 1e-3
"""A coefficient that is 0."""
WORST = 1e3
"""Condition of the coefficients beyond which the mixtures leave some of the examples open, or their rounding does."""
BEYOND = 0.05
"""Of the valid range, by which an example that was solved for may leave it."""
UNDONE = "The mixtures were told apart: the head's gradient holds their soft targets, and these every coefficient."
REPEATED = (
    "The mixtures could not be told apart: several examples share a class, so that the soft targets hold their"
    " coefficients only together. Mixtures are not the examples themselves."
)
DEPENDENT = (
    "The mixtures could not be told apart: some are combinations of others, so that they leave examples open. Mixtures"
    " are not the examples themselves."
)
MIXTURES = "These are mixtures, and not the examples themselves: not all were read exactly, so that they stay mixed."


def demixed(read: Reconstruction, update: Update, knowledge: ServerKnowledge) -> Reconstruction:
    """The examples where the mixtures tell them, with their classes; else what was read, with the reason.

    Args:
        read: as many mixtures as there are examples.
        update: of one local step.
        knowledge: of the server, MixUp among it; without it nothing is changed.
    """
    known, n = knowledge.defence, knowledge.num_examples
    if known is None or known.mixed is None or n is None or not isinstance(knowledge.model.input, ImageSpec):
        return read
    targets = _soft_targets(read, update, knowledge) if len(read.inputs) == n else None
    if targets is None:
        return replace(read, notes=(*read.notes, MIXTURES))
    present = (targets.abs() > NOTHING).any(0).nonzero()[:, 0]
    if len(present) != n:
        return replace(read, notes=(*read.notes, REPEATED))
    shares = targets[:, present]
    if not float(torch.linalg.cond(shares)) < WORST:
        return replace(read, notes=(*read.notes, DEPENDENT))
    solved = torch.linalg.lstsq(shares, read.inputs.flatten(1).to(shares)).solution
    low, high = knowledge.model.input.bounds
    slack = BEYOND * (high - low)
    if not bool(solved.isfinite().all()) or float(solved.min()) < low - slack or float(solved.max()) > high + slack:
        return replace(read, notes=(*read.notes, MIXTURES))
    marks: tuple[Mark, ...] = ("unsure",) * n
    return replace(
        read,
        inputs=solved.view_as(read.inputs).to(read.inputs),
        labels=present.to(read.inputs.device),
        label_method="soft targets",
        confidence=read.inputs.new_full((n,), 0.5),
        converged=True,
        notes=(*read.notes, UNDONE),
        marks=marks if read.marks else (),
        origins=(),
    )


def _soft_targets(read: Reconstruction, update: Update, knowledge: ServerKnowledge) -> Float[Tensor, "n k"] | None:
    """Of every mixture, float64; None where the mixtures that were read do not explain the head's gradient."""
    model = knowledge.model
    try:
        head = last_linear(model)
        if not is_cross_entropy(model) or not one_step(update, knowledge):
            return None
        gradient, seen, logits = _of_head(head, model, read.inputs, update, knowledge)
    except NotApplicable:
        return None
    if seen.shape[1] < len(seen):
        return None  # the head sees less than there are mixtures: many soft targets fit its gradient
    solution = torch.linalg.lstsq(seen.T, len(read.inputs) * gradient.T)  # seen^T (p - y) = n dW^T
    off = seen.T @ solution.solution - len(read.inputs) * gradient.T
    if float(off.norm()) > FITS * len(read.inputs) * float(gradient.norm()):
        return None
    targets = logits.softmax(1) - solution.solution
    whole = (targets.sum(1) - 1).abs().max() < NOTHING and targets.min() > -NOTHING
    return targets if bool(whole) else None


def _of_head(
    head: Head, model: Model, inputs: Tensor, update: Update, knowledge: ServerKnowledge
) -> tuple[Tensor, Tensor, Tensor]:
    """The head's mean gradient (k, d), with its bias's as a last column; what enters it (n, d) likewise; the logits."""
    names = [head.weight] if head.bias is None else [head.weight, head.bias]
    mean = mean_gradient(update, knowledge, names)
    if not mean.scaled or any(name not in mean.values for name in names):
        raise NotApplicable("the head's gradient was not sent, or up to a factor")
    z = model.input.encode(inputs.to(model.like))
    seen = layer_inputs(model, head.name, z).double().flatten(1)
    gradient = head.rows(mean.values[head.weight])
    if head.bias is not None:
        gradient = torch.cat([gradient, mean.values[head.bias][:, None]], 1)
        seen = torch.cat([seen, torch.ones_like(seen[:, :1])], 1)
    with torch.no_grad():
        return gradient, seen, model.logits(model.params, z).double()
