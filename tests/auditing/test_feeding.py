"""The self-check of how a network is fed: silent where it is fed right, and naming the right way where it is not."""

import copy
import io
from dataclasses import replace
from typing import Any

import pytest
import torch
from rich.console import Console
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import fedspill
from fedspill.auditing.feeding import check_feeding
from fedspill.auditing.feeding.alternatives import other_ways
from fedspill.auditing.feeding.weights import look_trained
from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model
from fedspill.core.types import Batch
from fedspill.rendering.html.page import render
from fedspill.rendering.html.view import _network_tile
from fedspill.rendering.terminal import summary
from fedspill.report.schema import AuditReport
from fedspill.testing.worlds import batch, conv_bn, draw_weights, linear, mlp, relu_mlp
from fedspill.zoo.data import from_tokens
from fedspill.zoo.models import build
from tests.support.watches import Heard

HALF = ImageSpec((1, 8, 8), mean=(0.5,), std=(0.5,))
RAW = ImageSpec((1, 8, 8))
FULL = ImageSpec((1, 8, 8), std=(1 / 255,))
MNIST = ImageSpec((1, 8, 8), mean=(0.1307,), std=(0.3081,))
SHARP = ImageSpec((1, 8, 8), mean=(0.5,), std=(0.25,))


def _digits() -> tuple[Batch, Batch]:
    found: Any = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(found.target)
    return Batch(images[:1300], labels[:1300]), Batch(images[1300:], labels[1300:])


KNOWN, PRIVATE = _digits()


