"""From the cells of a table to its columns, its rows and its labels."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import log10

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.errors import BadInput, few
from fedspill.core.inputs import CategoricalColumn, Column, NumericColumn, TableSpec
from fedspill.zoo.data.sources.source import Source

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
MOST_WORDS = 1000
"""A column of more words than this is free text, a key, or numbers with gaps."""
LARGEST = torch.finfo(torch.float32).max
FINEST = 2**21
"""Steps up to the largest value of a column, for float32 to tell neighbouring ones apart after the encoding."""


@dataclass(frozen=True)
class Table:
    """A whole source.

    Attributes:
        labels: positions in `class_names`.
    """

    spec: TableSpec
    inputs: Float[Tensor, "n columns"]
    labels: Int[Tensor, " n"]
    class_names: tuple[str, ...]

    def source(self, name: str, description: str, rows: Sequence[int]) -> Source:
        """A source of some of the table's rows, in this order."""
        chosen = torch.tensor(list(rows))
        inputs, show = self.inputs[chosen], shown_rows(self.spec)

        def read(positions: list[int]) -> Tensor:
            return inputs[positions]

        names, labels = self.class_names, self.labels[chosen]
        return Source(name, description, names, len(names), labels, True, read, spec=self.spec, show=show)


def parsed(where: str, header: Sequence[str], rows: Sequence[Sequence[str]], label: str | None) -> Table:
    """Reads cells.

    Args:
        where: for messages.
        header: names of the columns.
        rows: cells as text.
        label: the column of the labels; None takes the last one.

    Raises:
        BadInput: no row, no further column, names that repeat, rows of other lengths, too many words or classes.
    """
    names = [name.strip() for name in header]
    _check(where, names, rows)
    target = names[-1] if label is None else label
    if target not in names:
        raise BadInput(f"{where} has no column {target!r} for the label; it has {few(names, 20)}")
    cells = {name: [row[k].strip() for row in rows] for k, name in enumerate(names)}
    labels, classes = _labels(where, target, cells.pop(target))
    read = [_column(where, name, texts) for name, texts in cells.items()]
    inputs = torch.tensor([values for _, values in read], dtype=torch.float64).T.float().contiguous()
    return Table(TableSpec(tuple(column for column, _ in read)), inputs, labels, classes)


def _check(where: str, names: list[str], rows: Sequence[Sequence[str]]) -> None:
    if len(names) < 2 or not rows:
        raise BadInput(
            f"{where} has {len(names)} columns and {len(rows)} rows; at least 2 columns and 1 row are needed"
        )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadInput(f"{where} names the column {twice!r} twice")
    wrong = next((k for k, row in enumerate(rows) if len(row) != len(names)), None)
    if wrong is not None:
        raise BadInput(f"{where}: row {wrong + 1} has {len(rows[wrong])} cells; its {len(names)} columns need as many")


def _are_numbers(texts: set[str]) -> bool:
    return all(NUMBER.fullmatch(text) for text in texts)


def _column(where: str, name: str, texts: list[str]) -> tuple[Column, list[float]]:
    distinct = set(texts)
    if _are_numbers(distinct):
        value = {text: float(text) for text in distinct}
        beyond = next((text for text in texts if not abs(value[text]) <= LARGEST), None)
        if beyond is not None:
            raise BadInput(
                f"{where}: the column {name!r} holds {beyond[:60]!r}; numbers up to {LARGEST:.3g} are needed"
            )
        values = [value[text] for text in texts]
        return _numeric(name, values, distinct), values
    words = _few(where, name, sorted(distinct))
    place = {word: float(k) for k, word in enumerate(words)}
    return CategoricalColumn(name, words), [place[text] for text in texts]


def _numeric(name: str, values: list[float], distinct: set[str]) -> NumericColumn:
    column = torch.tensor(values, dtype=torch.float64)
    low, high = float(column.min()), float(column.max())
    deviation = float(column.std(correction=0))
    # A constant column has none, and float32 has no smaller ones; any scale does.
    std = deviation if deviation > 1e-30 else 1.0
    return NumericColumn(name, float(column.mean()), std, low, high, _step(distinct, max(abs(low), abs(high))))


def _step(texts: set[str], largest: float) -> float | None:
    """1, 0.1, 0.01, ...: the decimals that the texts have; None where float32 cannot hold so many."""
    try:
        decimals = max(max(0, -int(Decimal(text).normalize().as_tuple().exponent)) for text in texts)
    except ArithmeticError:  # an exponent beyond those of decimals
        return None
    step = float(f"1e-{decimals}")
    return step if step and largest / step < FINEST else None


def _labels(where: str, name: str, texts: list[str]) -> tuple[Int[Tensor, " n"], tuple[str, ...]]:
    distinct = set(texts)
    ordered = sorted(distinct, key=float) if _are_numbers(distinct) else sorted(distinct)
    classes = _few(where, name, ordered)
    place = {word: k for k, word in enumerate(classes)}
    return torch.tensor([place[text] for text in texts]), classes


def _few(where: str, name: str, words: list[str]) -> tuple[str, ...]:
    if len(words) > MOST_WORDS:
        raise BadInput(
            f"{where}: the column {name!r} holds {len(words)} different words, such as {words[0]!r} and"
            f" {words[-1]!r}; at most {MOST_WORDS} classes or categories are taken"
        )
    return tuple(words)


def shown_rows(spec: TableSpec) -> Callable[[Tensor], list[str]]:
    """Rows as one line of text each: "age = 39, sex = Male"."""

    def show(rows: Tensor) -> list[str]:
        return [", ".join(map(_cell, spec.columns, row)) for row in rows.double().tolist()]

    return show


def _cell(column: Column, value: float) -> str:
    if isinstance(column, CategoricalColumn):
        return f"{column.name} = {column.categories[round(value)]}"
    if column.step is None:
        return f"{column.name} = {value:.6g}"
    return f"{column.name} = {value:.{max(0, round(-log10(column.step)))}f}"
