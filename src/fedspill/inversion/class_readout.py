"""Reads one mean input per class out of a classification layer's gradient."""

import torch

from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.types import Reconstruction, Update
from fedspill.inversion.candidates import ONE_EXAMPLE
from fedspill.inversion.layer_gradient import Layer, known_labels, layer_gradient
from fedspill.inversion.linear_leakage import class_means
from fedspill.inversion.mean_gradient import one_step


def by_class(
    update: Update,
    knowledge: ServerKnowledge,
    layer: Layer,
    rng: torch.Generator,
) -> Reconstruction | None:
    """Mean inputs of a classification layer, one per class that is present; exact if the head is flat.

    Returns:
        `inputs` are the layer's inputs in float64, flat; None if labels cannot be had or no class is absent.
    """
    labels = known_labels(update, knowledge, rng, knowledge.num_examples)
    gradient = layer_gradient(update, knowledge, layer)
    if labels is None:
        return None
    counts = torch.bincount(labels.values, minlength=len(gradient.bias)).to(gradient.bias.device)
    try:
        means, residual = class_means(gradient.weight, gradient.bias, counts)
    except NotApplicable:
        return None
    number = counts[counts > 0]
    # Wrong counts give some class a mean probability below zero, since they all add up to one.
    plausible = bool((gradient.bias + counts / counts.sum() > -1e-6).all())
    exact = residual < ONE_EXAMPLE and plausible and one_step(update, knowledge)
    alone = int((number == 1).sum())
    trust = max(0.0, 1.0 - residual) if exact else 0.5 * max(0.0, 1.0 - residual)
    return Reconstruction(
        inputs=means,
        labels=counts.nonzero()[:, 0],
        label_method=labels.method,
        confidence=(trust / number.double()).float(),
        converged=exact and alone > 0,
        notes=(
            f"{alone} classes hold one example; the others are read as the mean of their examples. Rows of"
            f" absent classes disagree by {residual:.1e}; below {ONE_EXAMPLE:g}, and for a single gradient,"
            " the formula is exact.",
        ),
    )
