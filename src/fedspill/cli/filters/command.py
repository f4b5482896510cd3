"""`fedspill filters`: what a client's configured filters do to its update, tried out."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from fedspill.cli import early

if TYPE_CHECKING:
    from fedspill.core.model import Model
    from fedspill.core.types import Batch

CHAIN = "PLAN.toml, NVFlare's privacy.json, package.module:factory, flower:package.module:mods, opacus:...:factory."
EPILOG = (
    "Examples:  fedspill filters plan.toml  |  fedspill filters my_site.privacy:make --clip 1 --noise 0.05  |"
    "  fedspill filters local/privacy.json --scope public  |  fedspill filters flower:my_app.client:mods --json  |"
    "  fedspill filters opacus:my_app.train:private --model lenet --shape 1x28x28"
)


def filters_command(
    chain: Annotated[str, typer.Argument(metavar="CHAIN", help=CHAIN, show_default=False)],
    model: Annotated[
        str | None,
        typer.Option(help="A network of the zoo or package.module:factory; left out: a small one with BatchNorm."),
    ] = None,
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="Of --model; else it is untrained.")] = None,
    shape: Annotated[str, typer.Option(help="Channels x height x width of one input of --model.")] = "3x32x32",
    num_classes: Annotated[int, typer.Option(min=1, help="Of a zoo or library model.")] = 10,
    data: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Your examples with labels; else embedded photographs.")
    ] = None,
    num_examples: Annotated[int, typer.Option(min=1, help="Behind the update that is pushed.")] = 1,
    clip: Annotated[float | None, typer.Option(help="The norm that the chain is meant to clip to.")] = None,
    noise: Annotated[
        float | None, typer.Option(help="The standard deviation that its noise is meant to have, in the update's unit.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Over which epsilon is composed.")] = 100,
    delta: Annotated[float, typer.Option(help="Of the composed epsilon.")] = 1e-5,
    pushes: Annotated[int, typer.Option(min=4, help="Of the same update; even.")] = 16,
    scope: Annotated[str | None, typer.Option(metavar="NAME", help="Of privacy.json; else its default.")] = None,
    numbers: Annotated[
        Literal["torch", "numpy"], typer.Option(help="What a function of your own is handed.")
    ] = "torch",
    seconds: Annotated[
        float, typer.Option(min=0, help="For the attacks before, and for those of each server after; 0: none.")
    ] = 40.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Push known updates through a client's filter chain: what leaves and leaks.

    Tensor by tensor: passed unchanged, clipped, noised, pruned, quantised,
    dropped; then NaN and infinity, the attacks before and after, and epsilon
    or the words "no differential privacy".

    CHAIN: PLAN.toml; NVFlare's privacy.json; package.module:name, a function
    of your own, a factory of one, or a list of Flower's mods;
    flower:package.module:mods; opacus:package.module:factory. A function takes
    and returns a mapping of names to tensors, client minus server; None
    withholds it. See docs/filters.md.

    Exit code: 0 no alarm, which is not evidence of safety; 1 a finding of
    severity 0.5 or more; 2 bad input.
    """
    for path in (weights, *([Path(chain)] if chain.endswith((".toml", ".json")) else [])):
        if path is not None:
            early.check_file(path)
    from fedspill.filtering.chains.loading import load_chain
    from fedspill.filtering.verdict import filtered
    from fedspill.rendering.filtering import as_json as writing
    from fedspill.rendering.filtering import table

    network = _network(model, weights, shape, num_classes)
    batch = _batch(network, data, num_examples)
    loaded = load_chain(chain, network, scope=scope, numbers=numbers, clip=clip)
    done = filtered(
        loaded,
        chain,
        network,
        batch,
        pushes=pushes,
        rounds=rounds,
        delta=delta,
        clip=clip,
        noise_std=noise,
        seconds=float(seconds),
    )
    if as_json:
        sys.stdout.write(writing.as_json(done))
    else:
        table.show(done, Console())
    raise typer.Exit(done.exit_code)


def _network(name: str | None, weights: Path | None, shape: str, num_classes: int) -> "Model":
    from fedspill.cli.captured import image_shape
    from fedspill.core.errors import BadInput
    from fedspill.filtering.known import usual_model
    from fedspill.zoo.models import build

    if name is None:
        if weights is not None:
            raise BadInput("--weights is given without --model, the network that they are of")
        return usual_model()
    untrained = "untrained" if weights is None else weights
    return build(name, input_shape=image_shape(shape), num_classes=num_classes, weights=untrained)


def _batch(model: "Model", data: Path | None, examples: int) -> "Batch":
    from fedspill.auditing.capturing.truths import read_truth
    from fedspill.core.errors import BadInput
    from fedspill.filtering.known import usual_batch
    from fedspill.vetting.own_data import fitting

    if data is None:
        return usual_batch(model, examples)
    pool = read_truth(str(data), model)
    if not pool.has_labels:
        raise BadInput(f"--data {str(data)!r} holds no labels, without which there is no loss")
    if len(pool.batch) < examples:
        raise BadInput(f"--data {str(data)!r} holds {len(pool.batch)} examples; --num-examples {examples} are asked")
    return fitting(model, pool.batch[:examples])
