"""What `fedspill attack` makes of its options, and shows of its results."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from fedspill.auditing.capturing.attacking import Captured
from fedspill.auditing.capturing.scoring import Judging
from fedspill.auditing.capturing.truths import read_truth
from fedspill.auditing.run import AuditResult
from fedspill.core.errors import BadInput
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.losses import loss_of
from fedspill.core.local_training.update import LocalTraining
from fedspill.core.memory import free_bytes, words
from fedspill.core.model import Model
from fedspill.core.tensor_files import write_whole
from fedspill.plan.file import parse_as
from fedspill.plan.sections import STEPS_ONLY, ClientSection
from fedspill.plan.training import training_of
from fedspill.plan.values import set_fields, toml_value
from fedspill.rendering.drawing.pictures import enlarge, image, png
from fedspill.rendering.folder import HTML_FILE, write_views
from fedspill.rendering.terminal import summary
from fedspill.zoo.statistics import IDENTITY, NAMED, Normalisation, stated


def show(captured: Captured, out: Path) -> int:
    """Writes the reconstructions as pictures, and says what the attack, and the truth, say of them; the exit code."""
    console, found = Console(), captured.reconstruction
    for k, picture in enumerate(found.inputs):
        write_whole(out / f"rebuilt-{k}.png", png(enlarge(image(picture.float().cpu()))))
    state = "converged by its own measure" if found.converged else "did NOT converge by its own measure"
    best = "" if found.confidence is None else f", confidence up to {float(found.confidence.max()):.3f}"
    console.print(f"{len(found.inputs)} inputs were rebuilt; the attack {state}{best}.", markup=False)
    if captured.certified is not None:
        style = "bold" if captured.certified.is_certificate else "yellow"
        console.print(captured.certified.sentence(), markup=False, style=style)
    for note in found.notes:
        console.print(note, markup=False, style="yellow")
    if captured.result is not None:
        return _judged(captured.result, out, console)
    console.print("No truth was at hand: a poor picture is not evidence of safety.", style="yellow")
    console.print(f"Results: {out}", markup=False, style="bold")
    return 0


def _judged(result: AuditResult, out: Path, console: Console) -> int:
    report = write_views(out, result.report, result.tensors, result.texts)
    summary(report, console, result.texts)
    console.print(f"Report: {out / HTML_FILE}", markup=False, style="bold")
    return report.verdict.exit_code


def judging_of(truth: Path | None, thresholds: list[str] | None, knowledge: ServerKnowledge) -> Judging | None:
    """By what the reconstruction is judged; None without a truth.

    Raises:
        BadInput: the truth cannot be read, or a threshold is no METRIC=VALUE, or is given without truth.
    """
    if truth is None:
        if thresholds:
            raise BadInput("--leak-threshold is given without --truth, by which alone a reconstruction can be judged")
        return None
    limits = dict(_threshold(text) for text in thresholds) if thresholds else None
    return Judging(read_truth(truth, knowledge.model, knowledge.labels), limits)


def _threshold(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise BadInput(f"--leak-threshold {text!r}: METRIC=VALUE is needed, such as psnr=20") from None


def image_shape(text: str) -> tuple[int, int, int]:
    """Such as "3x32x32".

    Raises:
        BadInput: it is not of this form.
    """
    match = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})x([0-9]{1,9})", text)
    if match is None or any(int(part) == 0 for part in match.groups()):
        raise BadInput(f"--shape {text[:40]!r}: channels x height x width are needed, such as 3x32x32")
    channels, height, width = (int(part) for part in match.groups())
    size, free = 4 * channels * height * width, free_bytes(torch.device("cpu"))
    if size > free:
        raise BadInput(f"--shape {text!r}: one input takes {words(size)}; {words(free)} of memory are free")
    return channels, height, width


def numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    """Numbers with commas between them.

    Raises:
        BadInput: something else.
    """
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = (math.nan,)
    if not all(map(math.isfinite, found)):
        raise BadInput(f"{option} {text!r}: numbers with commas between them are needed")
    return found


Word = Literal["none", "imagenet", "cifar10", "cifar100"]
"""A normalisation that has a name."""
WORDS = {"none": IDENTITY} | {word: statistics for word, (_, statistics) in NAMED.items()}
SAY_IT = (
    "give --mean and --std per channel (and --range, if not of pixels in [0, 1]), or --normalise none, imagenet,"
    " cifar10 or cifar100"
)


def normalisation(word: Word | None, mean: str | None, std: str | None, ends: str | None) -> Normalisation | None:
    """What the command says that images are normalised by; None if it says nothing.

    Args:
        word: a name.
        mean: numbers with commas between them, as is `std`.
        ends: what black and white are before these.

    Raises:
        BadInput: two that contradict each other, or values that no image can be normalised by.
    """
    told = [name for name, value in (("--mean", mean), ("--std", std), ("--range", ends)) if value is not None]
    if word is not None and told:
        raise BadInput(f"--normalise {word} and {', '.join(told)} are given; one or the other is needed")
    if word is not None:
        return Normalisation(WORDS[word], f"--normalise {word}, as the command says")
    if not told:
        return None
    limits = numbers(ends, "--range")
    if limits is not None and len(limits) != 2:
        raise BadInput(f"--range {ends!r}: two numbers are needed, what black and white are, such as 0,255")
    pair = None if limits is None else (limits[0], limits[1])
    return Normalisation(stated(numbers(mean, "--mean"), numbers(std, "--std"), pair), "as the command says")


def with_loss(model: Model, text: str | None, settings: list[str]) -> Model:
    """The model with the loss that the command states, by `--loss` or as a key of a plan's [client]; else as it is.

    Args:
        text: a name or package.module:function, with fields behind it if any, as `cross_entropy,label_smoothing=0.1`;
            or a TOML table, or list of such.
        settings: KEY=VALUE of [client].

    Raises:
        BadInput: it is stated twice, or names no loss.
    """
    told = set_fields(settings, "--client").get("loss")
    if text is None:
        return model if told is None else model.with_loss(loss_of(told))
    if told is not None:
        raise BadInput("--loss and --client loss are given; one of the two is needed")
    return model.with_loss(loss_of(_loss(text.strip())))


def _loss(text: str) -> object:
    name, comma, fields = text.partition(",")
    if text.startswith(("{", "[")) or not comma:
        return toml_value(text)
    table = toml_value(f"{{{fields}}}")
    if not isinstance(table, dict):
        raise BadInput(f"--loss {text[:80]!r}: NAME,FIELD=VALUE is needed, such as cross_entropy,label_smoothing=0.1")
    return {**table, "name": name.strip()}


def known_labels(text: str | None, num_examples: int | None, num_classes: int) -> torch.Tensor | None:
    """Class numbers (n,) with commas between them.

    Raises:
        BadInput: something else, other classes than the model has, or another number of them than of examples.
    """
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


def local_training(kind: str, options: Mapping[str, object], settings: list[str]) -> LocalTraining | None:
    """The protocol that options tell; None if it is not known.

    Args:
        kind: of the update; a gradient has no local training.
        options: keys of a plan's [client] that have options of their own, those that were not given as None.
        settings: further keys of it, as KEY=VALUE.

    Raises:
        BadInput: options that do not go together, or a key or a value that a plan would not take.
    """
    given = {k: v for k, v in options.items() if v is not None}
    further = set_fields(settings, "--client")
    options_typed = {k: f"--{k.replace('_', '-')}" for k in given}
    if twice := sorted(given.keys() & further.keys()):
        raise BadInput(f"{options_typed[twice[0]]} and --client {twice[0]} are given; one of the two is needed")
    typed = options_typed | {k: f"--client {k}" for k in further}
    told = given | further
    told.pop("loss", None)  # of the model, see `with_loss`
    if elsewhere := sorted(told.keys() & ELSEWHERE.keys()):
        raise BadInput(f"--client {elsewhere[0]}: {ELSEWHERE[elsewhere[0]]}")
    if kind == "gradient":
        if steps := [typed[k] for k in STEPS_ONLY if k in told]:
            raise BadInput(f"{', '.join(steps)} given: with --kind gradient there is no local training")
        return _client({"protocol": "fedsgd", **told}, typed)
    if not told:
        return None
    if "epochs" not in told or "lr" not in told:
        raise BadInput("a known local training needs both --epochs and --lr; leave both out to search")
    return _client({"protocol": "fedavg", **told}, typed)


WHOLE = "the client as it was stated"
"""Stands in a message for the options that do not go together, until they are found in it."""


def _client(table: dict[str, Any], typed: Mapping[str, str]) -> LocalTraining:
    """The protocol; what is refused is called as it was typed."""

    def named(where: str) -> str:
        key, dot, rest = where.partition(".")
        return f"{typed[key]}{dot}{rest}" if key in typed else WHOLE

    try:
        return training_of(parse_as(ClientSection, table, named))
    except BadInput as error:
        if not str(error).startswith(WHOLE):
            raise
        meant = [word for key, word in typed.items() if re.search(rf"\b{key}\b", str(error))]
        raise BadInput(f"{', '.join(meant or typed.values())}{str(error).removeprefix(WHOLE)}") from None


ELSEWHERE = {
    "protocol": "--kind says which protocol it is",
    "num_examples": "give --num-examples",
    "clients": "give --clients",
    "distinct_labels": "it is of an audit's own data",
    "micro_batch": "it is of an audit's own clients",
}
"""Keys of a plan's [client] that are no part of the protocol."""


def num_classes_of(model: Model) -> int:
    """How many logits the model has."""
    z = model.like.new_zeros(1, *model.input.encoded_shape)
    with torch.no_grad():
        return model.in_eval_mode().logits(model.params, z).shape[-1]
