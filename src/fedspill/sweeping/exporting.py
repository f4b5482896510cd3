"""The rows of a folder as CSV, as Parquet and as a page of comparison."""

import csv
import importlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedspill.core.tensor_files import write_whole
from fedspill.rendering.sweep.page import render
from fedspill.report.sweep import Outcome, SweepRow

CSV_FILE = "sweep.csv"
PARQUET_FILE = "sweep.parquet"
PAGE_FILE = "sweep.html"
PARQUET_LIBRARY = "pyarrow"


def export(folder: Path, rows: Sequence[SweepRow]) -> list[Path]:
    """Writes every view of the rows, each whole or not at all; the files that were written.

    The Parquet file is left out where pyarrow (fedspill[sweep]) is not installed.
    """
    table = columns(rows)
    write_whole(folder / CSV_FILE, csv_text(table))
    write_whole(folder / PAGE_FILE, render(rows))
    written = [folder / CSV_FILE, folder / PAGE_FILE]
    content = parquet_bytes(table)
    if content is not None:
        write_whole(folder / PARQUET_FILE, content)
        written.append(folder / PARQUET_FILE)
    return written


def columns(rows: Sequence[SweepRow]) -> dict[str, list[Any]]:
    """The rows by column: what identifies a trial, one column per key that varies, and what came out.

    Values that are lists or tables become JSON, and so does every value of a column that holds one.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row.values))
    table: dict[str, list[Any]] = {name: [getattr(r, name) for r in rows] for name in ("digest", "number", "state")}
    table |= {name: [getattr(r, name) for r in rows] for name in ("attack", "defence")}
    table |= {key: _alike([row.values.get(key) for row in rows]) for key in keys}
    for name in (k for k in Outcome.model_fields if k != "state"):
        table[name] = [None if r.outcome is None else getattr(r.outcome, name) for r in rows]
    table["share"] = [None if r.outcome is None else r.outcome.share for r in rows]
    return table


def _alike(values: list[Any]) -> list[Any]:
    """Values of one type: numbers, truth values or text; anything else as JSON."""
    kinds = {type(v) for v in values if v is not None}
    if kinds <= {int, float}:
        return [float(v) if v is not None and float in kinds else v for v in values]
    if kinds <= {str} or kinds <= {bool}:
        return values
    return [None if v is None else json.dumps(v, default=str) for v in values]


def csv_text(table: dict[str, list[Any]]) -> str:
    """The columns as CSV with a head; None is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    return text.getvalue()


def parquet_bytes(table: dict[str, list[Any]]) -> bytes | None:
    """The columns as Parquet; None where pyarrow is not installed."""
    try:
        arrow, parquet = importlib.import_module(PARQUET_LIBRARY), importlib.import_module(f"{PARQUET_LIBRARY}.parquet")
    except ImportError:
        return None
    content = io.BytesIO()
    parquet.write_table(arrow.table(table), content)
    return content.getvalue()
