"""Loss and accuracy on the private examples, and a warning where they do not fit the weights."""

import math
from typing import Literal

from fedspill.auditing.feeding.alternatives import Way, fed_as, other_ways
from fedspill.auditing.feeding.answers import Answers, answers, loss_of, measured_mode, takes_batch_statistics
from fedspill.auditing.feeding.evidence import RARE, above_chance, is_at_chance, is_better, is_extreme, is_far
from fedspill.auditing.feeding.weights import divergence, first_norm, look_trained
from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.types import Batch
from fedspill.report.schema import Feeding
from fedspill.zoo.statistics import Statistics

Weights = Literal["untrained", "trained", "unknown"]
MOST_MEASURED = 1024
"""Private examples that loss and accuracy are measured on."""
MOST_COMPARED = 256
"""Of these, those on which other ways of feeding are tried."""
MOST_OF_NORM = 64
"""Of these, those that a BatchNorm layer is shown."""
MOST_VALUES = 2**22
"""Numbers in the examples that are compared, of which there are 8 at least."""
GOOD_ENOUGH = 0.95
"""Accuracy as fed from which no other way is tried."""
ENOUGH = 16
"""Examples that such an accuracy must be of."""
FEW = 8
"""Examples from which on their labels may contradict BatchNorm."""
IN_A_GRADIENT = 8
"""Examples of the gradients whose norms a warning names."""


def check_feeding(
    model: Model, batch: Batch, *, weights: Weights = "unknown", labelled: bool = True, origin: str | None = None
) -> Feeding:
    """What a network makes of private examples as they are fed to it, and whether that fits its weights.

    A warning needs weights that were trained: it is given where another usual way of feeding is right on more examples
    by more than luck, where the first BatchNorm sees what it was not trained on, and where trained weights are at
    chance. Of few examples little can be told, and nothing is said then; no warning is no proof.

    Args:
        model: as the clients get it.
        batch: the private examples, with their labels.
        weights: "untrained" for random ones, of which nothing is expected.
        labelled: False if the labels mean nothing.
        origin: who says what images are normalised by.
    """
    examples = _spread(batch, MOST_MEASURED)
    fed = answers(model, examples) if labelled else None
    loss = loss_of(measured_mode(model), examples) if fed is None else fed.loss
    spec = model.input if isinstance(model.input, ImageSpec) else None
    return Feeding(
        n=len(examples),
        loss=loss if labelled and math.isfinite(loss) else None,
        accuracy=None if fed is None else fed.accuracy,
        classes=None if fed is None else fed.classes,
        mean=None if spec is None else list(spec.mean),
        std=None if spec is None else list(spec.std),
        origin=origin,
        batch_statistics=takes_batch_statistics(model),
        warning=None if weights == "untrained" else _warning(model, examples, fed, weights == "trained"),
    )


