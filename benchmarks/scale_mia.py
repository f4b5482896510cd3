"""Scale-MIA: how many images of aggregated batches come back through a network's own layers (docs/scale_mia.md).

    python -m benchmarks.scale_mia strong --images 256
    python -m benchmarks.scale_mia paper --autoencoder FILE --images 64 --out benchmarks/results/scale_mia.json

CIFAR-10 under FEDSPILL_DATA, the network `strided_cnn` (1,024 latents, 1,024 rows) with random weights in float32.
Public images are the first of the training part, private ones those of the test part from 9,000 on, in batches one
after the other, each of 8 clients with one local step of lr 0.1, aggregated. FILE comes from
`fedspill train autoencoder plans/train/scale_mia.toml`, and must be trained on as many public images.

What is read is assigned to the images of a batch by squared error, at most as many candidates as images, the surest
first. All shares are over all images. "private activations" is the published way to count: of the images that are
alone in their bin by their true latents, the one that is decoded from this bin; it is not blind, and stands beside
the others only. "ceiling" decodes the true latents, and "mean image" puts the mean public image in the place of every
answer. Prints markdown, and adds to a record.
"""

import argparse
import json
import time
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
    public, training = pool(args.public), FedAvg(epochs=1, minibatch_size=args.images // args.clients, lr=args.lr)
    model, private = network(args.seed), batches(args.images, args.batches)
    began = time.process_time()
    tampered = preset.tamper(model, public, 0, stream(args.seed, "server"))
    planted, reading = time.process_time() - began, 0.0
    assert isinstance(tampered.readout, ScaleMIAReadout)
    parts: dict[str, list[Tensor]] = {"blind": [], "private_activations": [], "ceiling": [], "mean_image": []}
    certified, wrong = 0, 0
    for k, batch in enumerate(private):
        z = model.input.encode(batch.inputs)
        update = aggregate_update(tampered.model, z, batch.labels, training, args.clients)
        known = ServerKnowledge(tampered.model, args.clients, len(batch), local_training=training)
        began = time.process_time()
        found = tampered.readout.reconstruct(update, known, stream(args.seed, "attack", k))
        reading += time.process_time() - began
        told = tampered.readout.predict(tampered.model, z)
        assert told.representations is not None
        true = told.representations.double()
        decoded = tampered.readout.bins.look.inputs(true).to(batch.inputs)
        mean = public.inputs.mean(0, keepdim=True).expand_as(batch.inputs)
        parts["blind"].append(blind(found, batch))
        parts["ceiling"].append(PSNR()(decoded, batch.inputs).double())
        parts["mean_image"].append(PSNR()(mean, batch.inputs).double())
        if len(tampered.readout.bins.imprint.groups) == 1:
            parts["private_activations"].append(with_private_activations(found, told.places, batch))
        sure = torch.tensor([m == "alone" for m in found.marks])
        assert found.representations is not None
        gap = torch.cdist(found.representations[sure].double(), true).amin(1) / true.norm(dim=1).mean()
        certified, wrong = certified + int(sure.sum()), wrong + int((gap > 1e-2).sum())
    values = {name: torch.cat(v) for name, v in parts.items() if v}
    return {
        "images": args.images * len(private),
        **{name: summary(v) for name, v in values.items()},
        "certified": certified,
        "certified_but_wrong": wrong,
        "notes": list(tampered.readout.notes),
        "cpu_s": {"tampering": planted, "reading_a_batch": reading / len(private)},
    }


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
        settings = {k: v for k, v in vars(args).items() if k not in ("out", "row", "autoencoder")}
        file = f" autoencoder={Path(args.autoencoder).name}" if args.autoencoder else ""
        key = " ".join([args.row, *(f"{k}={v}" for k, v in settings.items())]) + file
        known = json.loads(args.out.read_text()) if args.out.exists() else {}
        write(args.out, {**known, key: record})


if __name__ == "__main__":
    main()
