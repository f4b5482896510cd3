"""Maui on images unlike those that it was trained for: one image per update, as in the paper's Table 6.

    python -m benchmarks.representations.out_of_distribution --head HEAD.safetensors --decoder DECODER.safetensors

Extractor, head and decoder know CIFAR-10. Private: blood cells (medical/bccd_blood_cells_64.npz), ImageNet photographs
(imagenet128) and CIFAR-10's test images under FEDSPILL_DATA, patches of scikit-image's retina, its faces (grey). All
are resized to 32x32. Prints markdown; sheets of pictures go to --out, and finished cells are not run again.
"""

import argparse
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.representations.reconstruction import pictures, sheet
from benchmarks.representations.world import World, answered, mean_and_deviation, scores, world
from fedspill.core.rng import stream
from fedspill.core.types import Batch
from fedspill.tamperings.maui import Maui
from fedspill.zoo.data import load
from fedspill.zoo.data.by_name import data_root

SIDE = 32
METHODS = ("decoder", "refined", "unet")


def resized(images: np.ndarray) -> Tensor:
    """(n, h, w, 3) bytes to pixels (n, 3, 32, 32) in [0, 1]."""
    small = [np.asarray(Image.fromarray(i).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for i in images]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 255


def carried(name: str) -> Path:
    """A file of scikit-image's, which does not download it."""
    found = find_spec("skimage")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "data" / name


def blood(count: int) -> Tensor:
    root = data_root(None)
    assert root is not None, "FEDSPILL_DATA must be set"
    with np.load(root / "medical" / "bccd_blood_cells_64.npz") as file:
        images = file["images"]
    return resized(images[:: len(images) // count][:count])


def retina(count: int) -> Tensor:
    whole = np.asarray(Image.open(carried("retina.jpg")).convert("RGB"))
    side, per = 160, 5
    start = (len(whole) - per * side) // 2
    patches = [
        whole[start + r * side : start + (r + 1) * side, start + c * side : start + (c + 1) * side]
        for r in range(per)
        for c in range(per)
    ]
    return resized(np.stack(patches[:count]))


def faces(count: int) -> Tensor:
    grey = np.load(carried("lfw_subset.npy"))[:100]  # the first hundred are faces, the others are not
    pixels = (grey[:count, :, :, None].repeat(3, 3) * 255).round().astype(np.uint8)
    return resized(pixels)


def photographs(count: int) -> Tensor:
    return load("folder:imagenet128", size=SIDE, indices=f"0:{count}").batch.inputs


def cifar(count: int) -> Tensor:
    return load("cifar10", split="test", indices=f"0:{count}").batch.inputs


SOURCES: dict[str, Callable[[int], Tensor]] = {
    "CIFAR-10 test": cifar,
    "ImageNet photographs": photographs,
    "blood cells": blood,
    "retina": retina,
    "faces": faces,
}


def cell(method: str, images: Tensor, here: World, given: argparse.Namespace, path: Path) -> dict[str, list[float]]:
    """All images, each alone in an update; labels are those that the network gives them."""
    maui = Maui(
        head_weights=given.head,
        inversion=method,
        iterations=given.iterations,
        decoder=given.decoder if method != "unet" else "",
    )
    tampered = maui.tamper(here.model, here.public, 0, stream(given.seed, "server"))
    assert tampered.readout is not None
    model, found, shown = tampered.model, dict[str, list[float]](), list[Tensor]()
    with torch.no_grad():
        labels = model.logits(model.params, model.input.encode(images.to(model.like))).argmax(1).cpu()
    for k in range(len(images)):
        private = Batch(images[k : k + 1], labels[k : k + 1])
        rebuilt = tampered.readout.reconstruct(*answered(model, private), stream(given.seed, "attack", k))
        for name, value in scores(rebuilt.inputs, private.inputs).items():
            found.setdefault(name, []).extend(value.tolist())
        shown.append(pictures(rebuilt.inputs, private.inputs))
    sheet(torch.cat(shown), path)
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="decoder,refined")
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--head", default="")
    parser.add_argument("--decoder", default="")
    parser.add_argument("--robust", default="robust")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("maui-out-of-distribution"))
    given = parser.parse_args()
    given.out.mkdir(exist_ok=True)
    here = world(given.robust, device=given.device)
    print("| private images | method | n | PSNR, dB | SSIM | LPIPS |\n|---|---|---|---|---|---|")
    for name, source in SOURCES.items():
        for method in given.methods.split(","):
            stem = f"{name.replace(' ', '-')}.{method}.{given.iterations}"
            file = given.out / f"{stem}.json"
            if not file.is_file():
                found = cell(method, source(given.n), here, given, given.out / f"{stem}.png")
                file.write_text(json.dumps(found))
            values = {k: torch.tensor(v, dtype=torch.float64) for k, v in json.loads(file.read_text()).items()}
            n = int((~values["psnr"].isnan()).sum())
            shown = " | ".join(mean_and_deviation(v) for v in values.values())
            print(f"| {name} | {method} | {n} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
