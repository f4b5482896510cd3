"""The verbs of fedspill in Python: `audit` a planned federation, `attack` a captured update, `vet` a received model.

They are handed on by `fedspill` itself, and are what the commands of the same names do. A bare `nn.Module` is enough;
what it cannot tell (the shape and the normalisation of its inputs, the loss) is asked for by name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedspill import catalogue
from fedspill.auditing.captured import Kind, attack_captured, check_entry, run_key
from fedspill.auditing.capturing.scoring import Judging
from fedspill.auditing.capturing.truths import Truth, read_truth
from fedspill.auditing.capturing.updates import clients_of, observed
from fedspill.auditing.resolving.scenario import public_pool
from fedspill.auditing.run import AuditResult as RunResult
from fedspill.auditing.run import run_audit
from fedspill.auditing.watch import Listener, Silent
from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.libraries.named import called
from fedspill.core.local_training.losses import loss_of
from fedspill.core.local_training.update import FedSGD, LocalTraining
from fedspill.core.model import LossFn, Model
from fedspill.core.probing.inputs import probe_inputs
from fedspill.core.roles import Finding, Incoming
from fedspill.core.tensor_files import write_whole
from fedspill.core.types import Batch, Reconstruction, Update, UpdateKind
from fedspill.plan.build import of_data, pick_device
from fedspill.plan.file import parse_plan, read_plan
from fedspill.plan.from_python import with_optimizer, with_training
from fedspill.plan.sections import AttackEntry, AuditPlan, parse_seconds
from fedspill.report.store import Store
from fedspill.zoo.data import DataPool, pool_of
from fedspill.zoo.models import of_module
from fedspill.zoo.statistics import Normalisation, check_channels, measured, stated


class Unsaid:
    """The value of a keyword that was not given, where None means something."""

    def __repr__(self) -> str:
        return "not given"


UNSAID: Final = Unsaid()
PerChannel = Sequence[float | int] | NDArray[Any] | Tensor | float | int
Range = tuple[float | int, float | int] | list[float | int]
"""What black and white are, before mean and std."""
Normalise = tuple[PerChannel, PerChannel] | Literal["data"] | None
"""Mean and standard deviation, per channel or one for all, of the numbers of `range`; None: these are fed as they are.

"data" takes the data's statistics: its constants, where the data set has some, else what public images give."""
Loss = LossFn | str
"""Of logits (n, classes) and labels (n,) to their mean loss; or "package.module:function", which names one."""
Data = DataPool | tuple[Any, Any] | object
"""A pool; images in [0, 1] or of bytes with labels: a pair of tensors or arrays, a list of (image, label), a Dataset of
torch or Hugging Face, a DataLoader; see `fedspill.zoo.data.pool_of`; or
"package.module:factory", which gives one of these."""


@dataclass(frozen=True)
class AuditResult(RunResult):
    """The report, with what it speaks of.

    Attributes:
        tensors: "private/INDEX", "rebuilt/TRIAL" and, of what was read in bins, "unscored/TRIAL"; empty for a redacted
            audit.
        folder: where it was written, if it was.
        texts: the same as text, of sentences and tables.

    Example:
        >>> import fedspill, pathlib, tempfile
        >>> plan = {"audit": {"attacks": ["linear_layer"]}, "model": {"name": "mlp"},
        ...         "data": {"name": "photos", "indices": "0", "size": 8}}
        >>> result = fedspill.audit(plan)
        >>> result.report.verdict.exit_code
        1
        >>> page = result.html(pathlib.Path(tempfile.mkdtemp()) / "leakage.html")
        >>> page.read_text(encoding="utf-8").lower().startswith("<!doctype html>")
        True
    """

    def html(self, path: str | Path) -> Path:
        """Writes the report as one self-contained HTML file, with its pictures in it.

        Args:
            path: of the file; in a folder that exists it is called report.html.

        Returns:
            Where it was written.
        """
        from fedspill.rendering.folder import HTML_FILE, page_of

        place = Path(path) / HTML_FILE if Path(path).is_dir() else Path(path)
        write_whole(place, page_of(self.report, self.tensors, self.texts))
        return place


Sendable = Mapping[str, Any] | Sequence[Any] | str | Path | object
"""Named tensors or arrays, a list of arrays, an `ArrayRecord`, or a path to a file or a folder of these."""


