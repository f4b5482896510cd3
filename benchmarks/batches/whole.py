"""Whole images of batches by two searches at equal time: blind (`strong`), and with what was read of each example."""

import argparse
import time
from dataclasses import dataclass, field

from torch import Tensor

from benchmarks.batches.convolutional import FIRST, built
from benchmarks.batches.measuring import matched
from benchmarks.batches.records import keep
from benchmarks.common.clock import Probe
from fedspill.attacks import disaggregated_inversion, inverting_gradients
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.rng import stream
from fedspill.core.roles import Attack, Unwatched
from fedspill.core.settings import with_fields
from fedspill.zoo import data

SECONDS = {"lenet": 60, "lenet5": 60, "convnet": 60, "vgg11": 120, "resnet18": 120}
"""Of one thread's processor time, for a search with all that goes before it."""
ENDLESS = 1_000_000
"""Steps of a run; the time allows fewer, and the step sizes fall over these."""
SIDES: dict[str, Attack] = {
    "strong": with_fields(inverting_gradients.CARD.presets["strong"], steps=ENDLESS),
    "known targets": with_fields(disaggregated_inversion.CARD.presets["strong"], steps=ENDLESS),
}


PEER = "breaching"
"""The peer's attack `invertinggradients`; wants the environment of `make bench-env`, and runs where it is asked for."""
PACED = 100
"""Iterations of the peer by which its pace is measured, since its step sizes fall over a number that it is given."""


@dataclass
class Processor(Unwatched):
    """A budget of processor time, for which searches are planned as a schedule plans them.

    Attributes:
        seconds: that there are, from now on.
        done: iterations.
    """

    seconds: float
    done: int = 0
    _wall: float = field(default_factory=time.monotonic)
    _spent: float = field(default_factory=time.process_time)

    def progress(self, done: int, total: int, objective: float) -> None:
        """Counts."""
        self.done = done

    def out_of_time(self) -> bool:
        """Whether they are spent."""
        return time.process_time() >= self._spent + self.seconds

    def planned(self, steps: int, restarts: int, seconds: float) -> tuple[int, int]:
        """As many as the time allows."""
        spent = time.process_time() - self._spent
        own = seconds * spent / max(time.monotonic() - self._wall, 1e-9)
        possible = int(max(0.0, self.seconds - spent) / max(own, 1e-9))
        if possible >= steps * restarts:
            return steps, restarts
        return (steps, possible // steps) if possible >= steps else (max(1, possible), 1)


def run(args: argparse.Namespace) -> None:
    """By network, size of the batch, and side."""
    for network in args.networks or SECONDS:
        for size in args.sizes:
            for side in args.sides or SIDES:
                allowed = args.seconds or SECONDS[network]
                found = _peer(network, size, allowed) if side == PEER else _one(network, size, SIDES[side], allowed)
                keep(args, "whole", {f"{network}, B = {size}, {side}": found})


def _one(network: str, size: int, attack: Attack, allowed: float) -> dict[str, object]:
    """The first batch, in so many seconds."""
    model = built(network, 0)
    private = data.load("cifar10", split="test", indices=range(FIRST, FIRST + size)).batch
    update = local_update(model, private, FedSGD())
    knowledge = ServerKnowledge(model, num_examples=size, labels=private.labels)
    watch = Processor(allowed)
    began = time.process_time()
    got = attack.reconstruct(update, knowledge, stream(0, "batches", "whole"), watch)
    seconds = time.process_time() - began
    psnr, _ = matched(got.inputs, private.inputs)
    return {
        "psnr": " ".join(f"{v:.1f}" for v in psnr.tolist()),
        "mean_psnr": round(float(psnr.mean()), 1),
        "ended": _ended(got.notes),
        "certified": sum(mark == "alone" for mark in got.marks),
        "iterations": max(0, len(got.objective) - 1),
        "allowed_seconds": allowed,
        "seconds": round(seconds),
    }


def _peer(network: str, size: int, allowed: float) -> dict[str, object]:
    """The same of the peer, for as many iterations as it does in that time."""
    from benchmarks.matching.peer import peer_run
    from benchmarks.matching.world import of

    private = data.load("cifar10", split="test", indices=range(FIRST, FIRST + size)).batch
    given = of(built(network, 0), private[private.labels.argsort(stable=True).tolist()], FedSGD(), 0)
    peer_run(given, PACED // 4, Probe(), 0)  # what is done once is no part of the pace
    began = time.process_time()
    peer_run(given, PACED, Probe(), 0)
    iterations = max(PACED, int(PACED * allowed / (time.process_time() - began)))
    kept, began = Kept(), time.process_time()
    peer_run(given, iterations, kept, 0)
    psnr, _ = matched(kept.pixels, given.private.inputs)
    return {
        "psnr": " ".join(f"{v:.1f}" for v in psnr.tolist()),
        "mean_psnr": round(float(psnr.mean()), 1),
        "ended": "",
        "certified": 0,
        "iterations": iterations,
        "allowed_seconds": allowed,
        "seconds": round(time.process_time() - began),
    }


class Kept(Probe):
    """Keeps what the peer returned."""

    pixels: Tensor

    def end(self, done: int, pixels: Tensor, objective: float) -> None:
        """They have values in [0, 1]."""
        self.pixels = pixels


def _ended(notes: tuple[str, ...]) -> str:
    """Where the reading ended, of those that read."""
    said = next((n for n in notes if "layer by layer: " in n), "")
    return said.partition("layer by layer: ")[2].partition(".")[0]
