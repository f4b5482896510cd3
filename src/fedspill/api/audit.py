"""`fedspill.audit`: a planned federation, simulated, attacked and judged."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedspill.api.arguments import (
    UNSAID,
    Data,
    Loss,
    Normalise,
    Range,
    Unsaid,
    check_network,
    check_unsaid,
    said_of,
    with_loss,
)
from fedspill.api.results import AuditResult, with_views
from fedspill.auditing.resolving.pools import public_pool
from fedspill.auditing.run import run_audit
from fedspill.auditing.watch import Listener
from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.libraries.named import called
from fedspill.core.local_training.update import LocalTraining
from fedspill.core.model import Model
from fedspill.plan.build import of_data
from fedspill.plan.file import parse_plan, read_plan
from fedspill.plan.from_python import with_optimizer, with_training
from fedspill.plan.sections import AuditPlan, parse_seconds
from fedspill.zoo.data import DataPool, pool_of
from fedspill.zoo.models import of_module


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
            takes the numbers of `range` as they are; "imagenet", "cifar10" or "cifar100" for the constants of these;
            "data" for the data's statistics, measured on public images where the data set has no constants, never on
            private ones.
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
        check_network(model, "model")
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
    return with_views(result, folder)


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
        check_unsaid(normalise, ends, "a fedspill.Model brings its own input")
        return with_loss(model, loss), None
    if pool is None:
        raise BadInput("a bare nn.Module needs `data`, from which the input's shape is read; or give a fedspill.Model")
    if pool.spec is not None:
        check_unsaid(normalise, ends, "sentences and table rows bring their own encoding")
        return with_loss(of_module(model, pool.spec, training=training), loss), None
    channels, height, width = pool.input_shape
    said = said_of(normalise, ends, channels, lambda: of_data(pool, public_pool(plan, pool)))
    spec = ImageSpec((channels, height, width), mean=said.statistics.mean, std=said.statistics.std)
    return with_loss(of_module(model, spec, training=training), loss), said.origin
