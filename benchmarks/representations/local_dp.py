"""Maui against local differential privacy on the head's update: rate of reconstruction by epsilon, clip and SSIM.

    python -m benchmarks.representations.local_dp --head H.safetensors --decoder D.safetensors

As in the paper's Table 7: the whole update is clipped to C, Gaussian noise follows from (epsilon, delta = 1e-5) by
the analytic mechanism for one release; sensitivity 2 C (any two data sets), or C with --add-remove. C is given as a
share of the median norm of unclipped updates. A success is an image of SSIM 0.4, 0.5, 0.6 or more. CIFAR-10 lies
under FEDSPILL_DATA. Prints markdown.
"""

import argparse
import math

import torch
from torch import Tensor

from benchmarks.representations.world import HEAD_ONLY, answered, batches, scores, world
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import Attack, ClientContext
from fedspill.core.types import Batch, Update
from fedspill.defences.local_dp import LocalDP
from fedspill.tamperings.maui import Maui

THRESHOLDS = (0.4, 0.5, 0.6)


def protected(update: Update, epsilon: float, clip: float, given: argparse.Namespace, model: Model, private: Batch):
    """What the client sends; an epsilon of infinity only clips, which a ratio does not see."""
    if math.isinf(epsilon):
        return update
    sensitivity = "add_remove" if given.add_remove else "replace"
    defence = LocalDP(clip=clip, epsilon=epsilon, sensitivity=sensitivity)
    context = ClientContext(model, private, HEAD_ONLY)
    return defence.stages().protect(update, context, stream(given.seed, "noise"))


def row(attack: Attack, model: Model, private: list[Batch], epsilon: float, clip: float, given) -> list[str]:
    """Rates at the thresholds, and the mean SSIM and PSNR of successes at the middle one."""
    ssim, psnr = list[Tensor](), list[Tensor]()
    for k, batch in enumerate(private):
        update, knowledge = answered(model, batch)
        sent = protected(update, epsilon, clip, given, model, batch)
        rebuilt = attack.reconstruct(sent, knowledge, stream(given.seed, "attack", k))
        values = scores(rebuilt.inputs, batch.inputs)
        ssim.append(values["ssim"].nan_to_num(0.0))
        psnr.append(values["psnr"].nan_to_num(0.0))
    got, decibels = torch.cat(ssim), torch.cat(psnr)
    rates = [f"{float((got >= t).double().mean()):.3f}" for t in THRESHOLDS]
    good = got >= THRESHOLDS[1]
    of_good = f"{float(got[good].mean()):.2f}, {float(decibels[good].mean()):.1f}" if bool(good.any()) else "-"
    return [*rates, of_good]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epsilons", default="inf,1e6,1e5,1e4,1e3,100,10,1")
    parser.add_argument("--clips", default="0.5,4", help="shares of the median norm of an update")
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--add-remove", action="store_true")
    parser.add_argument("--head", default="")
    parser.add_argument("--mislabelled", default="")
    parser.add_argument("--decoder", default="")
    parser.add_argument("--robust", default="robust")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    here = world(given.robust, device=given.device)
    private = batches(here.test, given.size, given.batches, given.seed)
    print(f"batches: {len(private)} of {given.size}\n")
    print("| head | C | epsilon | noise per value | SSIM ≥ 0.4 | ≥ 0.5 | ≥ 0.6 | SSIM, dB of those ≥ 0.5 |")
    print("|---|---|---|---|---|---|---|---|")
    for name, file in (("right labels", given.head), ("wrong labels", given.mislabelled)):
        maui = Maui(inversion="decoder", head_weights=file, mislabel=name == "wrong labels", decoder=given.decoder)
        tampered = maui.tamper(here.model, here.public, 0, stream(given.seed, "server"))
        assert tampered.readout is not None
        norm = float(torch.tensor([answered(tampered.model, b)[0].norm() for b in private]).median())
        for share in map(float, given.clips.split(",")):
            for epsilon in map(float, given.epsilons.split(",")):
                clip = share * norm
                sensitivity = "add_remove" if given.add_remove else "replace"
                noise = 0.0 if math.isinf(epsilon) else LocalDP(clip, epsilon, sensitivity=sensitivity).noise()
                cells = row(tampered.readout, tampered.model, private, epsilon, clip, given)
                print(f"| {name} | {clip:.3g} | {epsilon:g} | {noise:.2g} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
