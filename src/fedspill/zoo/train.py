"""Trains the small networks whose weights the package ships, on CIFAR-10.

    python -m fedspill.zoo.train lenet --data-root DIR --out FILE.safetensors

The file appears when training is done; until then FILE.safetensors.partial holds the state after every epoch,
and the same command goes on from it.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional

from fedspill import __version__
from fedspill.core.errors import BadInput
from fedspill.core.rng import stream
from fedspill.core.types import Batch
from fedspill.zoo.data import load
from fedspill.zoo.models import build
from fedspill.zoo.statistics import CIFAR10
from fedspill.zoo.weights import write_tensors

SEED = 0


@dataclass(frozen=True)
class Recipe:
    """How one network is trained: one cycle of the learning rate over all epochs.

    Attributes:
        adam: Adam, else SGD with Nesterov momentum 0.9.
        lr: the highest learning rate.
        weight_decay: as the optimiser takes it.
        shift: random translation in pixels, each way.
    """

    epochs: int
    lr: float
    adam: bool = False
    weight_decay: float = 0.0
    minibatch: int = 128
    shift: int = 2


RECIPES = {
    "lenet": Recipe(epochs=60, lr=5e-3, adam=True),
    "convnet": Recipe(epochs=9, lr=0.2, weight_decay=5e-4),
}


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fedspill.zoo.train", description=__doc__)
    parser.add_argument("network", choices=sorted(RECIPES))
    parser.add_argument("--width", type=int, help="base width of the convnet (default 64)")
    parser.add_argument("--data-root", help="folder that holds cifar-10-batches-py")
    parser.add_argument("--epochs", type=int, help="default: the recipe's")
    parser.add_argument("--limit", type=int, help="use only so many training and test images")
    parser.add_argument("--threads", type=int, help="processor threads")
    parser.add_argument("--bfloat16", action="store_true", help="multiply in bfloat16 (fast where AMX is)")
    parser.add_argument("--out", required=True, type=Path)
    return parser.parse_args(arguments)


def _augmented(images: Tensor, shift: int, rng: torch.Generator) -> Tensor:
    """Each image moved by up to `shift` pixels each way (mirrored at the edge), half of them flipped."""
    count, _, height, width = images.shape
    padded = functional.pad(images, (shift,) * 4, mode="reflect")
    top = torch.randint(2 * shift + 1, (count, 1, 1), generator=rng)
    left = torch.randint(2 * shift + 1, (count, 1, 1), generator=rng)
    columns = left + torch.arange(width)
    flipped = torch.rand((count, 1, 1), generator=rng) < 0.5
    columns = torch.where(flipped, columns.flip(2), columns)
    rows = top + torch.arange(height).view(1, -1, 1)
    return padded.permute(0, 2, 3, 1)[torch.arange(count).view(-1, 1, 1), rows, columns].permute(0, 3, 1, 2)


@dataclass
class Trainer:
    """A network in training; everything that a resumed run needs is in `state`."""

    module: nn.Module
    recipe: Recipe
    epochs: int
    train: Batch
    bfloat16: bool

    def __post_init__(self) -> None:
        values = self.module.parameters()
        recipe = self.recipe
        self.optimiser: torch.optim.Optimizer = (
            torch.optim.Adam(values, recipe.lr, weight_decay=recipe.weight_decay)
            if recipe.adam
            else torch.optim.SGD(values, recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay)
        )
        self.steps = len(self.train) // recipe.minibatch
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, recipe.lr, total_steps=self.epochs * self.steps, cycle_momentum=False
        )
        self.done = 0

    def epoch(self) -> Iterator[float]:
        """One pass over the training images; gives the loss of every step."""
        rng = stream(SEED, "train", self.done)
        order = torch.randperm(len(self.train), generator=rng)
        self.module.train()
        for step in range(self.steps):
            part = order[step * self.recipe.minibatch : (step + 1) * self.recipe.minibatch]
            images = _augmented(self.train.inputs[part], self.recipe.shift, rng)
            loss = functional.cross_entropy(self.logits(images), self.train.labels[part])
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            self.schedule.step()
            yield float(loss.detach())
        self.done += 1

    def logits(self, images: Tensor) -> Tensor:
        """Of normalised images; float32, also where the products were taken in bfloat16."""
        images = images.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            return self.module(images).float()

    def accuracy(self, test: Batch) -> float:
        """Share of right answers in eval mode and float32, as an audit will run the network."""
        self.module.eval()
        with torch.no_grad():
            answers = torch.cat([self.module(part).argmax(1) for part in test.inputs.split(500)])
        return float((answers == test.labels).float().mean())

    def state(self) -> dict[str, Any]:
        """What `resume` takes."""
        parts = {"module": self.module, "optimiser": self.optimiser, "schedule": self.schedule}
        return {"done": self.done, **{name: part.state_dict() for name, part in parts.items()}}

    def resume(self, state: dict[str, Any]) -> None:
        """Goes on after the epoch at which `state` was taken."""
        self.module.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.done = state["done"]


def _batch(root: str | None, split: str, limit: int | None) -> Batch:
    pool = load("cifar10", root=root, split=split, indices=None if limit is None else f"0:{limit}")
    mean, std = (pool.batch.inputs.new_tensor(v).view(3, 1, 1) for v in (CIFAR10.mean, CIFAR10.std))
    return Batch(pool.batch.inputs.sub_(mean).div_(std), pool.batch.labels)


def _run(trainer: Trainer, partial: Path, test: Batch, console: Console) -> None:
    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        total, first = trainer.epochs * trainer.steps, trainer.done * trainer.steps
        task = progress.add_task("train", total=total, completed=first, epoch=trainer.done)
        while trainer.done < trainer.epochs:
            losses: list[float] = []
            for loss in trainer.epoch():
                losses.append(loss)
                progress.update(task, advance=1, epoch=trainer.done)
            torch.save(trainer.state(), partial.with_suffix(".new"))
            partial.with_suffix(".new").replace(partial)
            mean = sum(losses) / len(losses)
            console.print(f"epoch {trainer.done}: loss {mean:.4f}, test accuracy {trainer.accuracy(test):.2%}")


def _metadata(options: dict[str, int], network: str, accuracy: float, arguments: list[str]) -> dict[str, str]:
    # The folder of the data is nobody's business and says nothing about the weights.
    hidden = {k + 1 for k, word in enumerate(arguments) if word in ("--data-root", "--out")}
    shown = ["..." if k in hidden else word for k, word in enumerate(arguments)]
    return {
        "network": network,
        "options": json.dumps(options),
        "dataset": "CIFAR-10",
        "mean": json.dumps(CIFAR10.mean),
        "std": json.dumps(CIFAR10.std),
        "test_accuracy": f"{accuracy:.4f}",
        "command": shlex.join(["python", "-m", "fedspill.zoo.train", *shown]),
        "versions": f"fedspill {__version__}, torch {torch.__version__}",
    }


def main(arguments: list[str]) -> int:
    """Runs the command line; 0 when the file is written, 2 for bad input."""
    given, console = _parse(arguments), Console(stderr=True)
    if given.threads:
        torch.set_num_threads(given.threads)
    try:
        options = {} if given.width is None else {"width": given.width}
        model = build(given.network, input_shape=(3, 32, 32), num_classes=10, options=options, seed=SEED)
        train, test = (_batch(given.data_root, split, given.limit) for split in ("train", "test"))
        recipe = RECIPES[given.network]
        if len(train) < recipe.minibatch:
            raise BadInput(f"--limit {given.limit}: at least one mini-batch of {recipe.minibatch} is needed")
    except BadInput as error:
        console.print(f"error: {error}", markup=False)
        return 2
    model.module.load_state_dict({**model.params, **model.buffers})
    module = model.module
    for value in module.parameters():
        if value.ndim == 4:  # convolutions run faster so
            value.data = value.data.contiguous(memory_format=torch.channels_last)
    trainer = Trainer(module, recipe, given.epochs or recipe.epochs, train, given.bfloat16)
    partial = given.out.with_name(given.out.name + ".partial")
    if partial.is_file():
        trainer.resume(torch.load(partial, weights_only=True))
        console.print(f"going on after epoch {trainer.done}")
    _run(trainer, partial, test, console)
    accuracy = trainer.accuracy(test)
    metadata = _metadata(options, given.network, accuracy, arguments)
    write_tensors(
        given.out,
        {k: v.clone(memory_format=torch.contiguous_format) for k, v in module.state_dict().items()},
        metadata,
    )
    partial.unlink(missing_ok=True)
    console.print(f"test accuracy {accuracy:.2%}; wrote {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
