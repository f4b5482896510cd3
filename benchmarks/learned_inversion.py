"""Learned inversion under defences that other attacks do not invert, beside attacks that were told of the same defence.

One gradient of one picture (3 x 16 x 16, untrained network, eval mode; labels and protocol granted). The public
examples are the public tiles of `photos`, which every installation holds, or CIFAR-10's training images at 16 x 16, if
FEDSPILL_DATA names a folder with the official files; the private ones are the private tiles, or CIFAR-10's test images.
A network is trained once per defence and seed, under one label, and reads every picture with that label; a seed has its
own network, pictures, label, public draws and noise. Beside it: a flat grey, the mean of the public pictures,
`linear_layer` and `inverting_gradients` ("strong" without its exact reading, 150 iterations), all told of the defence.
Seconds are those of one thread, process time, of one training.

    python -m benchmarks.learned_inversion run --network mlp --seeds 3 --presets quick
    python -m benchmarks.learned_inversion run --network lenet --seeds 3 --presets quick
    python -m benchmarks.learned_inversion run --network mlp --seeds 1
    python -m benchmarks.learned_inversion table
"""

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Any

import torch

from benchmarks.common import places
from benchmarks.common.records import conditions, read, run_or_table, write
from fedspill.attacks import inverting_gradients, learned_inversion, linear_layer
from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import Knows, ServerKnowledge
from fedspill.core.local_training.update import FedSGD
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import UNWATCHED, Attack, Defence, known_defence
from fedspill.core.settings import with_fields
from fedspill.core.types import Batch, Update
from fedspill.defences.dp_sgd import DPSGD
from fedspill.defences.gradient_noise import GradientNoise
from fedspill.defences.pruning import Pruning
from fedspill.defences.quantisation import Quantisation
from fedspill.federation.client import Client
from fedspill.federation.threat import observe
from fedspill.inversion.learned.readout import concluded, learn
from fedspill.scoring.metrics import PSNR
from fedspill.zoo import data
from fedspill.zoo.models import build

RESULTS = places.RESULTS / "learned_inversion"
SIDE, FIRST = 16, 80
"""Pictures before the first were looked at while settings were chosen."""
GRANTS = frozenset({Knows.NUM_EXAMPLES, Knows.LABELS, Knows.LOCAL_TRAINING, Knows.PUBLIC_DATA, Knows.DEFENCE})
DEFENCES: Mapping[str, tuple[Defence, ...]] = {
    "none": (),
    "quantisation, 1 bit": (Quantisation(bits=1),),
    "pruning, 0.99": (Pruning(0.99),),
    "gradient_noise, 0.5 rms": (GradientNoise(0.5, relative=True, distribution="gaussian"),),
    "gradient_noise, 2 rms": (GradientNoise(2.0, relative=True, distribution="gaussian"),),
    "dp_sgd, C = 1, 0.1": (DPSGD(clip=1.0, noise_multiplier=0.1),),
}
OTHERS: Mapping[str, Attack] = {
    "linear_layer": linear_layer.CARD.presets["paper"],
    "inverting_gradients": with_fields(inverting_gradients.CARD.presets["strong"], analytic=False, steps=150),
}


@dataclass(frozen=True)
class Row:
    """One guess or attack on the pictures of one seed under one defence.

    Attributes:
        psnr: dB, of each picture; None where the attack does not apply.
        seconds: of processor time: of one training, else of all pictures.
        note: the first that the attack gave.
    """

    network: str
    public: str
    defence: str
    seed: int
    attack: str
    psnr: list[float | None]
    seconds: float
    note: str = ""


def pictures(source: str, seed: int, count: int) -> Batch:
    """Private pictures of this seed, all with the label of the seed."""
    split, first = ("private" if source == "photos" else "test"), FIRST + seed * count
    inputs = data.load(source, split=split, indices=f"{first}:{first + count}", size=SIDE).batch.inputs
    return Batch(inputs, torch.full((count,), seed % 10))


def public_pictures(source: str, count: int | None) -> Batch:
    """All public tiles of `photos`, or the first of CIFAR-10's training images."""
    split, indices = ("public", None) if source == "photos" else ("train", f"0:{count or 5000}")
    return data.load(source, split=split, indices=indices, size=SIDE).batch


def network(name: str, seed: int) -> Model:
    """Untrained; "mlp" is 768-64-10."""
    options = {"hidden": (64,)} if name == "mlp" else {}
    shape, mean_, std = (3, SIDE, SIDE), (0.5,) * 3, (0.25,) * 3
    return build(name, input_shape=shape, num_classes=10, seed=seed, mean=mean_, std=std, options=options)


def psnr(made: torch.Tensor, private: torch.Tensor) -> float:
    return float(PSNR()(made.clamp(0, 1).to(private)[:1], private))


def told(model: Model, private: Batch, public: Batch, defences: tuple[Defence, ...]) -> ServerKnowledge:
    known, stages = known_defence(defences, model), [d.stages() for d in defences]
    return observe(model, private, 1, FedSGD(), public, GRANTS, defence=known, stages=stages)


