"""What a plan's section `client` says of local training, as the client runs it."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar, cast, get_args

from pydantic import TypeAdapter, ValidationError

from fedspill.core.errors import BadInput
from fedspill.core.local_training.conditions import Augmentation, Conditions
from fedspill.core.local_training.losses import loss_of
from fedspill.core.local_training.optimizers import OPTIMIZERS, Optimizer
from fedspill.core.local_training.protocol import Curve, FedAvg, FedSGD, LocalTraining, Schedule
from fedspill.plan.sections import ClientSection
from fedspill.plan.values import Named

T = TypeVar("T")


def training_of(client: ClientSection) -> LocalTraining:
    """The protocol as the client runs it.

    Raises:
        ValueError: an optimiser, a schedule, an augmentation or a loss is unknown, or its fields do not fit.
    """
    if client.loss is not None:
        loss_of(client.loss)
    augmentation = Augmentation() if client.augmentation is None else augmentation_of(client.augmentation)
    conditions = Conditions(client.clip_norm, client.precision, client.loss_scale, augmentation)
    if client.protocol == "fedsgd":
        return FedSGD(client.trainable, conditions)
    optimizer = optimizer_of(client.optimizer, client.momentum, client.weight_decay)
    return FedAvg(
        client.epochs,
        client.minibatch_size,
        client.lr,
        client.momentum if optimizer is None else 0.0,
        client.weight_decay if optimizer is None else 0.0,
        client.trainable,
        optimizer,
        schedule_of(client.schedule),
        conditions,
        client.proximal,
        client.accumulate,
        client.shuffle,
        client.drop_last,
    )


def optimizer_of(value: Named, momentum: float, weight_decay: float) -> Optimizer | None:
    """The optimiser that a name or a table with its fields tells; None for SGD that says no more than these two.

    Raises:
        ValueError: it is unknown, or its fields do not fit.
    """
    name, table = _split(value, "optimizer", tuple(OPTIMIZERS))
    if name == "sgd" and not table:
        return None
    kind: Callable[..., Optimizer] = OPTIMIZERS[name]
    known = [f.name for f in fields(cast("Any", kind))]
    beside = {k: v for k, v in (("momentum", momentum), ("weight_decay", weight_decay)) if v}
    if unfit := sorted(beside.keys() - set(known)):
        raise ValueError(f"{name} has no {', '.join(unfit)}")
    if twice := sorted(beside.keys() & table.keys()):
        raise ValueError(f"{', '.join(twice)} is said twice: beside optimizer, and in it")
    return _made(kind, f"optimizer {name!r}", known, {**table, **beside})


def schedule_of(value: Named) -> Schedule:
    """The schedule that a name or a table tells.

    Raises:
        ValueError: it is unknown, or its fields do not fit.
    """
    name, table = _split(value, "schedule", get_args(Curve))
    known = [f.name for f in fields(Schedule)][1:]
    return _made(Schedule, f"schedule {name!r}", known, {"curve": name, **table}, also=("curve",))


def augmentation_of(value: Mapping[str, Any]) -> Augmentation:
    """The augmentation that a table tells.

    Raises:
        ValueError: its fields do not fit.
    """
    return _made(Augmentation, "augmentation", [f.name for f in fields(Augmentation)], value)


def _split(value: Named, what: str, names: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    table = {"name": value} if isinstance(value, str) else dict(value)
    name = table.pop("name", None)
    if name not in names:
        raise ValueError(f"{what} {name!r} is unknown; there are {', '.join(names)}")
    return name, table


def _made(
    kind: Callable[..., T], what: str, known: list[str], table: Mapping[str, Any], also: tuple[str, ...] = ()
) -> T:
    if unknown := [k for k in table if k not in (*known, *also)]:
        raise ValueError(f"{what} has no field {', '.join(unknown)}; it has {', '.join(known) or 'none'}")
    try:
        return TypeAdapter(cast("type[T]", kind)).validate_python(dict(table))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{what}{f', {where}' if where else ''}: {first['msg']}") from None
    except BadInput as error:
        raise ValueError(str(error)) from None
