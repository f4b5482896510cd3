"""How much a noisy update can say of the inputs behind it: Fisher information, and what it leaves of any estimate.

Under Gaussian noise of standard deviation s the information is J^T J / s^2. With a prior, the van Trees inequality
(Gill and Levit 1995) is a floor on the mean squared error of *every* estimator, biased or not: the inverse of the mean
information over the prior and of the prior's own. Without one there is only the Cramer-Rao bound, of unbiased
estimators (Guo et al. 2022, arXiv:2201.12383), and attacks are not unbiased. Both want an update that is continuous in
the inputs: behind ReLU it is not, and each switch of a unit tells what no derivative counts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.rng import randn
from fedspill.privacy.jacobian import Jacobian, UpdateOfInputs, jumps
from fedspill.privacy.reconstruction import GaussianPrior

MOST_JUMPS = 0.01
"""Share of the update's change that may be no derivative."""
UNBIASED = "unbiased estimators"
MOST_PRODUCTS = 1024
"""By which the information is written down."""
SPARE = 2.0
"""Standard errors of the mean information that are added to it."""


@dataclass(frozen=True)
class Information:
    """Fisher information of the inputs in one noisy update.

    Attributes:
        size: values of the inputs.
        trace: its sum over them, in 1 / (their unit) squared.
        trace_error: standard error of the trace; 0 where it is exact.
        largest: its largest eigenvalue; None where it was not asked for.
        matrix: itself, where it was written down.
    """

    size: int
    trace: float
    trace_error: float
    largest: float | None
    matrix: Float[Tensor, "size size"] | None = None

    @property
    def unbiased_mse(self) -> float:
        """The Cramer-Rao floor on the mean squared error per value: of unbiased estimators only."""
        return self.size / self.trace if self.trace else math.inf


def information(
    jacobian: Jacobian, noise: float, rng: torch.Generator, *, probes: int = 32, iterations: int = 30
) -> Information:
    """The information under noise of this standard deviation: exact where the Jacobian can be written down.

    Args:
        jacobian: of the update, by the inputs.
        noise: standard deviation on every value of the update.
        rng: of the probes.
        probes: for the trace (Hutchinson 1990), one product each.
        iterations: of the power method, two products each; 0 leaves the largest eigenvalue out.

    Raises:
        BadInput: noise is not above 0 and finite, or fewer than 2 probes.
    """
    if not 0 < noise < math.inf:
        raise BadInput(f"noise={noise} must be above 0 and finite; without noise see identifiability")
    if probes < 2 or iterations < 0:
        raise BadInput(f"probes={probes}, iterations={iterations}: at least 2 and 0 are needed")
    if jacobian.small and min(jacobian.rows, jacobian.columns) <= MOST_PRODUCTS:
        matrix = jacobian.matrix()
        found = matrix.T @ matrix / noise**2
        return Information(jacobian.columns, float(found.trace()), 0.0, float(torch.linalg.eigvalsh(found)[-1]), found)
    trace, error = hutchinson(jacobian, rng, probes)
    top = largest(jacobian, rng, iterations) / noise**2 if iterations else None
    return Information(jacobian.columns, trace / noise**2, error / noise**2, top)


def hutchinson(jacobian: Jacobian, rng: torch.Generator, probes: int) -> tuple[float, float]:
    """The trace of J^T J and its standard error, by products with random signs."""
    found = torch.tensor(
        [float(jacobian.back(_signs(jacobian.rows, rng, jacobian.update)).square().sum()) for _ in range(probes)],
        dtype=torch.float64,
    )
    return float(found.mean()), float(found.std() / math.sqrt(probes))


def largest(jacobian: Jacobian, rng: torch.Generator, iterations: int) -> float:
    """The largest eigenvalue of J^T J, from below, by the power method."""
    v, value = randn((jacobian.columns,), rng, jacobian.update), 0.0
    for _ in range(iterations):
        v = v / v.norm().clamp_min(1e-300)
        v = jacobian.back(jacobian.forward(v))
        value = float(v.norm())
    return value


