"""`fedspill.vet`: reasons not to train on a model that a server sent."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from fedspill.api.arguments import check_network
from fedspill.auditing.exposure import MeasuresExposure
from fedspill.core.errors import BadInput, FedspillError
from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model
from fedspill.core.roles import Finding, Incoming
from fedspill.core.types import Batch
from fedspill.vetting.inspection import inspected
from fedspill.vetting.own_data import fitting
from fedspill.vetting.policy import STANDARD, Policy, read_policy
from fedspill.zoo.models import of_module


def vet(
    model: Model | nn.Module,
    *,
    previous: Model | nn.Module | None = None,
    reference: Model | nn.Module | None = None,
    own_data: Batch | None = None,
    shape: tuple[int, int, int] | None = None,
    checks: tuple[str, ...] = (),
    policy: Policy | str | Path | None = None,
    exposure: bool = False,
    seconds: float | int | None = None,
) -> list[Finding]:
    """Looks for reasons not to train on a model that a server sent. No finding means nothing seen, not safe.

    Args:
        model: as it was received.
        previous: the model of the round before.
        reference: the architecture that was agreed on.
        own_data: the client's own examples, as the model takes them; they let what the gradients give be looked at.
        shape: channels, height and width of one image; for checks that run a bare network.
        checks: "name" or "name:preset"; () takes the policy's, or all that apply.
        policy: a TOML file, or what was read of one: other severities, and what must be at hand; see docs/vetting.md.
        exposure: with `own_data`: run the catalogue's readouts on the update that the first of them give, too.
        seconds: for all checks; what is not done by then is a finding. None is no limit but that of the exposure.

    Returns:
        The findings, the most severe first.

    Raises:
        BadInput: an unknown check, a policy that cannot be used, or examples that do not fit the model.

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
            check_network(given, name)
    _check_measuring(own_data, exposure, seconds)
    shape = shape or shape_of_images(own_data)
    received = [None if m is None else as_model(m, shape) for m in (model, previous, reference)]
    sent, before, agreed = received
    assert sent is not None, "`model` is none of those that may be left out"
    asked = policy if isinstance(policy, Policy) else STANDARD if policy is None else read_policy(policy)
    if checks:
        asked = replace(asked, checks=checks)
    data = None if own_data is None else fitting(sent, own_data)
    measures = MeasuresExposure() if seconds is None else MeasuresExposure(seconds=0.7 * seconds)
    incoming = Incoming(sent, before, agreed, data, exposure=measures if exposure else None)
    return asked.applied(inspected(incoming, asked, None if seconds is None else float(seconds)).findings)


def _check_measuring(own_data: object, exposure: bool, seconds: object) -> None:
    if exposure and own_data is None:
        raise BadInput("exposure=True without own_data: it is the client's own examples whose update is attacked")
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0):
        raise BadInput(f"seconds={seconds!r}: more than 0 are needed, or None")


def shape_of_images(data: object) -> tuple[int, int, int] | None:
    """Channels, height and width, if these are images."""
    if not isinstance(data, Batch) or data.inputs.ndim != 4:
        return None
    channels, height, width = data.inputs.shape[1:]
    return channels, height, width


SIZES = (32, 28, 64, 224, 16, 8, 96, 128, 299, *range(1, 65))
"""Sides of a picture, the likelier first."""


def as_model(model: Model | nn.Module, shape: tuple[int, int, int] | None) -> Model:
    """A bare network is run, if at all, on pictures of the first size that it takes."""
    if isinstance(model, Model):
        return model
    channels = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)
    return of_module(model, ImageSpec(shape or _shape(model, channels)), training=False)


def _shape(module: nn.Module, channels: int) -> tuple[int, int, int]:
    convolutional, usual = any(isinstance(m, nn.Conv2d) for m in module.modules()), (channels, SIZES[0], SIZES[0])
    try:
        model = of_module(module, ImageSpec(usual), training=False)
    except FedspillError:  # whoever builds it next tells what is wrong
        return usual
    sizes = ((count, s, s) for s in SIZES for count in ((channels,) if convolutional else (channels, 1)))
    return next((shape for shape in sizes if _runs(replace(model, input=ImageSpec(shape)))), usual)


def _runs(model: Model) -> bool:
    try:
        with torch.no_grad():
            model.logits(model.params, model.like.new_zeros(1, *model.input.encoded_shape))
        return True
    except Exception:  # a network of anyone's
        return False
