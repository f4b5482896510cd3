"""Products with the update's Jacobian against differences, and what follows from its spectrum."""

import pytest
import torch
from torch import nn

from fedspill import Conditions, FedAvg, FedSGD, ImageSpec, Model, NotApplicable, TokenSpec
from fedspill.core.rng import randn, stream
from fedspill.core.types import Batch
from fedspill.privacy.identifiability import _by_ends, identifiability
from fedspill.privacy.jacobian import Jacobian, UpdateOfInputs, jumps
from fedspill.testing.worlds import draw_weights

SPEC = ImageSpec((1, 2, 3), mean=(0.4,), std=(0.5,))
LIKE = torch.zeros(1, dtype=torch.float64)


def network(activation: nn.Module, hidden: int = 5) -> Model:
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Flatten(), nn.Linear(6, hidden), activation, nn.Linear(hidden, 3))
    return Model.of(draw_weights(net, scale=1.0), SPEC).to("cpu", torch.float64)


def two(n: int = 2) -> Batch:
    inputs = torch.rand(n, 1, 2, 3, generator=stream(0, "inputs"), dtype=torch.float64)
    return Batch(inputs, torch.arange(n) % 3)


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("training", [FedSGD(), FedAvg(epochs=2, minibatch_size=1, lr=0.1)], ids=["sgd", "avg"])
def test_products_are_those_of_differences(training: FedSGD | FedAvg, clip: float | None) -> None:
    update = UpdateOfInputs(network(nn.Tanh()), two(), training, clip)
    x, v = update.inputs(), randn((12,), stream(0, "v"), LIKE)
    found = update.jacobian(x)
    h = 1e-5
    difference = (update(x + h * v) - update(x - h * v)) / (2 * h)
    torch.testing.assert_close(found.forward(v), difference, rtol=1e-6, atol=1e-9)
    matrix = found.matrix()
    torch.testing.assert_close(matrix @ v, found.forward(v))
    u = randn((found.rows,), stream(0, "u"), LIKE)
    torch.testing.assert_close(matrix.T @ u, found.back(u))
    assert (found.rows, found.columns) == tuple(matrix.shape)


def test_a_wide_matrix_is_written_row_by_row() -> None:
    wide = randn((3, 7), stream(0, "wide"), LIKE)
    torch.testing.assert_close(Jacobian.of_matrix(wide).matrix(), wide)


def test_smooth_networks_do_not_jump_and_others_do() -> None:
    ends = [two(1).inputs.flatten(), 1 - two(1).inputs.flatten()]
    assert jumps(UpdateOfInputs(network(nn.Tanh()), two(1), FedSGD()), *ends) < 1e-6
    assert jumps(UpdateOfInputs(network(nn.ReLU(), 20), two(1), FedSGD()), *ends) > 0.05


def test_tokens_have_no_derivative() -> None:
    net = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4))
    with pytest.raises(NotApplicable, match="tokens"):
        UpdateOfInputs(
            Model.of(net, TokenSpec(2, 4)), Batch(torch.zeros(1, 2).long(), torch.zeros(1, 2).long()), FedSGD()
        )


def test_a_lower_precision_has_none_either() -> None:
    with pytest.raises(NotApplicable, match="bfloat16"):
        UpdateOfInputs(network(nn.Tanh()), two(), FedSGD(conditions=Conditions(precision="bfloat16")))


def test_one_example_is_determined_by_a_layer_that_sees_it_whole() -> None:
    update = UpdateOfInputs(network(nn.Tanh()), two(1), FedSGD())
    told = identifiability(update.jacobian(update.inputs()))
    assert told.determined
    assert (told.rank, told.values, told.exact) == (6, 6, True)
    values = torch.linalg.svdvals(update.jacobian(update.inputs()).matrix())
    assert (told.largest, told.smallest) == pytest.approx((float(values[0]), float(values[-1])))


def test_the_blur_is_what_rounding_moves() -> None:
    # an update that differs by the rounding of its length, in the weakest direction
    update = UpdateOfInputs(network(nn.Tanh()), two(1), FedSGD())
    x = update.inputs()
    found = update.jacobian(x)
    told = identifiability(found)
    weakest = torch.linalg.svd(found.matrix()).Vh[-1]
    moved = (update(x + told.blur * weakest) - update(x)).norm() / update(x).norm()
    assert float(moved) == pytest.approx(2.0**-24, rel=1e-3)


def test_a_layer_that_adds_two_inputs_leaves_their_difference_open() -> None:
    with torch.random.fork_rng():
        net = nn.Sequential(nn.AvgPool2d((1, 3)), nn.Flatten(), nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 3))
    model = Model.of(draw_weights(net), SPEC).to("cpu", torch.float64)
    update = UpdateOfInputs(model, two(1), FedSGD())
    told = identifiability(update.jacobian(update.inputs()))
    assert told.determined is False
    assert (told.rank, told.smallest) == (2, 0.0)
    assert told.blur == float("inf")


def test_fewer_numbers_than_values_determine_nothing() -> None:
    told = identifiability(Jacobian.of_matrix(randn((3, 5), stream(0, "few"), LIKE)))
    assert (told.rank, told.smallest) == (3, 0.0)


@pytest.mark.parametrize("rows", [20, 9])
def test_lanczos_and_the_gram_matrix_say_what_the_matrix_says(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Jacobian.of_matrix(randn((rows, 9), stream(0, "lanczos"), LIKE))
    exact = identifiability(found)
    ends = _by_ends(found, 2000)
    assert (ends.largest, ends.smallest) == pytest.approx((exact.largest, exact.smallest), rel=1e-6)
    assert not ends.exact
    assert ends.determined
    monkeypatch.setattr("fedspill.privacy.jacobian.MOST_ENTRIES", 0)
    gram = identifiability(found)
    assert (gram.rank, gram.largest, gram.smallest) == pytest.approx((9, exact.largest, exact.smallest), rel=1e-6)


def test_lanczos_says_what_it_does_not_know() -> None:
    poor = randn((12, 9), stream(0, "poor"), LIKE)
    poor[:, 8] = poor[:, 7]
    told = _by_ends(Jacobian.of_matrix(poor), 2000)
    assert (told.rank, told.determined, told.smallest) == (None, None, 0.0)