def _signs(size: int, rng: torch.Generator, like: Tensor) -> Tensor:
    return torch.randint(0, 2, (size,), generator=rng).to(like) * 2 - 1


@dataclass(frozen=True)
class ErrorFloor:
    """A floor on the mean squared error of any estimator, over prior and noise.

    Attributes:
        mse: per value, in the inputs' unit squared.
        unit: which bound it is and of which estimators, in words.
    """

    mse: float
    unit: str

    @property
    def psnr(self) -> float:
        """PSNR in dB of that error, of values in [0, 1]: no attacker's mean squared error is below.

        Single records, and the mean of their PSNR, may lie above.
        """
        return -10 * math.log10(self.mse) if self.mse else math.inf


def van_trees(found: Sequence[Information], prior: GaussianPrior) -> ErrorFloor:
    """The floor for a Gaussian prior, from the information at batches drawn of it.

    The mean of the draws stands for that over the prior, plus twice its standard error; the floor is therefore
    estimated, unless the information is the same everywhere.

    Args:
        found: at each draw.
        prior: of all values of the inputs, with `size` of them.

    Raises:
        BadInput: there is no draw, or one of another size.
    """
    if not found or any(one.size != prior.size for one in found):
        raise BadInput(f"information of {[one.size for one in found]} values was got, the prior is of {prior.size}")
    own, traces = 1 / prior.spread**2, [one.trace for one in found]
    mean = math.fsum(traces) / len(traces)
    upper = mean + SPARE * math.sqrt(
        _between(traces) + math.fsum(one.trace_error**2 for one in found) / len(found) ** 2
    )
    matrices = [one.matrix for one in found if one.matrix is not None]
    if len(matrices) == len(found) and mean > 0:
        values = torch.linalg.eigvalsh(torch.stack(matrices).mean(0)).clamp_min(0) * (upper / mean)
        return ErrorFloor(float((1 / (values + own)).mean()), "van Trees, any estimator")
    return ErrorFloor(1 / (upper / prior.size + own), "van Trees by the trace, any estimator")


def _between(traces: Sequence[float]) -> float:
    """Squared standard error of a mean; 0 of a single one, of which nothing is known."""
    if len(traces) < 2:
        return 0.0
    mean = math.fsum(traces) / len(traces)
    return math.fsum((t - mean) ** 2 for t in traces) / (len(traces) - 1) / len(traces)


def cramer_rao(found: Information) -> ErrorFloor:
    """The floor without a prior, which holds of unbiased estimators only."""
    return ErrorFloor(found.unbiased_mse, f"Cramer-Rao, {UNBIASED}")


def error_floor(
    function: UpdateOfInputs,
    prior: GaussianPrior,
    noise: float,
    rng: torch.Generator,
    *,
    centre: float = 0.5,
    draws: int = 4,
) -> ErrorFloor:
    """The van Trees floor of an update under noise.

    Args:
        function: the update of the inputs; labels and protocol are known to the attacker.
        prior: of the inputs, all independent.
        noise: standard deviation on every value of the update.
        rng: of draws and probes.
        centre: the prior's mean of every value.
        draws: batches drawn of the prior.

    Raises:
        NotApplicable: the update is not continuous in the inputs, so that no such floor holds.
        BadInput: a value out of range.
    """
    like = function.inputs()
    drawn = [centre + prior.spread * randn((prior.size,), rng, like) for _ in range(max(2, draws))]
    if (share := jumps(function, drawn[0], drawn[1])) > MOST_JUMPS:
        raise NotApplicable(
            f"the update is not continuous in the inputs ({share:.0%} of its change between two of them is no"
            " derivative, as behind ReLU or a maximum), and the van Trees floor holds of no such update"
        )
    return van_trees([information(function.jacobian(x), noise, rng, iterations=0) for x in drawn[:draws]], prior)
