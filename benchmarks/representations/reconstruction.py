"""Maui and its baselines on the gradient of a head: PSNR, SSIM and LPIPS per image, by batch size.

    python -m benchmarks.representations.reconstruction --head HEAD.safetensors --decoder DECODER.safetensors
    python -m benchmarks.representations.reconstruction --methods unet,refined --sizes 16 --sheet sheet.png

Every search gets the same number of iterations. Methods: decoder, refined, unet (Maui on the robust extractor);
natural (Maui's U-Net on a natural extractor); nex, nex_robust (on a plain head); ig, dlg (on Maui's model, head only).
Maui is fedspill's own unless told otherwise: a head trained for the expected leakage, and peeling; `--published` takes
the paper's objective and no peeling. NEX is its preset `strong` (one exclusive unit is enough, and peeling); `--nex
paper` takes the paper's. `--iterations 1` counts what is read and leaves the pictures out.
A finished cell is kept in --out and not run again. CIFAR-10 lies under FEDSPILL_DATA. Prints markdown.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from benchmarks.representations.world import World, answered, batches, mean_and_deviation, scores, world
from fedspill.attacks.dlg import CARD as DLG
from fedspill.attacks.inverting_gradients import CARD as IG
from fedspill.attacks.inverting_gradients import InvertingGradients
from fedspill.attacks.nex import CARD as NEX
from fedspill.core.rng import stream
from fedspill.core.roles import Attack
from fedspill.core.settings import with_fields
from fedspill.scoring.match import match
from fedspill.tamperings.maui import Maui

SEARCHED = 16
COUNTS = {1: 16, 16: 1, 64: 1}
"""Batch size to batches."""
EVALUATIONS = 20
"""Of the objective in one iteration of DLG's L-BFGS; one gradient of any other search is one iteration."""
METHODS = ("decoder", "refined", "unet", "natural", "nex", "nex_robust", "ig", "dlg")


def sent(method: str, given: argparse.Namespace, worlds: dict[str, World]) -> tuple[Attack, object]:
    """The attack, and the model that the clients get."""
    natural = method in ("natural", "nex")
    here = worlds["trained" if natural else "robust"]
    plain = method in ("nex", "nex_robust")
    inversion = method if method in ("decoder", "refined") else "unet"
    maui = Maui(
        head="plain" if plain else given.kind,
        objective="published" if given.published else "expected",
        peel=not given.published,
        head_weights="" if plain or natural else given.head,
        inversion=inversion,
        iterations=given.iterations,
        most=SEARCHED,
        decoder=given.decoder if inversion != "unet" else "",
    )
    tampered = maui.tamper(here.model, here.public, 0, stream(given.seed, "server"))
    if method in ("ig", "dlg"):
        card, steps = (IG, given.iterations) if method == "ig" else (DLG, given.iterations // EVALUATIONS)
        attack = with_fields(card.presets["paper"], steps=max(1, steps), restarts=1)
        return with_fields(attack, tv=given.ig_tv) if isinstance(attack, InvertingGradients) else attack, tampered.model
    if plain:
        attack = NEX.presets[given.nex]
        return replace(attack, matching=with_fields(attack.matching, iterations=given.iterations)), tampered.model
    assert tampered.readout is not None
    return tampered.readout, tampered.model


def pictures(rebuilt: Tensor, private: Tensor) -> Tensor:
    """(n, 2, c, h, w): private and matched; black where there is none."""
    shown = torch.stack([private, torch.zeros_like(private)], 1)
    if len(rebuilt):
        mine, theirs = match(rebuilt[: len(private)].cpu(), private)
        shown[theirs, 1] = rebuilt[mine].cpu()
    return shown


def cell(method: str, size: int, given: argparse.Namespace, worlds: dict[str, World]) -> dict[str, object]:
    """One method on all batches of one size."""
    attack, model = sent(method, given, worlds)
    found: dict[str, list[float]] = {}
    began, kept = time.perf_counter(), list[Tensor]()
    for k, private in enumerate(batches(worlds["robust"].test, size, given.batches or COUNTS[size], given.seed)):
        rebuilt = attack.reconstruct(*answered(model, private), stream(given.seed, "attack", k))
        asked = min(SEARCHED, len(rebuilt.inputs)) if method != "decoder" else len(rebuilt.inputs)
        values = scores(rebuilt.inputs[:asked], private.inputs)
        for name, value in values.items():
            found.setdefault(name, []).extend(value.tolist())
        kept.append(pictures(rebuilt.inputs[:asked], private.inputs))
    sheet(torch.cat(kept), given.out / f"{method}.{size}.png")
    return {"scores": found, "seconds": time.perf_counter() - began}


def sheet(shown: Tensor, path: Path) -> None:
    """Private above rebuilt, the first 16 that were rebuilt."""
    there = shown[(shown[:, 1].flatten(1).abs().sum(1) > 0)][:SEARCHED]
    if not len(there):
        return
    rows = torch.cat(list(torch.cat([there[:, 0], there[:, 1]], 2)), 2)
    pixels = (rows.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(pixels)
    picture.resize((picture.width * 3, picture.height * 3), Image.Resampling.NEAREST).save(path)


def line(method: str, size: int, result: dict) -> str:
    values = {name: torch.tensor(v, dtype=torch.float64) for name, v in result["scores"].items()}
    n = int((~values["psnr"].isnan()).sum())
    shown = " | ".join(mean_and_deviation(v) for v in values.values())
    return f"| {method} | {size} | {n} of {len(values['psnr'])} | {shown} | {result['seconds']:.0f} |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--sizes", default="1,16,64")
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--batches", type=int, default=0)
    parser.add_argument("--kind", default="spab")
    parser.add_argument("--published", action="store_true", help="Maui as published: its objective, no peeling")
    parser.add_argument("--nex", default="strong", choices=("paper", "strong"))
    parser.add_argument("--head", default="", help="file of `fedspill train spab`; else one is trained")
    parser.add_argument("--decoder", default="", help="file of `fedspill train decoder`; else one is trained")
    parser.add_argument("--robust", default="robust")
    parser.add_argument("--natural", default="trained")
    parser.add_argument("--ig-tv", type=float, default=0.1, help="the best of four on training images")
    parser.add_argument("--network", default="cnn")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("maui-reconstruction"))
    given = parser.parse_args()
    given.out.mkdir(exist_ok=True)
    natural = {"natural", "nex"} & set(given.methods.split(","))
    worlds = {"robust": world(given.robust, network=given.network, device=given.device)}
    worlds |= {"trained": world(given.natural, network=given.network, device=given.device)} if natural else {}
    print("| method | batch | rebuilt | PSNR, dB | SSIM | LPIPS | s |\n|---|---|---|---|---|---|---|")
    for size in map(int, given.sizes.split(",")):
        for method in given.methods.split(","):
            variant = ".published" * given.published + f".{given.nex}" * (given.nex != "strong")
            file = given.out / f"{method}.{size}.{given.iterations}{variant}.json"
            if not file.is_file():
                file.write_text(json.dumps(cell(method, size, given, worlds)))
            print(line(method, size, json.loads(file.read_text())), flush=True)


if __name__ == "__main__":
    main()
