"""`fedspill attack`: an update that was captured, a model, and no truth."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console


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
    from fedspill.auditing.captured import as_update, attack_captured, check_entry, run_key
    from fedspill.cli.captured import image_shape, known_labels, local_training, num_classes_of, numbers, show
    from fedspill.cli.progress import TerminalListener
    from fedspill.core.knowledge import ServerKnowledge
    from fedspill.core.tensor_files import read_tensors
    from fedspill.plan.build import pick_device
    from fedspill.plan.sections import AttackEntry, parse_decibels, parse_seconds
    from fedspill.plan.values import set_fields
    from fedspill.report.store import Store
    from fedspill.zoo.models import build

    built = build(
        model,
        input_shape=image_shape(shape),
        num_classes=num_classes,
        weights=weights,
        mode=mode,
        device=pick_device(device),
        mean=numbers(mean, "--mean"),
        std=numbers(std, "--std"),
    )
    sent = as_update(read_tensors(update), kind, built)
    training = local_training(kind, epochs, minibatch_size, lr, momentum, weight_decay)
    known = known_labels(labels, num_examples, num_classes_of(built))
    knowledge = ServerKnowledge(built, clients, num_examples, known, training)
    name, _, preset = attack.partition(":")
    entry = AttackEntry.model_validate({"name": name, "preset": preset or "paper", **set_fields(settings or [])})
    seconds = None if budget is None else parse_seconds(budget)
    level = None if quality is None else parse_decibels(quality)
    check_entry(entry, knowledge)
    said = (entry.label, seed, clients, num_examples, labels, training, mode, built.input)
    Store(out, run_key(built, sent, said)).open(fresh=fresh)
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
    show(captured, out)
