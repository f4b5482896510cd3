"""`fedspill attack`: an update that was captured, a model, and the truth if it is at hand."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console


def capture_command(
    model: Annotated[str, typer.Option(help="A zoo name, torchvision:NAME, or your package.module:factory.")],
    weights: Annotated[Path, typer.Option(help="The global model: safetensors, a checkpoint, or .npz.")],
    update: Annotated[
        Path, typer.Option(help="What the client sent, likewise; or a folder with a file per client, for their mean.")
    ],
    kind: Annotated[
        Literal["gradient", "delta", "weights"],
        typer.Option(help="gradient; delta (its sign is found out if it can be); or weights (the client's after)."),
    ],
    attack: Annotated[
        str,
        typer.Option(help="name or name:preset (see `fedspill list attacks`), or all that read, then a search."),
    ] = "standard",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change a field of the attack.")
    ] = None,
    shape: Annotated[str, typer.Option(help="Channels x height x width of one input.")] = "3x32x32",
    mean: Annotated[str | None, typer.Option(help="Normalisation per channel, such as 0.49,0.48,0.45.")] = None,
    std: Annotated[str | None, typer.Option(help="Likewise; needed where neither weights nor library say it.")] = None,
    range: Annotated[str | None, typer.Option(help="What black and white are before that: 0,255; else 0,1.")] = None,
    normalise: Annotated[
        Literal["none", "imagenet", "cifar10", "cifar100"] | None, typer.Option(help="Or mean and std in one word.")
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(help="cross_entropy,label_smoothing=0.1; focal; package.module:function. Else cross-entropy."),
    ] = None,
    num_classes: Annotated[
        int | None,
        typer.Option(min=1, help="What the model is built for (10); an own factory is asked if it takes it."),
    ] = None,
    mode: Annotated[Literal["eval", "train"], typer.Option(help="How BatchNorm ran at the client.")] = "eval",
    num_examples: Annotated[int | None, typer.Option(min=1, help="How many examples, if known.")] = None,
    labels: Annotated[str | None, typer.Option(help="Their labels, if known, such as 3,5.")] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            help="The examples behind it, to score by: a file with inputs and labels, or a folder of pictures."
        ),
    ] = None,
    leak_threshold: Annotated[
        list[str] | None, typer.Option(metavar="METRIC=VALUE", help="With --truth: an example leaks when all are met.")
    ] = None,
    clients: Annotated[int, typer.Option(min=1, help="How many clients' updates were averaged.")] = 1,
    epochs: Annotated[int | None, typer.Option(min=1, help="Local epochs (delta, weights), if known.")] = None,
    minibatch_size: Annotated[int | None, typer.Option(min=1, help="Local mini-batch size.")] = None,
    lr: Annotated[float | None, typer.Option(help="Local learning rate, if known.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Of the local SGD.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of the local SGD.")] = None,
    client: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Any key of a plan's section client; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the attack's random start.")] = 0,
    budget: Annotated[str | None, typer.Option(help="Time limit, such as 5m.")] = None,
    quality: Annotated[str | None, typer.Option(help="Stop a search at this PSNR by its own estimate: 20dB.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("fedspill-attack"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over where --out already holds this run.")] = False,
) -> None:
    """Rebuild inputs from one captured update of any trainer; with --truth, score them and judge what leaked.

    Writes the reconstructions as PNG and safetensors, and attack.json with the attack's own confidence; with --truth
    also report.html, report.json and junit.xml, as an audit does.

    Exit code: 0, 2 bad input; with --truth 0 not shown, 1 leaks, 2 bad input, 3 nothing can be concluded.
    """
    from fedspill.cli.early import check_device, check_file

    check_device(device)
    for path in (weights, update):
        check_file(path)
    from fedspill.auditing.capturing.attacking import attack_captured, run_key
    from fedspill.auditing.capturing.in_turn import entry_of, tries_of
    from fedspill.auditing.capturing.updates import clients_of, read_update
    from fedspill.cli.captured import (
        SAY_IT,
        image_shape,
        judging_of,
        known_labels,
        local_training,
        normalisation,
        num_classes_of,
        show,
        with_loss,
    )
    from fedspill.cli.progress import TerminalListener
    from fedspill.core.errors import BadInput
    from fedspill.core.knowledge import ServerKnowledge
    from fedspill.plan.build import pick_device
    from fedspill.plan.sections import parse_decibels, parse_seconds
    from fedspill.plan.values import set_fields
    from fedspill.report.store import Store
    from fedspill.zoo.models import UnsaidNormalisation, build

    try:
        built = build(
            model,
            input_shape=image_shape(shape),
            num_classes=num_classes or 10,
            classes_said=num_classes is not None,
            weights=weights,
            mode=mode,
            device=pick_device(device),
            normalisation=normalisation(normalise, mean, std, range),
            assume=False,
        )
    except UnsaidNormalisation:
        said = f"neither {str(weights)!r} nor the library of {model!r} says what images are normalised by"
        raise BadInput(f"{said}: {SAY_IT}") from None
    built = with_loss(built, loss, client or [])
    sent = read_update(update, kind, built, num_examples)
    steps = {"epochs": epochs, "minibatch_size": minibatch_size, "lr": lr}
    options = {**steps, "momentum": momentum, "weight_decay": weight_decay}
    training = local_training(kind, options, client or [])
    known = known_labels(labels, num_examples, num_classes_of(built))
    knowledge = ServerKnowledge(built, clients_of(sent, clients), num_examples, known, training)
    entry = entry_of(attack, set_fields(settings or []), "inverting_gradients")
    seconds = None if budget is None else parse_seconds(budget)
    level = None if quality is None else parse_decibels(quality)
    tries_of(entry, knowledge)
    judging = judging_of(truth, leak_threshold, knowledge)
    said = (entry.label, seed, clients, num_examples, labels, training, mode, built.input)
    Store(out, run_key(built, sent.update, said, judging)).open(fresh=fresh)
    with TerminalListener(Console(stderr=True)) as listener:
        captured = attack_captured(
            entry,
            sent.update,
            knowledge,
            out=out,
            seed=seed,
            budget=seconds,
            quality=level,
            listener=listener,
            command=" ".join(["fedspill", *sys.argv[1:]]),
            notes=sent.notes,
            turned=sent.turned,
            judging=judging,
        )
    raise typer.Exit(show(captured, out))
