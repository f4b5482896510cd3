"""Which private examples are recognisable in what was rebuilt; the truth is open here, as in `judge`."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from fedspill.auditing.resolving.scenario import Scenario
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.rng import stream
from fedspill.core.roles import Metric
from fedspill.core.types import Batch
from fedspill.scoring import baselines, recognition
from fedspill.scoring.metrics.rows import FEATURE_ACCURACY
from fedspill.scoring.metrics.sentences import TOKEN_ACCURACY
from fedspill.scoring.recognition import DISTRACTORS
from fedspill.zoo.data import load

MOST_COMPARED = 64
"""Examples of one update that are compared with others, those first that came closest."""
MOST_KNOWN = 2000
"""Examples of a pool among which others are sought, the first ones."""


def recognisable(
    scenario: Scenario, rebuilt: Tensor, private: Batch, matched: Sequence[int | None], leaked: Sequence[bool] | None
) -> list[bool] | None:
    """Whether each private example is recognisable in its reconstruction; what leaked is.

    Args:
        matched: for each private example the index of its reconstruction, None if it got none.

    Returns:
        None if the plan judges nothing, or such inputs cannot be compared.
    """
    spec, flags = scenario.model.input, list(leaked or [False] * len(private))
    places = [i for i, m in enumerate(matched) if m is not None and not flags[i]]
    if not scenario.evaluation.thresholds or not isinstance(spec, ImageSpec | TokenSpec | TableSpec):
        return None
    if not places:
        return flags
    picked = rebuilt[[matched[i] for i in places]].detach().cpu()
    truth = private.inputs[places].cpu()
    if isinstance(spec, ImageSpec):
        found = _pictures(scenario, spec, picked, Batch(truth, private.labels[places].cpu()))
    else:
        found = _right(scenario, spec, picked, truth)
    for place, hit in zip(places, found, strict=True):
        flags[place] = hit
    return flags


def beyond_guesses(
    scenario: Scenario, rebuilt: Tensor, private: Batch, matched: Sequence[int | None], places: Sequence[int]
) -> list[bool]:
    """Whether what was rebuilt is clearly closer than a guess without the update: by the margins of recognition.

    A picture by 3 dB or by 0.2 of SSIM, a sentence or row by 15 % of its positions or cells. Where there is no guess,
    or such inputs cannot be compared, it is.

    Args:
        matched: for each private example the index of its reconstruction.
        places: the private examples that are asked about; each is matched.
    """
    spec, public = scenario.model.input, None if scenario.public is None else scenario.public.batch
    if not isinstance(spec, ImageSpec | TokenSpec | TableSpec):
        return [True] * len(places)
    picked = rebuilt[[matched[i] for i in places]].detach().cpu()
    truth = private.inputs[list(places)].cpu()
    if isinstance(spec, ImageSpec):
        guess = recognition.thumbnails(baselines.mean_image(spec, 1, public))[0]
        pairs = zip(recognition.thumbnails(picked), recognition.thumbnails(truth), strict=True)
        return [recognition.closeness(one, target, guess).clear for one, target in pairs]
    metric, margins, guess = _guess_of(spec, public, truth)
    if guess is None:
        return [True] * len(places)
    return (metric(picked, truth) - metric(guess, truth) >= margins.told).tolist()


def _guess_of(
    spec: TokenSpec | TableSpec, public: Batch | None, truth: Tensor
) -> tuple[Metric, recognition.Margins, Tensor | None]:
    """By what sentences or rows are compared, and the guess without the update, if there is one."""
    if isinstance(spec, TableSpec):
        guess = baselines.commonest_row(spec, len(truth), public).to(truth)
        return FEATURE_ACCURACY.of(spec), recognition.CELLS, guess
    guess = None if public is None else baselines.commonest_token(public, len(truth)).to(truth)
    return TOKEN_ACCURACY, recognition.TOKENS, guess


def _right(scenario: Scenario, spec: TokenSpec | TableSpec, picked: Tensor, truth: Tensor) -> list[bool]:
    """Sentences and rows of which clearly more is right than of a guess, and than of others."""
    public = None if scenario.public is None else scenario.public.batch
    metric, margins, guess = _guess_of(spec, public, truth)
    guessed = [recognition.UNGUESSED] * len(truth) if guess is None else metric(guess, truth).tolist()
    others = _drawn(scenario, None)
    rows = zip(picked, truth, guessed, strict=True)
    return [recognition.told(metric, one, target, others, least, margins) for one, target, least in rows]


def _pictures(scenario: Scenario, spec: ImageSpec, picked: Tensor, truth: Batch) -> list[bool]:
    public = None if scenario.public is None else scenario.public.batch
    guess = recognition.thumbnails(baselines.mean_image(spec, 1, public))[0]
    pictures, targets = recognition.thumbnails(picked), recognition.thumbnails(truth.inputs)
    gaps = (pictures - targets).square().flatten(1).sum(1)
    found, others = [False] * len(truth), functools.cache(lambda label: _others(scenario, label))
    for k in gaps.argsort()[:MOST_COMPARED].tolist():
        label = int(truth.labels[k]) if truth.labels.ndim == 1 else None
        clear = recognition.closeness(pictures[k], targets[k], guess).clear
        rivals, kin = others(label)
        found[k] = (kin or clear) and recognition.recognised(pictures[k], targets[k], rivals, guess)
    return found


def _others(scenario: Scenario, label: int | None) -> tuple[Tensor, bool]:
    """Thumbnails that targets are told from, and whether most are of their kind: the plan's.

    Where the plan names too few, photographs of the package come to them.
    """
    drawn = recognition.thumbnails(_drawn(scenario, label))
    missing = DISTRACTORS + 1 - len(drawn)
    kin = len(drawn) > DISTRACTORS // 2
    return (torch.cat([drawn, _photographs(tuple(drawn.shape[1:]))[:missing]]) if missing > 0 else drawn), kin


def _drawn(scenario: Scenario, label: int | None) -> Tensor:
    """Of the private and the public examples 101, of a class if there are so many of it, else of all."""
    known = [pool.batch[:MOST_KNOWN] for pool in (scenario.pool, scenario.public) if pool is not None]
    every = [(batch, i) for batch in known for i in range(len(batch))]
    same = [at for at in every if _label(*at) == label] if scenario.pool.has_labels and label is not None else []
    places = same if len(same) > DISTRACTORS else every
    order = torch.randperm(len(places), generator=stream(0, "distractors", label or 0))[: DISTRACTORS + 1]
    return torch.stack([batch.inputs[i].cpu() for batch, i in (places[k] for k in order.tolist())])


def _label(batch: Batch, place: int) -> int:
    return int(batch.labels[place])


@functools.lru_cache(maxsize=4)
def _photographs(shape: tuple[int, int, int]) -> Tensor:
    """101 tiles of the photographs that come with the package, as thumbnails of a shape."""
    tiles = load("photos", split="public", size=recognition.SIDE).batch.inputs.float()
    some = tiles[torch.randperm(len(tiles), generator=stream(0, "panel"))[: DISTRACTORS + 1]]
    colours = some if shape[0] == 3 else some.mean(1, keepdim=True).expand(-1, shape[0], -1, -1)
    return torch.nn.functional.interpolate(colours, shape[1:], mode="area")
