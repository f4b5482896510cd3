"""The input of a linear layer that saw one example, from a gradient of which values are missing or noisy.

dW = delta x^T has rank one, and db = delta is one more column of it, whose input is 1. Whoever knows which entries were
sent, and how noisy they are, has the posterior of x and delta under a normal prior: that of x is the usual input's,
mean 0 and variance 1, as inputs are normalised. Variational Bayes with independent factors (Lim and Teh, "Variational
Bayesian approach to movie rating prediction", 2007) alternates between two weighted averages. An entry that hardly
anything tells is shrunk to the mean, which is grey, as in a Wiener filter; without noise nothing is shrunk, and rows
whose bias was not sent are joined to the others by the columns that both have (completion of a matrix of rank one).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

SURE, UNSURE = 100, 100
"""Sweeps of point estimates, which find the direction, and then of posteriors, which shrink it."""
USUAL = 5.0
"""Entries that the prior's variance of 1 counts as; it is off by about a third."""
LARGEST = 4.0
"""Variance of an input beyond which it is none: where few rows join the columns, it would grow without an end."""
FACTORS = np.linspace(math.log(0.5), math.log(2), 201)
"""Logarithms of what the scale that x and delta share is changed by in a sweep; a sweep itself hardly moves it."""
FINER = (1.0, 1e-2, 1e-4, 1e-6)
"""Grids of factors, one around the best of the one before."""
SETTLED = 1e-9
"""Of a sweep, the share of the input's length that it moves, below which its kind of sweeps ends."""
EXACT = 1e-7
"""Noise that is taken where there is none, as a share of the entries' root mean square."""
TINY = 1e-300


@dataclass(frozen=True)
class Entries:
    """What was sent of a layer's gradient.

    Attributes:
        weight: dL/dW, (out, in).
        bias: dL/db, (out,).
        weight_sent: entries of the weight gradient that hold what the client computed, and noise.
        bias_sent: likewise of the bias gradient.
        deviation: standard deviation of the noise on each.
    """

    weight: Float[Tensor, "out in"]
    bias: Float[Tensor, " out"]
    weight_sent: Bool[Tensor, "out in"]
    bias_sent: Bool[Tensor, " out"]
    deviation: float

    def joined(self) -> tuple[Tensor, Tensor]:
        """Values and the mask with the bias as the last column, float64; what was not sent is 0."""
        mask = torch.cat([self.weight_sent, self.bias_sent[:, None]], 1).double()
        return torch.cat([self.weight, self.bias[:, None]], 1).double() * mask, mask


@dataclass(frozen=True)
class Factor:
    """Means and variances of independent normal numbers."""

    mean: Tensor
    variance: Tensor

    @property
    def square(self) -> Tensor:
        """Expected squares."""
        return self.mean.square() + self.variance

    def times(self, factor: float) -> "Factor":
        """Multiplied by a constant."""
        return Factor(self.mean * factor, self.variance * factor**2)


def posterior_input(entries: Entries) -> Float[Tensor, " in"]:
    """The posterior mean of the input, of a prior of mean 0; 0 in a place of which nothing was sent.

    The sign and the length of the rows are told by the bias gradient: of a sign that it leaves open the mean is 0.
    """
    read = _posteriors(entries)
    return entries.weight.new_zeros(entries.weight.shape[1]).double() if read is None else read.input


def posterior_rows(entries: Entries) -> Float[Tensor, " out"]:
    """The posterior mean of the rows' weights, dL/db but for noise; of a sign that the bias leaves open, in either."""
    read = _posteriors(entries)
    return entries.bias.new_zeros(len(entries.bias)).double() if read is None else read.rows


@dataclass(frozen=True)
class _Read:
    input: Tensor
    rows: Tensor


def _posteriors(entries: Entries) -> _Read | None:
    """Of both factors; None where nothing was sent."""
    values, mask = entries.joined()
    # In units of the entries: gradients may be so small that their squares are lost.
    unit = float((values.square().sum() / mask.sum().clamp_min(1)).sqrt())
    if not unit > 0:
        return None
    values, noise = values / unit, max((entries.deviation / unit) ** 2, EXACT**2)
    rows = Factor(values[:, -1], torch.zeros_like(values[:, -1]))
    columns = _columns(values, mask, rows, noise, sure=True)
    for most, sure in ((SURE, True), (UNSURE, False)):
        for _ in range(most):
            before = columns.mean
            rows = _rows(values, mask, columns, noise, rows, sure=sure)
            columns = _columns(values, mask, rows, noise, sure=sure)
            factor = _scale(values, mask, rows, columns, noise)
            rows, columns = rows.times(factor), _bias_is_1(columns.times(1 / factor))
            if float((columns.mean - before).norm()) <= SETTLED * float(columns.mean.norm()):
                break
    told = float((values[:, -1] * rows.mean * mask[:, -1]).sum()) / noise
    return _Read(columns.mean[:-1] * math.tanh(told), rows.mean * unit)


def _columns(values: Tensor, mask: Tensor, rows: Factor, noise: float, *, sure: bool) -> Factor:
    """The input given the rows' weights; the last entry is 1."""
    energy, shown = mask.T @ rows.square, values.T @ rows.mean
    found = _posterior(shown, energy, noise, 1.0, sure=sure)
    spread = float(found.square[:-1].sum())
    spread = min((USUAL + spread) / (USUAL + len(found.mean) - 1), LARGEST)
    return _bias_is_1(_posterior(shown, energy, noise, spread, sure=sure))


def _rows(values: Tensor, mask: Tensor, columns: Factor, noise: float, before: Factor, *, sure: bool) -> Factor:
    spread = max(float(before.square.mean()), TINY)
    return _posterior(values @ columns.mean, mask @ columns.square, noise, spread, sure=sure)


def _posterior(shown: Tensor, energy: Tensor, noise: float, spread: float, *, sure: bool) -> Factor:
    precision = (energy + noise / spread).clamp_min(TINY)
    return Factor(shown / precision, torch.zeros_like(precision) if sure else noise / precision)


def _bias_is_1(columns: Factor) -> Factor:
    columns.mean[-1], columns.variance[-1] = 1.0, 0.0
    return columns


def _scale(values: Tensor, mask: Tensor, rows: Factor, columns: Factor, noise: float) -> float:
    """The factor that rows take from columns: what the bias gradient says of their length, and the usual input's."""
    energy, shown = float((mask[:, -1] * rows.square).sum()), float((values[:, -1] * rows.mean).sum())
    size, number = float(columns.square[:-1].sum()), len(columns.mean) - 1
    best = 0.0
    for finer in FINER:
        logs = best + finer * FACTORS
        of_bias = (np.exp(2 * logs) * energy / 2 - np.exp(logs) * shown) / noise
        of_input = (USUAL + number) / 2 * np.log(USUAL + size * np.exp(-2 * logs)) + number * logs
        best = float(logs[int((of_bias + of_input).argmin())])
    return math.exp(best)
