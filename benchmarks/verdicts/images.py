"""Scores of degraded images beside guesses, and whether the target is the nearest among 100 distractors.

`python -m benchmarks.verdicts.images --out FILE.json`
"""

import argparse
import json
import os
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.common.records import conditions, write
from benchmarks.verdicts.degrading import Degraded, attacked, degraded
from benchmarks.verdicts.packing import packed, unpacked
from fedspill.auditing.prior_only import tv_only
from fedspill.auditing.recognition import _photographs as photographs
from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.types import Batch
from fedspill.scoring import baselines, recognition
from fedspill.scoring.metrics.images import PSNR, SSIM
from fedspill.scoring.metrics.lpips import LPIPS, alexnet, default_weights
from fedspill.zoo.data import load
from fedspill.zoo.models import build

DISTRACTORS = 100
SOURCES: dict[str, dict[str, Any]] = {
    "cifar10": {"name": "cifar10", "split": "test", "indices": "0:2400"},
    "photos": {"name": "photos", "size": 64},
    "imagenet": {"name": f"folder:{os.environ.get('FEDSPILL_DATA', '.data')}/imagenet128", "size": 64},
}
HELD_OUT = 30
"""Number of the first target that set no margin."""
PUBLIC = 400
"""Images of a source that are left for a server: the last ones; neither targets nor distractors."""


class Source:
    """Images of one kind: targets, distractors of them, and what a server can guess.

    Attributes:
        guesses: by name (n, c, h, w), one per image of the pool.
    """

    def __init__(self, name: str) -> None:
        pool = load(**SOURCES[name])
        images, labels = pool.batch.inputs.float(), pool.batch.labels
        own = max(1, len(images) - PUBLIC) if name != "imagenet" else len(images)
        self.images, self.labels = images[:own], labels[:own]
        self.public = images[own:]
        self.spec = ImageSpec(tuple(images.shape[1:]), mean=(0.5,) * 3, std=(0.25,) * 3)
        weights = default_weights()
        assert weights is not None, "LPIPS needs AlexNet's weights (docs/plan.md)"
        perceptual = alexnet(weights, torch.device("cpu"))
        self.embeddings: dict[str, Callable[[Tensor], Tensor]] = {
            "pixel": lambda x: x.flatten(1),
            "lpips": lambda x: torch.cat([perceptual(part).half() for part in x.split(50)]),
        }
        with torch.no_grad():
            self.embedded = {k: f(self.images) for k, f in self.embeddings.items()}

    def model(self, seed: int) -> Model:
        """An untrained LeNet for such images."""
        spec = self.spec
        return build("lenet", input_shape=spec.shape, num_classes=10, spec=spec, seed=seed)

    def distractors(self, target: int, draw: str = "distractors") -> list[int]:
        """100 others, of the target's own class where it has so many, else of all; never an equal one.

        Args:
            draw: which of many.
        """
        same = (self.labels == self.labels[target]).nonzero()[:, 0].tolist()
        pool = same if len(same) > DISTRACTORS else list(range(len(self.images)))
        gaps = (self.images[pool] - self.images[target]).square().flatten(1).sum(1).sqrt()
        pool = [k for k, gap in zip(pool, gaps.tolist(), strict=True) if gap > 1e-3 and k != target]
        order = torch.randperm(len(pool), generator=stream(target, draw)).tolist()
        return [pool[k] for k in order[:DISTRACTORS]]

    def identified(self, picture: Tensor, target: int, draw: str = "distractors") -> dict[str, bool]:
        """Whether the target is strictly nearer than each distractor, by distance."""
        others, found = self.distractors(target, draw), dict[str, bool]()
        for name, embed in self.embeddings.items():
            one, held = embed(picture[None]).float(), self.embedded[name]
            gaps = (held[[target, *others]].float() - one).square().sum(1)
            found[name] = bool(gaps[0] < gaps[1:].min())
        alike = recognition.similarities(self.images[[target, *others]], picture[None])
        return {**found, "ssim": bool(alike[0] > alike[1:].max())}


METRICS = {"psnr": PSNR(), "ssim": SSIM(), "lpips": LPIPS(default_weights())}


