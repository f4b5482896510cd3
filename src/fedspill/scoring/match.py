"""Which reconstruction belongs to which private example."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import TableSpec
from fedspill.scoring.distances import distances
from fedspill.scoring.pairs import pieces

TIE = 1e-9
"""Root mean squared error within which labels decide; far below that of the PSNR cap (100 dB, 1e-5)."""


def match(
    rebuilt: Float[Tensor, "m ..."] | Int[Tensor, "m ..."],
    private: Float[Tensor, "n ..."] | Int[Tensor, "n ..."],
    rebuilt_labels: Int[Tensor, " m ..."] | None = None,
    private_labels: Int[Tensor, " n ..."] | Float[Tensor, " n ..."] | None = None,
    table: TableSpec | None = None,
) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"]]:
    """The one-to-one assignment of the least total distance (`scipy.optimize.linear_sum_assignment`).

    The distance is the root of the squared error, for tokens the number of differing positions, and for the rows
    of a table `distances.mixed`. With
    squared errors the total can be lowered by taking an exact reconstruction away from its example, because
    one large error weighs more than two medium ones; the root obeys the triangle inequality, so an exact one
    stays.

    A candidate with a NaN or an infinite value is never matched, so k can fall below min(m, n).

    Args:
        rebuilt: candidates in any order.
        private: the truth.
        rebuilt_labels: break ties between candidates that are equally close; they decide nothing else.
        private_labels: used only together with `rebuilt_labels`.
        table: the columns, if the examples are rows of a table.

    Returns:
        Positions in `rebuilt` and in `private` of the k matched pairs, on the CPU, in the order of `private`.

    Raises:
        BadInput: the shapes of the examples differ or do not fit the table, or a private example is not finite.
    """
    if not all(bool(private[piece].isfinite().all()) for piece in pieces(len(private), private[0].numel(), 2**24)):
        raise BadInput("the private examples hold NaN or infinite values; finite numbers are needed")
    usable = rebuilt.flatten(1).isfinite().all(1).nonzero()[:, 0].cpu()
    cost = distances(rebuilt[usable.to(rebuilt.device)], private, table).cpu()
    if len(usable) and rebuilt_labels is not None and private_labels is not None:
        cost = cost + _label_penalty(rebuilt_labels.cpu()[usable], private_labels.cpu(), private)
    rows, columns = _assignment(cost)
    order = columns.argsort()
    return usable[rows[order]], columns[order]


def _assignment(cost: Float[Tensor, "m n"]) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"]]:
    """Rows and columns of the least total cost; SciPy is asked where there is more than one row and column."""
    if cost.numel() and 1 in cost.shape:
        least = int(cost.argmin())
        return torch.tensor([least // cost.shape[1]]), torch.tensor([least % cost.shape[1]])
    from scipy.optimize import linear_sum_assignment

    rows, columns = (torch.as_tensor(i, dtype=torch.int64) for i in linear_sum_assignment(cost.numpy()))
    return rows, columns


def _label_penalty(rebuilt: Tensor, private: Tensor, examples: Tensor) -> Float[Tensor, "m n"]:
    unequal = rebuilt.view(len(rebuilt), 1, -1) != private.view(1, len(private), -1)
    return unequal.any(2).double() * (TIE * examples[0].numel() ** 0.5)
