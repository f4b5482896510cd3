"""Inputs of the last hidden layer from clusters of exclusive units (Pan et al. 2022, arXiv 2010.13356).

A row of that layer's weight gradient that one example alone fires is delta * x, with delta = dL/db of the row.
Without a bias delta = s (V^T d) is known up to the scale s of the example's derivative s d by the logits; V is the last
weight.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import nnls
from torch import Tensor

from fedspill.core.types import Params
from fedspill.inversion.exclusivity.clusters import UnitCluster, ratio_clusters
from fedspill.inversion.exclusivity.dense_end import passed
from fedspill.inversion.gradients.linear import row_groups
from fedspill.inversion.network.dense import Dense

Scale = Literal["published", "fitted"]
PUBLISHED = 2 / 3
"""|g_y| of every example: the paper takes g_1 = 2/3 of |g_1 / g_y|, which is right if p_y = 1/3."""
SOLVED = 1e-3
"""Relative residual below which the last bias gradient tells the scales."""
GRID = 200


@dataclass(frozen=True)
class Evidence:
    """The two last layers and their mean gradient, in float64.

    Attributes:
        layers: the last hidden layer and the last one.
        params: their weights.
        gradient: of them; a bias may be missing.
        usable: hidden units whose column of the last weight's gradient is exact enough.
        silent: hidden units that no example fired; all False where rounding hides it.
        blurred: relative rounding of each column of the last weight's gradient.
        eps: relative rounding of what the client computes.
        noise: standard deviation of rounding in an entry of it, of a delta.
        count: n, if it is known.
    """

    layers: tuple[Dense, Dense]
    params: Params
    gradient: Params
    usable: Bool[Tensor, " units"]
    silent: Bool[Tensor, " units"]
    blurred: Float[Tensor, " units"]
    eps: float
    noise: float
    count: int | None

    @property
    def hidden(self) -> Float[Tensor, "units d"]:
        """Gradient of the last hidden layer's weight."""
        return self.gradient[self.layers[0].weight]

    @property
    def last(self) -> Float[Tensor, "classes units"]:
        """Gradient of the last weight."""
        return self.gradient[self.layers[1].weight]

    def bias(self, layer: int) -> Tensor | None:
        """Gradient of a layer's bias, if it was sent."""
        return self.gradient.get(self.layers[layer].bias or "")


@dataclass(frozen=True)
class Candidate:
    """An input of the last hidden layer.

    Attributes:
        x: float64.
        cluster: the units that show it.
        assumed: its scale is a guess.
    """

    x: Float[Tensor, " d"]
    cluster: UnitCluster
    assumed: bool = False


def candidates(evidence: Evidence, *, tolerance: float, least: int, scale: Scale) -> list[Candidate]:
    """One for each set of at least `least` units whose columns and rows agree, the largest clusters first."""
    made = ratio_clusters(evidence.last, evidence.usable, tolerance=tolerance, noise=evidence.noise)
    clusters = [c for c in made if c.label is not None and len(c.units) >= least]
    proposed = [f for c in clusters for f in _agreeing(evidence, c, tolerance, least)]
    if evidence.bias(0) is not None or not proposed:
        return proposed
    return _scaled(evidence, proposed, scale)


def _agreeing(evidence: Evidence, cluster: UnitCluster, tolerance: float, least: int) -> list[Candidate]:
    delta = evidence.bias(0)
    delta = _backwards(evidence, cluster) if delta is None else delta[cluster.units]
    floor = max(1e-300, 1e-7 * float(delta.abs().max()), 100 * evidence.noise)
    groups = row_groups(evidence.hidden[cluster.units], delta, floor=floor, tolerance=tolerance, noise=evidence.noise)
    return [
        Candidate(g.x, replace(cluster, units=cluster.units[g.rows], strength=cluster.strength[g.rows]))
        for g in groups
        if len(g.rows) >= least
    ]


def _backwards(evidence: Evidence, cluster: UnitCluster) -> Tensor:
    return evidence.params[evidence.layers[1].weight][:, cluster.units].T @ cluster.direction


def _scaled(evidence: Evidence, proposed: list[Candidate], scale: Scale) -> list[Candidate]:
    """Inputs divided by the scales: of the last bias gradient where it tells them, else as published or fitted."""
    directions = torch.stack([f.cluster.direction for f in proposed])
    total = evidence.bias(1)
    if total is not None and (solved := _from_bias(directions, total)) is not None:
        return [replace(f, x=f.x / s) for f, s in zip(proposed, solved, strict=True) if s > 0]
    count = evidence.count or len(proposed)
    if scale == "fitted":
        return [replace(f, x=f.x / _fitted(evidence, f, count)) for f in proposed]
    return [replace(f, x=f.x * count * float(-f.cluster.direction.min()) / PUBLISHED, assumed=True) for f in proposed]


def _from_bias(directions: Float[Tensor, "m classes"], total: Float[Tensor, " classes"]) -> list[float] | None:
    """Scales whose sum of directions is the last bias gradient; None unless they are unique and explain it."""
    matrix, target = directions.T.cpu().numpy(), total.cpu().numpy()
    if np.linalg.matrix_rank(matrix, tol=1e-6) < len(directions):
        return None
    scales, residual = nnls(matrix, target)
    return scales.tolist() if residual < SOLVED * float(np.linalg.norm(target)) else None


def _fitted(evidence: Evidence, candidate: Candidate, count: int) -> float:
    """The scale at which passing the input through the network gives the direction that was seen (not in the paper).

    The scale is q / (n |d_y|) with q = 1 - p_y between 0 and 1: a search along one line.
    """
    hidden, last = evidence.layers
    direction, label = candidate.cluster.direction, int(candidate.cluster.direction.argmin())
    unit = float(-direction[label])
    output = evidence.params[hidden.weight] @ candidate.x
    shift = 0.0 if hidden.bias is None else evidence.params[hidden.bias]

    def gap(q: Tensor) -> Tensor:
        fired = (output * (count * unit / q)[:, None] + shift).relu()
        errors = passed([last], evidence.params, fired).errors(torch.full((len(q),), label, device=q.device))
        return (errors / errors.norm(dim=1, keepdim=True).clamp_min(1e-300) - direction).norm(dim=1)

    low, high = -9.0, 0.0
    for _ in range(12):
        exponents = torch.linspace(low, high, GRID, dtype=torch.float64, device=direction.device)
        best = int(gap(10**exponents).nan_to_num(torch.inf).argmin())
        low, high = float(exponents[max(0, best - 1)]), float(exponents[min(GRID - 1, best + 1)])
    return 10 ** ((low + high) / 2) / (count * unit)