def rows(args: argparse.Namespace, kept: set[tuple[str, int, str]]) -> Iterator[Row]:
    """One after the other, without those that are on record."""
    public = public_pictures(args.public, args.public_count)
    for seed in range(args.seeds):
        model, private = network(args.network, seed), pictures(args.public, seed, args.pictures)
        for name, defences in DEFENCES.items():
            stages = [d.stages() for d in defences]
            singles = [private[i : i + 1] for i in range(len(private))]
            sent = [
                Client(p, FedSGD(), stages).respond(model, stream(seed, "client", i)) for i, p in enumerate(singles)
            ]
            updates = [u for u in sent if u is not None]
            held = [told(model, p, public, defences) for p in singles]
            for attack, values, seconds, note in _each(args, seed, name, singles, updates, held, public, kept):
                yield Row(args.network, args.public, name, seed, attack, values, seconds, note)


def _each(
    args: argparse.Namespace,
    seed: int,
    name: str,
    singles: list[Batch],
    updates: list[Update],
    held: list[ServerKnowledge],
    public: Batch,
    kept: set[tuple[str, int, str]],
) -> Iterator[tuple[str, list[float | None], float, str]]:
    guesses = {"grey": torch.full_like(public.inputs[:1], 0.5), "public mean": public.inputs.mean(0, keepdim=True)}
    for guess, made in guesses.items():
        if (name, seed, guess) not in kept:
            yield guess, [psnr(made, p.inputs) for p in singles], 0.0, ""
    for preset in args.presets:
        if (name, seed, f"learned_inversion:{preset}") not in kept:
            yield _learned(preset, seed, singles, updates, held)
    for other, attack in OTHERS.items():
        if (name, seed, other) not in kept:
            began = time.process_time()
            values = [_read(attack, u, k, p) for u, k, p in zip(updates, held, singles, strict=True)]
            yield other, values, time.process_time() - began, ""


def _learned(
    preset: str, seed: int, singles: list[Batch], updates: list[Update], held: list[ServerKnowledge]
) -> tuple[str, list[float | None], float, str]:
    attack, began = learned_inversion.CARD.presets[preset], time.process_time()
    assert isinstance(attack, learned_inversion.LearnedInversion)
    inversion = learn(updates[0], held[0], attack.simulation, attack.learning, stream(seed, "attack"), UNWATCHED)
    seconds = time.process_time() - began
    got = [concluded(inversion, u, k, attack.converged_below) for u, k in zip(updates, held, strict=True)]
    values: list[float | None] = [psnr(g.inputs, p.inputs) for g, p in zip(got, singles, strict=True)]
    return f"learned_inversion:{preset}", values, seconds, got[0].notes[0]


def _read(attack: Attack, update: Update, knowledge: ServerKnowledge, private: Batch) -> float | None:
    try:
        return psnr(attack.reconstruct(update, knowledge, stream(0, "attack")).inputs, private.inputs)
    except NotApplicable:
        return None


def run(args: argparse.Namespace) -> None:
    """Measures and records what is not on record."""
    torch.set_num_threads(args.threads)
    path = RESULTS / f"{args.network}-{args.public}.json"
    kept: list[dict[str, Any]] = read(path)["rows"] if path.is_file() else []
    for row in rows(args, {(r["defence"], r["seed"], r["attack"]) for r in kept}):
        kept.append(asdict(row))
        print(row.defence, row.seed, row.attack, _mean(row.psnr), f"{row.seconds:.1f} s", flush=True)
        write(path, {"conditions": conditions(args), "rows": kept})


def _mean(values: list[float | None]) -> float | None:
    there = [v for v in values if v is not None]
    return mean(there) if there else None


def lines() -> Iterator[str]:
    """The tables of all that was recorded: mean over pictures and seeds, with the spread of the seeds' means."""
    for path in sorted(RESULTS.glob("*.json")):
        record: list[dict[str, Any]] = read(path)["rows"]
        attacks = list(dict.fromkeys(r["attack"] for r in record))
        seeds, count = len({r["seed"] for r in record}), len(record[0]["psnr"])
        first = record[0]
        yield f"\n{first['network']}, public examples of {first['public']}, {seeds} seeds, {count} pictures each\n"
        yield f"| defence | {' | '.join(attacks)} |"
        yield "|---" * (len(attacks) + 1) + "|"
        for name in dict.fromkeys(r["defence"] for r in record):
            cells = [_cell([r for r in record if (r["defence"], r["attack"]) == (name, a)]) for a in attacks]
            yield f"| {name} | {' | '.join(cells)} |"


def _cell(record: list[dict[str, Any]]) -> str:
    if not record:
        return "not run"
    means = [m for r in record if (m := _mean(r["psnr"])) is not None]
    if not means:
        return "does not apply"
    spread = f" +- {stdev(means):.1f}" if len(means) > 1 else ""
    return f"{mean(means):.1f}{spread}"


def own(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--network", choices=("mlp", "lenet"), default="mlp")
    parser.add_argument("--public", choices=("photos", "cifar10"), default="photos")
    parser.add_argument("--public-count", type=int, default=None)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--presets", nargs="+", default=("quick", "strong"))


if __name__ == "__main__":
    run_or_table("learned_inversion", __doc__, own, run, lines)
