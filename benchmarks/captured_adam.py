"""Captured updates of clients that train by Adam, with label smoothing and augmentation, attacked beside the truth.

    python -m benchmarks.captured_adam --out benchmarks/results/captured_adam.md

Each client holds one photograph and trains in a plain PyTorch loop; the server is handed the change of its weights and
does not know the label. A row for what the server knows of the training: all of it with its draws, all but the draws,
and nothing, where it matches one gradient or a few steps of SGD in its place.
"""

import argparse
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import functional

import fedspill
from fedspill.core.local_training.conditions import Augmentation, Conditions
from fedspill.core.local_training.losses import CrossEntropy
from fedspill.core.local_training.optimizers import Adam
from fedspill.core.local_training.protocol import FedAvg
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.tensor_files import write_whole
from fedspill.core.types import Batch, Update, UpdateKind
from fedspill.zoo import data, models

SMOOTHING = 0.1


def captured(model: Model, batch: Batch, training: FedAvg) -> Update:
    """The change of the weights in a plain loop of `torch.optim.Adam`, on views that follow from the draws."""
    net = model.own_module().train(model.training)
    for parameter in net.parameters():
        parameter.requires_grad_()
    optimizer = torch.optim.Adam(net.parameters(), lr=training.lr)
    z = model.input.encode(batch.inputs)
    for step in range(training.epochs):
        rng = training.rng(step)
        assert rng is not None, "the draws are known to the client"
        seen = training.conditions.augmentation(z, model.input, rng) if training.conditions.augmentation else z
        optimizer.zero_grad()
        functional.cross_entropy(net(seen), batch.labels, label_smoothing=SMOOTHING).backward()
        optimizer.step()
    after = {k: v.detach() for k, v in net.named_parameters()}
    return Update(UpdateKind.DELTA, {k: v - after[k] for k, v in model.params.items()})


def row(what: str, given: argparse.Namespace, training: FedAvg, known: FedAvg | None) -> str:
    """One line of the table."""
    pool = data.load("photos", size=32, indices=f"0:{given.examples}")
    model = models.build(
        given.network, input_shape=(3, 32, 32), num_classes=10, weights=given.weights, data_root=given.root
    )
    model = Model(model.module, model.params, model.buffers, CrossEntropy(label_smoothing=SMOOTHING), model.input)
    scores, right, leaks, began, checks = list[float](), 0, 0, time.perf_counter(), list[float]()
    for k in range(given.examples):
        one = pool.batch[k : k + 1]
        update = captured(model, one, training)
        result = fedspill.attack(
            update,
            model,
            num_examples=1,
            attack="inverting_gradients:quick",
            local_training=known,
            truth=(one.inputs, one.labels),
            budget=given.budget,
            device="cpu",
        )
        (trial,) = result.report.trials
        scores += [v for s in trial.scores if s.metric == "psnr" for v in s.values if v is not None]
        right += trial.labels.overlap == 1
        leaks += result.report.verdict.name.value == "leaks"
        checks.append(-1.0 if trial.self_check is None else trial.self_check)
    seconds = (time.perf_counter() - began) / given.examples
    shown = " / ".join(f"{v:.1f}" for v in scores)
    check = "none" if min(checks) < 0 else f"{max(checks):.0e}"
    return f"| {what} | {right} of {given.examples} | {shown} | {leaks} of {given.examples} | {check} | {seconds:.0f} |"


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="lenet")
    parser.add_argument("--weights", default="untrained")
    parser.add_argument("--root")
    parser.add_argument("--examples", type=int, default=4)
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--budget", type=float, default=60.0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    lines = [
        f"`python -m benchmarks.captured_adam {shlex.join(sys.argv[1:])}`, fedspill {fedspill.__version__}, torch"
        f" {torch.__version__}; {given.network}, {given.weights}, Adam at 1e-3, label smoothing {SMOOTHING}; n ="
        f" {given.examples} clients of one photograph at 32x32, seed 0, budget {given.budget:g} s each.",
        "",
        "| steps, views, what the server knows | labels inferred right | PSNR in dB | leaks | self-check | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for epochs in given.epochs:
        for views in (Augmentation(), Augmentation(flip=0.5, crop=2)):
            draws = int(torch.randint(2**31, (), generator=stream(0, "client")))
            training = FedAvg(epochs, lr=1e-3, optimizer=Adam(), conditions=Conditions(augmentation=views), draws=draws)
            words = f"{epochs} steps, {'flip and crop' if views else 'pictures as they are'}"
            rows: list[tuple[str, FedAvg | None]] = [("all, with draws", training), ("nothing", None)]
            if views:
                rows.insert(1, ("all but draws", replace(training, draws=None)))
            for what, granted in rows:
                lines.append(row(f"{words}; {what}", given, training, granted))
                print(lines[-1], flush=True)
                if given.out is not None:
                    write_whole(given.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
