"""Fishing (Wen et al. 2022): one example of a batch heard alone, and its picture read exactly.

"class": batches in which one class has one member, chosen blind: the first round fishes for a class that is drawn, its
update tells how many members each class has, and the second round fishes for the one with a single member. "feature":
rounds until the update says that one example passes the cutoff, of a client with one class alone, or of a batch in
which every class is present. The client computes in float32; pictures are read by the preset "strong", without the
search that it begins where the exact reading ends early, so that a low PSNR is a reading that did not get there.

    python -m benchmarks.fishing class --network resnet20_4 --size 64 --batches 10
    python -m benchmarks.fishing feature --network lenet --alone --batches 10
    python -m benchmarks.fishing table
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import places
from benchmarks.common.records import conditions, read, write
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import Tampered, Tampering
from fedspill.core.settings import with_fields
from fedspill.core.types import Batch, Update
from fedspill.inversion.fishing.catching import Catch, caught
from fedspill.inversion.fishing.readout import FishingReadout
from fedspill.tamperings import class_fishing, feature_fishing
from fedspill.zoo import data, models

RESULTS = places.RESULTS / "fishing"
EXACT = 50.0
"""dB."""
MOST_ROUNDS = 24


@dataclass(frozen=True)
class Row:
    """One batch.

    Attributes:
        rounds: until a single example speaks by the update's own word; None if that never came.
        cosine: of the isolated gradient and that of the example by itself, of all parameters before the head.
        psnr: dB of the picture that was read, against the example whose gradient that is.
        certified: the attack's own word.
        reached: which activations were read, by the attack's note.
        seconds: of processor time, of the reading alone.
    """

    rounds: int | None
    cosine: float
    psnr: float
    certified: bool
    reached: str
    seconds: float


@dataclass(frozen=True)
class Seen:
    """One round as the server sees it."""

    sent: Tampered
    update: Update
    knowledge: ServerKnowledge

    @property
    def catch(self) -> Catch | None:
        """Who speaks."""
        readout = self.sent.readout
        assert isinstance(readout, FishingReadout)
        return None if readout.bait is None else caught(readout.bait, self.update, self.knowledge)

    @property
    def single(self) -> bool:
        """One example speaks, by the update's own word."""
        catch = self.catch
        return catch is not None and catch.single


def rounds(tampering: Tampering, model: Model, batch: Batch, seed: int) -> Iterator[Seen]:
    """What a server sees that goes on from round to round; the client answers with the gradient of the same batch."""
    for number in range(MOST_ROUNDS):
        sent = tampering.tamper(model, None, number, stream(seed, "server"))
        update = local_update(sent.model, batch, FedSGD())
        seen = Seen(sent, update, ServerKnowledge(sent.model, num_examples=len(batch), local_training=FedSGD()))
        yield seen
        assert sent.goes_on is not None, "both tamperings go by what a round showed"
        tampering = sent.goes_on(update, seen.knowledge)


def measured(tampering: Tampering, model: Model, batch: Batch, seed: int) -> Row:
    """Rounds until one example speaks, and what is read of it then."""
    for number, seen in enumerate(rounds(tampering, model, batch, seed)):
        if seen.single:
            return _read(seen, batch, number + 1, seed)
    return Row(None, 0.0, 0.0, False, "nobody was isolated", 0.0)


def _read(seen: Seen, batch: Batch, number: int, seed: int) -> Row:
    assert isinstance(seen.sent.readout, FishingReadout)
    cosine, place = _nearest(seen, batch)
    began = time.process_time()
    got = seen.sent.readout.reconstruct(seen.update, seen.knowledge, stream(seed, "attack"))
    seconds = time.process_time() - began
    error = (got.inputs[0] - batch.inputs[place]).double().square().mean()
    reached = next((n for n in got.notes if "ecovered" in n), got.notes[-1])
    return Row(number, cosine, float(-10 * error.clamp_min(1e-30).log10()), got.converged, reached, seconds)


