"""Image identification precision (IIP; Yin et al. 2021, GradInversion): is the target recognisable?

A reconstruction hits if, in a reference set that holds its target, no other image is as close to it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import functional

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import InputSpec
from fedspill.core.model import Model
from fedspill.core.probing.head import features_and_logits, last_linear
from fedspill.core.types import Batch
from fedspill.scoring.distances import same_examples, squared_errors
from fedspill.scoring.metrics.lpips import alexnet
from fedspill.scoring.pairs import NotComputed, clamped, pieces

SAME = 1e-3
"""L2 distance in pixels below which a reference image counts as the target itself (a duplicate, no rival)."""


@dataclass(frozen=True)
class Distance:
    """A distance between images as the Euclidean distance between vectors.

    Attributes:
        name: as in the report.
        embed: images (n, c, h, w) in [0, 1] to vectors (n, d).
    """

    name: Literal["pixel", "lpips", "feature"]
    embed: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Identified:
    """Which private examples their reconstructions point to.

    Attributes:
        hits: (n,) per private example; False where there is no reconstruction. IIP is their share: divide by
            n.
        reference: what the nearest neighbour was sought among, in words.
    """

    distance: Literal["pixel", "lpips", "feature"]
    hits: Bool[Tensor, " n"]
    reference: str


def pixel_distance() -> Distance:
    """Euclidean distance of pixels (Fowl et al. 2022)."""
    return Distance("pixel", lambda images: images.flatten(1))


def lpips_distance(weights: Path | None) -> Distance:
    """Root of LPIPS, which has the same nearest neighbours.

    Raises:
        NotComputed: AlexNet's weights cannot be had; says why.
    """
    alexnet(weights, torch.device("cpu"))
    return Distance("lpips", lambda images: alexnet(weights, images.device)(images))


def feature_distance(features: Callable[[Tensor], Tensor], spec: InputSpec) -> Distance:
    """Cosine distance of features (Yin et al. 2021): Euclidean between unit vectors, same neighbours.

    Args:
        features: z (n, ...) to features (n, ...), see `penultimate_features`.
        spec: encodes images into z.
    """

    def embed(images: Tensor) -> Tensor:
        vectors = features(spec.encode(images.float())).to(images.device)
        return functional.normalize(vectors.double().flatten(1), dim=1)

    return Distance("feature", embed)


def penultimate_features(model: Model) -> Callable[[Tensor], Tensor]:
    """What enters the layer that makes the logits, in eval mode: no image's features depend on others.

    Raises:
        NotComputed: the model has no linear head.
    """
    calm = model.in_eval_mode()
    try:
        head = last_linear(calm)
    except NotApplicable as error:
        raise NotComputed(f"{error}, whose inputs could serve as features") from error
    return lambda z: features_and_logits(calm, calm.params, z.to(calm.like), head)[0]


def identify(
    rebuilt: Tensor,
    private_idx: Tensor,
    private: Batch,
    others: Batch | None,
    distance: Distance,
) -> Identified:
    """Whether each reconstruction's nearest neighbour is the private example that it was matched to.

    The reference set is `private` and `others`, so it holds every target. A target is compared within its own
    class if that class has at least two images there, else with all. A tie with another image is a miss, so
    features that say nothing earn nothing; copies of the target (L2 below 1e-3) are no rivals.

    Args:
        rebuilt: (k, c, h, w) matched reconstructions, in [0, 1].
        private_idx: (k,) for each, the position of its target in `private`.
        private: the targets, all n of them.
        others: further images of the reference split, with labels.
        distance: `pixel_distance`, `lpips_distance` or `feature_distance`.

    Returns:
        n hits: a private example without a reconstruction is a miss.

    Raises:
        BadInput: shapes differ, positions lie outside `private`, or there is no rival at all.
    """
    inputs, labels = _reference(private, others)
    same_examples(rebuilt, inputs)
    where = private_idx.to(inputs.device)
    if len(where) != len(rebuilt) or (len(where) and not 0 <= int(where.min()) <= int(where.max()) < len(private)):
        raise BadInput(
            f"{len(rebuilt)} reconstructions and positions {private_idx.tolist()} were got;"
            f" one position below {len(private)} for each is needed"
        )
    if len(inputs) < 2:
        raise BadInput("a reference set of 1 image was got; at least 1 image besides the target is needed")
    rivals, alone = _rivals(labels, where)
    hits = torch.zeros(len(private), dtype=torch.bool)
    if len(where):
        hits[private_idx.cpu()] = _nearest(rebuilt.to(inputs), where, inputs, rivals, distance).cpu()
    return Identified(distance.name, hits, _words(len(inputs), len(where), alone))


def _reference(private: Batch, others: Batch | None) -> tuple[Tensor, Tensor]:
    if others is None:
        return private.inputs, private.labels
    same_examples(private.inputs, others.inputs)
    rest = others.to(private.inputs)
    return torch.cat([private.inputs, rest.inputs]), torch.cat([private.labels, rest.labels])


def _rivals(labels: Tensor, where: Tensor) -> tuple[Bool[Tensor, "k r"], int]:
    """Who competes with each target, and how many targets are alone in their class."""
    if labels.ndim > 1:  # of several labels at once, those with all of them in common
        labels = labels.unique(dim=0, return_inverse=True)[1]
    same_class = labels[where][:, None] == labels[None]
    alone = same_class.sum(1) < 2
    rivals = same_class | alone[:, None]
    rivals[torch.arange(len(where), device=where.device), where] = False
    return rivals, int(alone.sum())


def _nearest(rebuilt: Tensor, where: Tensor, inputs: Tensor, rivals: Tensor, distance: Distance) -> Bool[Tensor, " k"]:
    """Whether each target is strictly closer than all its rivals."""
    targets, best = (
        inputs[where],
        torch.full((len(where),), float("inf"), dtype=torch.float64, device=inputs.device),
    )
    with torch.no_grad():
        candidates = _embedded(rebuilt, distance)
        to_target = (candidates - _embedded(targets, distance)).double().square().sum(1)
        needed = rivals.any(0).nonzero()[:, 0]
        for piece in pieces(len(needed), inputs[0].numel()):
            some = needed[piece]
            rival = rivals[:, some] & (squared_errors(targets, inputs[some]) >= SAME**2)
            squared = squared_errors(candidates, _embedded(inputs[some], distance))
            best = torch.minimum(best, squared.masked_fill(~rival, float("inf")).amin(1))
    return to_target < best


def _embedded(images: Tensor, distance: Distance) -> Tensor:
    parts = [distance.embed(clamped(images[s])) for s in pieces(len(images), images[0].numel())]
    return torch.cat(parts)


def _words(size: int, k: int, alone: int) -> str:
    if k and alone == k:
        return f"all {size} reference images (no class holds two of them)"
    rest = f"; all for {alone} of {k} targets, alone in their class" if alone else ""
    return f"reference images of the target's class, of {size} in all{rest}"
