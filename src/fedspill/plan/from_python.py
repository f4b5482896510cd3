"""Clients as Python states them, in the keys of a plan's `client`: a protocol, or an optimiser of `torch.optim`."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedspill.core.errors import BadInput
from fedspill.core.local_training.update import FedSGD, LocalTraining
from fedspill.plan.file import parse_plan
from fedspill.plan.sections import AuditPlan, ClientSection
from fedspill.plan.training import training_of

KNOWN: Mapping[type[Optimizer], tuple[str, ...]] = {
    torch.optim.SGD: ("momentum", "dampening", "nesterov", "weight_decay"),
    torch.optim.Adam: ("betas", "eps", "weight_decay", "amsgrad"),
    torch.optim.AdamW: ("betas", "eps", "weight_decay", "amsgrad"),
    torch.optim.RMSprop: ("alpha", "eps", "weight_decay", "momentum", "centered"),
    torch.optim.Adagrad: ("lr_decay", "weight_decay", "initial_accumulator_value", "eps"),
}
"""The settings that decide a step; the others (`foreach`, `fused`, ...) decide how fast it is computed."""
_SAID_BESIDE = ("momentum", "weight_decay")
"""Of SGD, keys of `client` itself."""


def with_training(plan: AuditPlan, training: LocalTraining) -> AuditPlan:
    """The plan whose clients run this protocol.

    Raises:
        BadInput: the plan states a protocol too, or this one has settings that no plan can state.
    """
    told = _keys(training)
    stated = {"protocol", "trainable"} | {f.name for f in fields(training)}
    made = _with_client(plan, told, stated, "local_training")
    if training_of(made.client) != training:
        raise BadInput(f"local_training={training} cannot be written into a plan's [client]")
    return made


def with_optimizer(plan: AuditPlan, optimizer: Optimizer, module: nn.Module) -> AuditPlan:
    """The plan whose clients train locally as this optimiser would, from its first step on.

    Args:
        plan: whose clients run "fedavg"; it states epochs and mini-batches, and no optimiser.
        optimizer: SGD, Adam, AdamW, RMSprop or Adagrad of `torch.optim`.
        module: whose parameters it holds.

    Raises:
        BadInput: it is another, its groups differ, it has taken steps, it holds parameters of another network, or the
            plan states an optimiser too.
    """
    if "protocol" in plan.client.model_fields_set and plan.client.protocol == "fedsgd":
        raise BadInput("optimizer is given, and the plan's protocol is 'fedsgd', which takes no step; use 'fedavg'")
    told = optimizer_keys(optimizer, module)
    stated = {"protocol", "trainable", "lr", "momentum", "weight_decay", "optimizer"}
    return _with_client(plan, {"protocol": "fedavg", **told}, stated - {"protocol"}, "optimizer")


def optimizer_keys(optimizer: Optimizer, module: nn.Module) -> dict[str, Any]:
    """What an optimiser is in the keys of a plan's `client`: lr, trainable, and `optimizer` or those of SGD.

    Raises:
        BadInput: see `with_optimizer`.
    """
    kind = type(optimizer)
    if kind not in KNOWN:
        raise BadInput(f"optimizer is {kind.__name__}; there are {', '.join(k.__name__ for k in KNOWN)} of torch.optim")
    if any(_has_stepped(state) for state in optimizer.state.values()):
        raise BadInput("optimizer has taken steps; a client starts with a new one, so give one that has not")
    group = _one_group(optimizer, KNOWN[kind])
    if group.get("maximize"):
        raise BadInput("optimizer has maximize=True; clients minimise their loss")
    name = "adamw" if group.get("decoupled_weight_decay") else kind.__name__.lower()
    settings = {k: _plain(group[k]) for k in KNOWN[kind]}
    table = {"lr": _plain(group["lr"]), "trainable": _names(optimizer, module)}
    if name == "sgd" and not settings["dampening"] and not settings["nesterov"]:
        return table | {k: settings[k] for k in _SAID_BESIDE}
    return table | {"optimizer": {"name": name, **settings}}


def _has_stepped(state: Mapping[str, Any]) -> bool:
    """Adagrad keeps a state from the start, with its number of steps in it."""
    return float(state["step"]) > 0 if "step" in state else any(v is not None for v in state.values())


def _one_group(optimizer: Optimizer, names: tuple[str, ...]) -> dict[str, Any]:
    first, *others = optimizer.param_groups
    differ = [k for k in ("lr", *names) if any(_plain(g[k]) != _plain(first[k]) for g in others)]
    if differ:
        raise BadInput(f"optimizer has groups with different {', '.join(differ)}; one for all parameters is needed")
    return first


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.item()
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value


def _names(optimizer: Optimizer, module: nn.Module) -> list[str]:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    named = {name: id(p) for name, p in module.named_parameters()}
    if held - set(named.values()):
        raise BadInput("optimizer holds parameters that are not the model's; make it of model.parameters()")
    missing = set(named.values()) - held
    return [name for name, place in named.items() if place in held] if missing else ["*"]


def _with_client(plan: AuditPlan, told: Mapping[str, Any], stated: set[str], what: str) -> AuditPlan:
    twice = sorted(plan.client.model_fields_set & stated)
    if twice:
        raise BadInput(f"{what} is given, and the plan sets client.{', client.'.join(twice)}; set one of them")
    said = {k: getattr(plan.client, k) for k in plan.client.model_fields_set}
    checked = parse_plan({"client": {**said, **told}})
    return plan.model_copy(update={"client": checked.client})


def _keys(training: LocalTraining) -> dict[str, Any]:
    """A protocol in the keys of a plan, without those that are as in a plan that does not say them."""
    told = dict[str, Any]()
    for field in fields(training):
        value = getattr(training, field.name)
        told |= _flat(value) if field.name == "conditions" else {field.name: _table(value)}
    usual = {name: info.default for name, info in ClientSection.model_fields.items()}
    changed = {k: v for k, v in told.items() if v is not None and v != usual.get(k)}
    return {"protocol": "fedsgd" if isinstance(training, FedSGD) else "fedavg", **changed}


def _flat(conditions: Any) -> dict[str, Any]:
    values = {f.name: getattr(conditions, f.name) for f in fields(conditions)}
    return {k: _changed(v) or None if is_dataclass(v) else v for k, v in values.items()}


def _table(value: Any) -> Any:
    """A component as its name and the fields that are not as usual; a schedule is called by its curve."""
    if not is_dataclass(value):
        return value
    changed = _changed(value)
    name = getattr(value, "curve", None) or type(value).__name__.lower()
    changed.pop("curve", None)
    return {"name": name, **changed} if changed else name


def _changed(value: Any) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in fields(value) if getattr(value, f.name) != f.default}
