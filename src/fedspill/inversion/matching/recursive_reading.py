"""The analytic part of gradient matching: what one example's gradient tells exactly, and the picture that it makes up.

Of local training it reads the gradient that stands in for it, which is a little off. A picture that was read tells by
how much, since its training can be run; so the gradient is corrected and read again, and what is found is a fixed
point (defect correction) at which the training itself gives what was observed.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedspill.core.errors import NotApplicable
from fedspill.core.model import parameter_name
from fedspill.core.rng import stream
from fedspill.core.roles import Unwatched, Watch
from fedspill.core.types import Params, Reconstruction
from fedspill.core.watching.clock import OutOfTime, around, left, until
from fedspill.inversion.matching.forward_model import ForwardModel
from fedspill.inversion.matching.outcome import EXACT, TWINS, concluded, preferred
from fedspill.inversion.recursion.graph import Dataflow
from fedspill.inversion.recursion.known_activations import KnownActivations, known_activations
from fedspill.inversion.recursion.layer_by_layer import Head
from fedspill.inversion.recursion.single_head import heads_of_one

CORRECTIONS = 4
"""Readings after the first, of local training."""
UNPROVEN = (
    "Activations that would be those of a single example were found and not used: they rest on a guess of the number of"
    " examples or of the way that local training took, and do not make up a picture that proves it."
)
NONE = "No activation was recovered exactly"
NO_SINGLE = f"{NONE}: this needs the gradient of a single example."

AMBIGUOUS = (
    f"{NONE}: the last layer has no bias, {{heads}} inputs of it would give its gradient, and no layer below tells"
    " which."
)
CUT = f"{NONE}: the time that there is ended this before anything was known."
READING = 0.5
"""Of the time that there is, for this: a search that follows it needs some, too."""
LEEWAY = 0.1
"""Of the time, until a layer is given up that was begun before."""

AFTER = "This needed a search first, which told how far local training is from a gradient."


@dataclass(frozen=True)
class Reading:
    """What was read.

    Attributes:
        picture: that the activations determine, if they are so many.
        known: the activations.
        notes: for the report.
        encoded: the picture as the network takes it.
        twins: another picture has the same gradient.
    """

    picture: Reconstruction | None = None
    known: KnownActivations | None = None
    notes: tuple[str, ...] = ()
    encoded: Float[Tensor, "1 ..."] | None = None
    twins: bool = False

    @property
    def confidence(self) -> float:
        """The confidence in the picture, in [0, 1]; -1 without one."""
        if self.picture is None or self.picture.confidence is None:
            return -1.0
        return float(self.picture.confidence.min())

    @property
    def reached(self) -> int:
        """How many layers' inputs are known."""
        return 0 if self.known is None else self.known.layers

    @property
    def sure(self) -> bool:
        """The picture's update is the observed one, so that there is nothing left to search for."""
        return self.twins or self.confidence > 1 - EXACT


def read_exactly(assumed: Sequence[ForwardModel], level: float, rng: torch.Generator, watch: Watch) -> Reading:
    """Reads the first assumption of a single example.

    Args:
        level: share of a blank image's distance at which a result counts as converged.
        rng: draws the start from which activations are inverted.
    """
    single = [a for a in assumed if a.gradient is not None]
    if not single:
        return Reading(notes=(NO_SINGLE,))
    reading = _within_its_share(single, level, rng, watch)
    if reading.known is None or (len(single) == len(assumed) and single[0].close):
        return reading
    # Of several examples of one class what the head tells looks like one; and what a first guess tells is a guess.
    return reading if reading.sure else Reading(notes=(UNPROVEN,))


def _within_its_share(single: Sequence[ForwardModel], level: float, rng: torch.Generator, watch: Watch) -> Reading:
    """What was read in a share of the time that there is; the search goes on with the layers that were known by then.

    Raises:
        OutOfTime: all of it is up.
    """
    gradient, there_is = single[0].gradient, left()
    assert gradient is not None
    if math.isinf(there_is):
        return _read(single, gradient, level, rng, watch)
    end = time.monotonic() + READING * there_is
    try:
        with until(end + LEEWAY * there_is):
            return _read(single, gradient, level, rng, Within(watch, end))
    except OutOfTime:
        if around()():
            raise
        return Reading(notes=(CUT,))


