"""`fedspill.vet`: reasons not to train on a model that a server sent."""

from torch import nn

from fedspill import catalogue
from fedspill.api.arguments import check_network
from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model
from fedspill.core.roles import Finding, Incoming
from fedspill.core.types import Batch
from fedspill.zoo.models import of_module


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
            check_network(given, name)
    received = [None if m is None else _vetted(m, shape) for m in (model, previous, reference)]
    sent, before, agreed = received
    assert sent is not None, "`model` is none of those that may be left out"
    incoming = Incoming(sent, before, agreed, own_data)
    cards = catalogue.checks()
    chosen = [catalogue.pick(cards, c, "check") for c in checks or cards]
    fitting = [card.presets[preset] for _, preset, card in chosen if isinstance(sent.input, tuple(card.accepts))]
    findings = [finding for check in fitting for finding in check.inspect(incoming)]
    return sorted(findings, key=lambda finding: -finding.severity)


def _vetted(model: Model | nn.Module, shape: tuple[int, int, int] | None) -> Model:
    """A bare network is not run by checks of weights, so any image of its channels will do for these."""
    if isinstance(model, Model):
        return model
    channels = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)
    return of_module(model, ImageSpec(shape or (channels, 32, 32)), training=False)