def audit(
    plan: AuditPlan | Mapping[str, Any] | str | Path,
    *,
    model: Model | nn.Module | None = None,
    data: Data | None = None,
    normalise: Normalise | Unsaid = UNSAID,
    range: Range | None = None,
    loss: Loss | None = None,
    local_training: LocalTraining | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    out: str | Path | None = None,
    budget: str | float | int | None = None,
    device: str = "auto",
    fresh: bool = False,
    redact: bool = False,
    listener: Listener | None = None,
) -> AuditResult:
    """Runs a plan: simulates the clients, attacks what they send, and judges what leaked.

    Args:
        plan: a TOML file, a mapping of the same sections, or a parsed plan; see docs/plan.md.
        model: used instead of the plan's model; a bare network needs `data` and `normalise` beside it.
        data: private examples used instead of the plan's.
        normalise: (mean, std) that a bare network's images are normalised by, per channel or one for all; None if it
            takes the numbers of `range` as they are; "data" for the data's statistics, measured on public images
            where the data set has no constants, never on private ones.
        range: what black and white are before `mean` is taken off and `std` divides: (0, 255), (-1, 1); None is (0, 1).
        loss: of logits (n, classes) and labels (n,) to their mean loss, or "package.module:function"; None is
            cross-entropy. With `model` only.
        local_training: the clients' protocol, instead of the plan's.
        optimizer: of `torch.optim`, made of `model`'s parameters: its class and settings are those that clients train
            with, on the parameters that it holds; epochs and mini-batches are the plan's.
        out: folder for report.json, pictures and HTML, and to resume from; None keeps everything in memory.
        budget: seconds, or a text such as "90s", "5m" or "1h", for all trials together; instead of the plan's.
        device: "auto", "cpu" or "cuda".
        fresh: start over in a folder that already holds this audit.
        redact: keep no private pixel and no reconstruction.
        listener: shows progress.

    Raises:
        BadInput: something cannot be used as given; the message names what was got and what is needed.
        NotApplicable: an attack that the plan names does not fit the model or the data.

    Example:
        >>> import fedspill, torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 16), torch.nn.ReLU(),
        ...                           torch.nn.Linear(16, 10))
        >>> images, labels = torch.rand(2, 3, 8, 8), torch.tensor([3, 5])
        >>> result = fedspill.audit({"audit": {"attacks": ["linear_layer"]}, "client": {"num_examples": 1}},
        ...                         model=net, data=(images, labels), normalise=None)
        >>> result.report.verdict.name.value
        'leaks'
    """
    read = _plan(plan)
    if budget is not None:
        seconds = parse_seconds(budget) if isinstance(budget, str) else float(budget)
        if not seconds > 0:
            raise BadInput(f"budget={budget!r}: more than 0 seconds are needed")
        read = read.model_copy(update={"audit": read.audit.model_copy(update={"budget": seconds})})
    read = read if local_training is None else with_training(read, local_training)
    if optimizer is not None:
        if local_training is not None or model is None:
            raise BadInput("optimizer is of `model`, which it needs; with local_training it is part of that")
        read = with_optimizer(read, optimizer, model.module if isinstance(model, Model) else model)
    held = called(data, "data") if isinstance(data, str) else data
    pool = None if held is None else pool_of(held, read.data.indices)
    if loss is not None and read.client.loss is not None:
        raise BadInput("loss is given, and the plan sets client.loss; set one of them")
    if model is not None:
        _check_network(model, "model")
    if model is None and (loss is not None or range is not None or not isinstance(normalise, Unsaid)):
        raise BadInput(
            "loss, normalise and range are of `model`, which was not given; a plan states its own under [model]"
        )
    sent, origin = (None, None) if model is None else _audited(model, pool, normalise, range, loss, read)
    folder = None if out is None else Path(out)
    result = run_audit(
        read,
        out=folder,
        model=sent,
        data=pool,
        device=device,
        listener=listener,
        fresh=fresh,
        redact=redact,
        command="fedspill.audit(...)",
        normalisation=origin,
    )
    return _with_views(result, folder)


def _with_views(result: RunResult, folder: Path | None) -> AuditResult:
    """The result, its pictures and pages written if there is a folder for them."""
    report = result.report
    if folder is not None:
        from fedspill.rendering.folder import write_views

        report = write_views(folder, report, result.tensors, result.texts)
    return AuditResult(report, result.tensors, result.folder, result.texts)