def _net(kind: str) -> nn.Module:
    with torch.random.fork_rng():
        if kind == "plain":
            net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        else:
            parts = (nn.Conv2d(1, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
            net = nn.Sequential(*parts, nn.Linear(256, 10))
    return draw_weights(net, scale=0.1)


def _trained(kind: str, spec: ImageSpec) -> Model:
    net = _net(kind).train()
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(6):
        for places in torch.arange(len(KNOWN)).split(50):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(spec.encode(KNOWN.inputs[places])), KNOWN.labels[places]).backward()
            optimiser.step()
    return Model.of(net.eval(), spec)


CASES = [("plain", HALF), ("plain", RAW), ("norm", HALF), ("norm", RAW)]
WRONG = {
    ("plain", HALF): (RAW, FULL),
    ("plain", RAW): (HALF, SHARP, FULL),
    ("norm", HALF): (RAW, MNIST, FULL),
    ("norm", RAW): (HALF, MNIST, SHARP, FULL),
}
NAMED = {RAW: "pixels in [0, 1] as they are", HALF: "mean 0.5, std 0.5", MNIST: "mean 0.1307, std 0.3081"}
TRAINED = {(kind, spec): _trained(kind, spec) for kind, spec in CASES}


@pytest.mark.parametrize(("kind", "spec"), CASES)
def test_a_network_that_is_fed_right_is_not_warned_about(kind: str, spec: ImageSpec) -> None:
    model = TRAINED[kind, spec]
    for size, draws in ((1, 20), (8, 6), (64, 2), (400, 1)):
        for k in range(draws):
            told = check_feeding(model, PRIVATE[k * size : (k + 1) * size])
            assert told.warning is None
    assert told.n == 400
    assert told.accuracy is not None
    assert told.accuracy > 0.8


@pytest.mark.parametrize(
    ("kind", "spec", "wrong"), [(kind, spec, wrong) for (kind, spec), ways in WRONG.items() for wrong in ways]
)
def test_a_network_that_is_fed_wrong_is_warned_about(kind: str, spec: ImageSpec, wrong: ImageSpec) -> None:
    private = PRIVATE[:256]
    told, right = (check_feeding(replace(TRAINED[kind, spec], input=fed), private) for fed in (wrong, spec))
    assert told.warning is not None
    assert "probably fed wrong" in told.warning
    if wrong != FULL or kind == "norm":
        assert f"with {NAMED[spec]}" in told.warning
    assert right.loss is not None
    assert told.loss is not None
    assert right.loss < told.loss


def test_one_example_is_enough_where_batchnorm_knows_better_and_never_where_nothing_does() -> None:
    fed = [check_feeding(replace(TRAINED["norm", HALF], input=FULL), PRIVATE[k : k + 1]) for k in range(20)]
    assert all(f.warning is not None and "BatchNorm '1'" in f.warning for f in fed)
    unlabelled = check_feeding(replace(TRAINED["norm", HALF], input=FULL), PRIVATE[:4], labelled=False)
    assert unlabelled.warning is not None
    assert (unlabelled.loss, unlabelled.accuracy) == (None, None)
    plain = [check_feeding(replace(TRAINED["plain", HALF], input=RAW), PRIVATE[k : k + 1]) for k in range(20)]
    assert not any(f.warning for f in plain)


@pytest.mark.parametrize("kind", ["plain", "norm"])
def test_an_untrained_network_is_never_warned_about(kind: str) -> None:
    model = Model.of(_net(kind).eval(), HALF)
    one_class = Batch(PRIVATE.inputs, torch.full_like(PRIVATE.labels, 3))
    for spec in (HALF, *(spec for _, spec in other_ways(HALF))):
        fed = replace(model, input=spec)
        for size in (1, 16, 256):
            assert check_feeding(fed, PRIVATE[:size]).warning is None
            assert check_feeding(fed, one_class[:size]).warning is None


def test_nothing_is_expected_of_weights_that_are_random_for_certain() -> None:
    assert check_feeding(replace(TRAINED["norm", HALF], input=FULL), PRIVATE, weights="untrained").warning is None


def test_trained_weights_at_chance_are_told_where_no_other_way_is_better() -> None:
    turned = Batch(PRIVATE.inputs, (PRIVATE.labels + 3) % 10)
    told = check_feeding(TRAINED["norm", HALF], turned[:64])
    assert told.warning is not None
    assert "at chance on the private examples" in told.warning
    assert check_feeding(TRAINED["norm", HALF], turned[:4]).warning is None


@pytest.mark.parametrize("made", [mlp, relu_mlp, linear, conv_bn])
def test_random_weights_look_random(made: Any) -> None:
    assert not look_trained(made())


@pytest.mark.parametrize("name", ["lenet", "cnn", "mlp", "resnet20", "shufflenet_v2"])
def test_random_networks_of_the_zoo_look_random_and_the_shipped_ones_trained(name: str) -> None:
    assert not look_trained(build(name, input_shape=(3, 32, 32), num_classes=10))
    if name in ("lenet", "cnn"):
        assert look_trained(build(name, input_shape=(3, 32, 32), num_classes=10, weights="trained"))


def _audit(normalise: Any, **more: Any) -> AuditReport:
    net = copy.deepcopy(TRAINED["norm", HALF].module)
    attack = {"name": "dlg", "steps": 1, "restarts": 1}
    return fedspill.audit(
        {"audit": {"attacks": [attack]}, "client": {"num_examples": 8}},
        model=net,
        data=(PRIVATE.inputs[:16], PRIVATE.labels[:16]),
        normalise=normalise,
        device="cpu",
        **more,
    ).report


def test_an_audit_says_so_at_once_in_the_report_and_in_the_terminal() -> None:
    heard = Heard()
    report = _audit(None, listener=heard)
    assert report.feeding is not None
    warning = report.feeding.warning
    assert warning is not None
    assert heard.messages[0] == warning
    assert (report.caveats[0].topic, report.caveats[0].text) == ("fed wrong", warning)
    shown = io.StringIO()
    summary(report, Console(file=shown, width=10_000))
    assert warning in shown.getvalue()
    assert "The network is probably fed wrong" in render(report, [])
    assert AuditReport.model_validate_json(report.model_dump_json()) == report


def test_an_audit_that_is_fed_right_says_how_good_the_network_is() -> None:
    report = _audit((0.5, 0.5))
    told = report.feeding
    assert told is not None
    logits = TRAINED["norm", HALF].module(HALF.encode(PRIVATE.inputs[:16])).detach()
    assert told.loss == pytest.approx(float(nn.functional.cross_entropy(logits, PRIVATE.labels[:16])), rel=1e-5)
    assert told.accuracy == float((logits.argmax(1) == PRIVATE.labels[:16]).double().mean())
    assert (told.n, told.classes, told.mean, told.std, told.warning) == (16, 10, [0.5], [0.5], None)
    assert "fed wrong" not in [c.topic for c in report.caveats]
    shown = io.StringIO()
    summary(report, Console(file=shown, width=10_000))
    assert "n = 16; pixels less 0.5, over 0.5 (as the caller says)" in shown.getvalue()
    assert "Accuracy on them" in render(report, [])


def test_of_sentences_the_share_of_positions_is_told() -> None:
    tokens = torch.randint(9, (4, 6), generator=torch.Generator().manual_seed(0))
    pool = from_tokens(tokens, vocabulary=9)
    options = {"width": 8, "heads": 2, "feedforward": 8, "layers": 1}
    model = build("transformer", input_shape=(5,), num_classes=9, spec=pool.spec, options=_known(options))
    told = check_feeding(model, pool.batch)
    with torch.no_grad():
        logits = model.in_eval_mode().logits(model.params, pool.batch.inputs)
    assert told.accuracy == float((logits.argmax(-1) == pool.batch.labels).double().mean())
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), pool.batch.labels.flatten())
    assert told.loss == pytest.approx(float(loss), rel=1e-5)
    assert (told.mean, told.warning) == (None, None)


