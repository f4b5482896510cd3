"""Closeness of matched table rows, one float64 number per pair; nothing is pooled over a batch.

A category is right when it is the same one. A number is right within half a step of its column, so that rounding
gives the private value; a column of real numbers has no step, and a thousandth of its standard deviation stands for it.
"""

from dataclasses import dataclass, replace

from jaxtyping import Bool, Float
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import CategoricalColumn, Column, Kind, TableSpec
from fedspill.scoring.pairs import paired

TABLES: frozenset[Kind] = frozenset({TableSpec})
"""What the metrics of this file accept."""

REAL_TOLERANCE = 1e-3
"""Standard deviations within which a real number counts as right."""

TABLEAK_TOLERANCE = 0.319
"""Standard deviations within which TabLeak counts a number as right: the central quarter of a normal distribution."""


@dataclass(frozen=True)
class RowMetric:
    """How much of each row is right; in [0, 1], 1 when equal.

    Attributes:
        name: in plans and reports.
        whole: 1 where every column is right, else 0; otherwise the share of columns that are right.
        deviations: standard deviations by which a number may miss; None is the strict rule of this file.
        table: the columns.
    """

    name: str
    whole: bool = False
    deviations: float | None = None
    table: TableSpec | None = None
    unit: str = ""
    higher_is_closer: bool = True
    accepts: frozenset[Kind] = TABLES

    def __call__(self, rebuilt: Tensor, private: Tensor) -> Float[Tensor, " n"]:
        """One value per pair of rows (n, columns).

        Raises:
            BadInput: shapes differ, or do not fit the columns.
        """
        right = _right(self.table, rebuilt, private, self.deviations)
        return right.all(1).double() if self.whole else right.double().mean(1)

    def of(self, table: TableSpec) -> "RowMetric":
        """The same for these columns."""
        return replace(self, table=table)


FEATURE_ACCURACY = RowMetric("feature_accuracy")
"""Share of the columns that are right."""

TABLEAK_ACCURACY = RowMetric("tableak_accuracy", deviations=TABLEAK_TOLERANCE)
"""Share of the columns that are right by TabLeak's laxer rule (Vero et al. 2023, section 5): numbers may miss by 0.319
standard deviations, so that guessing means and commonest categories already scores more than half on many tables."""

EXACT_ROW = RowMetric("exact_row", whole=True)
"""1 where every column is right, else 0."""


def _right(
    table: TableSpec | None, rebuilt: Tensor, private: Tensor, deviations: float | None
) -> Bool[Tensor, "n columns"]:
    """Which columns of each pair are right; numbers within so many standard deviations, or None for the strict rule."""
    paired(rebuilt, private)
    if table is None:
        raise BadInput("a metric of tables was got without the table's columns; give it the TableSpec")
    if private.ndim != 2 or private.shape[1] != len(table.columns):
        raise BadInput(f"rows of shape {tuple(private.shape)} were got; (n, {len(table.columns)} columns) are needed")
    # float64 before the difference: float32 would round the very steps that decide.
    gaps = (rebuilt.double() - private.double()).abs()
    return gaps <= gaps.new_tensor([_tolerance(column, deviations) for column in table.columns])


def _tolerance(column: Column, deviations: float | None) -> float:
    if isinstance(column, CategoricalColumn):
        return 0.0
    if deviations is not None:
        return deviations * column.std
    return REAL_TOLERANCE * column.std if column.step is None else column.step / 2