@overload
def attack(
    update: Update | Sendable,
    model: Model | nn.Module,
    *,
    num_examples: int | None = ...,
    labels: Tensor | None = ...,
    kind: Kind = ...,
    attack: str = ...,
    settings: Mapping[str, Any] | None = ...,
    shape: tuple[int, int, int] | None = ...,
    normalise: Normalise | Unsaid = ...,
    range: Range | None = ...,
    loss: Loss | None = ...,
    mode: Literal["eval", "train"] = ...,
    local_training: LocalTraining | None = ...,
    clients: int = ...,
    public_data: Batch | None = ...,
    seed: int = ...,
    budget: str | float | int | None = ...,
    device: str = ...,
    out: str | Path | None = ...,
    fresh: bool = ...,
    listener: Listener | None = ...,
    truth: None = None,
    leak_threshold: None = None,
) -> Reconstruction: ...


@overload
def attack(
    update: Update | Sendable,
    model: Model | nn.Module,
    *,
    num_examples: int | None = ...,
    labels: Tensor | None = ...,
    kind: Kind = ...,
    attack: str = ...,
    settings: Mapping[str, Any] | None = ...,
    shape: tuple[int, int, int] | None = ...,
    normalise: Normalise | Unsaid = ...,
    range: Range | None = ...,
    loss: Loss | None = ...,
    mode: Literal["eval", "train"] = ...,
    local_training: LocalTraining | None = ...,
    clients: int = ...,
    public_data: Batch | None = ...,
    seed: int = ...,
    budget: str | float | int | None = ...,
    device: str = ...,
    out: str | Path | None = ...,
    fresh: bool = ...,
    listener: Listener | None = ...,
    truth: Truth,
    leak_threshold: Mapping[str, float] | None = ...,
) -> AuditResult: ...