def _known(options: dict[str, int]) -> dict[str, int]:
    from fedspill.zoo.networks.transformer import TransformerOptions

    return {k: v for k, v in options.items() if hasattr(TransformerOptions(), k)}


def test_labels_that_are_no_classes_have_a_loss_and_no_accuracy() -> None:
    net = draw_weights(nn.Sequential(nn.Flatten(), nn.Linear(192, 1)))
    model = Model.of(net, ImageSpec((3, 8, 8)), lambda logits, labels: (logits[:, 0] - labels).square().mean())
    private = batch(4)
    told = check_feeding(model, private)
    wanted = (net(private.inputs)[:, 0] - private.labels).square().mean().detach()
    assert told.loss == pytest.approx(float(wanted), rel=1e-5)
    assert (told.accuracy, told.warning) == (None, None)


def test_in_train_mode_the_running_statistics_are_used_once_they_were_kept() -> None:
    model = replace(TRAINED["norm", HALF], training=True)
    assert check_feeding(model, PRIVATE[:64]) == check_feeding(TRAINED["norm", HALF], PRIVATE[:64])
    fresh = conv_bn(training=True)
    told = check_feeding(fresh, batch(4))
    with torch.no_grad():
        wanted = fresh.loss(fresh.params, fresh.input.encode(batch(4).inputs), batch(4).labels)
    assert told.loss == pytest.approx(float(wanted), rel=1e-5)
    assert told.batch_statistics
    assert "batch statistics" in _network_tile(told).note
    assert not check_feeding(model, PRIVATE[:64]).batch_statistics
    assert "batch statistics" not in _network_tile(check_feeding(model, PRIVATE[:64])).note


def test_batch_statistics_are_said_where_there_are_no_running_ones_and_masks_are_off() -> None:
    with torch.random.fork_rng():
        norm = nn.BatchNorm2d(3, track_running_stats=False)
        net = nn.Sequential(norm, nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 10))
    private = batch(4)
    plain = net[3](functional.batch_norm(2 * private.inputs - 1, None, None, training=True).flatten(1))
    wanted = float(functional.cross_entropy(plain, private.labels).detach())
    for training in (True, False):
        told = check_feeding(Model.of(net, ImageSpec((3, 8, 8), mean=(0.5,), std=(0.5,)), training=training), private)
        assert told.batch_statistics
        assert told.loss == pytest.approx(wanted, rel=1e-4)


def test_a_loss_that_is_not_finite_is_written_and_read() -> None:
    model = TRAINED["plain", RAW]
    burst = model.with_params({k: v * 1e30 for k, v in model.params.items()})
    told = check_feeding(burst, PRIVATE[:4])
    assert told.loss is None
