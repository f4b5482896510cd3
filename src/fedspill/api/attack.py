"""`fedspill.attack`: inputs rebuilt from one captured update; with the truth at hand, judged."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, overload

import torch
from torch import Tensor, nn

from fedspill.api.arguments import (
    UNSAID,
    Loss,
    Normalise,
    Range,
    Unsaid,
    check_network,
    check_unsaid,
    said_of,
    shape_of,
    with_loss,
)
from fedspill.api.results import AuditResult, with_views
from fedspill.auditing.capturing.attacking import Captured, Kind, attack_captured, run_key
from fedspill.auditing.capturing.in_turn import entry_of, tries_of
from fedspill.auditing.capturing.scoring import Judging
from fedspill.auditing.capturing.truths import Truth, read_truth
from fedspill.auditing.capturing.updates import clients_of, observed
from fedspill.auditing.watch import Listener, Silent
from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, LocalTraining
from fedspill.core.model import Model
from fedspill.core.probing.inputs import probe_inputs
from fedspill.core.types import Batch, Reconstruction, Update, UpdateKind
from fedspill.plan.build import pick_device
from fedspill.plan.sections import parse_seconds
from fedspill.report.store import Store
from fedspill.zoo.measured_statistics import measured
from fedspill.zoo.models import of_module
from fedspill.zoo.statistics import Normalisation

Sendable = Mapping[str, Any] | Sequence[Any] | str | Path | object
"""Named tensors or arrays, a list of arrays, an `ArrayRecord`, or a path to a file or a folder of these."""


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
    attack: str = "standard",
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
        attack: "name" or "name:preset"; `fedspill.attacks()` lists them. "standard" tries all that read exactly, and
            searches if none has read every example; "standard:quick" searches for half as long.
        settings: fields of the attack to change; without an attack those of "inverting_gradients:quick".
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
        truth: the private examples, opened when the attack is over, but for the sign of a delta that does not tell its
            own: a pair of images (n, c, h, w) in [0, 1] and labels
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
        check_unsaid(normalise, range, "a fedspill.Model brings its own input")
    received = model if isinstance(model, Model) else _captured(model, shape, normalise, range, mode, public_data)
    received = with_loss(received, loss).to(pick_device(device), received.like.dtype)
    sent = observed(update, kind, received, num_examples)
    training = _protocol_of(sent.update, local_training)
    known = None if labels is None else labels.to(received.like.device)
    knowledge = ServerKnowledge(received, clients_of(sent, clients), num_examples, known, training, public_data)
    _check_labels(known, received)
    entry = entry_of(attack, settings or {}, "inverting_gradients:quick")
    tries_of(entry, knowledge)
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
        turned=sent.turned,
        judging=judging,
    )
    return _said(captured) if captured.result is None else with_views(captured.result, folder)


def _said(captured: Captured) -> Reconstruction:
    """With what is certified as the first note, as nothing else can be believed without the truth."""
    rebuilt, claim = captured.reconstruction, captured.certified
    return rebuilt if claim is None else replace(rebuilt, notes=(claim.sentence(), *rebuilt.notes))


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
    check_network(model, "model")
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


def _captured(
    module: nn.Module,
    shape: tuple[int, int, int] | None,
    normalise: Normalise | Unsaid,
    ends: Range | None,
    mode: str,
    public_data: Batch | None,
) -> Model:
    channels, height, width = shape_of(shape)
    said = said_of(normalise, ends, channels, lambda: _of_public(public_data))
    spec = ImageSpec((channels, height, width), mean=said.statistics.mean, std=said.statistics.std)
    return of_module(module, spec, training=mode == "train")


def _of_public(public_data: Batch | None) -> Normalisation:
    if public_data is None:
        raise BadInput('normalise="data" is measured on public_data, which was not given; or give (mean, std)')
    return Normalisation(measured(public_data.inputs), f"measured on {len(public_data)} public images")