def attack(
    update: Update | Sendable,
    model: Model | nn.Module,
    *,
    num_examples: int | None = None,
    labels: Tensor | None = None,
    kind: Kind = "gradient",
    attack: str = "inverting_gradients:quick",
    settings: Mapping[str, Any] | None = None,
    shape: tuple[int, int, int] | None = None,
    normalise: Normalise | Unsaid = UNSAID,
    range: Range | None = None,
    loss: Loss | None = None,
    mode: Literal["eval", "train"] = "eval",
    local_training: LocalTraining | None = None,
    clients: int = 1,
    public_data: Batch | None = None,
    seed: int = 0,
    budget: str | float | int | None = None,
    device: str = "auto",
    out: str | Path | None = None,
    fresh: bool = False,
    listener: Listener | None = None,
    truth: Truth | None = None,
    leak_threshold: Mapping[str, float] | None = None,
) -> Reconstruction | AuditResult:
    """Rebuilds inputs from one captured update; a poor picture is not evidence of safety.

    With the truth at hand it is scored and judged as an audit's: any trainer can be audited so, by one update of its.

    Args:
        update: what the client sent: named tensors or arrays, a list of arrays in the order of `state_dict()` (Flower),
            an `ArrayRecord`, or a file of these (safetensors, checkpoint, .npz), or a folder with a file per client,
            of which the mean is taken.
        model: the global model as the client got it; a bare network needs `shape` and `normalise` beside it.
        num_examples: how many examples are behind the update, if known.
        labels: their classes (n,), if known.
        kind: "gradient"; "delta", of which either sign is found out where it can be, and else server minus client is
            taken; or "weights", the client's after training. Not for an `Update`, which says so itself.
        attack: "name" or "name:preset"; `fedspill.attacks()` lists them.
        settings: fields of the attack to change.
        shape: channels, height and width of one image.
        normalise: as in `audit`; "data" measures it on `public_data`.
        range: as in `audit`.
        loss: as in `audit`.
        mode: how BatchNorm ran at the client.
        local_training: the clients' protocol, if known; a gradient has none.
        clients: how many clients' updates were averaged.
        public_data: examples from the clients' distribution, if the server holds any.
        seed: of the attack's random start.
        budget: seconds, or a text such as "5m".
        device: "auto", "cpu" or "cuda".
        out: folder for attack.json and the reconstructions, and to resume from; None writes nothing.
        fresh: start over in a folder that already holds this run.
        listener: shows progress.
        truth: the private examples, opened when the attack is over: a pair of images (n, c, h, w) in [0, 1] and labels
            (n,), images alone, or a path to a file with `inputs` and `labels` or to a folder of pictures.
        leak_threshold: metric to value, with `truth`; an example leaks when all are met. None is as in a plan.

    Returns:
        The reconstruction; with `truth` its scores, its report and the verdict, as `audit` gives them.

    Raises:
        BadInput: something cannot be used as given.
        NotApplicable: the attack does not fit the model or the update.

    Example:
        >>> import fedspill, torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 16), torch.nn.ReLU(),
        ...                           torch.nn.Linear(16, 10))
        >>> image = torch.rand(1, 3, 8, 8)
        >>> loss = torch.nn.functional.cross_entropy(net(image), torch.tensor([3]))
        >>> names = [name for name, _ in net.named_parameters()]
        >>> update = dict(zip(names, torch.autograd.grad(loss, list(net.parameters()))))
        >>> rebuilt = fedspill.attack(update, net, num_examples=1, attack="linear_layer", shape=(3, 8, 8),
        ...                           normalise=None)
        >>> bool((rebuilt.inputs - image).abs().max() < 1e-4)
        True
        >>> fedspill.attack(update, net, num_examples=1, attack="linear_layer", shape=(3, 8, 8), normalise=None,
        ...                 truth=(image, torch.tensor([3]))).report.verdict.name.value
        'leaks'
    """
    _check_captured(model, kind, mode, num_examples, labels, clients, budget)
    if isinstance(model, Model):
        _check_unsaid(normalise, range, "a fedspill.Model brings its own input")
    received = model if isinstance(model, Model) else _captured(model, shape, normalise, range, mode, public_data)
    received = _with_loss(received, loss).to(pick_device(device), received.like.dtype)
    sent = observed(update, kind, received, num_examples)
    training = _protocol_of(sent.update, local_training)
    known = None if labels is None else labels.to(received.like.device)
    knowledge = ServerKnowledge(received, clients_of(sent, clients), num_examples, known, training, public_data)
    _check_labels(known, received)
    name, _, preset = attack.partition(":")
    entry = AttackEntry.model_validate({"name": name, "preset": preset or "paper", **(settings or {})})
    check_entry(entry, knowledge)
    judging = _judging(truth, leak_threshold, knowledge)
    seconds = parse_seconds(budget) if isinstance(budget, str) else budget
    folder = None if out is None else Path(out)
    if folder is not None:
        conditions = (
            entry.label,
            dict(settings or {}),
            seed,
            knowledge.num_clients,
            num_examples,
            labels,
            training,
            mode,
        )
        Store(folder, run_key(received, sent.update, conditions, judging)).open(fresh=fresh)
    captured = attack_captured(
        entry,
        sent.update,
        knowledge,
        out=folder,
        seed=seed,
        budget=seconds,
        listener=listener or Silent(),
        command="fedspill.attack(...)",
        notes=sent.notes,
        judging=judging,
    )
    return captured.reconstruction if captured.result is None else _with_views(captured.result, folder)