def read_again(assumed: ForwardModel, z: Tensor, level: float, watch: Watch) -> Reading:
    """Reads local training of one example once more, after a search has found the picture nearly."""
    if assumed.gradient is None or assumed.surrogate is None or not assumed.corrects:
        return Reading()
    gradient = assumed.surrogate.corrected(z, assumed.labels)
    return _read([assumed], gradient, level, stream(0, "read again"), _Quiet(watch))


@dataclass(frozen=True)
class Within(Unwatched):
    """Ends a part of the work before the whole of it.

    Attributes:
        end: `time.monotonic()` of its own.
    """

    whole: Watch
    end: float

    def progress(self, done: int, total: int, objective: float) -> None:
        """Passes it on."""
        self.whole.progress(done, total, objective)

    def out_of_time(self) -> bool:
        """Whether its own time is up, or that of the whole."""
        return time.monotonic() >= self.end or self.whole.out_of_time()


@dataclass(frozen=True)
class _Quiet(Unwatched):
    """Tells nobody of progress, which is that of the search before."""

    whole: Watch

    def out_of_time(self) -> bool:
        """Whether the time of whoever watches the search is up."""
        return self.whole.out_of_time()


def _read(
    single: Sequence[ForwardModel], gradient: Params, level: float, rng: torch.Generator, watch: Watch
) -> Reading:
    """The best of the first reading and those of corrected gradients."""
    first, best = single[0], Reading()
    for _ in range(1 + CORRECTIONS if first.corrects else 1):
        reading = _best_of_heads(single, gradient, level, rng, watch)
        if reading.encoded is None:
            return best if best.known else reading
        if reading.confidence <= best.confidence:
            return best
        best = reading
        if first.surrogate is None or not first.corrects or watch.out_of_time():
            return best
        gradient = first.surrogate.corrected(reading.encoded, first.labels)
    return best


def _best_of_heads(
    single: Sequence[ForwardModel], gradient: Params, level: float, rng: torch.Generator, watch: Watch
) -> Reading:
    """The reading that explains the gradient best, of all that the last layer may have been given."""
    try:
        heads = _heads(single[0], gradient)
        readings = [_reading(single, gradient, head, level, rng, watch) for head in heads]
    except NotApplicable as error:
        return Reading(notes=(f"{NONE}: {error}.",))
    except Exception as error:  # nothing in this part may end an attack that works without it
        return Reading(notes=(f"{NONE}: {type(error).__name__}: {error}.",))
    found = [(r.picture, r.encoded) for r in readings if r.picture is not None and r.encoded is not None]
    if found:
        picture = preferred([p for p, _ in found], [z for _, z in found], single[0].matching.model.input)
        best = next(r for r in readings if r.picture is not None and r.picture.inputs is picture.inputs)
        return replace(best, picture=picture, twins=TWINS in picture.notes)
    best = max(readings, key=lambda r: r.reached)
    if sum(r.reached == best.reached for r in readings) > 1:
        return Reading(notes=(AMBIGUOUS.format(heads=len(heads)),))
    return best


def _heads(first: ForwardModel, gradient: Params) -> list[Head | None]:
    """What the last layer may have been given, where the gradient of its bias does not tell it; else None."""
    model = first.single_gradient.model
    flow = Dataflow(model)
    told = parameter_name(str(flow.output.target), "bias")
    layer = flow.module(flow.output)
    if not isinstance(layer, nn.Linear) or (told in gradient and bool(gradient[told].any())):
        return [None]
    try:
        return [*heads_of_one(model, flow, gradient, first.labels)]
    except NotApplicable:
        return [None]  # a layer below may be read without it


def _reading(
    single: Sequence[ForwardModel],
    gradient: Params,
    head: Head | None,
    level: float,
    rng: torch.Generator,
    watch: Watch,
) -> Reading:
    first, tried = single[0], [a.hypothesis for a in single]
    source = "local training, taken for one gradient" if first.corrects else "the gradient"
    known = known_activations(first.single_gradient.model, gradient, watch, head)
    notes = (f"Recovered from {source}, layer by layer: the values of {known.described()}.",)
    if not known.suffices:
        return Reading(known=known, notes=notes)
    z = known.inverted(rng, watch)
    return Reading(concluded(first.matching, z, first.labels, tried, level), known, notes, z)
