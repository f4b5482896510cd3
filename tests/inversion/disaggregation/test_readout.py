"""A batch's features and probabilities out of its head's gradient, against plain PyTorch in float64."""

import pytest
import torch
from torch import Tensor, nn

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model
from fedspill.core.rng import randn, stream
from fedspill.inversion.disaggregation.errors import LogitErrors, logit_errors
from fedspill.inversion.disaggregation.readout import Disaggregated, Effort, Unlabelled, disaggregate
from tests.support.heads import LIKE, Seen, nearest, seen

TIGHT = 1e-12
"""Relative error of a gradient in float64."""


def told(
    of: Seen,
    labels: Tensor | None = None,
    *,
    non_negative: bool = True,
    errors: LogitErrors | None = None,
    noise: float = TIGHT,
    factor: float = 1.0,
) -> Disaggregated:
    return disaggregate(
        factor * of.rows,
        of.weight,
        of.bias,
        of.labels if labels is None else labels,
        non_negative=non_negative,
        rng=stream(0, "test", "starts"),
        errors=errors,
        noise=noise,
        free=factor != 1,
        effort=Effort(guesses=5, rounds=0),
    )


def check(of: Seen, got: Disaggregated, within: float = 1e-7) -> None:
    """Every example is there, with its own probabilities and label."""
    assert got.fits
    assert bool(got.certain.all())
    assert float(nearest(got.features, of.features).max()) < within
    order = torch.cdist(of.features, got.features).argmin(1)
    assert sorted(order.tolist()) == list(range(len(of.labels)))
    assert torch.allclose(got.probabilities[order], of.probabilities, atol=within)
    assert got.labels[order].tolist() == of.labels.tolist()


@pytest.mark.parametrize("labels", [[3], [0, 4, 7], [2, 2, 5, 5], [1, 1, 1, 8], [0, 1, 2, 3, 4, 5, 6, 7, 8]])
@pytest.mark.parametrize("negative", [False, True])
def test_features_are_exact_also_of_one_class_and_of_as_many_as_can_be(labels: list[int], negative: bool) -> None:
    of = seen(labels, negative=negative)
    check(of, told(of, non_negative=not negative), 1e-6)


def test_features_that_are_not_negative_need_no_hinge() -> None:
    of = seen([2, 2, 6])
    check(of, told(of, non_negative=False))


def test_a_wrong_hinge_is_dropped() -> None:
    of = seen([2, 4, 6], negative=True)
    check(of, told(of, non_negative=True))


def test_a_head_without_a_bias() -> None:
    of = seen([1, 4, 4], bias=False)
    check(of, told(of))


def test_the_errors_are_the_derivative_by_the_logits() -> None:
    of = seen([1, 4, 4])
    got = told(of)
    assert torch.allclose(got.errors.T @ got.features, of.rows[:, :-1], atol=1e-9)
    assert torch.allclose(got.errors.sum(0), of.rows[:, -1], atol=1e-9)


@pytest.mark.parametrize("factor", [0.01, 0.4, 30.0])
def test_an_unknown_multiple_is_found(factor: float) -> None:
    of = seen([1, 4, 4, 7])
    got = told(of, factor=factor)
    check(of, got)
    assert got.factor == pytest.approx(factor, rel=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(weight=torch.linspace(0.5, 2, 10, dtype=torch.float64)),
        nn.CrossEntropyLoss(weight=torch.linspace(0.5, 2, 10, dtype=torch.float64), label_smoothing=0.2),
    ],
    ids=["smoothed", "weighted", "both"],
)
def test_a_loss_tells_itself_what_it_makes_of_probabilities(loss: nn.Module) -> None:
    of = seen([1, 4, 4, 9], loss=loss)
    model = Model.of(nn.Sequential(nn.Flatten(), nn.Linear(12, 10).double()), ImageSpec((3, 2, 2)), loss)
    check(of, told(of, errors=logit_errors(model)))
    assert not told(of).fits


def test_a_focal_loss_is_refused_in_one_line() -> None:
    def focal(logits: Tensor, labels: Tensor) -> Tensor:
        log = logits.log_softmax(1).gather(1, labels[:, None])
        return -((1 - log.exp()) ** 2 * log).mean()

    model = Model.of(nn.Sequential(nn.Flatten(), nn.Linear(12, 10)), ImageSpec((3, 2, 2)), focal)
    with pytest.raises(NotApplicable, match="plain, smoothed or weighted; the loss is another"):
        logit_errors(model)


def test_as_many_examples_as_classes_are_refused_in_one_line() -> None:
    of = seen([0, 1, 2, 3], classes=4)
    with pytest.raises(NotApplicable, match="4 examples are behind a head of 4 classes, .* at most 3 apart"):
        told(of)


def test_nothing_is_certain_of_wrong_labels() -> None:
    of = seen([1, 4, 7])
    for wrong in ([1, 4, 4], [1, 4, 8], [2, 3, 5]):
        got = told(of, torch.tensor(wrong))
        assert not got.fits
        assert not bool(got.certain.any())