def _check_captured(
    model: object,
    kind: object,
    mode: object,
    num_examples: object,
    labels: object,
    clients: object,
    budget: object,
) -> None:
    """What the command line checks of its options.

    Raises:
        BadInput: names the first that cannot be.
    """
    _check_network(model, "model")
    if mode not in ("eval", "train"):
        raise BadInput(f'mode={mode!r}: "eval" or "train" is needed')
    if kind not in get_args(Kind):
        raise BadInput(f"kind={kind!r} is unknown; it is {', '.join(get_args(Kind))}")
    for name, value in (("num_examples", 1 if num_examples is None else num_examples), ("clients", clients)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BadInput(f"{name}={value!r}: a whole number of at least 1 is needed")
    if isinstance(num_examples, int) and isinstance(clients, int) and num_examples % clients:
        raise BadInput(f"num_examples={num_examples} cannot be shared out equally to clients={clients}")
    if labels is not None and not isinstance(labels, Tensor):
        raise BadInput(f"labels is a {type(labels).__name__}; a tensor of classes (n,), or of targets, is needed")
    if isinstance(labels, Tensor) and num_examples is not None and len(labels) != num_examples:
        raise BadInput(f"labels are {len(labels)}, num_examples says {num_examples}")
    if isinstance(budget, int | float) and not budget > 0:
        raise BadInput(f"budget={budget!r}: more than 0 seconds are needed")


def _check_network(model: object, name: str) -> None:
    if not isinstance(model, Model | nn.Module):
        raise BadInput(f"{name} is a {type(model).__name__}; a torch.nn.Module or a fedspill.Model is needed")


def _check_labels(labels: Tensor | None, model: Model) -> None:
    """Classes are those that the model knows; other targets are the loss's affair."""
    if labels is None or labels.ndim != 1 or labels.is_floating_point():
        return
    z = probe_inputs(model.input, 1, model.like)
    with torch.no_grad():
        classes = max(2, model.in_eval_mode().logits(model.params, z).shape[-1])
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise BadInput(f"labels {labels.tolist()[:8]}: the model's classes are 0 to {classes - 1}")


def _protocol_of(update: Update, known: LocalTraining | None) -> LocalTraining | None:
    """A gradient is FedSGD's, as it was said or plain; of a delta what was said, if anything.

    Raises:
        BadInput: local training is said of a gradient, or none of a delta.
    """
    gradient = update.kind is UpdateKind.GRADIENT
    if known is not None and isinstance(known, FedSGD) is not gradient:
        raise BadInput(
            f"local_training={known} beside a {update.kind.value}: a gradient is FedSGD's, a delta or weights FedAvg's"
        )
    return known or (FedSGD() if gradient else None)


def _judging(truth: Truth | None, threshold: Mapping[str, float] | None, knowledge: ServerKnowledge) -> Judging | None:
    if truth is None and threshold is not None:
        raise BadInput("leak_threshold is given without truth, by which alone a reconstruction can be judged")
    if truth is None:
        return None
    pool = read_truth(truth, knowledge.model, knowledge.labels)
    return Judging(pool, None if threshold is None else dict(threshold))


def vet(
    model: Model | nn.Module,
    *,
    previous: Model | nn.Module | None = None,
    reference: Model | nn.Module | None = None,
    own_data: Batch | None = None,
    shape: tuple[int, int, int] | None = None,
    checks: tuple[str, ...] = (),
) -> list[Finding]:
    """Looks for reasons not to train on a model that a server sent. No finding means nothing seen, not safe.

    Args:
        model: as it was received.
        previous: the model of the round before.
        reference: the architecture that was agreed on.
        own_data: the client's own examples.
        shape: channels, height and width of one image; for checks that run a bare network.
        checks: "name" or "name:preset"; () takes all that apply.

    Returns:
        The findings, the most severe first.

    Raises:
        BadInput: an unknown check.

    Example:
        >>> import fedspill, torch
        >>> fedspill.vet(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10)))
        []
        >>> planted = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10))
        >>> _ = planted[1].weight.data.copy_(torch.ones(10, 192))
        >>> fedspill.vet(planted)[0].where
        '1.weight'
    """
    for name, given in (("model", model), ("previous", previous), ("reference", reference)):
        if given is not None or name == "model":
            _check_network(given, name)
    received = [None if m is None else _vetted(m, shape) for m in (model, previous, reference)]
    sent, before, agreed = received
    assert sent is not None, "`model` is none of those that may be left out"
    incoming = Incoming(sent, before, agreed, own_data)
    cards = catalogue.checks()
    chosen = [catalogue.pick(cards, c, "check") for c in checks or cards]
    fitting = [card.presets[preset] for _, preset, card in chosen if isinstance(sent.input, tuple(card.accepts))]
    findings = [finding for check in fitting for finding in check.inspect(incoming)]
    return sorted(findings, key=lambda finding: -finding.severity)


def _plan(plan: AuditPlan | Mapping[str, Any] | str | Path) -> AuditPlan:
    if isinstance(plan, AuditPlan):
        return plan
    if not isinstance(plan, Mapping | str | Path):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise BadInput(
            f"plan is a {type(plan).__name__}; a TOML file, a mapping of sections, or an AuditPlan is needed"
        )
    return parse_plan(dict(plan)) if isinstance(plan, Mapping) else read_plan(Path(plan))


def _audited(
    model: Model | nn.Module,
    pool: DataPool | None,
    normalise: Normalise | Unsaid,
    ends: Range | None,
    loss: Loss | None,
    plan: AuditPlan,
) -> tuple[Model, str | None]:
    """The model with its loss, and who says what its images are normalised by."""
    training = plan.model.mode == "train"
    if isinstance(model, Model):
        _check_unsaid(normalise, ends, "a fedspill.Model brings its own input")
        return _with_loss(model, loss), None
    if pool is None:
        raise BadInput("a bare nn.Module needs `data`, from which the input's shape is read; or give a fedspill.Model")
    if pool.spec is not None:
        _check_unsaid(normalise, ends, "sentences and table rows bring their own encoding")
        return _with_loss(of_module(model, pool.spec, training=training), loss), None
    channels, height, width = pool.input_shape
    said = _said(normalise, ends, channels, lambda: of_data(pool, public_pool(plan, pool)))
    spec = ImageSpec((channels, height, width), mean=said.statistics.mean, std=said.statistics.std)
    return _with_loss(of_module(model, spec, training=training), loss), said.origin


def _check_unsaid(normalise: Normalise | Unsaid, ends: Range | None, why: str) -> None:
    # Before these were refused, None was ignored here.
    if ends is not None or not (normalise is None or isinstance(normalise, Unsaid)):
        raise BadInput(f"normalise={normalise} and range={ends} are of bare networks of images; {why}")


def _captured(
    module: nn.Module,
    shape: tuple[int, int, int] | None,
    normalise: Normalise | Unsaid,
    ends: Range | None,
    mode: str,
    public_data: Batch | None,
) -> Model:
    channels, height, width = _shape(shape)
    said = _said(normalise, ends, channels, lambda: _of_public(public_data))
    spec = ImageSpec((channels, height, width), mean=said.statistics.mean, std=said.statistics.std)
    return of_module(module, spec, training=mode == "train")


def _of_public(public_data: Batch | None) -> Normalisation:
    if public_data is None:
        raise BadInput('normalise="data" is measured on public_data, which was not given; or give (mean, std)')
    return Normalisation(measured(public_data.inputs), f"measured on {len(public_data)} public images")


def _said(
    normalise: Normalise | Unsaid,
    ends: Range | None,
    channels: int,
    data: Callable[[], Normalisation],
) -> Normalisation:
    """What the caller says of the numbers that a bare network is fed.

    Args:
        ends: what black and white are before mean and std.
        channels: of the images.
        data: asked for the data's statistics.

    Raises:
        BadInput: nothing is said, or the values fit no image.
    """
    if isinstance(normalise, Unsaid) and ends is None:
        raise BadInput(
            "a bare nn.Module needs normalise=(mean, std), per channel of pixels in [0, 1] (or of range=...);"
            ' normalise="data" for the data\'s statistics; or normalise=None if it takes such pixels as they are'
        )
    if normalise == "data":
        if ends is not None:
            raise BadInput('normalise="data" is of pixels in [0, 1]; leave range out, or give (mean, std)')
        return data()
    mean, std = (None, None) if normalise is None or isinstance(normalise, Unsaid) else _pair(normalise, channels)
    return Normalisation(check_channels(stated(mean, std, _ends(ends)), channels), "as the caller says")


def _ends(ends: Range | None) -> tuple[float, float] | None:
    if ends is None:
        return None
    if len(ends) != 2:
        raise BadInput(f"range={ends}: two numbers are needed, what black and white are")
    return float(ends[0]), float(ends[1])


def _pair(normalise: object, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    try:
        mean, std = (_values(part) for part in cast("Sequence[Any]", normalise))
        fits = {len(mean), len(std)} <= {1, channels} and all(v > 0 for v in std)
    except (TypeError, ValueError):
        fits, mean, std = False, (), ()
    if not fits:
        raise BadInput(
            f"normalise={normalise}: mean and positive std, one or for each of {channels} channels, are needed"
        )
    return mean, std


def _values(part: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in np.atleast_1d(np.asarray(part, dtype=float)).ravel())


def _shape(shape: tuple[int, int, int] | None) -> tuple[int, int, int]:
    if shape is None or len(shape) != 3 or min(shape) < 1:
        raise BadInput(f"shape={shape}: a bare nn.Module needs shape=(channels, height, width) of one image")
    return shape


def _with_loss(model: Model, loss: Loss | None) -> Model:
    if loss is None:
        return model
    function = loss_of(loss) if isinstance(loss, str | Mapping | list | tuple) else loss
    if not callable(function):
        raise BadInput(f"loss {loss!r} is a {type(function).__name__}; a function of logits and labels is needed")
    return replace(model, loss_fn=function)


def _vetted(model: Model | nn.Module, shape: tuple[int, int, int] | None) -> Model:
    """A bare network is not run by checks of weights, so any image of its channels will do for these."""
    if isinstance(model, Model):
        return model
    channels = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)
    return of_module(model, ImageSpec(shape or (channels, 32, 32)), training=False)
