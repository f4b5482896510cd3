"""The bins of an imprint that somebody else planted: found by the directions of rows, sorted by their biases.

Fowl et al., "Robbing the Fed", ICLR 2022, arXiv:2110.13057. Whoever planted the module knows its rows; but rows of one
direction w with biases -a are bins of <w, x> whoever looks at them, in whatever order and scale they stand.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import TokenSpec
from fedspill.core.model import Model
from fedspill.core.types import Update
from fedspill.inversion.gradients.layer import Layer
from fedspill.inversion.imprint.certificate import Outlet
from fedspill.inversion.imprint.readout import ImprintReadout
from fedspill.inversion.imprint.rows import Group, Imprint
from fedspill.inversion.imprint.views import PictureView, View, view_at
from fedspill.inversion.network.layers import layer_inputs
from fedspill.inversion.network.trace import Step, probe_inputs, trace
from fedspill.inversion.network.weights import some_columns

COSINE = 0.9
"""Rows count as parallel above it; a noise of 30 % of the row leaves 0.92."""
BUNDLE = 6
"""So many rows make bins: trained networks have two or three that are alike."""
MOST_COLUMNS = 2048
"""Numbers of a longer row that are compared."""
COLLINEAR = 0.98
"""Cosine of two columns of the layer behind, from which on rows act alike on what follows."""
PROBES = 16
"""Arbitrary inputs that show which rows are active beside each other."""
BELOW = 4
"""Rows that begin to fire below an input's answer, of which a row that is cut off would be alone."""
LEAST_PIXELS = 16
"""A place that shows fewer pixels shows no picture."""


@dataclass(frozen=True)
class FoundImprint:
    """Rows of one layer that are bins.

    Attributes:
        at: name of the linear layer.
        layer: names of its parameters.
        imprint: the bins.
        sparse: whether a row is cut off above its bin; None where arbitrary inputs do not tell.
        factors: (rows,) by which each row's activation goes on, over that of the first row with a bin.
        outlet: where the rows go on to; None where they do not act alike on a linear layer.
    """

    at: str
    layer: Layer
    imprint: Imprint
    sparse: bool | None
    factors: Float[Tensor, " rows"]
    outlet: Outlet | None

    def readouts(self, model: Model) -> Iterator[ImprintReadout]:
        """One readout, or two where it is open whether neighbours must be subtracted (ReLU) or rows are cut off.

        Raises:
            NotApplicable: what enters the layer does not show the network's input.
        """
        look = _shown(model, self.at)
        decode = "peel" if len(self.imprint.groups) > 1 else "bins"
        for sparse in (False, True) if self.sparse is None else (self.sparse,):
            imprint = replace(self.imprint, sparse=sparse)
            yield ImprintReadout(self.at, self.layer, imprint, look, decode, self.outlet)

    def evened(self, update: Update) -> Update:
        """The update as it would be if all rows went on by the same factor."""
        weight, bias = self.layer.weight, self.layer.bias
        if weight not in update.values or bias not in update.values:
            return update
        factors = self.factors.to(update.values[bias])
        rows = {weight: update.values[weight] / factors[:, None], bias: update.values[bias] / factors}
        return replace(update, values={**update.values, **rows})


def _shown(model: Model, at: str) -> View:
    look = view_at(model, at, transparent=not isinstance(model.input, TokenSpec))
    if isinstance(look, PictureView) and (shown := look.seen.resolution()) < LEAST_PIXELS:
        raise NotApplicable(f"what enters the layer {at!r} shows {shown} pixels of the input, which is no picture")
    return look


def found_imprints(model: Model) -> list[FoundImprint]:
    """Every linear layer with a bias that is given one flat row per example and holds bins, in the order of calls."""
    steps = [s for s in trace(model).steps if isinstance(s.module, nn.Linear) and len(s.input_shape) == 1]
    pairs = zip_longest(steps, steps[1:])
    return [found for step, after in pairs if step is not None and (found := _found(model, step, after)) is not None]


