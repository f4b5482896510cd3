"""Three servers of "Inverting Gradients", appendix A: reversible blocks, sub-models, parameters searched for leakage.

    python -m benchmarks.malicious_architectures reversible --network lenet
    python -m benchmarks.malicious_architectures sub_models --size 256
    python -m benchmarks.malicious_architectures optimised --steps 200
    python -m benchmarks.malicious_architectures table

CIFAR-10: private images of the test part, public ones of the training part, both by a seeded choice; seeded random
weights; the client computes in float32. "optimised" runs Inverting Gradients (its preset "strong" without what it reads
exactly before it searches) on the same images before and after the search for parameters. CIFAR-10 lies under
FEDSPILL_DATA.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import places
from benchmarks.common.records import conditions, write
from benchmarks.common.records import read as known
from fedspill.attacks import inverting_gradients
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import State, Tampering, Unwatched
from fedspill.core.settings import with_fields
from fedspill.core.types import Batch, Reconstruction
from fedspill.scoring.match import match
from fedspill.scoring.metrics import PSNR
from fedspill.tamperings import optimised_parameters, reversible_blocks, sub_models
from fedspill.zoo import data, models

RESULTS = places.RESULTS / "malicious_architectures"
PUBLIC = 512
EXACT = 60.0
"""dB."""


@dataclass
class Told(Unwatched):
    """Prints how the search goes, and keeps its state in a file, so that it can be broken off.

    Attributes:
        path: of the file; None keeps nothing.
        seconds: of processor time, of earlier runs.
    """

    path: Path | None
    seconds: float = 0.0
    done: int = 0

    def progress(self, done: int, total: int, objective: float) -> None:
        """Every tenth step."""
        self.done = done
        if done % 10 == 0:
            print(f"{done} of {total}: {objective:.4f}, {time.process_time():.0f} s", flush=True)

    def save(self, state: Callable[[], State], *, last: bool = False) -> None:
        """Every tenth step."""
        if self.path is not None and (last or self.done % 10 == 0):
            torch.save({**state(), "seconds": self.seconds + time.process_time()}, self.path)

    def load(self) -> State | None:
        """What a run before left."""
        if self.path is None or not self.path.exists():
            return None
        kept = torch.load(self.path, weights_only=True)
        self.seconds = float(kept["seconds"])
        return kept


def network(name: str) -> Model:
    """Of the zoo, for CIFAR-10, with seeded weights, in eval mode."""
    pool = data.load("cifar10", split="test")
    return models.build(name, input_shape=(3, 32, 32), num_classes=10, mean=pool.mean, std=pool.std)


def chosen(split: str, count: int, seed: int) -> Batch:
    """A seeded choice."""
    pool = data.load("cifar10", split=split).batch
    return pool[torch.randperm(len(pool), generator=stream(seed, "malicious", split))[:count]]


def protocol(args: argparse.Namespace) -> LocalTraining:
    """One gradient, or local steps."""
    if not args.lr:
        return FedSGD()
    return FedAvg(epochs=args.epochs, minibatch_size=args.minibatch or None, lr=args.lr)


def scores(got: Reconstruction, private: Batch) -> list[float]:
    """PSNR in dB of every private image, 0 for one that no candidate is matched to."""
    mine, theirs = match(got.inputs, private.inputs)
    values, found = PSNR()(got.inputs[mine], private.inputs[theirs]), [0.0] * len(private)
    for place, value in zip(theirs.tolist(), values.tolist(), strict=True):
        found[place] = value
    return found


def read(tampering: Tampering, model: Model, private: Batch, training: LocalTraining, seed: int) -> dict[str, Any]:
    """One update of a tampered network, read by its own readout; labels are not granted."""
    began = time.process_time()
    sent = tampering.tamper(model, None, 0, stream(seed, "server"))
    assert sent.readout is not None, "both bring their readout"
    update = local_update(sent.model, private, training)
    knowledge = ServerKnowledge(sent.model, num_examples=len(private), local_training=training)
    got = sent.readout.reconstruct(update, knowledge, stream(seed, "read"))
    right = None if got.labels is None else sorted(got.labels.tolist()) == sorted(private.labels.tolist())
    added = sum(v.numel() for v in sent.model.params.values()) - sum(v.numel() for v in model.params.values())
    return {
        "psnr": scores(got, private),
        "certified": got.converged,
        "labels_right": right,
        "note": got.notes[-1] if got.notes else "",
        "added_parameters": added,
        "cpu_s": time.process_time() - began,
    }


def reversible(args: argparse.Namespace) -> dict[str, Any]:
    """Single images, or batches in which every class has at most one."""
    preset, model = reversible_blocks.CARD.presets[args.preset], network(args.network)
    pool, rows = chosen("test", 1000, args.seed), list[dict[str, Any]]()
    own = [[i for i in range(len(pool)) if int(pool.labels[i]) == c] for c in range(10)]
    for number in range(args.batches):
        places_ = [own[c].pop() for c in range(args.size)] if args.size > 1 else [number]
        rows.append(read(preset, model, pool[places_], protocol(args), args.seed))
        print(min(rows[-1]["psnr"]), rows[-1]["certified"], rows[-1]["note"], flush=True)
    return {"rows": rows}


def banks(args: argparse.Namespace) -> dict[str, Any]:
    """Batches of any labels."""
    preset, model = sub_models.CARD.presets[args.preset], network(args.network)
    slots = max(args.slots or 0, preset.slots if isinstance(preset, sub_models.SubModels) else 0)
    preset, pool, rows = with_fields(preset, slots=slots), chosen("test", args.size * args.batches, args.seed), []
    for number in range(args.batches):
        private = pool[slice(number * args.size, (number + 1) * args.size)]
        rows.append(read(preset, model, private, protocol(args), args.seed))
        print(min(rows[-1]["psnr"]), rows[-1]["certified"], rows[-1]["note"], flush=True)
    return {"rows": rows}


def searched(model: Model, private: Batch, steps: int, seed: int) -> list[float]:
    """PSNR in dB of each image by itself, by a search with the label known."""
    strong = inverting_gradients.CARD.presets["strong"]
    attack, found = with_fields(strong, steps=steps, analytic=False), list[float]()
    for number in range(len(private)):
        one = private[slice(number, number + 1)]
        update = local_update(model, one, FedSGD())
        knowledge = ServerKnowledge(model, num_examples=1, labels=one.labels, local_training=FedSGD())
        found += scores(attack.reconstruct(update, knowledge, stream(seed, "search", number)), one)
    return found


def optimised(args: argparse.Namespace) -> dict[str, Any]:
    """The same images before and after the search for parameters."""
    preset, model = optimised_parameters.CARD.presets[args.preset], network(args.network)
    assert isinstance(preset, optimised_parameters.OptimisedParameters)
    tampering = with_fields(preset, **json.loads(args.set))
    private, public = chosen("test", args.size, args.seed), chosen("train", PUBLIC, args.seed)
    watch = Told(args.state)
    sent = tampering.tamper(model, public, 0, stream(args.seed, "server"), watch).model
    seconds = watch.seconds + time.process_time()
    before = searched(model, private, args.attack_steps, args.seed)
    print("before", before, flush=True)
    after = searched(sent, private, args.attack_steps, args.seed)
    print("after", after, flush=True)
    moved = [float((sent.params[k] - v).norm() / v.norm().clamp_min(1e-12)) for k, v in model.params.items()]
    return {"before": before, "after": after, "search_cpu_s": seconds, "moved": max(moved)}


def line(record: dict[str, Any]) -> str:
    """One row of a table."""
    about, values = record["conditions"], record["values"]
    if "before" in values:
        mean = [sum(values[k]) / len(values[k]) for k in ("before", "after")]
        shown = [", ".join(f"{v:.1f}" for v in values[k]) for k in ("before", "after")]
        return f"| {about['command']} | {shown[0]} | {mean[0]:.1f} | {shown[1]} | {mean[1]:.1f} |"
    psnr = sorted(p for row in values["rows"] for p in row["psnr"])
    sure, cpu = sum(row["certified"] for row in values["rows"]), [row["cpu_s"] for row in values["rows"]]
    cells = [
        about["command"],
        f"{len(values['rows'])} x {len(values['rows'][0]['psnr'])}",
        f"{psnr[0]:.1f}",
        f"{psnr[len(psnr) // 2]:.1f}",
        f"{sum(p >= EXACT for p in psnr)} of {len(psnr)}",
        f"{sure} of {len(values['rows'])}",
        f"{sum(cpu) / len(cpu):.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


ROWS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "reversible": reversible,
    "sub_models": banks,
    "optimised": optimised,
}


def parse() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=(*ROWS, "table"))
    parser.add_argument("--network", default="lenet")
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--size", type=int, default=1, help="images of a batch")
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--slots", type=int, default=0, help="of the bank, at least the preset's")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--minibatch", type=int, default=0, help="images of a local step; 0 takes all")
    parser.add_argument("--lr", type=float, default=0.0, help="of local steps; 0 sends one gradient")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", default="{}", help="fields of the search for parameters, as JSON")
    parser.add_argument("--attack-steps", type=int, default=240)
    parser.add_argument("--state", type=Path, help="file that keeps the state of the search for parameters")
    parser.add_argument("--name", default="", help="of the record")
    return parser.parse_args()


def main() -> None:
    """Measures and records one row, or shows all."""
    torch.set_num_threads(1)
    args = parse()
    if args.row == "table":
        for path in sorted(RESULTS.glob("*.json")):
            print(line(known(path)))
        return
    values = ROWS[args.row](args)
    args.device, args.benchmark, args.state = "cpu", "malicious_architectures", None
    write(RESULTS / f"{args.name or args.row}.json", {"conditions": conditions(args), "values": values})


if __name__ == "__main__":
    main()
