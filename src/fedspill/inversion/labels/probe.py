"""What the label methods look at: the head's gradient, and the network's answers to the server's inputs."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.probing.head import Head, features_and_logits, last_linear
from fedspill.core.rng import randn
from fedspill.core.types import Params, Update
from fedspill.inversion.gradients.mean import client_path

PROBES = 64
"""How many inputs a white-box method passes through the network."""


@dataclass(frozen=True)
class Probe:
    """The network's answers to inputs that the server holds, in float64.

    Attributes:
        logits: that the network puts out.
        probabilities: softmax of the logits.
        feature_sums: the sum over the head's input, one number per example.
        smallest: the smallest feature seen.
        labels: of public data; None for noise.
    """

    logits: Float[Tensor, "m k"]
    probabilities: Float[Tensor, "m k"]
    feature_sums: Float[Tensor, " m"]
    smallest: float
    labels: Int[Tensor, " m"] | None


def probe(knowledge: ServerKnowledge, head: Head, params: Params, rng: torch.Generator) -> Probe:
    """Passes public data, or N(0, 1) noise without it, through the network with the given parameters."""
    model, public = knowledge.model, knowledge.public_data
    if public is None:
        z, labels = randn((PROBES, *model.input.encoded_shape), rng, model.like), None
    else:
        chosen = torch.randperm(len(public), generator=rng)[: 4 * PROBES]
        sample = public[chosen.to(public.labels.device)].to(model.like)
        z, labels = model.input.encode(sample.inputs), sample.labels
    features, logits = features_and_logits(model, params, z, head)
    return Probe(logits.double(), logits.double().softmax(1), features.double().sum(1), float(features.min()), labels)


def probe_path(update: Update, knowledge: ServerKnowledge, rng: torch.Generator) -> Probe:
    """`probe` averaged over the local steps: between the start and the end of a FedAvg client's path."""
    head, model = last_linear(knowledge.model), knowledge.model
    state = rng.get_state()
    first = probe(knowledge, head, model.params, rng)
    path = client_path(knowledge)
    if path is None or path.middle == 0:
        return first
    rng.set_state(state)  # the same inputs at both ends
    last = probe(knowledge, head, end_params(model, update), rng)
    return Probe(
        first.logits.lerp(last.logits, path.middle),
        first.probabilities.lerp(last.probabilities, path.middle),
        first.feature_sums.lerp(last.feature_sums, path.middle),
        min(first.smallest, last.smallest),
        first.labels,
    )


def end_params(model: Model, update: Update) -> Params:
    """The client's parameters after local training, from a delta."""
    return {k: v - update.values[k].to(v) if k in update.values else v for k, v in model.params.items()}


def nearest_counts(expected: Float[Tensor, " k"], num_examples: int) -> Int[Tensor, " n"]:
    """Labels whose counts are the integers nearest to `expected` (least squares) that sum to n.

    Giving out one example at a time to the class that lacks most is largest-remainder rounding where the
    expected counts sum to n, and also defined where they do not.
    """
    return greedy(-expected, -1.0, num_examples)


def greedy(scores: Tensor, impact: Tensor | float, number: int) -> Int[Tensor, " number"]:
    """Takes `number` times the smallest score, and the impact off the one that was taken."""
    scores, chosen = scores.clone(), list[Tensor]()
    impact_of = torch.as_tensor(impact).to(scores).expand_as(scores)
    for _ in range(number):
        chosen.append(scores.argmin())
        scores[chosen[-1]] -= impact_of[chosen[-1]]
    return torch.stack(chosen) if chosen else torch.zeros(0, dtype=torch.long, device=scores.device)


def rescaled(shown: Float[Tensor, " k"], expected: Float[Tensor, " k"], scaled: bool) -> Float[Tensor, " k"]:
    """A gradient of unknown scale brought to the scale of `expected`, its value for absent classes."""
    # Of unknown scale: positive entries belong to classes that are nearly all absent: shown = expected.
    if scaled:
        return shown
    positive = (shown > 0) & (expected > 0)
    return shown * expected[positive].sum() / shown[positive].sum().clamp_min(1e-300)
