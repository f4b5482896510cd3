"""The verbs of fedspill in Python: `audit` a planned federation, `attack` a captured update, `vet` a received model.

They are handed on by `fedspill` itself, and are what the commands of the same names do. A bare `nn.Module` is enough;
what it cannot tell (the shape and the normalisation of its inputs, the loss) is asked for by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, overload

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from fedspill import catalogue
from fedspill.auditing.captured import Kind, attack_captured, check_entry, run_key
from fedspill.auditing.capturing.scoring import Judging
from fedspill.auditing.capturing.truths import Truth, read_truth
from fedspill.auditing.capturing.updates import clients_of, observed
from fedspill.auditing.run import AuditResult, run_audit
from fedspill.auditing.watch import Listener, Silent
from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, InputSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, LocalTraining
from fedspill.core.model import LossFn, Model
from fedspill.core.roles import Finding, Incoming
from fedspill.core.types import Batch, Reconstruction, Update
from fedspill.plan.build import pick_device
from fedspill.plan.file import parse_plan, read_plan
from fedspill.plan.sections import AttackEntry, AuditPlan, parse_seconds
from fedspill.report.store import Store
from fedspill.zoo.data import DataPool, from_dataset, from_tensors
from fedspill.zoo.models import of_module


class Unsaid:
    """The value of a keyword that was not given, where None means something."""

    def __repr__(self) -> str:
        return "not given"


UNSAID: Final = Unsaid()
Normalise = tuple[tuple[float, ...], tuple[float, ...]] | None
"""Mean and standard deviation per channel, of pixels in [0, 1]; None: pixels are fed as they are."""
Data = DataPool | tuple[Any, Any] | object
"""A pool; a pair of images (n, c, h, w) in [0, 1] and labels (n,), tensors or arrays; a torch Dataset or DataLoader."""
Sendable = Mapping[str, Any] | Sequence[Any] | str | Path | object
"""Named tensors or arrays, a list of arrays, an `ArrayRecord`, or a path to a file or a folder of these."""


def audit(
    plan: AuditPlan | Mapping[str, Any] | str | Path,
    *,
    model: Model | nn.Module | None = None,
    data: Data | None = None,
    normalise: Normalise | Unsaid = UNSAID,
    loss: LossFn | None = None,
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
        normalise: what a bare network's images are normalised by, or None if it takes pixels in [0, 1] as they are.
        loss: of logits (n, classes) and labels (n,) to their mean loss; None is cross-entropy. With `model` only.
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
    pool = None if data is None else _pool(data, read.data.indices)
    sent = None if model is None else _audited(model, pool, normalise, loss, read)
    if model is None and (loss is not None or not isinstance(normalise, Unsaid)):
        raise BadInput("loss and normalise are of `model`, which was not given; a plan states its own under [model]")
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
    )
    if folder is None:
        return result
    from fedspill.rendering.folder import write_views

    return replace(result, report=write_views(folder, result.report, result.tensors, result.texts))


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
    loss: LossFn | None = ...,
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
    loss: LossFn | None = ...,
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
    loss: LossFn | None = None,
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
        normalise: as in `audit`.
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
    if mode not in ("eval", "train"):
        raise BadInput(f'mode={mode!r}: "eval" or "train" is needed')
    received = model if isinstance(model, Model) else _bare(model, _shape(shape), normalise, mode == "train")
    received = _with_loss(received, loss).to(pick_device(device), received.like.dtype)
    sent = observed(update, kind, received, num_examples)
    training = FedSGD() if not isinstance(update, Update) and kind == "gradient" else local_training
    known = None if labels is None else labels.to(received.like.device)
    knowledge = ServerKnowledge(received, clients_of(sent, clients), num_examples, known, training, public_data)
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
    if captured.result is None or folder is None:
        return captured.result or captured.reconstruction
    from fedspill.rendering.folder import write_views

    result = captured.result
    return replace(result, report=write_views(folder, result.report, result.tensors, result.texts))


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
    return parse_plan(dict(plan)) if isinstance(plan, Mapping) else read_plan(Path(plan))


def _pool(data: Data, indices: str | None) -> DataPool:
    if isinstance(data, DataPool):
        return data
    if isinstance(data, tuple | list):
        if len(data) != 2:
            raise BadInput(f"data holds {len(data)} things; a pair (images, labels) is needed")
        return from_tensors(*(torch.from_numpy(part) if isinstance(part, np.ndarray) else part for part in data))
    source = data.dataset if isinstance(data, DataLoader) else data
    if isinstance(source, IterableDataset) or not (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
        raise BadInput(
            f"data is a {type(source).__name__}; a pair (images, labels), a map-style Dataset, or a DataLoader of one"
            " is needed"
        )
    return from_dataset(source, indices=indices)


def _audited(
    model: Model | nn.Module, pool: DataPool | None, normalise: Normalise | Unsaid, loss: LossFn | None, plan: AuditPlan
) -> Model:
    training = plan.model.mode == "train"
    if isinstance(model, Model):
        return _with_loss(model, loss)
    if pool is None:
        raise BadInput("a bare nn.Module needs `data`, from which the input's shape is read; or give a fedspill.Model")
    if pool.spec is not None:
        return _with_loss(of_module(model, pool.spec, training=training), loss)
    channels, height, width = pool.input_shape
    return _with_loss(_bare(model, (channels, height, width), normalise, training), loss)


def _bare(module: nn.Module, shape: tuple[int, int, int], normalise: Normalise | Unsaid, training: bool) -> Model:
    if isinstance(normalise, Unsaid):
        raise BadInput(
            "a bare nn.Module needs normalise=(mean, std), per channel of pixels in [0, 1]; or normalise=None if it"
            " takes such pixels as they are"
        )
    return of_module(module, _image_spec(shape, normalise), training=training)


def _image_spec(shape: tuple[int, int, int], normalise: Normalise) -> InputSpec:
    if normalise is None:
        return ImageSpec(shape)
    mean, std = (tuple(float(v) for v in part) for part in normalise)
    if len(mean) != len(std) or len(mean) not in (1, shape[0]) or not all(v > 0 for v in std):
        raise BadInput(
            f"normalise={normalise}: mean and positive std, one or for each of {shape[0]} channels, are needed"
        )
    return ImageSpec(shape, mean=mean, std=std)


def _shape(shape: tuple[int, int, int] | None) -> tuple[int, int, int]:
    if shape is None or len(shape) != 3 or min(shape) < 1:
        raise BadInput(f"shape={shape}: a bare nn.Module needs shape=(channels, height, width) of one image")
    return shape


def _with_loss(model: Model, loss: LossFn | None) -> Model:
    return model if loss is None else replace(model, loss_fn=loss)


def _vetted(model: Model | nn.Module, shape: tuple[int, int, int] | None) -> Model:
    """A bare network is not run by checks of weights, so any image of its channels will do for these."""
    if isinstance(model, Model):
        return model
    channels = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)
    return of_module(model, ImageSpec(shape or (channels, 32, 32)), training=False)
