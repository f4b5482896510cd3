"""Trains the small networks whose weights the package ships, on CIFAR-10.

    python -m fedspill.training.shipped lenet --data-root DIR --out FILE.safetensors

The file appears when training is done; until then FILE.safetensors.partial holds the state after every epoch,
and the same command goes on from it.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fedspill import __version__
from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.tensor_files import write_state, write_tensors
from fedspill.core.types import Batch
from fedspill.training.trainer import Recipe, Trainer
from fedspill.zoo.data import load
from fedspill.zoo.models import build
from fedspill.zoo.statistics import CIFAR10

SEED = 0


RECIPES = {
    "lenet": Recipe(epochs=60, lr=5e-3, adam=True),
    "convnet": Recipe(epochs=9, lr=0.2, weight_decay=5e-4),
}


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fedspill.training.shipped", description=__doc__)
    parser.add_argument("network", choices=sorted(RECIPES))
    parser.add_argument("--width", type=int, help="base width of the convnet (default 64)")
    parser.add_argument("--data-root", help="folder that holds cifar-10-batches-py")
    parser.add_argument("--epochs", type=int, help="default: the recipe's")
    parser.add_argument("--limit", type=int, help="use only so many training and test images")
    parser.add_argument("--threads", type=int, help="processor threads")
    parser.add_argument("--bfloat16", action="store_true", help="multiply in bfloat16 (fast where AMX is)")
    parser.add_argument("--out", required=True, type=Path)
    return parser.parse_args(arguments)


def _batch(root: str | None, split: str, limit: int | None) -> Batch:
    pool = load("cifar10", root=root, split=split, indices=None if limit is None else f"0:{limit}")
    return pool.batch


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
            write_state(partial, trainer.state())
            mean = sum(losses) / len(losses)
            console.print(f"epoch {trainer.done}: loss {mean:.4f}, test accuracy {trainer.accuracy(test):.2%}")


def _metadata(given: argparse.Namespace, epochs: int, accuracy: float) -> dict[str, str]:
    # The user's folders are nobody's business and say nothing about the weights: the command is written anew.
    options = {} if given.width is None else {"width": given.width}
    command = ["python", "-m", "fedspill.training.shipped", given.network, "--epochs", epochs]
    for word, value in (("--width", given.width), ("--limit", given.limit), ("--threads", given.threads)):
        command += [] if value is None else [word, value]
    return {
        "network": given.network,
        "options": json.dumps(options),
        "dataset": "CIFAR-10",
        "mean": json.dumps(CIFAR10.mean),
        "std": json.dumps(CIFAR10.std),
        "test_accuracy": f"{accuracy:.4f}",
        "command": " ".join(map(str, command)) + (" --bfloat16" if given.bfloat16 else ""),
        "versions": f"fedspill {__version__}, torch {torch.__version__}",
    }


def _trainer(given: argparse.Namespace) -> tuple[Trainer, Batch]:
    """The run that was asked for, and the test images."""
    options = {} if given.width is None else {"width": given.width}
    model = build(given.network, input_shape=(3, 32, 32), num_classes=10, options=options, seed=SEED)
    train, test = (_batch(given.data_root, split, given.limit) for split in ("train", "test"))
    recipe = RECIPES[given.network]
    if len(train) < recipe.minibatch:
        raise BadInput(f"{len(train)} training images were got; one mini-batch of {recipe.minibatch} is needed")
    module = model.module
    module.load_state_dict({**model.params, **model.buffers})
    for value in module.parameters():
        if value.ndim == 4:  # convolutions run faster so
            value.data = value.data.contiguous(memory_format=torch.channels_last)
    spec = ImageSpec((3, 32, 32), mean=CIFAR10.mean, std=CIFAR10.std)
    return Trainer(module, recipe, given.epochs or recipe.epochs, train, spec, given.bfloat16, SEED), test


def _resume(trainer: Trainer, partial: Path) -> None:
    try:
        trainer.resume(torch.load(partial, weights_only=True))
    except Exception as error:  # half a file, or the state of another network
        raise BadInput(f"{str(partial)!r} is not the state of this run; remove it to start anew") from error


def main(arguments: list[str]) -> int:
    """Runs the command line; 0 when the file is written, 2 for bad input."""
    given, console = _parse(arguments), Console(stderr=True)
    if given.threads:
        torch.set_num_threads(given.threads)
    partial = given.out.with_name(given.out.name + ".partial")
    try:
        trainer, test = _trainer(given)
        if partial.is_file():
            _resume(trainer, partial)
            console.print(f"going on after epoch {trainer.done}")
    except BadInput as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        return 2
    _run(trainer, partial, test, console)
    accuracy = trainer.accuracy(test)
    state = trainer.module.state_dict()
    plain = {k: v.clone(memory_format=torch.contiguous_format) for k, v in state.items()}
    write_tensors(given.out, plain, _metadata(given, trainer.epochs, accuracy))
    partial.unlink(missing_ok=True)
    console.print(f"test accuracy {accuracy:.2%}; wrote {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
