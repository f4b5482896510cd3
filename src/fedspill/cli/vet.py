"""`fedspill vet`: reasons not to train on a model that a server sent."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fedspill.cli import early
from fedspill.core.errors import BadInput

if TYPE_CHECKING:
    from fedspill.core.roles import Incoming
    from fedspill.report.vetting import Vetting
    from fedspill.vetting.received import Received

WHAT_SENT = "What the server sent: safetensors, a checkpoint that weights_only loads, or .npz; never a pickle."


def vet_command(
    sent: Annotated[str | None, typer.Argument(metavar="[WEIGHTS]", help=WHAT_SENT, show_default=False)] = None,
    model: Annotated[
        str | None,
        typer.Option(help="As in a plan: a network of the zoo, or package.module:factory. Left out: --reference."),
    ] = None,
    weights: Annotated[str | None, typer.Option(help="The same as WEIGHTS.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="The agreed architecture, likewise, from code that the client holds.")
    ] = None,
    previous: Annotated[Path | None, typer.Option(metavar="FILE", help="The weights of the round before.")] = None,
    own_data: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Some of your examples: a file with inputs and labels, or a folder with one of pictures per class.",
        ),
    ] = None,
    exposure: Annotated[
        bool, typer.Option("--exposure", help="Run the readouts on the update that --own-data gives: what would leak?")
    ] = False,
    seconds: Annotated[
        float | None, typer.Option(min=1, help="For all checks; what is not done by then is a finding.")
    ] = None,
    checksum: Annotated[
        str | None, typer.Option(metavar="HEX", help="The checksum that other clients got, 8 digits of it or more.")
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="Checks, severities, what is required; see docs/vetting.md."),
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Findings that were accepted and raise no alarm again.")
    ] = None,
    accept: Annotated[bool, typer.Option("--accept", help="Write this model's findings to --baseline.")] = False,
    sarif: Annotated[Path | None, typer.Option(metavar="FILE", help="Write SARIF 2.1.0 there.")] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write JUnit XML there.")] = None,
    summary: Annotated[str | None, typer.Option(metavar="md|FILE.md", help=early.HELP)] = None,
    shape: Annotated[str, typer.Option(help="Channels x height x width of one input.")] = "3x32x32",
    num_classes: Annotated[int, typer.Option(min=1, help="Of a zoo or library model.")] = 10,
) -> None:
    """Look for what a server may have planted in a model: handcrafted weights, another architecture, a jump.

    Exit code: 0 no alarm, which is not evidence of safety; 1 a finding of severity 0.5 or more, or as the policy says;
    2 bad input.
    """
    headline = early.headline_of(summary)
    file = _one(sent, weights)
    if exposure and own_data is None:
        raise BadInput("--exposure is given without --own-data PATH, the examples whose update is attacked")
    for path in (file, previous, policy):
        if path is not None:
            early.check_file(path)
    if accept and baseline is None:
        raise BadInput("--accept is given without --baseline FILE.json, to which the findings are written")
    from fedspill.vetting.baseline import read_baseline, write_baseline
    from fedspill.vetting.policy import STANDARD, read_policy
    from fedspill.vetting.verdict import vetted

    rules = STANDARD if policy is None else read_policy(policy)
    accepted = None if baseline is None else read_baseline(baseline)
    incoming = _incoming(file, model, reference, previous, checksum, shape, num_classes)
    if own_data is not None:
        incoming = _with_data(incoming, own_data, exposure, seconds)
    done = vetted(incoming, Path(file).name, rules, accepted, seconds)
    if accept and baseline is not None:
        write_baseline(baseline, [judged.finding for judged in done.findings])
        done = vetted(incoming, Path(file).name, rules, read_baseline(baseline))
    _write_views(done, Console(), headline, sarif, junit)
    raise typer.Exit(done.exit_code)


def _one(sent: str | None, weights: str | None) -> str:
    if (sent is None) == (weights is None):
        raise BadInput("one file of weights is needed, as WEIGHTS or as --weights FILE")
    return str(sent or weights)


def _incoming(
    file: str,
    model: str | None,
    reference: str | None,
    previous: Path | None,
    checksum: str | None,
    shape: str,
    num_classes: int,
) -> "Incoming":
    from fedspill.cli.captured import image_shape
    from fedspill.core.roles import Incoming
    from fedspill.zoo.models import build

    name, size = model or reference, image_shape(shape)
    if name is None:
        raise BadInput("--model or --reference is needed: the network that the weights are to be loaded into")
    got = _loaded(file, name, size, num_classes)
    before = None if previous is None else _loaded(str(previous), name, size, num_classes).model
    agreed = None if reference is None else build(reference, input_shape=size, num_classes=num_classes)
    return Incoming(got.model, before, agreed, misfit=got.misfit, checksum=checksum)


def _with_data(incoming: "Incoming", path: Path, exposure: bool, seconds: float | None) -> "Incoming":
    from dataclasses import replace

    from fedspill.auditing.capturing.truths import read_truth
    from fedspill.auditing.exposure import MeasuresExposure
    from fedspill.vetting.own_data import fitting

    pool = read_truth(str(path), incoming.model)
    if not pool.has_labels:
        raise BadInput(f"--own-data {str(path)!r} holds no labels, without which there is no loss")
    measures = MeasuresExposure() if seconds is None else MeasuresExposure(seconds=0.7 * seconds)
    data = fitting(incoming.model, pool.batch)
    return replace(incoming, own_data=data, exposure=measures if exposure else None)


def _loaded(file: str, name: str, size: tuple[int, int, int], num_classes: int) -> "Received":
    from fedspill.core.tensor_files import read_tensors
    from fedspill.vetting.received import Received, received
    from fedspill.zoo.models import build

    if file in early.WORDS:
        return Received(build(name, input_shape=size, num_classes=num_classes, weights=file))
    return received(build(name, input_shape=size, num_classes=num_classes), read_tensors(file), file)


def _write_views(
    vetting: "Vetting", console: Console, headline: early.Headline | None, sarif: Path | None, junit: Path | None
) -> None:
    """Prints the table, or the Markdown in its place, and writes the files that were asked for."""
    from fedspill import catalogue
    from fedspill.core.tensor_files import write_whole
    from fedspill.rendering.vetting import cases, summary, table
    from fedspill.rendering.vetting.sarif import sarif as sarif_of

    if sarif is not None:
        write_whole(sarif, sarif_of(vetting, catalogue.checks()))
    if junit is not None:
        write_whole(junit, cases.junit(vetting))
    if headline is not None and headline.file is None:
        print(summary.markdown(vetting), end="")
        return
    if headline is not None and headline.file is not None:
        write_whole(headline.file, summary.markdown(vetting))
    table.show(vetting, console)
