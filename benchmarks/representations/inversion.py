"""Images from exact representations: what each way of searching reaches, and how it depends on its settings.

Images are CIFAR-10 training images that no public training used (the last 1,000), so that settings chosen here have not
seen a test image. Every way gets the representations as the network gives them, so nothing is lost in extraction.

    python -m benchmarks.representations.inversion --weights robust --vary prior=unet prior=pixels
    python -m benchmarks.representations.inversion --weights robust natural --decoder D.safetensors --vary prior=decoder
    python -m benchmarks.representations.inversion --weights robust --vary iterations=250 iterations=500 iterations=1000
"""

import argparse
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common.extractors import add_arguments, extractor, title
from fedspill.core.inputs import ImageSpec
from fedspill.core.rng import stream
from fedspill.core.settings import flat_fields, with_fields
from fedspill.inversion.network.extractor import Extractor
from fedspill.inversion.priors.deep_image_prior import UNet
from fedspill.inversion.representations.images.decoder import IRDecoder, read_decoder
from fedspill.inversion.representations.images.distance import relative_distance
from fedspill.inversion.representations.images.search import match_representations
from fedspill.inversion.representations.images.settings import PRESETS, IRMatching
from fedspill.plan.values import set_fields
from fedspill.rendering.drawing.pictures import beside, enlarge, image, stacked
from fedspill.scoring.metrics import PSNR, SSIM
from fedspill.scoring.metrics.lpips import LPIPS, default_weights
from fedspill.zoo import data

UNUSED = "49000:50000"
"""Training images that choose settings and train nothing."""


@dataclass(frozen=True)
class Row:
    """One way on one extractor; metrics are of single images (n,)."""

    name: str
    psnr: Tensor
    ssim: Tensor
    lpips: Tensor
    distance: Tensor
    seconds: float

    def line(self, weights: str) -> str:
        """Of the table."""
        values = [f"{mean(v):.{d}f} +- {error(v):.{d}f}" for v, d in ((self.psnr, 2), (self.ssim, 3), (self.lpips, 3))]
        return (
            "| " + " | ".join([weights, self.name, *values, f"{mean(self.distance):.3f}", f"{self.seconds:.0f}"]) + " |"
        )


def mean(values: Tensor) -> float:
    return float(values.double().mean())


def error(values: Tensor) -> float:
    """Standard error of the mean."""
    return float(values.double().std() / len(values) ** 0.5) if len(values) > 1 else 0.0


def settings(changes: str) -> IRMatching:
    """From "preset" or "preset,field=value,..." or "field=value,..."; `widths` are those of the U-Net, as 32-32-32."""
    words = changes.split(",")
    preset = words.pop(0) if "=" not in words[0] else None
    given = set_fields(words)
    chosen = PRESETS[preset or str(given.get("prior", "unet"))]
    if widths := given.pop("widths", None):
        given["unet"] = UNet(widths=tuple(int(w) for w in str(widths).split("-")))
    held = flat_fields(chosen)
    return with_fields(chosen, **{k: float(v) if isinstance(held.get(k), float) else v for k, v in given.items()})


def scored(name: str, made: Tensor, private: Tensor, distance: Tensor, seconds: float) -> Row:
    made = made.detach().cpu().to(private)
    lpips = LPIPS(weights=default_weights())
    return Row(name, PSNR()(made, private), SSIM()(made, private), lpips(made, private), distance.cpu(), seconds)


def matched(own: Extractor, private: Tensor, changes: str, decoder: IRDecoder | None) -> tuple[Row, Tensor]:
    spec = own.model.input
    assert isinstance(spec, ImageSpec)
    begun = time.perf_counter()
    found = match_representations(own, spec, own.of(private), settings(changes), stream(0, "matching"), decoder=decoder)
    seconds = time.perf_counter() - begun
    return scored(changes, found.inputs, private, found.distance, seconds), found.inputs.cpu()


def decoded(own: Extractor, private: Tensor, decoder: IRDecoder) -> tuple[Row, Tensor]:
    wanted, begun = own.of(private), time.perf_counter()
    made = decoder(wanted)
    seconds = time.perf_counter() - begun
    return scored("decoder alone", made, private, relative_distance(own.of(made), wanted), seconds), made.cpu()


def blank(pool: data.DataPool, own: Extractor, private: Tensor) -> Row:
    made = pool.batch.inputs.mean(0, keepdim=True).expand_as(private)
    wanted = own.of(private)
    return scored("mean image", made, private, relative_distance(own.of(made), wanted), 0.0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, "robust")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--split", default="train")
    parser.add_argument("--indices", default=UNUSED)
    parser.add_argument("--vary", nargs="+", default=["prior=unet"], help="settings to compare, each a,b=c,d=e")
    parser.add_argument("--decoder", nargs="*", default=[], help="decoder files, one for each of --weights")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None, help="folder for picture sheets: private, then each row")
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    pool = data.load("cifar10", root=args.data_root, split=args.split, indices=args.indices)
    private = pool.batch.inputs[torch.randperm(len(pool), generator=stream(0, "matching images"))[: args.images]]
    print(f"`python -m benchmarks.representations.inversion {shlex.join(sys.argv[1:])}`, torch {torch.__version__},")
    print(f"float32, {args.threads} threads, n = {len(private)}, means +- standard errors.\n")
    heads = ["extractor", "search", "PSNR (dB)", "SSIM", "LPIPS", "relative distance of representations", "seconds"]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for number, weights in enumerate(args.weights):
        own, name = extractor(args.model, weights, pool, args.device), title(weights)
        print(blank(pool, own, private).line(name), flush=True)
        decoder = read_decoder(args.decoder[number], own) if args.decoder else None
        pictures = [private]
        if decoder is not None:
            row, made = decoded(own, private, decoder)
            pictures.append(made)
            print(row.line(name), flush=True)
        for changes in args.vary:
            row, made = matched(own, private, changes, decoder)
            pictures.append(made)
            print(row.line(name), flush=True)
        if args.out is not None:
            args.out.mkdir(parents=True, exist_ok=True)
            rows = [beside([enlarge(image(p), 96) for p in line]) for line in pictures]
            stacked(rows).save(args.out / f"matching_{name}.png", optimize=True)


if __name__ == "__main__":
    main()
