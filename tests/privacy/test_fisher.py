"""Floors on the error against exact posteriors, and attackers that try to fall below."""

import math

import pytest
import torch
from torch import nn

from fedspill import BadInput, FedSGD, ImageSpec, Model, NotApplicable
from fedspill.core.rng import randn, stream
from fedspill.core.types import Batch
from fedspill.privacy import jacobian as jacobian_file
from fedspill.privacy.fisher import cramer_rao, error_floor, hutchinson, information, largest, van_trees
from fedspill.privacy.jacobian import Jacobian, UpdateOfInputs
from fedspill.privacy.reconstruction import GaussianPrior
from fedspill.testing.worlds import draw_weights

LIKE = torch.zeros(1, dtype=torch.float64)
A = randn((12, 5), stream(0, "A"), LIKE)
LINEAR = Jacobian.of_matrix(A)


def rng() -> torch.Generator:
    return stream(0, "probes")


def test_the_information_of_a_small_problem_is_exact() -> None:
    told = information(LINEAR, 0.5, rng())
    torch.testing.assert_close(told.matrix, A.T @ A / 0.25)
    assert told.trace == pytest.approx(float((A**2).sum()) / 0.25)
    assert told.largest == pytest.approx(float(torch.linalg.svdvals(A)[0]) ** 2 / 0.25)
    assert told.trace_error == 0


def test_products_alone_come_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jacobian_file, "MOST_ENTRIES", 0)
    told, exact = information(LINEAR, 1.0, rng(), probes=400, iterations=100), float((A**2).sum())
    assert told.matrix is None
    assert abs(told.trace - exact) < 4 * told.trace_error < 0.3 * exact
    assert told.largest == pytest.approx(float(torch.linalg.svdvals(A)[0]) ** 2, rel=1e-4)
    assert hutchinson(LINEAR, rng(), 400)[0] == told.trace
    assert largest(LINEAR, rng(), 1) <= told.largest * (1 + 1e-9)


def test_van_trees_is_the_exact_posterior_of_a_linear_problem() -> None:
    sigma, spread = 0.7, 0.3
    posterior = torch.linalg.inv(A.T @ A / sigma**2 + torch.eye(5, dtype=torch.float64) / spread**2)
    floor = van_trees([information(LINEAR, sigma, rng())] * 2, GaussianPrior(5, spread))
    assert floor.mse == pytest.approx(float(posterior.trace()) / 5, rel=1e-9)
    assert floor.psnr == pytest.approx(-10 * math.log10(floor.mse))


def test_by_the_trace_it_is_weaker_never_stronger(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = van_trees([information(LINEAR, 0.7, rng())], GaussianPrior(5, 0.3))
    monkeypatch.setattr(jacobian_file, "MOST_ENTRIES", 0)
    by_trace = van_trees([information(LINEAR, 0.7, rng(), probes=100)], GaussianPrior(5, 0.3))
    assert by_trace.mse < exact.mse
    assert "trace" in by_trace.unit


def test_a_guess_without_the_update_beats_cramer_rao_but_never_van_trees() -> None:
    told = information(LINEAR, 100.0, rng())
    spread = 0.3
    plain, floor = cramer_rao(told), van_trees([told], GaussianPrior(5, spread))
    assert plain.unit == "Cramer-Rao, unbiased estimators"
    assert spread**2 < plain.mse  # the mean of the prior, a grey image, is biased
    assert floor.mse <= spread**2


SPEC = ImageSpec((1, 1, 2), mean=(0.5,), std=(0.5,))


def network(activation: nn.Module) -> Model:
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Flatten(), nn.Linear(2, 6), activation, nn.Linear(6, 2))
    return Model.of(draw_weights(net, scale=1.0), SPEC).to("cpu", torch.float64)


def bayes(update: UpdateOfInputs, spread: float, sigma: float) -> tuple[float, float]:
    """Mean squared error of the posterior mean, and of the most likely input of a grid, over prior and noise."""
    side = torch.linspace(-3.2, 3.2, 17, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    x, log_prior = 0.5 + spread * grid, -grid.square().sum(1) / 2
    sent = torch.stack([update(one) for one in x])
    picked = torch.multinomial(log_prior.exp(), 2000, replacement=True, generator=stream(0, "picked"))
    seen = sent[picked] + sigma * randn((2000, sent.shape[1]), stream(0, "noise"), LIKE)
    log_posterior = log_prior - torch.cdist(seen, sent).square() / (2 * sigma**2)
    mean = log_posterior.softmax(1) @ x
    errors = [(guess - x[picked]).square().mean() for guess in (mean, x[log_posterior.argmax(1)])]
    return float(errors[0]), float(errors[1])


@pytest.mark.parametrize(("spread", "sigma"), [(0.02, 0.03), (0.2, 0.3)])
def test_the_floor_of_a_network_lies_under_the_exact_posterior_and_near_it(spread: float, sigma: float) -> None:
    model = network(nn.Tanh())
    update = UpdateOfInputs(
        model, Batch(torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64), torch.tensor([1])), FedSGD()
    )
    floor = error_floor(update, GaussianPrior(2, spread), sigma, rng(), draws=48)
    exact, likeliest = bayes(update, spread, sigma)
    assert floor.mse <= exact * 1.02  # of the sampling of 2,000
    assert floor.mse <= likeliest * 1.02
    if spread == 0.02:
        assert floor.mse == pytest.approx(exact, rel=0.05)


def test_a_network_that_jumps_is_refused() -> None:
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Flatten(), nn.Linear(2, 30), nn.ReLU(), nn.Linear(30, 2))
    model = Model.of(draw_weights(net, scale=1.0), SPEC).to("cpu", torch.float64)
    update = UpdateOfInputs(
        model, Batch(torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64), torch.tensor([1])), FedSGD()
    )
    with pytest.raises(NotApplicable, match="not continuous"):
        error_floor(update, GaussianPrior(2, 0.5), 0.1, rng())


@pytest.mark.parametrize(
    "call",
    [
        lambda: information(LINEAR, 0.0, rng()),
        lambda: information(LINEAR, 1.0, rng(), probes=1),
        lambda: van_trees([], GaussianPrior(5, 1.0)),
        lambda: van_trees([information(LINEAR, 1.0, rng())], GaussianPrior(4, 1.0)),
        lambda: GaussianPrior(5, 0.0),
    ],
)
def test_what_makes_no_sense_is_refused(call) -> None:
    with pytest.raises(BadInput):
        call()