def scores(picture: Tensor, truth: Tensor) -> dict[str, float]:
    """By metric."""
    return {k: round(float(m(picture[None].clamp(0, 1), truth[None])), 4) for k, m in METRICS.items()}


def blind(source: Source, target: int, seed: int) -> list[Degraded]:
    """Guesses that are not among those that a reconstruction is compared with: another seed, another image, its blur.

    The last is the best of 64 others by the distance that reconstructions are matched by, as a private example of a
    batch of 64 may get.
    """
    spec, rng = source.spec, stream(seed, "blind")
    x, others = source.images[target], source.images[source.distractors(target)]
    order = torch.randperm(len(others), generator=rng)
    some = others[order[:64]]
    nearest = some[(some - x).square().flatten(1).sum(1).argmin()]
    three = functional.avg_pool2d(some[:1], 7, 1, 3, count_include_pad=False)[0]
    mean = some.mean(0)
    tv = tv_only(spec, 1, x[None], stream(seed, "another", "tv"))[0]
    noise = torch.rand(x.shape, generator=rng)
    named = {"TV only": tv, "another image": some[0], "another, blurred": three, "mean of 64 others": mean}
    named |= {"noise": noise, "nearest of 64 others": nearest}
    return [(f"guess: {k}", 0.0, v) for k, v in named.items()]


def measured(source: Source, target: int, number: int) -> list[dict[str, Any]]:
    """All pairs of one image."""
    x, other = source.images[target], source.images[source.distractors(target)[0]]
    private = Batch(x[None], source.labels[target : target + 1] % 10)
    made = [*attacked(source.model(number), private, number), *degraded(x, other, number)]
    made += blind(source, target, number)
    others, guess = rivals(source, target), baselines.mean_image(source.spec, 1)[0]
    with torch.no_grad():
        return [
            {
                "kind": kind,
                "level": level,
                **scores(picture.detach(), x),
                **judged(picture, x, guess, others),
                "identified": source.identified(picture.detach().clamp(0, 1), target),
                "identified again": source.identified(picture.detach().clamp(0, 1), target, "another draw"),
            }
            for kind, level, picture in made
        ]


def rivals(source: Source, target: int) -> dict[str, Tensor]:
    """What an audit may tell a target from: what `identified` took, other draws, and what it has without a pool."""
    every = torch.randperm(len(source.images), generator=stream(target, "of all")).tolist()
    own = source.distractors(target, "another draw")
    return {
        "the same": recognition.thumbnails(source.images[source.distractors(target)]),
        "own class": recognition.thumbnails(source.images[own]),
        "any class": recognition.thumbnails(source.images[[k for k in every if k != target][:DISTRACTORS]]),
        "photographs": photographs(recognition.thumbnails(source.images[:1]).shape[1:]),
    }


def judged(picture: Tensor, truth: Tensor, guess: Tensor, others: dict[str, Tensor]) -> dict[str, Any]:
    """What an audit says of a picture, by what it tells the target from."""
    seen, target, flat = (recognition.thumbnails(x[None])[0] for x in (picture, truth, guess))
    close = recognition.closeness(seen, target, flat)
    told = {k: recognition.recognised(seen, target, v, flat) for k, v in others.items()}
    told["photographs"] = told["photographs"] and close.clear
    return {"beyond": [round(close.decibels, 3), round(close.similarity, 4)], "recognised": told}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=8, help="targets of each source, and as many that are held out")
    args = parser.parse_args()
    args.device, args.benchmark = "cpu", "verdicts.images"
    kept = unpacked(json.loads(args.out.read_text())) if args.out.is_file() else {}
    sources = {name: Source(name) for name in SOURCES}
    turns = product((HELD_OUT, 0), range(args.images), sources.items())
    for number, (name, source) in ((first + k, named) for first, k, named in turns):
        target = int(torch.randperm(len(source.images), generator=stream(0, "targets", name))[number])
        if (key := f"{name}, {number}") not in kept:
            kept[key] = measured(source, target, number)
            write(args.out, {"conditions": conditions(args), **packed(kept)})
            print(key, flush=True)


if __name__ == "__main__":
    main()
