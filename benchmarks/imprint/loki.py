"""LOKI: clients that receive different models, under secure aggregation and several local steps (docs/loki.md).

    python -m benchmarks.imprint.loki paper
    python -m benchmarks.imprint.loki strong --lr 1e-2
    python -m benchmarks.imprint.loki one_model --out benchmarks/results/loki.json

10 clients of 64 CIFAR-10 images (test part), 256 rows, 8 local steps of 8 images, public images of the training part.
"one_model" is the front of "paper" with the first client's kernels for all, as the comparison. What is read is assigned
to the images by squared error, and counted without the true activations: an image counts as read from 20, 40 and 60 dB
on. "up to contrast" takes for each image the candidate nearest in direction at its best factor, which is what a count
of rows that were hit once comes to. "client right" says of how many of those of 20 dB the readout names the true
client. CIFAR-10 lies under FEDSPILL_DATA. Prints markdown, and adds to a record.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.records import write
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import Tampered
from fedspill.core.settings import with_fields
from fedspill.core.types import Batch, Reconstruction, Update
from fedspill.federation.aggregation import collect
from fedspill.federation.client import shared_out
from fedspill.scoring.match import match
from fedspill.scoring.metrics import PSNR
from fedspill.tamperings.loki import CARD, Loki
from fedspill.zoo import data, models

LEVELS = (20.0, 40.0, 60.0)
"""dB."""
PUBLIC = 1000


def pools(total: int, seed: int) -> tuple[Batch, Batch]:
    """A seeded choice of private images of the test part, and public ones of the training part."""
    private, public = data.load("cifar10", split="test").batch, data.load("cifar10", split="train").batch
    order, other = (torch.randperm(len(b), generator=stream(seed, "loki", k)) for k, b in enumerate((private, public)))
    return private[order[:total]], public[other[:PUBLIC]]


def network(name: str, mode: str, seed: int) -> Model:
    """Of the zoo, for CIFAR-10, with seeded weights."""
    pool = data.load("cifar10", split="test")
    return models.build(
        name, input_shape=(3, 32, 32), num_classes=10, mode=mode, seed=seed, mean=pool.mean, std=pool.std
    )


def timed(compute: Callable[[], Any]) -> tuple[Any, float]:
    """A value and the processor seconds that it took."""
    began = time.process_time()
    return compute(), time.process_time() - began


def answered(tampered: Tampered, private: Batch, clients: int, training: FedAvg) -> Update:
    """The sum of what all clients send."""
    rng = stream(0, "clients")
    update = collect(tampered.model, shared_out(private, clients, training), rng, for_client=tampered.for_client)
    assert update is not None, "nobody withholds anything"
    return update


def counted(found: Reconstruction, private: Batch, clients: int) -> dict[str, Any]:
    """How many images are read, how well, and whose they are said to be."""
    assert found.confidence is not None, "a readout ranks"
    kept = found.confidence.argsort(descending=True, stable=True)[: len(private)]
    mine, theirs = match(found.inputs[kept], private.inputs)
    values = PSNR()(found.inputs[kept][mine], private.inputs[theirs])
    share = len(private) // clients
    said = [int(found.origins[int(kept[i])].split(",")[0].split()[1]) for i in mine]
    right = torch.tensor([said[i] == int(t) // share for i, t in enumerate(theirs)], dtype=torch.bool)
    read = values >= LEVELS[0]
    # Of every image the candidate nearest in direction, as bright as fits best: what a wrong contrast hides.
    got, true = found.inputs.flatten(1).double(), private.inputs.flatten(1).double()
    cosine = (true @ got.T / got.norm(dim=1).clamp_min(1e-12) / true.norm(dim=1)[:, None]).clamp(-1, 1).amax(1)
    missed = (true.square().mean(1) * (1 - cosine.square())).clamp_min(1e-14)
    sure = torch.tensor([found.marks[int(kept[i])] == "alone" for i in mine], dtype=torch.bool)
    return {
        "candidates": len(found.inputs),
        "read": [int((values >= level).sum()) for level in LEVELS],
        "up_to_contrast": [int((-10 * missed.log10() >= level).sum()) for level in LEVELS],
        "psnr_of_read": float(values[read].mean()) if bool(read.any()) else None,
        "client_right": int((right & read).sum()),
        "certified": sum(m == "alone" for m in found.marks),
        "certified_and_exact": int((sure & (values >= LEVELS[1])).sum()),
    }


def tampering(name: str, changes: dict[str, Any], clients: int) -> Loki:
    """A preset, told of all clients."""
    preset = CARD.presets["paper" if name == "one_model" else name]
    assert isinstance(preset, Loki)
    return with_fields(preset, **changes).for_clients(range(clients))


def run(name: str, model: Model, training: FedAvg, changes: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """One federation: planted, answered, read."""
    private, public = pools(args.clients * args.images, args.seed)
    planting = tampering(name, changes, args.clients)
    tampered, planted = timed(lambda: planting.tamper(model, public, 0, stream(args.seed, "server")))
    if name == "one_model":
        tampered = Tampered(tampered.model, tampered.readout)
    update, trained = timed(lambda: answered(tampered, private, args.clients, training))
    known = ServerKnowledge(tampered.model, args.clients, len(private), local_training=training)
    found, reading = timed(lambda: tampered.readout.reconstruct(update, known, stream(args.seed, "attack")))
    added = sum(v.numel() for k, v in tampered.model.params.items() if k.startswith("planted."))
    seconds = {"planting": planted, "clients": trained, "reading": reading}
    return {
        "images": len(private),
        "added_parameters": added,
        **counted(found, private, args.clients),
        "cpu_s": seconds,
    }


def shown(name: str, record: dict[str, Any]) -> str:
    """One row of a table."""
    n, (most, good, exact) = record["images"], record["read"]
    psnr = record["psnr_of_read"]
    cells = [name, f"{most} ({most / n:.1%})", str(good), str(exact), "-" if psnr is None else f"{psnr:.1f} dB"]
    contrast = record["up_to_contrast"][1]
    cells += [
        f"{contrast} ({contrast / n:.1%})",
        f"{record['client_right']} of {most}",
        str(record["certified"]),
        f"{record['added_parameters']:,}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Runs one row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=(*CARD.presets, "one_model"))
    parser.add_argument("--network", default="cnn")
    parser.add_argument("--mode", default="eval", choices=("eval", "train"))
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--images", type=int, default=64, help="of each client")
    parser.add_argument("--step", type=int, default=8, help="images of one local step")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", default="{}", help="fields of the tampering, as JSON")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    training = FedAvg(epochs=args.epochs, minibatch_size=args.step, lr=args.lr)
    record = run(args.row, network(args.network, args.mode, args.seed), training, json.loads(args.set), args)
    columns = ("row", "20 dB", "40 dB", "60 dB", "their PSNR", "up to contrast", "client right", "certified", "added")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n{shown(args.row, record)}")
    print({k: round(v, 1) for k, v in record["cpu_s"].items()})
    if args.out is not None:
        settings = {k: v for k, v in vars(args).items() if k not in ("out", "row")}
        key = " ".join([args.row, *(f"{k}={v}" for k, v in settings.items())])
        known = json.loads(args.out.read_text()) if args.out.exists() else {}
        write(args.out, {**known, key: record})


if __name__ == "__main__":
    main()
