"""Scale-MIA: how many images of aggregated batches come back through a network's own layers (docs/scale_mia.md).

    python -m benchmarks.scale_mia strong --images 256
    python -m benchmarks.scale_mia paper --autoencoder FILE --images 64 --out benchmarks/results/scale_mia.json

CIFAR-10 under FEDSPILL_DATA, the network `strided_cnn` (1,024 latents, 1,024 rows) with random weights in float32.
Public images are the first of the training part, private ones those of the test part from 9,000 on, in batches one
after the other, each of 8 clients with one local step of lr 0.1, aggregated. FILE comes from
`fedspill train autoencoder plans/train/strided_cnn_autoencoder.toml`, and must be trained on as many public images.

What is read is assigned to the images of a batch by squared error, at most as many candidates as images, the surest
first. All shares are over all images. "private activations" is the published way to count: of the images that are
alone in their bin by their true latents, the one that is decoded from this bin; it is not blind, and stands beside
the others only. "ceiling" decodes the true latents, and "mean image" puts the mean public image in the place of every
answer. Prints markdown, and adds to a record.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common.records import write
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, aggregate_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.settings import with_fields
from fedspill.core.types import Batch, Reconstruction
from fedspill.scoring.match import match
from fedspill.scoring.metrics import PSNR
from fedspill.tamperings.scale_mia import CARD, ScaleMIA, ScaleMIAReadout
from fedspill.zoo import data, models

SUCCESS = 18.0
"""dB, from which on the paper counts an image as read."""
FIRST, MOST = 9000, 1000


def pool(images: int) -> Batch:
    """The first public images."""
    return data.load("cifar10", split="train", indices=f"0:{images}").batch


def batches(size: int, count: int) -> list[Batch]:
    """Private batches, one after the other."""
    whole = data.load("cifar10", split="test", indices=f"{FIRST}:{FIRST + MOST}").batch
    return [whole[k * size : (k + 1) * size] for k in range(min(count, MOST // size))]


def network(seed: int) -> Model:
    """With seeded weights."""
    normal = data.load("cifar10", split="train", indices="0:1")
    return models.build(
        "strided_cnn", input_shape=(3, 32, 32), num_classes=10, seed=seed, mean=normal.mean, std=normal.std
    )


def blind(found: Reconstruction, private: Batch) -> Tensor:
    """PSNR of every image, 0 where no candidate is left for it."""
    assert found.confidence is not None, "a readout ranks"
    kept = found.confidence.argsort(descending=True, stable=True)[: len(private)]
    mine, theirs = match(found.inputs[kept], private.inputs)
    values = torch.zeros(len(private), dtype=torch.float64)
    values[theirs] = PSNR()(found.inputs[kept][mine], private.inputs[theirs]).double()
    return values


def with_private_activations(found: Reconstruction, places: tuple[tuple[str, ...], ...], private: Batch) -> Tensor:
    """PSNR of every image that is alone in its bin by the truth, as this bin is decoded; 0 for the others."""
    by_name, values = {o: k for k, o in enumerate(found.origins)}, torch.zeros(len(private), dtype=torch.float64)
    bins = [place[0] if place else "" for place in places]
    for k in (k for k, name in enumerate(bins) if name and bins.count(name) == 1):
        if bins[k] in by_name:
            values[k] = PSNR()(found.inputs[by_name[bins[k]]][None], private.inputs[k : k + 1])[0]
    return values


def run(preset: ScaleMIA, args: argparse.Namespace) -> dict[str, Any]:
    """All batches of one size."""
    public = pool(args.public)
    training = FedAvg(epochs=1, minibatch_size=args.step or args.images // args.clients, lr=args.lr)
    began = time.process_time()
    tampered = preset.tamper(network(args.seed), public, 0, stream(args.seed, "server"))
    planted = time.process_time() - began
    assert isinstance(tampered.readout, ScaleMIAReadout)
    private = batches(args.images, args.batches)
    read = [answered(tampered.model, tampered.readout, b, training, args.clients) for b in private]
    measured = [figures(tampered.model, tampered.readout, r, b) for r, b in zip(read, private, strict=True)]
    blank = public.inputs.mean(0, keepdim=True)
    values = {name: torch.cat([m[name] for m in measured]) for name in measured[0]}
    values["mean_image"] = torch.cat([PSNR()(blank.expand_as(b.inputs), b.inputs) for b in private])
    right = torch.cat([certified(tampered.model, tampered.readout, r, b) for r, b in zip(read, private, strict=True)])
    return {
        "images": args.images * len(private),
        **{name: summary(v) for name, v in values.items()},
        "certified": len(right),
        "certified_but_wrong": int((~right).sum()),
        "notes": list(tampered.readout.notes),
        "cpu_s": {"tampering": planted, "reading_a_batch": sum(r.cpu_s for r in read) / len(read)},
    }


@dataclass(frozen=True)
class Read:
    """What was rebuilt of one batch, and the processor seconds that reading took."""

    found: Reconstruction
    cpu_s: float


def answered(model: Model, readout: ScaleMIAReadout, batch: Batch, training: FedAvg, clients: int) -> Read:
    """One aggregated update, read."""
    update = aggregate_update(model, model.input.encode(batch.inputs), batch.labels, training, clients)
    known = ServerKnowledge(model, clients, len(batch), local_training=training)
    began = time.process_time()
    found = readout.reconstruct(update, known, stream(0, "attack"))
    return Read(found, time.process_time() - began)


def figures(model: Model, readout: ScaleMIAReadout, read: Read, batch: Batch) -> dict[str, Tensor]:
    """PSNR of every image, by each way to count."""
    told = readout.predict(model, model.input.encode(batch.inputs))
    assert told.representations is not None
    decoded = readout.bins.look.inputs(told.representations.double()).to(batch.inputs)
    values = {"blind": blind(read.found, batch), "ceiling": PSNR()(decoded, batch.inputs)}
    if len(readout.bins.imprint.groups) == 1:
        values["private_activations"] = with_private_activations(read.found, told.places, batch)
    return values


def certified(model: Model, readout: ScaleMIAReadout, read: Read, batch: Batch) -> Tensor:
    """Of the latents that are marked as a single example's, whether they are one's, to 1 % of the mean length."""
    true = readout.predict(model, model.input.encode(batch.inputs)).representations
    assert true is not None
    assert read.found.representations is not None
    sure = torch.tensor([m == "alone" for m in read.found.marks])
    gaps = torch.cdist(read.found.representations[sure].double(), true.double()).amin(1)
    return gaps <= 1e-2 * true.double().norm(dim=1).mean()


def summary(values: Tensor) -> dict[str, float | None]:
    """The share above 18 dB over all images, the mean of these (as published), and the median of all."""
    good = values > SUCCESS
    mean = float(values[good].mean()) if bool(good.any()) else None
    return {"share": float(good.double().mean()), "mean_of_read": mean, "median": float(values.median())}


def shown(name: str, record: dict[str, Any]) -> str:
    """One row of a table."""
    cells = [name, str(record["images"])]
    for part in ("blind", "private_activations", "ceiling", "mean_image"):
        got = record.get(part)
        cells += ["-"] if got is None else [f"{got['share']:.1%} (median {got['median']:.1f} dB)"]
    cells += [f"{record['certified']} ({record['certified_but_wrong']} wrong)"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Runs one row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=tuple(CARD.presets))
    parser.add_argument("--images", type=int, default=64, help="of all clients in one batch")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--public", type=int, default=5000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--step", type=int, default=0, help="images of one local step; 0 takes all of a client")
    parser.add_argument("--autoencoder", default="", help="file of a trained one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", default="{}", help="fields of the tampering, as JSON")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    preset = CARD.presets[args.row]
    assert isinstance(preset, ScaleMIA)
    changes = json.loads(args.set) | ({"autoencoder": args.autoencoder} if args.autoencoder else {})
    record = run(with_fields(preset, **changes), args)
    columns = ("row", "images", "blind", "private activations", "ceiling", "mean image", "certified")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n{shown(args.row, record)}")
    print({k: round(v, 2) for k, v in record["cpu_s"].items()}, record["notes"])
    if args.out is not None:
        told = {k: v for k, v in vars(args).items() if k not in ("out", "row", "autoencoder")}
        settings = {k: v for k, v in told.items() if k != "step" or v}
        file = f" autoencoder={Path(args.autoencoder).name}" if args.autoencoder else ""
        key = " ".join([args.row, *(f"{k}={v}" for k, v in settings.items())]) + file
        known = json.loads(args.out.read_text()) if args.out.exists() else {}
        write(args.out, {**known, key: record})


if __name__ == "__main__":
    main()