def test_labels_are_found() -> None:
    of = seen([6, 2, 2, 9])
    got = disaggregate(
        of.rows,
        of.weight,
        of.bias,
        Unlabelled(4, None),
        non_negative=True,
        rng=stream(0, "test", "starts"),
        noise=TIGHT,
    )
    check(of, got)
    wrong = torch.tensor([0, 2, 2, 9])
    got = disaggregate(
        of.rows,
        of.weight,
        of.bias,
        Unlabelled(4, wrong),
        non_negative=True,
        rng=stream(0, "test", "starts"),
        noise=TIGHT,
    )
    check(of, got)


def test_an_example_of_which_the_network_is_sure_is_named_as_silent() -> None:
    of = seen([1, 4, 7])
    features = of.features.clone()
    features[1] += 400 * torch.linalg.lstsq(of.weight, torch.eye(10, dtype=torch.float64)[4:5].T).solution[:, 0]
    weight, bias = of.weight.clone().requires_grad_(), of.bias.clone().requires_grad_()
    loss = nn.functional.cross_entropy(features @ weight.T + bias, of.labels)
    rows = torch.cat([g.reshape(10, -1) for g in torch.autograd.grad(loss, (weight, bias))], 1)
    got = told(Seen(features, of.labels, of.weight, of.bias, rows), non_negative=False)
    assert got.silent == 1
    assert got.fits
    assert sorted(got.labels.tolist()) == [1, 7]
    assert float(nearest(got.features, features[[0, 2]]).max()) < 1e-6


def of_features(features: Tensor, of: Seen) -> Seen:
    """The gradient that plain PyTorch takes of other features."""
    weight, bias = of.weight.clone().requires_grad_(), of.bias.clone().requires_grad_()
    loss = nn.functional.cross_entropy(features @ weight.T + bias, of.labels)
    rows = torch.cat([g.reshape(10, -1) for g in torch.autograd.grad(loss, (weight, bias))], 1)
    return Seen(features, of.labels, of.weight, of.bias, rows)


def confident(labels: list[int], margins: list[float]) -> Seen:
    """Examples to whose own logits as much is added."""
    of = seen(labels, negative=True)
    own = torch.linalg.pinv(of.weight).T[of.labels]
    return of_features(of.features + torch.tensor(margins, dtype=torch.float64)[:, None] * own, of)


@pytest.mark.parametrize("granted", [True, False])
def test_examples_are_told_apart_however_unlike_in_loudness(granted: bool) -> None:
    of = confident([1, 4, 7], [4.0, 11.0, 18.0])
    assert float(of.probabilities[2, 7]) > 1 - 1e-6
    rng = stream(0, "test", "starts")
    one = Effort(guesses=1, rounds=0)
    if granted:
        got = disaggregate(of.rows, of.weight, of.bias, of.labels, non_negative=False, rng=rng, noise=TIGHT, effort=one)
    else:
        got = disaggregate(
            of.rows, of.weight, of.bias, Unlabelled(3, None), non_negative=False, rng=rng, noise=TIGHT, effort=one
        )
    check(of, got, 1e-4)


def test_a_quiet_example_is_heard_in_a_float32_gradient_though_the_loud_ones_rounding_is_louder() -> None:
    of = confident([1, 4], [1.0, 20.0])
    loud, quiet = of.probabilities[0, 1], of.probabilities[1, 4]
    assert float((1 - quiet) / (1 - loud)) < 1.2e-7
    single = Seen(of.features, of.labels, of.weight, of.bias, of.rows.float().double())
    got = told(single, non_negative=False, noise=1.2e-7)
    assert got.silent == 0
    assert float(nearest(got.features, of.features).max()) < 1e-2


def test_examples_that_rounding_merges_are_said_to_be_a_mean() -> None:
    of = seen([2, 2, 5])
    near = of.features.clone()
    near[1] = near[0] + 1e-3 * (near[1] - near[0])
    weight, bias = of.weight.clone().requires_grad_(), of.bias.clone().requires_grad_()
    loss = nn.functional.cross_entropy(near @ weight.T + bias, of.labels)
    rows = torch.cat([g.reshape(10, -1) for g in torch.autograd.grad(loss, (weight, bias))], 1).bfloat16().double()
    got = told(Seen(near, of.labels, of.weight, of.bias, rows), noise=torch.finfo(torch.bfloat16).eps)
    assert got.copies.tolist() == [2, 1]
    assert got.silent == 0
    assert got.certain.tolist()[0] is False
    assert float(nearest(got.features, near[1:]).max()) < 0.1


def test_float32_gradients_are_enough() -> None:
    of = seen([0, 3, 3, 8])
    got = told(Seen(of.features, of.labels, of.weight, of.bias, of.rows.float().double()), noise=1.2e-7)
    check(of, got, 1e-4)


def test_noise_is_noticed() -> None:
    of = seen([0, 3, 3, 8])
    noise = randn(tuple(of.rows.shape), stream(1, "test", "noise"), LIKE) * of.rows.square().mean().sqrt()
    got = told(Seen(of.features, of.labels, of.weight, of.bias, of.rows + 0.3 * noise), noise=1.2e-7)
    wrong = nearest(got.features, of.features).max()
    assert not bool(got.certain.all())
    assert float(wrong) > 1e-2


def test_the_same_stream_gives_the_same_result() -> None:
    of = seen([0, 3, 3, 8])
    assert torch.equal(told(of).features, told(of).features)
