"""Whether the loss of a batch is the mean of its examples' own."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.inputs import ImageSpec, TokenSpec
from fedspill.core.local_training.update import FedSGD, encoded_update
from fedspill.core.model import Model, next_token_loss
from fedspill.core.probing.mean import is_mean_of_examples
from fedspill.core.rng import rand, stream

SPEC, LABELS = ImageSpec((2, 4, 4)), torch.tensor([0, 2, 2, 1])
WEIGHTS = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)


def network(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), *layers, nn.Flatten(), nn.Linear(12, 3))


def weighted(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, weight=WEIGHTS.to(logits))


def summed(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, reduction="sum")


def of_pairs(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels) + 0.1 * torch.cdist(logits, logits).mean()


def ignoring(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, ignore_index=2)


def smoothed(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, label_smoothing=0.1)


def binary(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, labels.to(logits))


MANY_LABELS = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
CASES = {
    "cross-entropy": (network(), functional.cross_entropy, LABELS, True),
    "label smoothing": (network(), smoothed, LABELS, True),
    "multi-label": (network(), binary, MANY_LABELS, True),
    "probabilities": (network(), functional.cross_entropy, MANY_LABELS.softmax(1), True),
    "one weighted class": (network(), weighted, LABELS[1:3], True),
    "class weights": (network(), weighted, LABELS, False),
    "sum": (network(), summed, LABELS, False),
    "pairs": (network(), of_pairs, LABELS, False),
    "ignored": (network(), ignoring, LABELS, False),
    "group norm": (network(nn.GroupNorm(1, 3)), functional.cross_entropy, LABELS, True),
    "batch norm": (network(nn.BatchNorm2d(3)), functional.cross_entropy, LABELS, True),
    "without running statistics": (
        network(nn.BatchNorm2d(3, track_running_stats=False)),
        functional.cross_entropy,
        LABELS,
        False,
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_it_is_found_out_whether_gradients_are_means(kind) -> None:
    net, loss, labels, expected = CASES[kind]
    model = Model.of(net.double(), SPEC, loss)
    assert is_mean_of_examples(model, labels) is expected
    z = rand((len(labels), 2, 4, 4), stream(0), WEIGHTS)
    whole = encoded_update(model, z, labels, FedSGD()).values
    each = [encoded_update(model, z[i : i + 1], labels[i : i + 1], FedSGD()).values for i in range(len(z))]
    off = [float((torch.stack([one[k] for one in each]).mean(0) - v).norm() / v.norm()) for k, v in whole.items()]
    assert (max(off) < 1e-9) is expected


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(3), nn.Dropout(0.5)])
def test_in_train_mode_examples_are_mixed_or_chance_is_and_no_generator_is_touched(layer) -> None:
    model, state = Model.of(network(layer), SPEC, training=True), torch.random.get_rng_state()
    assert not is_mean_of_examples(model, LABELS)
    assert torch.equal(state, torch.random.get_rng_state())
    assert is_mean_of_examples(model.in_eval_mode(), LABELS)


def test_where_no_single_example_is_taken_it_is_no_mean() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(32, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3))
    assert not is_mean_of_examples(Model.of(net, SPEC), LABELS)


def test_next_tokens_are_a_mean_over_sentences() -> None:
    model = Model.of(nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5)), TokenSpec(4, 5), next_token_loss)
    assert is_mean_of_examples(model, torch.tensor([[0, 1, 2, 3], [4, 4, 1, 0]]))


def test_a_loss_without_a_hash_is_tried_too() -> None:
    class Listed:
        __hash__ = None  # pyright: ignore[reportAssignmentType]

        def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
            return functional.cross_entropy(logits, labels)

    assert is_mean_of_examples(Model.of(network(), SPEC, Listed()), LABELS)
