"""Recall of trap weights on CIFAR-10 test images beside the paper's (Boenisch et al., EuroS&P 2023, Table 5).

The paper's figures are of trap weights; beside the imprint's rows, which `--imprint` adds, stands none.

A is the share of rows that some example fires, P the share of these that one example alone fires, R the share of
examples that own a row: what the paper counts. "Read" is the share that the readout, which sees the update only, puts
out within the stated error; "certified" is how many candidates it vouches for, "false" how many of these are wrong.
Shares are means over batches, +- the standard deviation.

    python -m benchmarks.trap_weights --batches 10
    python -m benchmarks.trap_weights --cells 1000x100 --normalise --preset strong
    python -m benchmarks.trap_weights --normalise --public 200 --imprint  # beside Robbing the Fed, its Fig. 21
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import Predicts, Tampering
from fedspill.core.types import Batch
from fedspill.tamperings.robbing_linear_layer import RobbingLinearLayer
from fedspill.tamperings.trap_weights import CARD, TrapWeights
from fedspill.zoo import data, models

PAPER = {
    (200, 20): 0.695,
    (500, 100): 0.422,
    (1000, 20): 0.915,
    (1000, 50): 0.724,
    (1000, 100): 0.556,
    (1000, 200): 0.256,
    (3000, 100): 0.711,
    (3000, 200): 0.414,
}
"""Table 5: (rows, B) to extraction-recall. Table 4 gives 0.540 for (1000, 100)."""
PSNR = 60.0
"""dB; a mean squared error below 1e-6, at pixels in [0, 1]."""
L2 = 1e-6
"""The paper's criterion. A float32 client rounds every pixel by up to 6e-8, so about 1e-6 in all by itself."""


@dataclass(frozen=True)
class Recall:
    """One batch.

    Attributes:
        active: A.
        precision: P.
        owned: R, by the measurement alone.
        read: share of examples with a candidate of 60 dB.
        within: share of examples with a candidate within L2.
        certified: candidates that the readout vouches for.
        false: certified candidates that are no example.
    """

    active: float
    precision: float
    owned: float
    read: float
    within: float
    certified: float
    false: float


def recall(tampering: Tampering, model: Model, batches: Sequence[Batch], public: Batch | None = None) -> list[Recall]:
    """What a malicious server's readout gets from each batch, in one gradient; a fresh model for each."""
    return [_one(tampering, model, batch, public, k) for k, batch in enumerate(batches)]


def _one(tampering: Tampering, model: Model, batch: Batch, public: Batch | None, number: int) -> Recall:
    tampered = tampering.tamper(model, public, 0, stream(number, "server"))
    readout = tampered.readout
    assert readout is not None
    assert isinstance(readout, Predicts)
    update = local_update(tampered.model, batch, FedSGD())
    knowledge = ServerKnowledge(tampered.model, num_examples=len(batch))
    got = readout.reconstruct(update, knowledge, stream(number, "attack"))
    expected = readout.predict(tampered.model, model.input.encode(batch.inputs))
    places = [p for one in expected.places for p in one]
    fired = {p: places.count(p) for p in set(places)}
    distance = torch.cdist(batch.inputs.double().flatten(1), got.inputs.double().flatten(1))
    near = (batch.inputs[0].numel() * 10 ** (-PSNR / 10)) ** 0.5
    sure = torch.tensor([m == "alone" for m in got.marks], dtype=torch.bool)
    rows = len(next(v for k, v in tampered.model.params.items() if k.endswith("weight")))
    return Recall(
        active=len(fired) / rows,
        precision=sum(c == 1 for c in fired.values()) / max(1, len(fired)),
        owned=float(expected.recoverable.double().mean()),
        read=_share(distance, near),
        within=_share(distance, L2),
        certified=float(sure.sum()),
        false=float((distance[:, sure].amin(0) > near).sum()) if bool(sure.any()) else 0.0,
    )


def _share(distance: Tensor, below: float) -> float:
    return float((distance <= below).any(1).double().mean())


def cut(pool: Batch, size: int, count: int) -> list[Batch]:
    """Disjoint batches of random pictures."""
    order = torch.randperm(len(pool), generator=stream(0, "pictures", size))
    return [pool[order[k * size : (k + 1) * size]] for k in range(count)]


def row(cell: tuple[int, int], found: Sequence[Recall], paper: float | None) -> str:
    columns = [[getattr(r, f) for r in found] for f in Recall.__dataclass_fields__]
    shown = [f"{float(torch.tensor(c).mean()):.3f}" for c in columns[:5]]
    spread = float(torch.tensor(columns[2]).std(correction=0))
    shown[2] += f" +- {spread:.3f}"
    counts = [f"{sum(c) / len(c):.1f}" for c in columns[5:]]
    return " | ".join([*map(str, cell), *shown, *counts, f"{paper:.3f}" if paper else "-"])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=["1000x100"], help="ROWSxB")
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--preset", default="paper", choices=list(CARD.presets))
    parser.add_argument("--scale", type=float, default=None, help="s; left out: the preset's")
    parser.add_argument("--public", type=int, default=0, help="training images that the server holds, to tune s")
    parser.add_argument("--normalise", action="store_true", help="a network that normalises by the data's statistics")
    parser.add_argument("--hidden", nargs="*", type=int, default=[256], help="widths behind the trap rows")
    parser.add_argument("--imprint", action="store_true", help="also imprint rows, plain and peeled, same batches")
    parser.add_argument("--data-root", default=None)
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.set_num_threads(1)
    pool = data.load("cifar10", root=args.data_root, split="test")
    public = None
    if args.public:
        public = data.load("cifar10", root=args.data_root, split="train", indices=range(args.public)).batch
    component = CARD.presets[args.preset]
    assert isinstance(component, TrapWeights)
    print(f"`python -m benchmarks.trap_weights {shlex.join(sys.argv[1:])}`, torch {torch.__version__}, float32 client,")
    print(f"FedSGD, MLP rows-{'-'.join(map(str, args.hidden))}-10, n = {args.batches} batches and draws of rows.\n")
    heads = [
        "server",
        "rows",
        "B",
        "A",
        "P",
        "R",
        f"read (>= {PSNR:g} dB)",
        f"read (l2 <= {L2:g})",
        "certified",
        "false",
    ]
    print("| " + " | ".join([*heads, "R in the paper"]) + " |")
    print("|" + "---|" * (len(heads) + 1))
    for cell in args.cells:
        rows, size = map(int, cell.split("x"))
        model = models.build(
            "mlp",
            input_shape=pool.input_shape,
            num_classes=10,
            options={"hidden": (rows, *args.hidden), "normalise": args.normalise},
            mean=pool.mean,
            std=pool.std,
        )
        servers: dict[str, Tampering] = {
            "trap weights": replace(component, scale=args.scale or component.scale, examples=size if public else 0)
        }
        if args.imprint:
            servers["imprint"] = RobbingLinearLayer(functions=("random",), cutoffs="auto")
            servers["imprint, peeled"] = RobbingLinearLayer(functions=("random",) * 4, cutoffs="auto", decode="peel")
        for name, server in servers.items():
            found = recall(server, model, cut(pool.batch, size, args.batches), public)
            paper = PAPER.get((rows, size)) if name == "trap weights" else None  # of the imprint it has none
            print(f"| {name} | {row((rows, size), found, paper)} |", flush=True)


if __name__ == "__main__":
    main()
