"""What an attacker without a prior reads of one record from a noisy linear layer, in closed form.

Ziller, Riess et al. 2024 (arXiv:2402.12861): a server that may choose the model has the record x sent bare, as a
gradient cut to the norm C, and scales it up again; its estimate is x and Gaussian noise of sigma ||x|| on every value.
A readout that divides a row's gradient by its bias's gradient g_b errs by noise of sigma / |g_b|, and by x times as
much again, as the divisor is noisy too; rows that see the same record are averaged with the weights g_b^2. To first
order, where |g_b| is many times the noise. These are attackers, not bounds: who has a prior may do better.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.integrate import quad
from scipy.optimize import root_scalar
from scipy.special import gammainc

from fedspill.core.errors import BadInput

WEAK = 10.0
"""Bias gradients over the noise below which the first order is too good to be true."""
SHRUNK = 0.25
"""Squared error by noise in the weights' sum, over the variance, likewise: 1 dB."""


@dataclass(frozen=True)
class NoisyEstimate:
    """An unbiased Gaussian estimate of a record.

    Attributes:
        size: values of the record.
        variance: of the error of every value, in its unit; for PSNR the record's values lie in [0, 1].
        stretch: how many times the variance is larger in the direction of the record itself.
        weak: the first order does not hold, and the estimate is worse than this.

    Raises:
        BadInput: a size below 1, a variance that is not above 0 and finite, or a stretch below 1.
    """

    size: int
    variance: float
    stretch: float = 1.0
    weak: bool = False

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 < self.variance < math.inf or not 1 <= self.stretch < math.inf:
            raise BadInput(
                f"size={self.size}, variance={self.variance}, stretch={self.stretch}: at least 1, above 0 and at least"
                " 1 are needed"
            )

    @property
    def mse(self) -> float:
        """The mean squared error per value, over the noise."""
        return self.variance * (self.size - 1 + self.stretch) / self.size

    @property
    def psnr(self) -> float:
        """PSNR in dB of the mean squared error."""
        return -10 * math.log10(self.mse)

    def mse_below(self, level: float) -> float:
        """Probability of a squared error per value of at most `level`."""
        if level <= 0:
            return 0.0
        ends = self.size * level / self.variance
        if self.stretch == 1:
            return _chi2(self.size, ends)
        far = min(math.sqrt(ends / self.stretch), 40.0)
        return 2 * float(quad(lambda w: _normal(w) * _chi2(self.size - 1, ends - self.stretch * w * w), 0.0, far)[0])

    def psnr_above(self, psnr: float) -> float:
        """Probability of a PSNR of at least `psnr` dB."""
        return self.mse_below(10 ** (-psnr / 10))

    def median_psnr(self) -> float:
        """PSNR in dB that every second estimate reaches."""
        return root_scalar(
            lambda p: self.psnr_above(p) - 0.5, bracket=(self.psnr - 60, self.psnr + 60), method="brentq", xtol=1e-6
        ).root


def _normal(w: float) -> float:
    return math.exp(-w * w / 2) / math.sqrt(2 * math.pi)


def _chi2(degrees: int, at: float) -> float:
    if degrees == 0:
        return 1.0
    return float(gammainc(degrees / 2, max(0.0, at) / 2))


def sent_bare(size: int, length: float, *, clip: float, noise: float, rounds: int = 1) -> NoisyEstimate:
    """The estimate of a record that is its own gradient, clipped and noised, by a server that knows its length.

    Args:
        size: values of the record.
        length: its Euclidean norm ||x||.
        clip: C, to which the gradient is cut.
        noise: standard deviation on every value, in the update's unit; sigma C.
        rounds: releases that are averaged.

    Raises:
        BadInput: a value that is not above 0.
    """
    if not (length > 0 and clip > 0 and noise > 0 and rounds >= 1):
        raise BadInput(f"length={length}, clip={clip}, noise={noise}, rounds={rounds} must all be above 0")
    return NoisyEstimate(size, (noise * max(1.0, length / clip)) ** 2 / rounds)


def divided_by_bias(
    size: int, length: float, bias_gradients: Sequence[float], *, noise: float, known: bool = False
) -> NoisyEstimate:
    """The mean of the ratios of rows that one record alone has moved, weighed by g_b^2.

    Args:
        size: values of what the layer takes.
        length: its Euclidean norm ||x||.
        bias_gradients: g_b of each such row, as sent, after clipping.
        noise: standard deviation on every value of the update.
        known: the attacker knows g_b, so that only the weight's gradient is noisy.

    Raises:
        BadInput: no row, a row without a gradient, or a value that is not above 0.
    """
    strength = math.fsum(g * g for g in bias_gradients)
    if not (strength > 0 and noise > 0 and length >= 0):
        raise BadInput(f"bias_gradients of norm {math.sqrt(strength)}, noise={noise}: both must be above 0")
    # the sum of the squares of noisy divisors is too large by k sigma^2, so that the mean is drawn towards 0
    shrunk = (len(bias_gradients) * noise * length) ** 2 / size > SHRUNK * strength and len(bias_gradients) > 1
    weak = not known and (shrunk or math.sqrt(strength) < WEAK * noise)
    return NoisyEstimate(size, noise**2 / strength, 1.0 if known else 1.0 + length**2, weak)