def _found(model: Model, step: Step, after: Step | None) -> FoundImprint | None:
    weight, bias = step.parameter("weight"), step.parameter("bias")
    if weight is None or bias is None:
        return None
    groups = grouped(model.params[weight], model.params[bias])
    if not groups:
        return None
    imprint, used = Imprint(groups, len(model.params[bias])), torch.cat([g.rows for g in groups])
    column, factors = _onward(model, step, after, used)
    outlet = None if column is None or after is None else Outlet(step.name, after.name, column)
    sparse = _cut_off(model, step.name, bias, imprint)
    return FoundImprint(step.name, Layer(weight, bias), imprint, sparse, factors, outlet)


def grouped(weight: Float[Tensor, "rows f"], bias: Float[Tensor, " rows"]) -> tuple[Group, ...]:
    """Bundles of parallel rows as groups of bins, the largest first; ordinary rows are in none."""
    sizes = weight.double().norm(dim=1)
    live = sizes > 0
    units = some_columns(weight.double(), MOST_COLUMNS)
    units = units / units.norm(dim=1, keepdim=True).clamp_min(1e-300)
    near = (units @ units.T > COSINE) & live & live[:, None]
    groups = list[Group]()
    while int((counts := near.sum(1)).max()) >= BUNDLE:
        rows = near[int(counts.argmax())].nonzero()[:, 0]
        groups.append(_group(weight.double()[rows] / sizes[rows, None], bias.double()[rows] / sizes[rows], rows))
        near[rows], near[:, rows] = False, False
    return tuple(groups)


def _group(units: Float[Tensor, "k f"], bias: Float[Tensor, " k"], rows: Int[Tensor, " k"]) -> Group:
    """Rows of one direction, by where they begin to fire."""
    starts, order = (-bias).sort()
    edges = torch.cat([starts, starts.new_tensor([torch.inf])])
    mean = units.mean(0)
    return Group(mean / mean.norm(), edges, rows[order])


def _cut_off(model: Model, at: str, bias: str, imprint: Imprint) -> bool | None:
    """Whether an input moves the row of its own bin alone, or all rows that begin to fire below it."""
    z = probe_inputs(model.input, PROBES, model.like)
    features = layer_inputs(model.in_eval_mode(), at, z).flatten(1)
    for group in imprint.groups:
        below = (group.answers(features)[:, None] > group.edges[:-1].to(features.device)).sum(1)
        place = int(below.argmax())
        if int(below[place]) >= BELOW:
            active = _active(model, bias, z[place : place + 1])[group.rows.to(z.device)[: int(below[place])]]
            if bool(active.any()):
                return 2 * int(active.sum()) < int(below[place])
    return None


def _active(model: Model, bias: str, z: Tensor) -> Tensor:
    """(rows,) whether the logits move with each number of the bias."""
    calm = model.in_eval_mode()
    moved = calm.params[bias].detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = calm.logits({**calm.params, bias: moved}, z)
        weights = torch.linspace(1.0, 2.0, logits.numel()).to(logits).view_as(logits)
        (slopes,) = torch.autograd.grad((logits * weights).sum(), moved)
    return slopes != 0


def _onward(model: Model, step: Step, after: Step | None, used: Tensor) -> tuple[Tensor | None, Tensor]:
    """What an activation of 1 of a bin's row adds behind the next linear layer, and each row's factor to it."""
    even = model.like.new_ones(step.output_shape[-1])
    name = None if after is None else after.parameter("weight")
    if name is None or model.params[name].shape[1] != len(even):
        return None, even
    columns = model.params[name].double()
    first = columns[:, int(used[0])]
    size = float(first.norm())
    along = columns.T @ first / max(size, 1e-300) ** 2
    cosines = columns.T @ first / (columns.norm(dim=0) * size).clamp_min(1e-300)
    if size == 0 or not bool((cosines[used].abs() > COLLINEAR).all()):
        return None, even
    factors = even.double().index_copy(0, used.to(even.device), along[used].to(even.device))
    return first.to(model.like), factors
