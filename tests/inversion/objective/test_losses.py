"""Gradient matching under losses that are no mean over examples, against double backward of bare PyTorch."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.local_training.losses import BinaryCrossEntropy, CrossEntropy, Focal, MeanSquaredError, Mixture
from fedspill.core.local_training.update import FedSGD
from fedspill.core.model import Model
from fedspill.core.rng import randn, stream
from fedspill.core.types import LossFn, Update, UpdateKind
from fedspill.inversion.kernels.ghost_network import GhostNetwork
from fedspill.inversion.objective.distances import DISTANCES
from fedspill.inversion.objective.matching import Matching
from fedspill.inversion.objective.stacked import MatchingMany
from tests.support.worlds import CLASSES, SPEC, draw_weights

DOUBLE = torch.float64
LIKE = torch.zeros((), dtype=DOUBLE)
EACH = 6
"""Examples of a client."""
WEIGHTS = tuple(torch.linspace(0.2, 3.0, CLASSES).tolist())


def hardest(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over the worse half of a batch."""
    return functional.cross_entropy(logits, labels, reduction="none").topk(max(1, len(logits) // 2)).values.mean()


def pairs(logits: Tensor, labels: Tensor) -> Tensor:
    """Examples of one batch are pushed apart, beside cross-entropy."""
    return functional.cross_entropy(logits, labels) + 0.1 * (logits[:, None] - logits).square().mean()


def of_four(logits: Tensor, labels: Tensor) -> Tensor:
    """The worst four of a batch count, or all that there are."""
    each = functional.cross_entropy(logits, labels, reduction="none")
    return each.topk(min(4, len(each))).values.mean()


LOSSES: dict[str, LossFn] = {
    "weights": CrossEntropy(weight=WEIGHTS),
    "smoothing and weights": CrossEntropy(label_smoothing=0.1, weight=WEIGHTS),
    "focal": Focal(gamma=2.0, weight=WEIGHTS),
    "logistic": BinaryCrossEntropy(pos_weight=WEIGHTS),
    "squared": MeanSquaredError(),
    "mixture": Mixture(((0.3, CrossEntropy(weight=WEIGHTS)), (0.7, Focal()))),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "ignored label": nn.CrossEntropyLoss(ignore_index=3),
    "hardest half": hardest,
    "four of a batch": of_four,
    "pairs": pairs,
}


def labels_of(name: str, update: int, clients: int) -> Tensor:
    rng = stream(update, "labels")
    if name == "logistic":
        return torch.randint(2, (clients * EACH, CLASSES), generator=rng).to(DOUBLE)
    return torch.randperm(clients * EACH, generator=rng) % CLASSES


def model_of(loss: LossFn) -> Model:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(64, CLASSES))
    return replace(Model.of(draw_weights(net), SPEC).to("cpu", DOUBLE), loss_fn=loss)


def bare(model: Model, z: Tensor, labels: Tensor, clients: int, *, graph: bool = False) -> dict[str, Tensor]:
    """The mean of the clients' gradients, each of its own batch."""
    net = model.own_module()
    named = {k: v.requires_grad_() for k, v in net.named_parameters()}
    shares = [
        torch.autograd.grad(model.loss_fn(net(x), y), list(named.values()), create_graph=graph)
        for x, y in zip(z.chunk(clients), labels.chunk(clients), strict=True)
    ]
    return {k: torch.stack(g).mean(0) for k, g in zip(named, zip(*shares, strict=True), strict=True)}


def bare_distance(model: Model, z: Tensor, labels: Tensor, clients: int, observed: dict[str, Tensor]) -> Tensor:
    guess = bare(model, z, labels, clients, graph=True)
    flat, wanted = (torch.cat([v[k].flatten() for k in observed]) for v in (guess, observed))
    return 1 - functional.cosine_similarity(flat, wanted, dim=0)


@pytest.fixture(params=["by layers", "by differentiation"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks take the way of large ones, or the plain one."""
    monkeypatch.setattr(GhostNetwork, "pays", property(lambda _: request.param == "by layers"))


def examples(count: int, name: str) -> Tensor:
    return randn((count, *SPEC.shape), stream(0, name), LIKE)


def assert_right(found: Callable[[Tensor], Tensor], wanted: Callable[[Tensor], Tensor], z: Tensor) -> None:
    """Values and their gradients."""
    leaves = [z.clone().requires_grad_() for _ in range(2)]
    values = [f(leaf) for f, leaf in zip((found, wanted), leaves, strict=True)]
    torch.testing.assert_close(values[0], values[1], rtol=1e-9, atol=1e-11)
    factors = torch.linspace(1.0, 2.0, values[0].numel(), dtype=DOUBLE)
    slopes = [
        torch.autograd.grad((v.flatten() * factors).sum(), leaf)[0] for v, leaf in zip(values, leaves, strict=True)
    ]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-8, atol=1e-9 * float(slopes[1].abs().max()))


@pytest.mark.parametrize("clients", [1, 2])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.usefixtures("way")
def test_one_update_is_matched_as_its_loss_says(name: str, clients: int) -> None:
    model, labels, truth = model_of(LOSSES[name]), labels_of(name, 0, clients), examples(clients * EACH, "truth")
    observed = bare(model, truth, labels, clients)
    matching = Matching(model, Update(UpdateKind.GRADIENT, observed), FedSGD(), clients, DISTANCES["cosine"])
    assert float(matching(truth, labels).abs()) < 1e-12
    z = examples(clients * EACH, "z")
    assert_right(lambda x: matching(x, labels), lambda x: bare_distance(model, x, labels, clients, observed), z)
    stack = torch.stack([z, examples(clients * EACH, "other"), truth])
    assert_right(
        lambda x: matching.each(x, labels),
        lambda x: torch.stack([bare_distance(model, one, labels, clients, observed) for one in x]),
        stack,
    )


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("name", LOSSES)
def test_many_updates_that_are_stacked_are_matched_as_their_loss_says(name: str, runs: int) -> None:
    model, labels = model_of(LOSSES[name]), torch.stack([labels_of(name, j, 1) for j in range(3)])
    truths = [examples(EACH, f"truth {j}") for j in range(3)]
    observed = [bare(model, z, y, 1) for z, y in zip(truths, labels, strict=True)]
    many = MatchingMany(model, tuple(observed), labels, runs)
    z = torch.stack([examples(EACH, f"z {i}") for i in range(3 * runs)])
    assert name not in ("focal", "squared", "logistic") or many.stacks, "a mean over examples"
    if not many.stacks:
        return  # the jobs are searched one by one
    assert_right(
        many.each,
        lambda x: torch.stack(
            [bare_distance(model, one, labels[i // runs], 1, observed[i // runs]) for i, one in enumerate(x)]
        ),
        z,
    )
