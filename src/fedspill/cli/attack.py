"""`fedspill attack`: an update that was captured, a model, and no truth."""

import hashlib
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from rich.console import Console

import fedspill
from fedspill.auditing.captured import Captured, as_update, attack_captured, check_entry
from fedspill.auditing.scenario import weights_sha256
from fedspill.cli.progress import TerminalListener
from fedspill.core.errors import BadInput
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_update import FedAvg, FedSGD, LocalTraining
from fedspill.core.model import Model
from fedspill.core.tensor_files import read_tensors, write_whole
from fedspill.core.types import Update
from fedspill.core.values import set_fields
from fedspill.plan.build import pick_device
from fedspill.plan.sections import AttackEntry, parse_decibels, parse_seconds
from fedspill.rendering.drawing.pictures import enlarge, image, png
from fedspill.report.store import Store
from fedspill.zoo.models import build


def capture_command(
    model: Annotated[str, typer.Option(help="A zoo name, torchvision:NAME, or your package.module:factory.")],
    weights: Annotated[Path, typer.Option(help="The global model: safetensors, or a weights_only checkpoint.")],
    update: Annotated[Path, typer.Option(help="What the client sent, likewise.")],
    kind: Annotated[
        Literal["gradient", "delta", "weights"],
        typer.Option(help="gradient; delta (server minus client); or weights (the client's after training)."),
    ],
    attack: Annotated[
        str, typer.Option(help="name or name:preset; see `fedspill list attacks`.")
    ] = "inverting_gradients",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change a field of the attack.")
    ] = None,
    shape: Annotated[str, typer.Option(help="Channels x height x width of one input.")] = "3x32x32",
    mean: Annotated[str | None, typer.Option(help="Normalisation per channel, such as 0.49,0.48,0.45.")] = None,
    std: Annotated[str | None, typer.Option(help="Likewise.")] = None,
    num_classes: Annotated[int, typer.Option(min=1, help="Of a zoo or library model.")] = 10,
    mode: Annotated[Literal["eval", "train"], typer.Option(help="How BatchNorm ran at the client.")] = "eval",
    num_examples: Annotated[int | None, typer.Option(min=1, help="How many examples, if known.")] = None,
    labels: Annotated[str | None, typer.Option(help="Their labels, if known, such as 3,5.")] = None,
    clients: Annotated[int, typer.Option(min=1, help="How many clients' updates were averaged.")] = 1,
    epochs: Annotated[int | None, typer.Option(min=1, help="Local epochs (delta, weights), if known.")] = None,
    minibatch_size: Annotated[int | None, typer.Option(min=1, help="Local mini-batch size.")] = None,
    lr: Annotated[float | None, typer.Option(help="Local learning rate, if known.")] = None,
    momentum: Annotated[float, typer.Option(help="Of the local SGD.")] = 0.0,
    weight_decay: Annotated[float, typer.Option(help="Of the local SGD.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the attack's random start.")] = 0,
    budget: Annotated[str | None, typer.Option(help="Time limit, such as 5m.")] = None,
    quality: Annotated[str | None, typer.Option(help="Stop a search at this PSNR by its own estimate: 20dB.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("fedspill-attack"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over where --out already holds this run.")] = False,
) -> None:
    """Rebuild inputs from one captured update, without any truth.

    Writes the reconstructions as PNG and safetensors, and attack.json with the attack's own confidence.
    """
    built = build(
        model,
        input_shape=image_shape(shape),
        num_classes=num_classes,
        weights=weights,
        mode=mode,
        device=pick_device(device),
        mean=_numbers(mean, "--mean"),
        std=_numbers(std, "--std"),
    )
    sent = as_update(read_tensors(update), kind, built)
    training = _training(kind, epochs, minibatch_size, lr, momentum, weight_decay)
    known = _labels(labels, num_examples, num_classes_of(built))
    knowledge = ServerKnowledge(built, clients, num_examples, known, training)
    name, _, preset = attack.partition(":")
    entry = AttackEntry.model_validate({"name": name, "preset": preset or "paper", **set_fields(settings or [])})
    seconds = None if budget is None else parse_seconds(budget)
    level = None if quality is None else parse_decibels(quality)
    check_entry(entry, knowledge)
    said = (entry.label, seed, clients, num_examples, labels, training, mode, built.input)
    Store(out, _key(built, sent, said)).open(fresh=fresh)
    with TerminalListener(Console(stderr=True)) as listener:
        captured = attack_captured(
            entry,
            sent,
            knowledge,
            out=out,
            seed=seed,
            budget=seconds,
            quality=level,
            listener=listener,
            command=" ".join(["fedspill", *sys.argv[1:]]),
        )
    _tell(captured, out)


def _tell(captured: Captured, out: Path) -> None:
    console, found = Console(), captured.reconstruction
    for k, picture in enumerate(found.inputs):
        write_whole(out / f"rebuilt-{k}.png", png(enlarge(image(picture.float().cpu()))))
    state = "converged by its own measure" if found.converged else "did NOT converge by its own measure"
    best = "" if found.confidence is None else f", confidence up to {float(found.confidence.max()):.3f}"
    console.print(f"{len(found.inputs)} inputs were rebuilt; the attack {state}{best}.", markup=False)
    for note in found.notes:
        console.print(note, markup=False, style="yellow")
    console.print("No truth was at hand: a poor picture is not evidence of safety.", style="yellow")
    console.print(f"Results: {out}", markup=False, style="bold")


def image_shape(text: str) -> tuple[int, int, int]:
    """Such as "3x32x32".

    Raises:
        BadInput: it is not of this form.
    """
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text)
    if match is None or "0" in match.groups():
        raise BadInput(f"--shape {text!r}: channels x height x width are needed, such as 3x32x32")
    return int(match[1]), int(match[2]), int(match[3])


def _numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BadInput(f"{option} {text!r}: numbers with commas between them are needed") from None


def _labels(text: str | None, num_examples: int | None, num_classes: int) -> torch.Tensor | None:
    if text is None:
        return None
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(f"--labels {text!r}: class numbers with commas between them are needed") from None
    if min(found) < 0 or max(found) >= num_classes:
        raise BadInput(f"--labels {text!r}: the model's classes are 0 to {num_classes - 1}")
    if num_examples not in (None, len(found)):
        raise BadInput(f"--labels {text!r} are {len(found)} labels, --num-examples says {num_examples}")
    return torch.tensor(found, dtype=torch.long)


def _training(
    kind: str, epochs: int | None, size: int | None, lr: float | None, momentum: float, weight_decay: float
) -> LocalTraining | None:
    if kind == "gradient" and any(given is not None for given in (epochs, size, lr)):
        raise BadInput("--epochs, --minibatch-size and --lr are of local training; with --kind gradient there is none")
    if kind == "gradient":
        return FedSGD()
    if epochs is None and lr is None and size is None:
        return None
    if epochs is None or lr is None:
        raise BadInput("a known local training needs both --epochs and --lr; leave both out to search")
    return FedAvg(epochs, size, lr, momentum, weight_decay)


def num_classes_of(model: Model) -> int:
    """How many logits the model has."""
    z = model.like.new_zeros(1, *model.input.encoded_shape)
    with torch.no_grad():
        return replace(model, training=False).logits(model.params, z).shape[-1]


def _key(model: Model, update: Update, said: object) -> str:
    digest = hashlib.sha256(weights_sha256(model).encode())
    for name, value in update.values.items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().numpy().tobytes())
    digest.update(repr((said, fedspill.__version__, torch.__version__, model.like.device.type)).encode())
    return digest.hexdigest()
