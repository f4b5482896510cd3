"""What a server sees while two runs of a search go on side by side, beside the truth that it does not see.

`python -m benchmarks.quality.traces --out FILE.json` records; `stop` judges rules by it. CIFAR-10
test images below number 3,000, one image an update, labels granted, eval mode.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common.records import conditions, write
from benchmarks.matching.world import Case, World, world
from fedspill.attacks.inverting_gradients import InvertingGradients, TotalVariation
from fedspill.core.rng import stream
from fedspill.core.settings import with_fields
from fedspill.inversion.matching.forward_model import ForwardModel
from fedspill.inversion.matching.hypotheses import check_observed, hypotheses
from fedspill.inversion.objective.distances import DISTANCES
from fedspill.inversion.search.settings import SearchSettings
from fedspill.inversion.search.stack import Stack
from fedspill.inversion.search.step_rules import SignedAdam

STEPS, EVERY, RUNS = 240, 6, 2
PAPER = InvertingGradients(search=SearchSettings(steps=STEPS), prior=TotalVariation(tv=1e-2))
FAINT = with_fields(PAPER, tv=1e-3)
COSINE = with_fields(PAPER, lr=0.3, schedule="cosine", tv=0.7, variation="vectorial", relative=True)
NARROW: dict[str, Any] = {"width": 16}
CASES: dict[str, tuple[Case, InvertingGradients]] = {
    "lenet, paper": (Case("lenet"), PAPER),
    "trained resnet20, cosine": (Case("resnet20", weights="trained"), COSINE),
    "trained convnet, paper": (Case("convnet", weights="trained", options=NARROW), PAPER),
    "resnet20, paper": (Case("resnet20"), FAINT),
    "convnet, cosine": (Case("convnet", options=NARROW), COSINE),
    "lenet, cosine": (Case("lenet"), COSINE),
    "lenet, faint": (Case("lenet"), FAINT),
    "convnet, paper": (Case("convnet", options=NARROW), FAINT),
    "resnet20, cosine": (Case("resnet20"), COSINE),
}
LOSS = 0.1
"""A trained network's gradient of an image below says little."""


def traced(given: World, attack: InvertingGradients, seed: int) -> list[dict[str, Any]]:
    """Every few iterations: distances, PSNR in dB to the truth, between the runs, and to the same run 18 before."""
    knowledge = given.knowledge()
    observed = check_observed(given.update, given.model)
    (kept,) = hypotheses(observed, knowledge, attack.unknowns, stream(seed, "unused"))
    assumed = ForwardModel.of(kept, knowledge, observed, DISTANCES[attack.distance], shorten=False)
    matching, problem = assumed.matching, attack._problem(assumed, None)
    assert problem.values is not None
    rng, rule, labels = (
        stream(seed, "traces"),
        SignedAdam(attack.search.lr, schedule=attack.search.schedule),
        given.private.labels,
    )
    starts = torch.stack([problem.draw(rng)[0] for _ in range(RUNS)]).requires_grad_()
    stack = Stack(
        [starts], problem.values, rule.optimiser([starts]), rule.sign, problem.project, starts.new_zeros(1, RUNS)
    )
    with torch.no_grad():
        blank = float(matching(torch.zeros_like(starts[0]), labels))
    told, before = list[dict[str, Any]](), list[Tensor]()
    for step in range(STEPS):
        rule.set_step_size(stack.optimiser, step / STEPS)
        stack.iterate()
        if step % EVERY:
            continue
        z = stack.best[0].clone()
        seen = torch.stack([given.spec.decode(given.spec.project(one)) for one in z])
        with torch.no_grad():
            left = [float(matching(one, labels)) / blank for one in z]
        before.append(seen)
        told.append(
            {
                "step": step,
                "left": left,
                "truth": [psnr(one, given.private.inputs) for one in seen],
                "agreement": psnr(seen[0], seen[1]),
                "moved": None if len(before) < 4 else min(map(psnr, seen, before[-4])),
            }
        )
    return told


def psnr(one: Tensor, two: Tensor) -> float:
    """In dB, of images in [0, 1]; the mean over the images."""
    error = (one - two).square().flatten(1).mean(1).clamp_min(1e-10)
    return float((-10 * error.log10()).mean())


def worlds(case: Case, count: int) -> Iterator[tuple[int, World]]:
    """The first images of those numbered 7, 107, ... that the network still learns from."""
    for number in range(7, 3000, 100):
        given = world(case, (number,), number, "cpu")
        if case.weights == "trained" and given.loss < LOSS:
            continue
        yield number, given
        count -= 1
        if not count:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--only", default="", help="cases whose name begins so")
    args = parser.parse_args()
    args.device = "cpu"
    kept: dict[str, Any] = json.loads(args.out.read_text())["traces"] if args.out.is_file() else {}
    for name, (case, attack) in CASES.items():
        for number, given in worlds(case, args.images) if name.startswith(args.only) else []:
            key = f"{name}, {number}"
            if key not in kept:
                kept[key] = traced(given, attack, number)
                write(args.out, {"conditions": conditions(args), "traces": kept})
                last = kept[key][-1]
                print(key, last["left"], last["truth"], last["agreement"], flush=True)


if __name__ == "__main__":
    main()
