"""The bounds of a plan in sentences, for a terminal."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from fedspill.auditing.bounding.bounds import PlanBounds
    from fedspill.privacy.identifiability import Identifiability

CAVEAT = "Bounds hold of what is said of them; where there is none, nothing is known by this command."


def show(told: "PlanBounds", console: Console) -> None:
    """The bounds as a table of sentences."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for what, sentence in lines(told):
        table.add_row(what, Text(sentence))
    console.print(table)
    console.print(CAVEAT, markup=False, style="yellow")


def lines(told: "PlanBounds") -> Iterator[tuple[str, str]]:
    """What is bounded, and by how much, or why not."""
    if told.spent is None:
        yield "privacy", f"no differential privacy: {told.chain.reason}"
    else:
        yield "privacy", told.spent.sentence
        for row in told.success:
            mu = "" if row.mu is None else f", mu {row.mu:.4g}"
            yield "success", f"at most {_share(row.success)} for any attacker (prior {row.prior:g}{mu}; {row.how})"
        if told.psnr is not None:
            yield "PSNR", _ceiling(told)
    yield "error", _error(told)
    yield "inputs", _inputs(told.identifiable) if told.identifiable else f"not told: {told.identifiable_reason}"


def _share(value: float) -> str:
    return "1" if value > 0.99995 else f"{value:.3g}"


def _prior(told: "PlanBounds") -> str:
    return f"pixels assumed normal and independent, {told.assumed.centre:g} +- {told.assumed.spread:g}"


def _ceiling(told: "PlanBounds") -> str:
    assert told.psnr is not None, "the caller asked"
    if told.psnr == math.inf:
        return "no ceiling below 400 dB follows from it"
    return f"of an image above {told.psnr:.1f} dB with probability 0.01 at most, for any attacker ({_prior(told)})"


def _error(told: "PlanBounds") -> str:
    if told.floor is None:
        return f"no floor: {told.floor_reason}"
    return (
        f"mean squared error at least {told.floor.mse:.4g} ({told.floor.psnr:.1f} dB) over an update's images"
        f" ({told.floor.unit}; {_prior(told)}; labels and protocol known; estimated from {told.assumed.draws} draws)"
    )


def _inputs(told: "Identifiability") -> str:
    if told.rank is None:
        return f"not told: of {told.values:,} values' singular values only the ends were computed"
    if not told.determined:
        return f"not determined: {told.rank:,} of {told.values:,} directions are told; a prior may fill in the rest"
    return (
        f"determined near by: all {told.values:,} values, from {told.numbers:,} numbers; singular values"
        f" {told.smallest:.3g} to {told.largest:.3g}; in float32 known to {told.blur:.2g} in the weakest direction"
    )
