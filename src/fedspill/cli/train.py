"""`fedspill train`: what attacks need and plans name by path."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedspill.cli.early import check_device
from fedspill.plan.tables import table_of

app = typer.Typer(
    name="train",
    help="Train what attacks need: robust extractors, heads that leak, decoders, autoencoders, generators.",
    no_args_is_help=True,
)

Plan = Annotated[Path, typer.Argument(metavar="PLAN.toml", help="What to train; see plans/train and docs/plan.md.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one key of the plan; may be repeated."),
]
Out = Annotated[Path, typer.Option("--out", help="File for the weights; figures go beside it, as .json.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]


def command_line(out: Path) -> str:
    """The command as it was typed, without the folders of the user's machine."""
    words = ["fedspill", *sys.argv[1:]]
    return " ".join(Path(w).name if w == str(out) else w for w in words)


@app.command(epilog="Example:  fedspill train robust plans/train/cnn_robust.toml --out cnn_robust.safetensors")
def robust(plan: Plan, out: Out, settings: Settings = None, device: Device = "auto") -> None:
    """Adversarial training of a feature extractor; run it again to go on after a kill."""
    check_device(device)
    table = table_of(plan, settings)
    from fedspill.cli.progress import TerminalListener
    from fedspill.plan.build import pick_device
    from fedspill.plan.file import parse_as
    from fedspill.training.plan import RobustPlan
    from fedspill.training.robust import train_robust

    read = parse_as(RobustPlan, table)
    with TerminalListener(Console(stderr=True)) as listener:
        report = train_robust(read, out, device=pick_device(device), listener=listener, command=command_line(out))
    Console().print(
        f"natural accuracy {report.natural:.1%} ({report.natural_examples} images), robust {report.robust:.1%}"
        f" ({report.robust_examples} images; {report.evaluation}); wrote {out}",
        markup=False,
    )


@app.command(epilog="Example:  fedspill train decoder plans/train/cnn_decoder.toml --out decoder.safetensors")
def decoder(plan: Plan, out: Out, settings: Settings = None, device: Device = "auto") -> None:
    """A network from representations back to images; run it again to go on after a kill."""
    check_device(device)
    table = table_of(plan, settings)
    from fedspill.cli.progress import TerminalListener
    from fedspill.plan.build import pick_device
    from fedspill.plan.file import parse_as
    from fedspill.training.decoder import train_decoder_file
    from fedspill.training.plan import DecoderPlan

    read = parse_as(DecoderPlan, table)
    with TerminalListener(Console(stderr=True)) as listener:
        report = train_decoder_file(read, out, device=pick_device(device), listener=listener, command=command_line(out))
    similar = "" if report.ssim is None else f", SSIM {report.ssim:.3f}"
    Console().print(
        f"PSNR {report.psnr:.2f} dB{similar} ({report.examples} held-out images from their exact representations; the"
        f" mean image gets {report.mean_image_psnr:.2f} dB); wrote {out}",
        markup=False,
    )


@app.command(
    epilog="Example:  fedspill train autoencoder plans/train/strided_cnn_autoencoder.toml --out autoencoder.safetensors"
)
def autoencoder(plan: Plan, out: Out, settings: Settings = None, device: Device = "auto") -> None:
    """An encoder for a network's own layers, and its decoder; run it again to go on after a kill."""
    check_device(device)
    table = table_of(plan, settings)
    from fedspill.cli.progress import TerminalListener
    from fedspill.plan.build import pick_device
    from fedspill.plan.file import parse_as
    from fedspill.training.autoencoder import train_autoencoder_file
    from fedspill.training.plan import AutoencoderPlan

    read, words = parse_as(AutoencoderPlan, table), command_line(out)
    with TerminalListener(Console(stderr=True)) as listener:
        report = train_autoencoder_file(read, out, device=pick_device(device), listener=listener, command=words)
    Console().print(
        f"PSNR {report.psnr:.2f} dB, {report.recognised:.1%} above 18 dB ({report.examples} held-out images from their"
        f" exact latents; the mean image gets {report.mean_image_psnr:.2f} dB); wrote {out}",
        markup=False,
    )


Trials = Annotated[
    int, typer.Option("--trials", min=0, help="Search settings first, with this many trials (needs fedspill[search]).")
]


@app.command(epilog="Example:  fedspill train spab plans/train/cnn_spab.toml --out cnn_spab.safetensors")
def spab(plan: Plan, out: Out, settings: Settings = None, device: Device = "auto", trials: Trials = 0) -> None:
    """A classification head whose gradient leaks what enters it; run it again to go on after a kill."""
    check_device(device)
    table = table_of(plan, settings)
    from fedspill.cli.progress import TerminalListener
    from fedspill.plan.build import pick_device
    from fedspill.plan.file import parse_as
    from fedspill.training.leaking_head import train_spab
    from fedspill.training.plan import SpabPlan

    read = parse_as(SpabPlan, table)
    with TerminalListener(Console(stderr=True)) as listener:
        report = train_spab(
            read,
            out,
            device=pick_device(device),
            listener=listener,
            command=command_line(out),
            trials=trials,
        )
    rates = ", ".join(f"{r.mean:.1%} at {r.size}" for r in report.rates)
    Console().print(
        f"IR leakage rate {rates}; accuracy {report.accuracy:.1%} ({report.test_examples} examples); wrote {out}",
        markup=False,
    )


@app.command(epilog="Example:  fedspill train generator plans/train/cifar10_generator.toml --out generator.safetensors")
def generator(plan: Plan, out: Out, settings: Settings = None, device: Device = "auto") -> None:
    """A network from noise to images like the public ones, for gias; run it again to go on after a kill."""
    check_device(device)
    table = table_of(plan, settings)
    from fedspill.cli.progress import TerminalListener
    from fedspill.plan.build import pick_device
    from fedspill.plan.file import parse_as
    from fedspill.training.generator import train_generator_file
    from fedspill.training.plan import GeneratorPlan

    read = parse_as(GeneratorPlan, table)
    with TerminalListener(Console(stderr=True)) as listener:
        report = train_generator_file(
            read, out, device=pick_device(device), listener=listener, command=command_line(out)
        )
    similar = "" if report.ssim is None else f", SSIM {report.ssim:.3f}"
    Console().print(
        f"PSNR {report.psnr:.2f} dB{similar} ({report.examples} held-out images from their own latents, of which"
        f" {report.latents_used} of {report.latent} numbers are used; the mean image gets"
        f" {report.mean_image_psnr:.2f} dB); wrote {out}",
        markup=False,
    )
