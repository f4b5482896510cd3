"""Tables: rows with a label, from CSV files, from Adult, and from what scikit-learn carries.

A column is a number if every value of it reads as one, else a category. Mean, deviation, bounds and step are those of
the whole source, all splits together, so that private and public rows share one encoding: what the encoding tells of
the rows (their bounds, say) is told to everyone, as it is where a federation agrees on its features beforehand.
"""

import csv
import importlib
from math import gcd
from pathlib import Path
from typing import Any, Literal

import torch

from fedspill.core.errors import BadInput
from fedspill.zoo.data.sources.columns import parsed
from fedspill.zoo.data.sources.source import Source

EMBEDDED = ("breast_cancer", "wine", "iris", "diabetes")


def csv_table(path: Path, label: str | None) -> Source:
    """Rows of a CSV file whose first line names the columns; words in quotes may hold commas.

    Args:
        path: comma-separated, UTF-8.
        label: the column to predict; None takes the last one.

    Raises:
        BadInput: no such file or column, or lines of different lengths.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *rows = [line for line in csv.reader(file, skipinitialspace=True) if line] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"table {str(path)!r} cannot be read as CSV: {error}") from error
    table = parsed(f"table {str(path)!r}", header, rows, label)
    return table.source(f"csv:{path}", f"CSV file {path}", range(len(rows)))


def adult(root: Path, split: str) -> Source:
    """The Adult census table (Kohavi 1996): does a person earn above 50,000 dollars? "?" is a category of its own.

    Args:
        root: holds `tabular/adult.data` (the split "train"), `adult.test` and `adult_columns.txt`.

    Raises:
        BadInput: a file is missing or broken.
    """
    folder = root / "tabular"
    header = _cells(folder / "adult_columns.txt")[0]
    parts = {
        "train": _cells(folder / "adult.data"),
        "test": _cells(folder / "adult.test")[1:],
    }  # the first line is no row
    rows = [[*row[:-1], row[-1].removesuffix(".")] for lines in parts.values() for row in lines]
    table = parsed(f"Adult in {str(folder)!r}", header, rows, None)
    border = len(parts["train"])
    chosen = range(border) if split == "train" else range(border, len(rows))
    return table.source("adult", "Adult (Kohavi 1996), UCI Machine Learning Repository, CC BY 4.0", chosen)


def _cells(path: Path) -> list[list[str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = [row for row in csv.reader(file, skipinitialspace=True) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"Adult needs the file {str(path)!r} under the data root: {error}") from error
    if not lines:
        raise BadInput(f"{str(path)!r} is empty")
    return lines


def embedded(name: str, split: Literal["private", "public"]) -> Source:
    """A table that scikit-learn carries; even rows are private, odd ones public, in a fixed order that mixes classes.

    Of `diabetes` the label is whether the disease progressed further than the median.
    """
    datasets = importlib.import_module("sklearn.datasets")
    load: Any = getattr(datasets, f"load_{name}")
    held = load(scaled=False) if name == "diabetes" else load()
    target: list[str] = _target(held)
    # repr() gives the shortest text that reads as the same number: the one in the file, up to trailing zeros.
    rows = [[*map(repr, row), word] for row, word in zip(held.data.tolist(), target, strict=True)]
    header = [*(str(column) for column in held.feature_names), "label"]
    table = parsed(f"table {name!r}", header, rows, None)
    chosen = _mixed(range(0 if split == "private" else 1, len(rows), 2))
    return table.source(name, f"the table {name!r} that scikit-learn carries", chosen)


def _target(held: Any) -> list[str]:
    if "target_names" in held:
        return [str(held.target_names[k]) for k in held.target.tolist()]
    middle = float(torch.tensor(held.target, dtype=torch.float64).quantile(0.5))
    return ["above the median" if value > middle else "at most the median" for value in held.target.tolist()]


def _mixed(rows: range) -> list[int]:
    """Every row once, in steps of about a golden section: neighbours come from far apart, where files sort by class."""
    count = len(rows)
    step = next(s for s in range(round(0.618 * count), count + 1) if gcd(s, count) == 1)
    return [rows[k * step % count] for k in range(count)]
