"""Attackers who know the clients' defence against the same attackers who do not, at three strengths of each defence.

Inverting Gradients (preset "strong" without its exact reading, so that the search is what is measured) on LeNet, and
`linear_layer` on a multilayer perceptron, both untrained, eval mode, one gradient of natural pictures of 3 x 16 x 16;
labels and the protocol are granted to both. What differs is the grant "defence" alone. PSNR with the best assignment,
mean over the batch. Seconds are those of one thread, process time.

    python -m benchmarks.defences run --attack linear_layer --first 20 --seeds 6
    python -m benchmarks.defences run --attack inverting_gradients --first 20 --seeds 6
    python -m benchmarks.defences run --attack dlg --first 20 --seeds 1
    python -m benchmarks.defences table
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Any

import torch

from benchmarks.common import places
from benchmarks.common.records import conditions, read, run_or_table, write
from fedspill.attacks import dlg, inverting_gradients, linear_layer
from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import KnownDefence, ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import Attack, Defence, Known
from fedspill.core.settings import with_fields
from fedspill.core.types import Batch, Update
from fedspill.defences.clipping import Clipping
from fedspill.defences.dp_sgd import DPSGD
from fedspill.defences.gradient_noise import GradientNoise
from fedspill.defences.local_dp import LocalDP
from fedspill.defences.percentile_privacy import PercentilePrivacy
from fedspill.defences.pruning import Pruning
from fedspill.defences.quantisation import Quantisation
from fedspill.defences.svt_privacy import SVTPrivacy
from fedspill.federation.client import Client
from fedspill.scoring.match import match
from fedspill.scoring.metrics import PSNR
from fedspill.zoo import data
from fedspill.zoo.models import build

RESULTS = places.RESULTS / "defences"
SIDE = 16

Made = Callable[[float, float], Defence]
"""Norm of one example's gradient and root mean square of the update to a defence: strengths are relative to them."""


def _clipping(share: float) -> Made:
    return lambda norm, rms: Clipping(share * norm)


def _pruning(share: float, *, whole: bool) -> Made:
    return lambda norm, rms: Pruning(share, whole=whole)


def _quantisation(bits: int) -> Made:
    return lambda norm, rms: Quantisation(bits)


def _noise(share: float) -> Made:
    return lambda norm, rms: GradientNoise(share, relative=True, distribution="gaussian")


def _percentile(percentile: float, times: float) -> Made:
    return lambda norm, rms: PercentilePrivacy(percentile, times * rms)


def _svt(noise_var: float, fraction: float) -> Made:
    return lambda norm, rms: SVTPrivacy(fraction, 10.0, noise_var, 10 * rms, 0.1 * rms)


def _local_dp(share: float) -> Made:
    return lambda norm, rms: LocalDP(clip=norm, noise_multiplier=share * rms / norm)


def _dp_sgd(share: float) -> Made:
    return lambda norm, rms: DPSGD(clip=0.5 * norm, noise_multiplier=share * rms / norm)


DEFENCES: dict[str, dict[str, Made]] = {
    "none": {"": lambda norm, rms: Clipping(1e9)},
    "clipping": {f"C = {c:g} norm": _clipping(c) for c in (0.5, 0.1, 0.01)},
    "gradient_noise": {f"sigma = {s:g} rms": _noise(s) for s in (0.1, 0.5, 2.0)},
    "local_dp": {f"sigma = {s:g} rms": _local_dp(s) for s in (0.1, 0.5, 2.0)},
    "dp_sgd": {f"sigma = {s:g} rms": _dp_sgd(s) for s in (0.1, 0.5, 2.0)},
    "pruning": {f"share {s:g}": _pruning(s, whole=False) for s in (0.7, 0.9, 0.99)},
    "top-k": {f"share {s:g}": _pruning(s, whole=True) for s in (0.7, 0.9, 0.99)},
    "quantisation": {f"{b} bits": _quantisation(b) for b in (8, 3, 1)},
    "percentile_privacy": {
        f"{p:g} %, gamma = {g:g} rms": _percentile(p, g) for p, g in ((10, 2.0), (10, 0.5), (90, 1.0))
    },
    "svt_privacy": {f"eps_3 = {v:g}, {f:g}": _svt(v, f) for v, f in ((1e3, 0.9), (1e2, 0.5), (10.0, 0.1))},
}
ATTACKS: dict[str, tuple[str, Attack]] = {
    "inverting_gradients": (
        "lenet",
        with_fields(inverting_gradients.CARD.presets["strong"], analytic=False, steps=150),
    ),
    "linear_layer": ("mlp", linear_layer.CARD.presets["paper"]),
    "dlg": ("lenet", with_fields(dlg.CARD.presets["granted_labels"], steps=20, restarts=1)),
}


@dataclass(frozen=True)
class Row:
    """One attack on one update.

    Attributes:
        known: the server knows the defence.
        psnr: dB, mean over the batch; None where the attack does not apply.
        seconds: of processor time.
    """

    attack: str
    defence: str
    strength: str
    examples: int
    seed: int
    known: bool
    psnr: float | None
    seconds: float


