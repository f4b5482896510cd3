"""Which private examples are recognisable in what was rebuilt; the truth is open here, as in `judge`."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from fedspill.auditing.resolving.scenario import Scenario
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.rng import stream
from fedspill.core.types import Batch
from fedspill.scoring import baselines, recognition
from fedspill.scoring.metrics.rows import FEATURE_ACCURACY
from fedspill.scoring.metrics.sentences import ROUGE_L, TOKEN_ACCURACY
from fedspill.scoring.recognition import DISTRACTORS
from fedspill.zoo.data import load

MOST_COMPARED = 256
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


def _right(scenario: Scenario, spec: TokenSpec | TableSpec, picked: Tensor, truth: Tensor) -> list[bool]:
    """Sentences and rows of which clearly more is right than of a guess."""
    public, n = scenario.public, len(truth)
    if isinstance(spec, TableSpec):
        metric = FEATURE_ACCURACY.of(spec)
        guess = baselines.commonest_row(spec, n, None if public is None else public.batch)
        return (metric(picked, truth) - metric(guess.to(truth), truth) >= recognition.CELLS).tolist()
    answers = list[Tensor]()
    guess = None if public is None else baselines.commonest_token(public.batch, n).to(truth)
    for metric in (TOKEN_ACCURACY, ROUGE_L):
        least = torch.full((n,), recognition.UNGUESSED) if guess is None else metric(guess, truth)
        answers.append(metric(picked, truth) - least >= recognition.TOKENS)
    return torch.stack(answers).any(0).tolist()


def _pictures(scenario: Scenario, spec: ImageSpec, picked: Tensor, truth: Batch) -> list[bool]:
    public = None if scenario.public is None else scenario.public.batch
    guess = recognition.thumbnails(baselines.mean_image(spec, 1, public))[0]
    pictures, targets = recognition.thumbnails(picked), recognition.thumbnails(truth.inputs)
    close = [recognition.closeness(p, t, guess) for p, t in zip(pictures, targets, strict=True)]
    order = sorted((k for k, c in enumerate(close) if c.at_all), key=lambda k: -close[k].decibels)
    found, others = [False] * len(close), functools.cache(lambda label: _others(scenario, label))
    for k in order[:MOST_COMPARED]:
        label = int(truth.labels[k]) if truth.labels.ndim == 1 else None
        found[k] = recognition.recognised(pictures[k], targets[k], others(label), close[k])
    return found


def _others(scenario: Scenario, label: int | None) -> Tensor:
    """Thumbnails that targets are told from: a hundred and some of their class if there are so many, else of all.

    They are drawn from what the plan names; where these are less, photographs of the package make up for it.
    """
    known = [pool.batch[:MOST_KNOWN] for pool in (scenario.pool, scenario.public) if pool is not None]
    labels = torch.cat([batch.labels.cpu().reshape(len(batch), -1)[:, 0] for batch in known])
    same = (labels == label).nonzero()[:, 0] if label is not None and scenario.pool.has_labels else labels[:0]
    places = same if len(same) > DISTRACTORS else torch.arange(len(labels))
    order = torch.randperm(len(places), generator=stream(0, "distractors", label or 0))[: DISTRACTORS + 1]
    flat = [(batch, i) for batch in known for i in range(len(batch))]
    drawn = recognition.thumbnails(torch.stack([flat[k][0].inputs[flat[k][1]] for k in places[order].tolist()]))
    missing = DISTRACTORS + 1 - len(drawn)
    return torch.cat([drawn, _photographs(tuple(drawn.shape[1:]))[:missing]]) if missing > 0 else drawn


@functools.lru_cache(maxsize=4)
def _photographs(shape: tuple[int, int, int]) -> Tensor:
    """101 tiles of the photographs that come with the package, as thumbnails of a shape."""
    tiles = load("photos", split="public", size=recognition.SIDE).batch.inputs.float()
    some = tiles[torch.randperm(len(tiles), generator=stream(0, "panel"))[: DISTRACTORS + 1]]
    colours = some if shape[0] == 3 else some.mean(1, keepdim=True).expand(-1, shape[0], -1, -1)
    return torch.nn.functional.interpolate(colours, shape[1:], mode="area")