def _nearest(seen: Seen, batch: Batch) -> tuple[float, int]:
    """The cosine with the nearest of all examples' own gradients, and which example that is.

    Each is given the label of those who speak: a member of the row's own class that passes the cutoff is silent by
    itself, and heard once the round without anybody is taken off.
    """
    catch, readout = seen.catch, seen.sent.readout
    assert catch is not None, "a single example speaks"
    assert isinstance(readout, FishingReadout)
    assert readout.bait is not None, "a single example speaks"
    head = readout.bait.head
    names = [n for n in seen.update.values if n not in (head.weight, head.bias)]
    found = torch.cat([catch.gradient[n].flatten() for n in names])
    label = torch.tensor([readout.bait.label])
    alone = (Batch(batch.inputs[i : i + 1], label) for i in range(len(batch)))
    own = [_vector(local_update(seen.sent.model, one, FedSGD()), names) for one in alone]
    cosines = [float(found @ g / (found.norm() * g.norm()).clamp_min(1e-300)) for g in own]
    return max(cosines), cosines.index(max(cosines))


def _vector(update: Update, names: list[str]) -> Tensor:
    return torch.cat([update.values[n].double().flatten() for n in names])


def batches(args: argparse.Namespace) -> Iterator[Batch]:
    """Of CIFAR-10's test images, disjoint within one command."""
    pool = data.load("cifar10", split="test").batch
    order = torch.randperm(len(pool), generator=stream(0, "fishing", args.what)).tolist()
    held = {c: [i for i in order if int(pool.labels[i]) == c] for c in range(10)}
    for number in range(args.batches):
        own = number % 10
        chosen = [held[own].pop() for _ in range(1 if args.what == "class" else 8)]
        if not args.alone:
            left = {i for c in held for i in held[c] if c != own}
            chosen += [i for i in order if i in left][: args.size - len(chosen)]
            held = {c: [i for i in held[c] if i not in set(chosen)] for c in held}
        yield pool[chosen]


def run(args: argparse.Namespace) -> None:
    """Measures and records."""
    torch.set_num_threads(1)
    model = models.build(args.network, input_shape=(3, 32, 32), num_classes=10)
    cards = {"class": class_fishing.CARD, "feature": feature_fishing.CARD}
    tampering = cards[args.what].presets[args.preset]
    tampering = with_fields(tampering, steps=1, **({} if args.preset == "strong" else {"exact": True}))
    where = "alone8" if args.alone else f"of{args.size}"
    path = RESULTS / f"{args.what}-{args.network}-{args.preset}-{where}.json"
    rows: list[dict[str, Any]] = read(path)["rows"] if args.resume else []
    args.device, args.benchmark = "cpu", "fishing"
    for number, batch in enumerate(batches(args)):
        if number < len(rows):
            continue
        rows.append(asdict(measured(tampering, model, batch, number)))
        print(rows[-1], flush=True)
        write(path, {"conditions": conditions(args), "rows": rows})


def line(name: str, rows: list[dict[str, Any]]) -> str:
    """One row of the table."""
    heard = [r for r in rows if r["rounds"] is not None]
    counts = sorted(r["rounds"] for r in heard)
    values = sorted(r["psnr"] for r in heard)
    columns = [
        name,
        f"{len(heard)} of {len(rows)}",
        f"{counts[0]} to {counts[-1]}, median {counts[len(counts) // 2]}" if counts else "-",
        f"{1 - min(r['cosine'] for r in heard):.0e}" if heard else "-",
        f"{sum(v >= EXACT for v in values)} of {len(rows)}",
        f"{values[0]:.1f} to {values[-1]:.1f}, median {values[len(values) // 2]:.1f}" if values else "-",
        f"{sum(r['certified'] for r in heard)}",
    ]
    return "| " + " | ".join(columns) + " |"


def table() -> None:
    """Of all that was recorded."""
    print("| record | isolated | rounds | largest 1 - cosine | at 50 dB | PSNR, dB | certified |")
    print("|---|---|---|---|---|---|---|")
    for path in sorted(RESULTS.glob("*.json")):
        print(line(path.stem, read(path)["rows"]))


def parse() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("class", "feature", "table"))
    parser.add_argument("--network", default="resnet20_4")
    parser.add_argument("--preset", default="strong", choices=("paper", "strong"))
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--alone", action="store_true", help="a client of 8 examples of one class")
    parser.add_argument("--resume", action="store_true", help="go on after the batches that are on record")
    return parser.parse_args()


if __name__ == "__main__":
    arguments = parse()
    if arguments.what == "table":
        table()
    else:
        run(arguments)
