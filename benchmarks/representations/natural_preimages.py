"""How far the distance of representations falls inside a small ball: Maui (arXiv 2509.11451), section 7.1, Fig. 7.

For an image x and other images x', a change of x' of at most some l2 norm (pixels in [0, 1]) is searched that brings
its representation to that of x, with total variation as prior. Where the distance falls by orders of magnitude, x
cannot be told from its representation.

    python -m benchmarks.representations.natural_preimages --weights natural robust --out fig7
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from benchmarks.common.extractors import add_arguments, extractor, title
from fedspill.core.inputs import ImageSpec
from fedspill.core.rng import stream
from fedspill.inversion.network.extractor import Extractor
from fedspill.inversion.priors.total_variation import each_total_variation
from fedspill.inversion.representations.images.distance import relative_distance
from fedspill.inversion.representations.images.search import match_representations
from fedspill.inversion.representations.images.settings import PRESETS
from fedspill.rendering.drawing.pictures import beside, enlarge, image, stacked
from fedspill.zoo import data

STEP = 2.5
"""The first step in radii over iterations: enough to cross the ball and come back."""


def preimages(
    extractor: Extractor, targets: Tensor, seeds: Tensor, radius: float, iterations: int, tv: float
) -> tuple[Tensor, Tensor]:
    """Images within `radius` of `seeds` (m, c, h, w), and the curve (iterations + 1, m) of relative distances.

    Steepest descent in l2 with a falling step, projected onto the ball and into [0, 1]; of each image the best counts.
    """
    spec = extractor.model.input
    assert isinstance(spec, ImageSpec)
    represent, moved, best = extractor.function(), seeds.clone(), seeds.clone()
    curve = list[Tensor]()
    lowest = seeds.new_full((len(seeds),), torch.inf)
    velocity = torch.zeros_like(seeds)
    for step in range(iterations + 1):
        asked = moved.detach().requires_grad_()
        apart = relative_distance(represent(spec.encode(asked)), targets)
        (gradient,) = torch.autograd.grad((apart + tv * each_total_variation(asked)).sum(), asked)
        better = apart.detach() < lowest
        lowest = torch.where(better, apart.detach(), lowest)
        best = torch.where(better.view(-1, 1, 1, 1), moved, best)
        curve.append(lowest.clone())
        velocity = 0.9 * velocity + gradient
        rate = STEP * radius * 10 / iterations * (1 - step / (iterations + 1)) ** 2
        moved = within(moved - rate * velocity / norms(velocity), seeds, radius)
    return best, torch.stack(curve)


def within(images: Tensor, centres: Tensor, radius: float) -> Tensor:
    change = images - centres
    # Clamping pixels towards a centre that lies inside the bounds never makes a change longer.
    return (centres + change * (radius / norms(change)).clamp(max=1)).clamp(0, 1)


def norms(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)


def rebuild(extractor: Extractor, images: Tensor) -> Tensor:
    """What matching, with no other prior than total variation, makes of the representations of these images."""
    spec = extractor.model.input
    assert isinstance(spec, ImageSpec)
    targets = extractor.of(images)
    return match_representations(extractor, spec, targets, PRESETS["pixels"], stream(0, "matching")).inputs


def sheet(rows: Sequence[Sequence[Tensor]]) -> Image.Image:
    """Per row: x | x' | x' changed so that its representation is near that of x | what matching makes of that one."""
    return stacked([beside([enlarge(image(picture), 96) for picture in row]) for row in rows])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, "robust")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--images", type=int, default=10, help="x")
    parser.add_argument("--seeds", type=int, default=3, help="x' for each x")
    parser.add_argument("--radii", nargs="+", type=float, default=[0.5, 1.0, 2.0])
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--tv", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, default=None, help="folder for the picture sheets")
    return parser.parse_args()


def pairs(pool: data.DataPool, images: int, seeds: int) -> tuple[Tensor, Tensor]:
    """Each x as often as it has seeds, and the seeds: distinct random pictures."""
    order = torch.randperm(len(pool), generator=stream(0, "natural preimages"))[: images * (1 + seeds)]
    chosen = pool.batch.inputs[order]
    return chosen[:images].repeat_interleave(seeds, 0), chosen[images:]


def row(weights: str, radius: float, curve: Tensor) -> str:
    factors = curve[0] / curve[-1]
    cells = [
        title(weights),
        f"{radius:g}",
        f"{float(curve[0].median()):.3f}",
        f"{float(curve[-1].median()):.4f}",
        f"{float(factors.min()):.1f}",
        f"{float(factors.median()):.1f}",
        f"{float(factors.max()):.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    args = parse()
    torch.set_num_threads(1)
    pool = data.load(args.data, root=args.data_root, split="test")
    private, seeds = pairs(pool, args.images, args.seeds)
    print(
        f"`python -m benchmarks.representations.natural_preimages {shlex.join(sys.argv[1:])}`, "
        f"torch {torch.__version__}, float32,"
    )
    print(f"{args.data} test, {args.images} images x, {args.seeds} seeds x' each, {args.iterations} iterations.\n")
    heads = ["extractor", "radius", "distance before", "after", "factor: least", "median", "most"]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for weights in args.weights:
        own = extractor(args.model, weights, pool, args.device)
        targets = own.of(private)
        for radius in args.radii:
            found, curve = preimages(own, targets, seeds.to(own.model.like), radius, args.iterations, args.tv)
            print(row(weights, radius, curve.cpu()), flush=True)
            if args.out is not None:
                first = slice(None, None, args.seeds)
                rebuilt = rebuild(own, found[first])
                args.out.mkdir(parents=True, exist_ok=True)
                rows = zip(private[first], seeds[first], found[first].cpu(), rebuilt.cpu(), strict=True)
                sheet(list(rows)).save(args.out / f"{title(weights)}_{radius:g}.png", optimize=True)


if __name__ == "__main__":
    main()
