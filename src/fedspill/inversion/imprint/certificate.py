"""The share test: would a candidate send the number that was observed? It tells single examples in any data.

The share c of one example is the derivative of its own loss by the output of the planted rows. The server knows the
network, so it can compute c for a candidate and each label; the mean of several examples sends another number. VGIA
(Diana et al. 2026, arXiv:2604.15063) certifies single records of tables in another way, by a test of subspaces.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.types import Update
from fedspill.inversion.gradients.losses import is_cross_entropy
from fedspill.inversion.gradients.mean import one_step
from fedspill.inversion.gradients.scale import Multiple
from fedspill.inversion.labels.known import Labels, known_labels
from fedspill.inversion.labels.scale import head_multiple
from fedspill.inversion.network.layers import layer_at
from fedspill.inversion.network.trace import probe_inputs

CLOSE = 1e-4
"""Relative error of the share up to which a candidate accounts for its bin."""
MOST_CLASSES = 20
"""Labels that are all tried where nothing is known of them; with more, some would fit any number."""
CHUNK = 16
MOST_ASKED = 64
"""Candidates that tell by what the update is a multiple of the mean gradient."""

Accounts = Callable[[Float[Tensor, "m f"], Float[Tensor, " m"]], Bool[Tensor, " m"]]
"""Candidates and their observed shares to whether one example accounts for them."""
Seen = Callable[[], tuple[Float[Tensor, "m f"], Float[Tensor, " m"]]]
"""All candidates with their shares."""


@dataclass(frozen=True)
class Outlet:
    """The modules that the planted rows go on to.

    Attributes:
        enter: name of the module that gets the features.
        leave: name of the module on whose output, (n, ...), all rows with bins act alike.
        direction: by what a row's activation of 1 changes that output, flat.
    """

    enter: str
    leave: str
    direction: Float[Tensor, " out"]


def share_test(
    update: Update, knowledge: ServerKnowledge, outlet: Outlet, rng: torch.Generator, seen: Seen
) -> Accounts | None:
    """The test, None where shares cannot be computed: several local steps, batch statistics, another loss, no n.

    Shares are those of the mean gradient, or of one multiple of it (see `_multiple`).

    Args:
        seen: all candidates; asked once, when the test is asked first.
    """
    model, n = knowledge.model, knowledge.num_examples
    if n is None or model.training or not one_step(update, knowledge) or not is_cross_entropy(model):
        return None
    labels = _labels(update, knowledge, rng, n)
    if labels is None:
        return None

    @cache
    def multiple() -> float:
        told, likely = head_multiple(update, knowledge), known_labels(update, knowledge, rng, n)
        return _multiple(_Shares.of(model, outlet, seen, n), labels, likely, told)

    def accounts(features: Float[Tensor, "m f"], shares: Float[Tensor, " m"]) -> Bool[Tensor, " m"]:
        if not len(features):
            return shares.new_zeros(0, dtype=torch.bool)
        parts = zip(features.split(CHUNK), shares.split(CHUNK), strict=True)
        return torch.cat([_fits(predicted_shares(model, outlet, f)[:, labels], n * c / multiple()) for f, c in parts])

    return accounts


def _labels(update: Update, knowledge: ServerKnowledge, rng: torch.Generator, n: int) -> Tensor | None:
    if knowledge.labels is not None:
        return knowledge.labels.unique()
    classes = knowledge.model.logits(
        knowledge.model.params, probe_inputs(knowledge.model.input, 2, knowledge.model.like)
    )
    if classes.ndim == 2 and classes.shape[1] <= MOST_CLASSES:
        return torch.arange(classes.shape[1], device=classes.device)
    labels = known_labels(update, knowledge, rng, n)
    return None if labels is None else labels.values.unique()


def _fits(predicted: Float[Tensor, "m k"], observed: Float[Tensor, " m"]) -> Bool[Tensor, " m"]:
    gap = (predicted - observed[:, None]).abs().amin(1)
    return gap <= CLOSE * observed.abs()


@dataclass(frozen=True)
class _Shares:
    """The largest shares, as they were observed and as they are predicted for every class.

    Attributes:
        observed: n times c.
    """

    observed: Float[Tensor, " m"]
    predicted: Float[Tensor, "m classes"]

    @classmethod
    def of(cls, model: Model, outlet: Outlet, seen: Seen, n: int) -> "_Shares":
        features, shares = seen()
        largest = shares.abs().argsort(descending=True)[:MOST_ASKED]
        parts = [predicted_shares(model, outlet, f) for f in features[largest].split(CHUNK)]
        return cls(n * shares[largest], torch.cat(parts) if parts else shares.new_zeros(0, 1))


def _multiple(shares: _Shares, labels: Tensor, likely: Labels | None, told: Multiple | None) -> float:
    """By what the update is a multiple of the mean gradient; 1 unless candidates tell another factor.

    A free factor and a free label fit any single number. So the classification layer must tell the factor exactly, or
    allow the one on which half of the candidates agree, with labels that the update itself shows.
    """
    if not len(shares.observed) or bool(_fits(shares.predicted[:, labels], shares.observed).any()):
        return 1.0
    if told is None or likely is None:
        return 1.0
    factors = (shares.observed[:, None] / shares.predicted[:, likely.values.unique()]).flatten()
    allowed = [float(f) for f in factors if f > 0 and told.allows(float(f))]
    agreeing = {f: int(_fits(shares.predicted[:, likely.values.unique()], shares.observed / f).sum()) for f in allowed}
    best = max(agreeing, key=agreeing.__getitem__, default=1.0)
    enough = 1 if told.exact else max(2, len(shares.observed) / 2)
    return best if agreeing.get(best, 0) >= enough else 1.0


def predicted_shares(model: Model, outlet: Outlet, features: Float[Tensor, "m f"]) -> Float[Tensor, "m classes"]:
    """The derivative of a candidate's own loss by the output of its rows, for every label, in float64.

    Cross-entropy with label y has the derivative sum_k p_k J_k - J_y, J that of the logits.
    """
    exact = model.to(model.like.device, torch.float64).in_eval_mode()
    z = probe_inputs(exact.input, len(features), exact.like)
    direction, given = outlet.direction.to(exact.like), features.to(exact.like)

    def entering(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return module.forward(given.view(len(given), *inputs[0].shape[1:]))

    def logits(t: Tensor) -> Tensor:
        def leaving(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output + (t[:, None] * direction).view_as(output)

        # Hooks run in the order in which they are registered.
        hooks = ((outlet.enter, entering), (outlet.leave, leaving))
        handles = [layer_at(exact, name).register_forward_hook(hook) for name, hook in hooks]
        try:
            return exact.logits(exact.params, z)
        finally:
            for handle in handles:
                handle.remove()

    # A forward derivative by two backward ones: the vector-Jacobian product is linear in its vector.
    start = torch.zeros_like(given[:, 0]).requires_grad_()
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        values = logits(start)
        vector = torch.zeros_like(values).requires_grad_()
        (product,) = torch.autograd.grad(values, start, vector, create_graph=True)
        (slopes,) = torch.autograd.grad(product.sum(), vector)
    return (values.detach().softmax(1) * slopes).sum(1, keepdim=True) - slopes
