"""How far closed forms come in the network, for the report: the rank analysis of its layers, where it costs little."""

import time

from torch import nn

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model
from fedspill.core.watching.clock import OutOfTime, until
from fedspill.inversion.recursion.rank_analysis import LayerRank, rank_analysis
from fedspill.report.schema import RankedLayer, Ranks

SHARE = 0.02
"""Of the budget."""
MOST, LEAST = 10.0, 0.5
"""Seconds that it is given at most; with less it is not begun, as a single decomposition may take so long."""
MOST_PIXELS = 32 * 32
"""Of a picture: the decompositions of larger ones take long, and no clock ends one."""


def ranks(model: Model, budget: float) -> Ranks | None:
    """The ranks of all layers, or why they are not known; None for a network without convolutions on pictures.

    Args:
        model: as the clients get it, before any server changed it.
        budget: seconds of the whole audit.
    """
    if not isinstance(model.input, ImageSpec) or not any(isinstance(m, nn.Conv2d) for m in model.module.modules()):
        return None
    given, (_, height, width) = min(MOST, SHARE * budget), model.input.shape
    if height * width > MOST_PIXELS:
        return Ranks(untold=f"computed in a report for pictures of at most {MOST_PIXELS:,} pixels")
    if given < LEAST:
        return Ranks(untold=f"the budget leaves {given:.1f} s for it, and less than {LEAST:g} s is not tried")
    try:
        with until(time.monotonic() + given):
            return Ranks(layers=[_record(layer) for layer in rank_analysis(model.in_eval_mode())])
    except OutOfTime:
        return Ranks(untold=f"it did not end in the {given:.1f} s that the report gives it")
    except NotApplicable as reason:
        return Ranks(untold=str(reason))
    except Exception as fault:  # anyone's network: what only adds to a report must not end the audit
        return Ranks(untold=f"the network could not be analysed ({type(fault).__name__.lstrip('_')})")


def _record(layer: LayerRank) -> RankedLayer:
    return RankedLayer(
        layers=list(layer.layers),
        values=layer.values,
        gradient=layer.gradient,
        rank=layer.rank,
        exact=layer.exact,
        way=layer.way,
        reached=layer.reached,
    )
