"""Labels under losses other than plain cross-entropy: read right, or refused in one line."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.attacks.dlg import DLG
from fedspill.attacks.inverting_gradients import InvertingGradients
from fedspill.attacks.linear_layer import LinearLayer
from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.settings import with_fields
from fedspill.core.types import Batch, LossFn
from fedspill.inversion.gradients.losses import evidence, is_cross_entropy, logit_gradients
from fedspill.inversion.labels.methods import NEEDS, default_method, infer

SPEC = ImageSpec((3, 8, 8))
CLASSES = 20
WEIGHTS = torch.rand(CLASSES, generator=stream(0, "class weights")) + 0.2


def focal(logits: Tensor, labels: Tensor) -> Tensor:
    chosen = logits.log_softmax(1).gather(1, labels[:, None])[:, 0]
    return (-((1 - chosen.exp()) ** 2) * chosen).mean()


def one_hot(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.one_hot(labels, logits.shape[1]).to(logits)


LOSSES: dict[str, LossFn] = {
    "renamed": lambda z, y: functional.cross_entropy(z, y),
    "smoothed": lambda z, y: functional.cross_entropy(z, y, label_smoothing=0.1),
    "weighted": lambda z, y: functional.cross_entropy(z, y, weight=WEIGHTS),
    "both": lambda z, y: functional.cross_entropy(z, y, weight=WEIGHTS.to(z), label_smoothing=0.2),
    "summed": lambda z, y: functional.cross_entropy(z, y, reduction="sum"),
    "focal": focal,
    "squared": lambda z, y: functional.mse_loss(z, one_hot(z, y)),
    "logistic": lambda z, y: functional.binary_cross_entropy_with_logits(z, one_hot(z, y)),
}


def network(loss: LossFn, outputs: int = CLASSES, *, bias: bool = True, seed: int = 0) -> Model:
    module = nn.Sequential(
        nn.Flatten(),
        nn.Linear(192, 64, device="meta"),
        nn.ReLU(),
        nn.Linear(64, outputs, bias=bias, device="meta"),
    )
    rng = stream(seed, "losses", "net")
    params = {
        k: (torch.rand(p.shape, generator=rng) * 2 - 1) / p[0].numel() ** 0.5 for k, p in module.named_parameters()
    }
    return Model(module, params, {}, loss, SPEC)


def images(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, *SPEC.shape, generator=stream(seed, "losses", "data"))


def labels_of(kind: str, seed: int) -> Tensor:
    rng = stream(seed, "losses", kind)
    if kind == "repeated":
        return torch.tensor([2, 2, 2, 7, 7, 11, 5, 0])
    return torch.randperm(CLASSES, generator=rng)[: 1 if kind == "one" else 8]


@pytest.mark.parametrize("kind", ["one", "distinct", "repeated"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("loss", LOSSES)
def test_labels_are_read_whatever_the_loss(loss: str, bias: bool, kind: str) -> None:
    for seed in range(2):
        model, labels = network(LOSSES[loss], bias=bias, seed=seed), labels_of(kind, seed)
        update = local_update(model, Batch(images(len(labels), seed), labels), FedSGD())
        knowledge = ServerKnowledge(model, num_examples=len(labels))
        method = default_method(update, knowledge, len(labels))
        assert (method == "fitted") == (loss != "renamed")
        got = infer(method, update, knowledge, len(labels), stream(seed, "a"))
        assert got.tolist() == sorted(labels.tolist())


@pytest.mark.parametrize("loss", LOSSES)
def test_the_evidence_is_that_of_the_derivative(loss: str) -> None:
    found = evidence(network(LOSSES[loss]))
    assert found.exact == (loss == "renamed") == is_cross_entropy(network(LOSSES[loss]))
    assert found.separable
    assert found.even == (loss not in {"weighted", "both", "summed"})
    # Much smoothing pushes classes down that the network holds for unlikely.
    assert found.opposed == (loss not in {"squared", "both"})
    z = torch.randn(1, CLASSES, generator=stream(0, "z"), dtype=torch.float64)
    alone = logit_gradients(found.loss_fn, z.expand(CLASSES, -1), torch.arange(CLASSES))
    torch.testing.assert_close(found.derivatives(z)[0], alone, rtol=1e-4, atol=1e-7)
    shares = WEIGHTS.double() / WEIGHTS.mean() if loss in {"weighted"} else None
    if shares is not None:
        torch.testing.assert_close(found.weights(), shares, rtol=1e-4, atol=0)


def test_methods_that_do_not_fit_the_loss_are_refused() -> None:
    labels = labels_of("distinct", 0)
    for loss in ("smoothed", "weighted", "squared"):
        model = network(LOSSES[loss])
        update = local_update(model, Batch(images(8), labels), FedSGD())
        knowledge = ServerKnowledge(model, num_examples=8)
        for method in ("self_consistent", "counts", "bias_counts", "llg_plus"):
            with pytest.raises(NotApplicable, match=f"'{method}' needs a loss that is plain cross-entropy"):
                infer(method, update, knowledge, 8, stream(0, "a"))
    with pytest.raises(NotApplicable, match="negative for the example's class alone"):
        infer("bias_sign", update, knowledge, 8, stream(0, "a"))
    assert set(NEEDS) >= {"fitted", "bias_sign"}


def test_a_loss_of_pairs_has_no_labels_to_be_read() -> None:
    def pairs(logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels) + (logits[:, None] - logits[None]).square().mean()

    model = network(pairs)
    update = local_update(model, Batch(images(4), torch.arange(4)), FedSGD())
    with pytest.raises(NotApplicable, match="does not add up over examples"):
        default_method(update, ServerKnowledge(model), 4)


@pytest.mark.parametrize("label", [0, 1])
def test_one_output_has_two_classes(label: int) -> None:
    model = network(lambda z, y: functional.binary_cross_entropy_with_logits(z[:, 0], y.to(z)), 1)
    update = local_update(model, Batch(images(1), torch.tensor([label])), FedSGD())
    got = LinearLayer().reconstruct(update, ServerKnowledge(model, num_examples=1), stream(0, "a"))
    assert got.labels is not None
    assert got.labels.tolist() == [label]
    assert got.converged


TARGETS = {
    "several labels": (5, functional.binary_cross_entropy_with_logits, lambda n: torch.eye(5)[:n] + torch.eye(5)[4]),
    "one output": (1, functional.binary_cross_entropy_with_logits, lambda n: torch.ones(n, 1)),
    "a number": (1, functional.mse_loss, lambda n: torch.full((n, 1), 0.3)),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_targets_that_are_no_classes_are_taken_as_they_are_or_refused(kind: str) -> None:
    outputs, loss, targets = TARGETS[kind]
    model = network(loss, outputs)
    for n in (1, 2):
        private = Batch(images(n), targets(n))
        update = local_update(model, private, FedSGD())
        blind = ServerKnowledge(model, num_examples=n)
        granted = replace(blind, labels=private.labels)
        search = with_fields(InvertingGradients(), steps=2)
        with pytest.raises(NotApplicable, match="one class per example"):
            search.reconstruct(update, blind, stream(0, "a"))
        with pytest.raises(NotApplicable, match="class probabilities, which the loss does not take"):
            DLG(steps=2, restarts=1).reconstruct(update, blind, stream(0, "a"))
        assert search.reconstruct(update, granted, stream(0, "a")).labels is None
        for knowledge in (blind, granted):
            got = LinearLayer().reconstruct(update, knowledge, stream(0, "a"))
            assert got.labels is None
            if n == 1:
                torch.testing.assert_close(got.inputs, private.inputs, rtol=0, atol=1e-5)
                assert got.converged
