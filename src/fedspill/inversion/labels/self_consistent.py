"""Label counts from the private examples' own softmax outputs, which the head's gradient shows. Own method."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.inversion.gradients.head import ClassifierGradient
from fedspill.inversion.gradients.linear import layer_input
from fedspill.inversion.labels.probe import nearest_counts, rescaled

ROUNDS, INNER = 30, 3


def self_consistent(gradient: ClassifierGradient, start: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Counts n_c = n (pbar_c - b_c) with pbar of the private examples instead of the server's own inputs.

    Given counts, the rows of absent classes show the mean feature and the rows of present ones the mean feature
    of each class; the head turns these into softmax outputs, and their mean gives counts again. Labels that
    reproduce themselves are kept. Features of one class are treated as equal.

    Args:
        gradient: of a head with a bias, whose output are the logits.
        start: labels to begin with.

    Raises:
        NotApplicable: the head has no bias.
    """
    bias, n = gradient.bias(), gradient.num_examples
    if gradient.offset is None:
        raise NotApplicable("self_consistent needs the bias of the head")
    labels, seen = start.sort().values, set[tuple[int, ...]]()
    for _ in range(ROUNDS):
        counts = torch.bincount(labels, minlength=len(bias))
        seen.add(tuple(labels.tolist()))
        if bool((counts > 0).all()) or not float(bias[counts == 0].square().sum()) > 0:
            return labels  # no absent class shows the mean feature
        expected = _mean_softmax(gradient, bias, counts)
        shown = rescaled(bias, expected, gradient.scaled)
        labels = nearest_counts(n * (expected - shown), n).sort().values
        if tuple(labels.tolist()) in seen:
            break
    return labels


def _mean_softmax(
    gradient: ClassifierGradient, bias: Float[Tensor, " k"], counts: Int[Tensor, " k"]
) -> Float[Tensor, " k"]:
    rows, present, absent = gradient.rows(), counts > 0, counts == 0
    share = (counts[present].double() / gradient.num_examples)[:, None]
    mean = layer_input(rows[absent], bias[absent])
    # First as if every example's softmax output were the same, then with the outputs that this implies.
    mixed = (bias[present][:, None] + share) * mean
    for _ in range(INNER):
        features = (mixed - rows[present]) / share
        outputs = _softmax(gradient, features)
        mixed = (outputs[:, present] * share).T @ features
    outputs = _softmax(gradient, (mixed - rows[present]) / share)
    return (outputs * share).sum(0)


def _softmax(gradient: ClassifierGradient, features: Float[Tensor, "m d"]) -> Float[Tensor, "m k"]:
    logits = features @ gradient.weight.T
    return (logits if gradient.offset is None else logits + gradient.offset).softmax(1)