def private(n: int, seed: int) -> Batch:
    """Pictures of this seed, with labels 0, 1, ... from the seed on."""
    pictures = data.load("photos", split="private", indices=f"{8 * seed}:{8 * seed + n}", size=SIDE).batch.inputs
    return Batch(pictures, (torch.arange(n) + seed) % 10)


def network(name: str, seed: int) -> Model:
    """Untrained."""
    return build(name, input_shape=(3, SIDE, SIDE), num_classes=10, seed=seed, mean=(0.5,) * 3, std=(0.25,) * 3)


def attacked(attack: Attack, model: Model, batch: Batch, sent: Update, known: KnownDefence | None) -> float | None:
    """PSNR in dB, mean over the batch; None where the attack does not apply."""
    knowledge = ServerKnowledge(
        model, num_examples=len(batch), labels=batch.labels, local_training=FedSGD(), defence=known
    )
    try:
        got = attack.reconstruct(sent, knowledge, stream(0, "attack")).inputs.clamp(0, 1)
    except NotApplicable:
        return None
    blank = torch.full_like(batch.inputs, 0.5)
    rebuilt = torch.cat([got, blank])[: max(len(got), len(batch))]  # what was not rebuilt counts as grey
    order, _ = match(rebuilt, batch.inputs)
    return float(PSNR()(rebuilt[order], batch.inputs).mean())


def rows(args: argparse.Namespace, kept: set[tuple[Any, ...]]) -> Iterator[Row]:
    """One after the other, without those that are on record."""
    network_name, attack = ATTACKS[args.attack]
    for seed in range(args.first, args.first + args.seeds):
        model, batch = network(network_name, seed), private(args.examples, seed)
        plain = local_update(model, batch, FedSGD())
        norm = local_update(model, batch[:1], FedSGD()).norm()
        rms = plain.norm() / sum(v.numel() for v in plain.values.values()) ** 0.5
        for name in args.defences:
            for strength, make in DEFENCES[name].items():
                defence = make(norm, rms)
                sent = Client(batch, FedSGD(), [defence.stages()]).respond(model, stream(seed, "client"))
                assert sent is not None
                assert isinstance(defence, Known)
                for known in (False, True):
                    if (name, strength, args.examples, seed, known) not in kept:
                        began = time.process_time()
                        told = defence.known(model) if known else None
                        psnr = attacked(attack, model, batch, sent, told)
                        seconds = time.process_time() - began
                        yield Row(args.attack, name, strength, args.examples, seed, known, psnr, seconds)


def run(args: argparse.Namespace) -> None:
    """Measures and records what is not on record."""
    torch.set_num_threads(args.threads)
    path = RESULTS / f"{args.attack}-{args.examples}.json"
    kept: list[dict[str, Any]] = read(path)["rows"] if path.is_file() else []
    known = {(r["defence"], r["strength"], r["examples"], r["seed"], r["known"]) for r in kept}
    for row in rows(args, known):
        kept.append(asdict(row))
        print(row, flush=True)
        write(path, {"conditions": conditions(args), "rows": kept})


def lines() -> Iterator[str]:
    """The table of all that was recorded: mean over seeds, and the gain with its spread over seeds."""
    for path in sorted(RESULTS.glob("*.json")):
        record: list[dict[str, Any]] = read(path)["rows"]
        first = record[0]
        yield f"\n{first['attack']}, n = {first['examples']}, {len({r['seed'] for r in record})} seeds\n"
        yield "| defence | strength | plain, dB | knows the defence, dB | gain, dB |"
        yield "|---|---|---|---|---|"
        for name, strength in dict.fromkeys((r["defence"], r["strength"]) for r in record):
            yield _line(name, strength, [r for r in record if (r["defence"], r["strength"]) == (name, strength)])


def _line(name: str, strength: str, record: list[dict[str, Any]]) -> str:
    plain, told = ({r["seed"]: r["psnr"] for r in record if r["known"] is k} for k in (False, True))
    both = [s for s in plain if plain[s] is not None and told.get(s) is not None]
    if not both:
        return f"| {name} | {strength} | does not apply | | |"
    gains = [told[s] - plain[s] for s in both]
    spread = f" +- {stdev(gains):.1f}" if len(gains) > 1 else ""
    means = " | ".join(f"{mean(v[s] for s in both):.1f}" for v in (plain, told))
    return f"| {name} | {strength} | {means} | {mean(gains):+.1f}{spread} |"


def own(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--attack", choices=tuple(ATTACKS), default="linear_layer")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first", type=int, default=1, help="settings were chosen on seeds 0 and 5 to 11")
    parser.add_argument("--defences", nargs="+", choices=tuple(DEFENCES), default=tuple(DEFENCES))
    parser.add_argument("--examples", type=int, default=1)


if __name__ == "__main__":
    run_or_table("defences", __doc__, own, run, lines)
