"""Features behind a single linear layer that a ReLU feeds, where examples own features (Pan et al. 2022).

The layer's gradient is G = sum_i g_i f_i^T. Features that one example alone has show the directions of the g_i, the
bias gradient their lengths, and least squares gives all features; for at most one example less than there are classes,
since each g_i adds up to 0 over the classes. Without features of their own, classes are all that can be told apart.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import nnls
from torch import Tensor

from fedspill.core.types import Params
from fedspill.inversion.exclusivity.certificate import BASE, FINEST, ROUGH
from fedspill.inversion.exclusivity.clusters import UnitCluster, ratio_clusters
from fedspill.inversion.exclusivity.dense_end import DenseEnd, passed
from fedspill.inversion.exclusivity.earlier_layers import Rebuilt
from fedspill.inversion.exclusivity.readout import Readout, Rules, unexplained_rows

COMBINED = 1e-3
"""Distance below which a direction is a sum of others with positive weights: a mixture."""
SOLVED = 1e-3


def read_features(
    end: DenseEnd, params: Params, gradient: Params, count: int | None, rules: Rules, *, eps: float, noise: float
) -> Readout:
    """The examples behind one linear layer; see `readout.read_neurons`."""
    (layer,) = end.layers
    columns, total = gradient[layer.weight], gradient.get(layer.bias or "")
    made = ratio_clusters(columns, (columns != 0).any(0), tolerance=rules.tolerance, noise=noise)
    clusters = [c for c in made if c.label is not None and len(c.units) >= max(2, rules.least)]
    pure = _extreme(clusters)
    if not pure or len(pure) >= len(columns) or total is None:
        return Readout((), count, len(clusters), 1.0)
    directions = torch.stack([c.direction for c in pure])
    scales, residual = nnls(directions.T.cpu().numpy(), total.cpu().numpy())
    if residual > SOLVED * float(total.norm()) or scales.min() <= 0:
        return Readout((), count, len(clusters), 1.0)
    scaled = directions * directions.new_tensor(scales)[:, None]
    x = torch.linalg.pinv(scaled.T) @ columns
    condition = float(np.linalg.cond(directions.cpu().numpy()))
    rounding = eps * condition + noise / float(columns.abs().max())
    examples, count, shares = _judged(end, params, pure, x, scaled, count, rounding)
    unexplained = unexplained_rows(end, params, gradient, examples, count, eps, noise) if examples and count else 1.0
    return Readout(tuple(examples), count, len(clusters), unexplained, shares)


def _extreme(clusters: Sequence[UnitCluster]) -> list[UnitCluster]:
    """Clusters whose direction is no sum of others' with positive weights."""
    kept = list(clusters)
    for cluster in reversed(clusters):
        others = [c.direction for c in kept if c is not cluster]
        if others:
            _, residual = nnls(torch.stack(others).T.cpu().numpy(), cluster.direction.cpu().numpy())
            kept = [c for c in kept if c is not cluster] if residual < COMBINED else kept
    return kept


def _judged(
    end: DenseEnd,
    params: Params,
    pure: Sequence[UnitCluster],
    x: Float[Tensor, "m d"],
    scaled: Float[Tensor, "m classes"],
    count: int | None,
    rounding: float,
) -> tuple[list[Rebuilt], int | None, tuple[float, ...]]:
    """Features that give back their own direction and size when they pass the layer are certified; and their shares."""
    labels = torch.tensor([int(c.direction.argmin()) for c in pure], device=x.device)
    errors = passed(end.layers, params, x).errors(labels)
    size = errors.norm(dim=1).clamp_min(1e-300)
    share = (scaled.norm(dim=1) / size).tolist()
    turned = (errors / size[:, None] - scaled / scaled.norm(dim=1, keepdim=True)).norm(dim=1)
    last = params[end.layers[0].weight]
    rough = rounding * (BASE + 4 * float(last.norm(dim=1).max()) * x.norm(dim=1)) + 4 * rounding / size
    allowed = rough.clamp_min(FINEST)
    fits = (turned <= allowed) & (allowed < ROUGH) & (x.amin(1) > -1e-2 * x.amax(1).abs())
    sure = [k for k, ok in enumerate(fits.tolist()) if ok]
    count = count if count is not None else (round(1 / min(share[k] for k in sure)) if sure else None)
    examples = list[Rebuilt]()
    for k, cluster in enumerate(pure):
        copies = round(share[k] * (count or 0))
        whole = copies > 0 and abs(share[k] * (count or 0) - copies) <= 1e-2 * copies
        certain = k in sure and whole and len(last) > 2
        mark = "alone" if certain else "unsure"
        examples.append(Rebuilt(x[k], int(labels[k]), cluster.units, max(1, copies), mark, 1.0 if certain else 0.5))
    return sorted(examples, key=lambda r: -r.confidence), count, tuple(share[k] for k in sure)
