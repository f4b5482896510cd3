"""How well pictures come back from what enters a module deep inside a ResNet-18 that was made transparent.

The exact features are read, as an imprint module at that place would show them; PSNR in dB per picture, and their
mean; pixels (behind the maximum pool: windows) that are shown per colour. A sheet of the pictures can be written.

    python -m benchmarks.imprint.deep_placement --data folder:imagenet128 --indices 0,32,64,96 --sheet sheet.png
"""

import argparse
import itertools
import shlex
import sys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model
from fedspill.inversion.identity.pixel_map import PixelMap, pictures, pixel_map
from fedspill.inversion.identity.transparent import Lanes, Relu, linearised
from fedspill.inversion.network.layers import layer_inputs
from fedspill.zoo import data, models

PLACES = ("pool", "layer1", "layer2", "layer3", "layer4", "avgpool")
LANES: tuple[Lanes, ...] = ("three", "all")
RELUS: tuple[Relu, ...] = ("shift", "remove")


def rebuilt(model: Model, at: str, private: Tensor) -> tuple[PixelMap, Tensor, Tensor]:
    """The map, the features of a float32 client (m, ...), and the pictures."""
    spec, seen = model.input, pixel_map(model, at)
    assert isinstance(spec, ImageSpec)
    features = layer_inputs(model, at, spec.encode(private))
    return seen, features, pictures(seen, features.flatten(1), spec)


def as_image(batch: Tensor) -> Image.Image:
    """Pictures (m, 3, h, w) side by side."""
    row = torch.cat(list(batch), 2).mul(255).round().byte().permute(1, 2, 0)
    return Image.fromarray(row.cpu().numpy())


def written(rows: list[Image.Image], path: Path) -> None:
    """The rows below each other."""
    whole = Image.new("RGB", (rows[0].width, sum(r.height for r in rows)))
    for number, row in enumerate(rows):
        whole.paste(row, (0, number * row.height))
    whole.save(path)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--stem", default="imagenet", choices=["imagenet", "cifar"])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--places", nargs="+", default=list(PLACES))
    parser.add_argument("--data", default="photos", help="as in fedspill.zoo.data.load")
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--indices", default="0:4")
    parser.add_argument("--sheet", type=Path, default=None, help="a PNG: private, then three and all for each place")
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.set_num_threads(1)
    private = data.load(args.data, root=args.data_root, size=args.size, indices=args.indices).batch.inputs
    model = models.build(
        args.network,
        input_shape=(3, args.size, args.size),
        num_classes=1000,
        options={"stem": args.stem, "normalise": "imagenet"},
    )
    print(
        f"`python -m benchmarks.imprint.deep_placement {shlex.join(sys.argv[1:])}`, torch {torch.__version__}, n = ",
        end="",
    )
    print(f"{len(private)} pictures, untrained weights\n")
    print("| at | enters | lanes | relu | shown | PSNR | mean |\n|---|---|---|---|---|---|---|")
    rows = [as_image(private)]
    for at, lanes, relu in itertools.product(args.places, LANES, RELUS):
        seen, features, got = rebuilt(linearised(model, at, lanes=lanes, relu=relu), at, private)
        psnr = -10 * (got - private).square().flatten(1).mean(1).log10()
        shape, each = "x".join(map(str, features.shape[1:])), " ".join(f"{p:.1f}" for p in psnr)
        print(f"| {at} | {shape} | {lanes} | {relu} | {seen.resolution()} | {each} | {psnr.mean():.2f} |", flush=True)
        if relu == "shift":
            rows.append(as_image(got))
    if args.sheet is not None:
        written(rows, args.sheet)


if __name__ == "__main__":
    main()
