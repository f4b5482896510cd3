"""Label methods against the truth: on gradients with a known closed form, on networks, and where they cannot work."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.types import Batch, Update, UpdateKind
from fedspill.inversion.labels.methods import METHODS, LabelMethod, default_method, infer
from fedspill.inversion.labels.probe import nearest_counts
from fedspill.inversion.network.head import features_and_logits, last_linear

SPEC = ImageSpec((3, 8, 8))
CLASSES = 100
GREEDY: list[LabelMethod] = ["llg", "llg_plus", "bias_corrected", "counts", "bias_counts", "self_consistent"]
EVERY: list[LabelMethod] = ["bias_sign", "column_minimum", *GREEDY]


def network(seed: int = 0, *, activation: type[nn.Module] = nn.ReLU, bias: bool = True) -> Model:
    module = nn.Sequential(
        nn.Conv2d(3, 12, 3, stride=2, padding=1, device="meta"),
        activation(),
        nn.Flatten(),
        nn.Linear(192, CLASSES, bias=bias, device="meta"),
    )
    rng = stream(seed, "labels", "net")
    params = {
        k: (torch.rand(p.shape, generator=rng) * 2 - 1) / p[0].numel() ** 0.5 for k, p in module.named_parameters()
    }
    return Model(module, params, {}, nn.functional.cross_entropy, SPEC)


def sent(
    labels: Tensor, model: Model, training: LocalTraining | None = None, seed: int = 0
) -> tuple[Update, ServerKnowledge]:
    training = training or FedSGD()
    inputs = torch.rand(len(labels), *SPEC.shape, generator=stream(seed, "labels", "data"))
    update = local_update(model, Batch(inputs, labels), training)
    return update, ServerKnowledge(model, num_examples=len(labels), local_training=training)


def draw(n: int, seed: int, *, unique: bool) -> Tensor:
    rng = stream(seed, "labels", n)
    if unique:
        return torch.randperm(CLASSES, generator=rng)[:n]
    return torch.randperm(CLASSES, generator=rng)[torch.randint(0, max(1, n // 2), (n,), generator=rng)]


def overlap(got: Tensor, true: Tensor) -> float:
    return sum((Counter(got.tolist()) & Counter(true.tolist())).values()) / len(true)


@pytest.mark.parametrize("training", [FedSGD(), FedAvg(lr=0.05), FedAvg(epochs=2, lr=0.01)])
@pytest.mark.parametrize("n", [1, 4, 10])
def test_unique_labels_of_an_untrained_network(n: int, training: LocalTraining) -> None:
    for seed in range(2):
        labels = draw(n, seed, unique=True)
        update, knowledge = sent(labels, network(seed), training, seed)
        for method in EVERY:
            got = infer(method, update, knowledge, n, stream(seed, "a"))
            assert got.tolist() == sorted(labels.tolist()), method


@pytest.mark.parametrize("training", [FedSGD(), FedAvg(epochs=2, lr=0.01)])
def test_repeated_labels_of_an_untrained_network(training: LocalTraining) -> None:
    for n in (2, 8, 32):
        labels = draw(n, 1, unique=False)
        update, knowledge = sent(labels, network(), training)
        for method in GREEDY:
            assert overlap(infer(method, update, knowledge, n, stream(0, "a")), labels) == 1.0, method


def constructed(labels: Tensor, probabilities: Tensor, features: Tensor) -> tuple[Update, ServerKnowledge]:
    """The head's gradient in closed form, for softmax outputs and features of one's choice."""
    error = probabilities - nn.functional.one_hot(labels, CLASSES)
    values = {"3.weight": error.T @ features / len(labels), "3.bias": error.mean(0)}
    return Update(UpdateKind.GRADIENT, values), ServerKnowledge(network(), num_examples=len(labels))


def test_brute_force_agrees_with_every_greedy_method() -> None:
    # All multisets of 3 labels over 5 classes, each exactly the one that the closed form was made from.
    uniform, features = torch.full((3, CLASSES), 1 / CLASSES), torch.ones(3, 192)
    for labels in torch.combinations(torch.arange(5), 3, with_replacement=True):
        update, knowledge = constructed(labels, uniform, features)
        for method in ("llg", "bias_corrected"):
            assert infer(method, update, knowledge, 3, stream(0, "a")).tolist() == labels.tolist(), method


def test_idlg_needs_no_sign_of_the_features() -> None:
    for sign in (1.0, -1.0):
        features = sign * torch.rand(1, 192, generator=stream(0, "f"))
        probabilities = torch.rand(1, CLASSES, generator=stream(0, "p")).softmax(1)
        update, knowledge = constructed(torch.tensor([17]), probabilities, features)
        assert infer("idlg", update, knowledge, 1, stream(0, "a")).tolist() == [17]


def test_white_box_methods_see_through_a_network_that_prefers_a_class() -> None:
    model = network()
    bias = model.params["3.bias"].clone()
    bias[7] = 6.0  # class 7 has nearly all of the probability, so its gradient is positive even if present
    model = replace(model, params={**model.params, "3.bias": bias})
    labels = torch.tensor([7, 7, 20, 33])
    update, knowledge = sent(labels, model)
    assert overlap(infer("bias_corrected", update, knowledge, 4, stream(0, "a")), labels) < 1
    for method in ("bias_counts", "counts", "llg_plus"):
        assert infer(method, update, knowledge, 4, stream(0, "a")).tolist() == [7, 7, 20, 33], method


def test_public_data_are_used_where_the_server_has_them() -> None:
    labels = draw(6, 2, unique=False)
    update, knowledge = sent(labels, network())
    public = Batch(torch.rand(200, *SPEC.shape, generator=stream(9, "public")), torch.arange(200) % CLASSES)
    granted = replace(knowledge, public_data=public)
    for method in ("llg_plus", "counts", "bias_counts"):
        assert overlap(infer(method, update, granted, 6, stream(0, "a")), labels) == 1.0


@pytest.mark.parametrize("method", EVERY)
def test_an_unknown_protocol_leaves_labels_readable(method: LabelMethod) -> None:
    labels = draw(6, 0, unique=True)
    update, knowledge = sent(labels, network(), FedAvg(epochs=3, lr=0.003))
    blind = replace(knowledge, local_training=None)
    assert infer(method, update, blind, 6, stream(0, "a")).tolist() == sorted(labels.tolist())


def test_weight_decay_and_momentum_are_taken_out() -> None:
    labels = draw(5, 0, unique=True)
    training = FedAvg(epochs=3, lr=0.01, momentum=0.9, weight_decay=0.1)
    update, knowledge = sent(labels, network(), training)
    for method in EVERY:
        assert infer(method, update, knowledge, 5, stream(0, "a")).tolist() == sorted(labels.tolist())


def test_what_is_missing_is_named() -> None:
    update, knowledge = sent(draw(3, 0, unique=True), network(bias=False))
    with pytest.raises(NotApplicable, match="'3' has none"):
        infer("bias_sign", update, knowledge, 3, stream(0, "a"))
    untrained, knowledge = sent(draw(3, 0, unique=True), network(), FedSGD(trainable=("0.*",)))
    with pytest.raises(NotApplicable, match=r"'3\.weight' is needed"):
        infer("llg", untrained, knowledge, 3, stream(0, "a"))
    with pytest.raises(NotApplicable, match="infers the label of 1 example"):
        infer("idlg", update, replace(knowledge, model=network(bias=False)), 3, stream(0, "a"))
    with pytest.raises(BadInput, match="at least 1"):
        infer("llg", update, knowledge, 0, stream(0, "a"))
    headless = Model.of(nn.Sequential(nn.Conv2d(3, 2, 8), nn.Flatten()), SPEC)
    with pytest.raises(NotApplicable, match=r"no nn\.Linear"):
        last_linear(headless)


def familiar(labels: Tensor, seed: int = 0) -> Model:
    """A network that is right about the examples of `sent`, with a probability of 0.8 or so."""
    model = network(seed)
    inputs = torch.rand(len(labels), *SPEC.shape, generator=stream(seed, "labels", "data"))
    features, _ = features_and_logits(model, model.params, model.input.encode(inputs), last_linear(model))
    wanted = 6.0 * nn.functional.one_hot(labels, CLASSES).float()
    head = {"3.weight": (torch.linalg.pinv(features) @ wanted).T, "3.bias": torch.zeros(CLASSES)}
    return model.with_params({**model.params, **head})


def test_the_default_depends_on_what_was_sent() -> None:
    labels = draw(4, 0, unique=True)
    update, knowledge = sent(labels, network())
    assert default_method(update, knowledge, 1) == "bias_sign"
    assert default_method(update, knowledge, 4) == "self_consistent"
    quiet, taught = sent(labels, familiar(labels))
    assert default_method(quiet, taught, 4) == "column_minimum"
    path = Update(UpdateKind.DELTA, update.values)
    assert default_method(path, knowledge, 4) == "bias_corrected"
    for activation, several in ((nn.ReLU, "llg"), (nn.Tanh, "column_minimum")):
        update, knowledge = sent(labels, network(bias=False, activation=activation))
        assert default_method(update, knowledge, 1) == "idlg"
        assert default_method(update, knowledge, 4) == several
    assert set(METHODS) == {"idlg", "fitted", *EVERY}


def test_counts_are_rounded_to_the_nearest_that_add_up() -> None:
    assert nearest_counts(torch.tensor([1.6, 0.3, 2.1]), 4).sort().values.tolist() == [0, 0, 2, 2]
    assert nearest_counts(torch.tensor([-0.4, 0.9, 0.2]), 2).sort().values.tolist() == [1, 2]


def test_global_random_state_is_untouched_and_same_seed_same_labels() -> None:
    labels = draw(8, 0, unique=False)
    update, knowledge = sent(labels, network())
    before = torch.random.get_rng_state()
    first = [infer(m, update, knowledge, 8, stream(3, "a")).tolist() for m in EVERY]
    assert torch.equal(before, torch.random.get_rng_state())
    assert first == [infer(m, update, knowledge, 8, stream(3, "a")).tolist() for m in EVERY]