def _spread(batch: Batch, most: int) -> Batch:
    """Examples from all over the batch, at most so many."""
    step = -(-len(batch) // most)
    return batch[list(range(0, len(batch), step))] if step > 1 else batch


def _warning(model: Model, examples: Batch, fed: Answers | None, trained: bool) -> str | None:
    if isinstance(model.input, ImageSpec):
        few = max(8, min(MOST_COMPARED, MOST_VALUES // max(1, examples.inputs[0].numel())))
        compared = _spread(examples, few).to(model.like)
        found = _fed_otherwise(model, model.input, compared, labelled=fed is not None, trained=trained)
        if found is not None:
            return found
    if fed is None or not is_at_chance(fed) or not (trained or look_trained(model)):
        return None
    return (
        f"The weights are trained, but the network is at chance on the private examples: {_told(fed)}, n ="
        f" {len(fed.right)}. It is fed other numbers than in training (model.mean, model.std, model.range), or data or"
        " labels are others; what is measured here does not hold for the network as it is used."
    )


def _fed_otherwise(model: Model, spec: ImageSpec, compared: Batch, *, labelled: bool, trained: bool) -> str | None:
    """A warning that names a better way of feeding, if there is one by more than luck."""
    ways = [(way, fed_as(model, other)) for way, other in other_ways(spec)]
    seen = _seen_otherwise(model, spec, ways, _spread(compared, MOST_OF_NORM), labelled=labelled)
    if seen is not None or not labelled:
        return seen
    fed = answers(model, compared)
    return None if fed is None or _does_well(fed) else _better(model, spec, fed, ways, compared, trained=trained)


def _seen_otherwise(
    model: Model, spec: ImageSpec, ways: list[tuple[Way, Model]], shown: Batch, *, labelled: bool
) -> str | None:
    """A warning by what the first BatchNorm layer sees, for the way that is nearest to what it was trained on."""
    norm = first_norm(model)
    far = 0.0 if norm is None else divergence(model, norm, shown)
    if norm is None or not is_far(far, 0.0, len(shown)):
        return None
    near = [divergence(other, norm, shown) for _, other in ways]
    best = near.index(min(near))
    if not is_far(far, near[best], len(shown)) or (labelled and _contradicts(model, ways[best][1], shown)):
        return None
    why = f"{far:.2g} and {near[best]:.2g} nats from what BatchNorm {norm.name!r} was trained on"
    return _sentence(model, spec, ways[best], shown, why, labelled=labelled)


def _contradicts(model: Model, other: Model, shown: Batch) -> bool:
    """The labels of enough examples speak against the other way."""
    if len(shown) < FEW:
        return False
    fed, said = answers(model, shown), answers(other, shown)
    return fed is not None and said is not None and float(said.surprise.mean()) > float(fed.surprise.mean())


def _better(
    model: Model, spec: ImageSpec, fed: Answers, ways: list[tuple[Way, Model]], compared: Batch, *, trained: bool
) -> str | None:
    """A warning by what the network answers, for the way with the least cross-entropy."""
    said = [(way, other, a) for way, other in ways if (a := answers(other, compared)) is not None]
    better = [entry for entry in said if is_better(fed, entry[2])]
    if not better:
        better = [entry for entry in said if is_extreme(fed, entry[2])]
        known = trained or any(above_chance(a, RARE) for _, _, a in better) or (bool(better) and look_trained(model))
        better = better if known else []
    if not better:
        return None
    way, other, _ = min(better, key=lambda entry: float(entry[2].surprise.mean()))
    return _sentence(model, spec, (way, other), compared, "", labelled=True)


def _does_well(fed: Answers) -> bool:
    knows = float(fed.surprise.mean()) <= math.log(fed.classes) / 4
    return knows and len(fed.right) >= ENOUGH and fed.accuracy >= GOOD_ENOUGH


def _sentence(
    model: Model, spec: ImageSpec, better: tuple[Way, Model], compared: Batch, why: str, *, labelled: bool
) -> str:
    way, other = better
    as_fed, otherwise = (_figures(m, compared, labelled=labelled) for m in (model, other))
    return (
        f"The network is probably fed wrong: on {len(compared)} private examples {as_fed} as fed"
        f" ({Statistics(spec.mean, spec.std)}), {otherwise} with {way.words}{f'; {why}' if why else ''}. State what it"
        " was trained with (model.mean, model.std, model.range; in Python normalise and range): what is measured here"
        " does not hold for it otherwise."
    )


def _figures(model: Model, compared: Batch, *, labelled: bool) -> str:
    said = answers(model, compared) if labelled else None
    norm = _gradient_norm(model, compared[:IN_A_GRADIENT]) if labelled else None
    parts = [*([] if said is None else [_told(said)]), *([] if norm is None else [f"gradient norm {norm:.3g}"])]
    return ", ".join(parts)


def _gradient_norm(model: Model, batch: Batch) -> float | None:
    try:
        return local_update(model.in_eval_mode(), batch, FedSGD()).norm()
    except (BadInput, RuntimeError):  # a network whose gradient cannot be had is told of elsewhere
        return None


def _told(said: Answers) -> str:
    return f"accuracy {said.accuracy:.2f}, loss {said.loss:.3g}"
