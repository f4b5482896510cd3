"""`fedspill.Guard`: looks at a model before a client trains on it, and at the update before it is sent."""

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from fedspill.api.arguments import check_network
from fedspill.api.vet import as_model, shape_of_images
from fedspill.auditing.exposure import MeasuresExposure
from fedspill.catalogue import checks as all_checks
from fedspill.core.errors import BadInput
from fedspill.core.local_training.update import FedSGD, LocalTraining
from fedspill.core.model import Model, conform
from fedspill.core.roles import Exposed, Incoming
from fedspill.core.types import Batch, Update, UpdateKind
from fedspill.report.vetting import Vetting
from fedspill.vetting.own_data import fitting
from fedspill.vetting.policy import STANDARD, Policy, read_policy
from fedspill.vetting.verdict import vetted

LEAST_SECONDS = 1.0
"""That the measurement of the exposure gets, whatever was used up."""


class Guard:
    """A client's guard: vets every model that comes, and measures what every update would give away.

    It keeps the model of the round before, so that a jump between rounds is seen. Its work is bounded: of the client's
    examples at most 16 are looked at, of one gradient at a time (in train mode of 16 examples at once), and the time is
    `seconds` for each call; what was not done by then is a finding, not silence.

    Args:
        policy: a TOML file, or what was read of one; None is the standard one.
        reference: the architecture that was agreed on.
        shape: channels, height and width of one image, for bare networks.
        seconds: for each call.
        exposure: whether `before_sending` runs the catalogue's readouts on the update.

    Raises:
        BadInput: a policy that cannot be used, or no time.

    Example:
        >>> import fedspill, torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10))
        >>> guard = fedspill.Guard(shape=(3, 8, 8))
        >>> guard.before_training(net).alarms
        ()
        >>> planted = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10))
        >>> _ = planted[1].weight.data.copy_(torch.ones(10, 192))
        >>> seen = guard.before_training(planted)
        >>> seen.exit_code, seen.alarms[0].finding.where
        (1, '1.weight')
    """

    def __init__(
        self,
        policy: Policy | str | Path | None = None,
        *,
        reference: Model | nn.Module | None = None,
        shape: tuple[int, int, int] | None = None,
        seconds: float | int = 60.0,
        exposure: bool = True,
    ) -> None:
        if isinstance(seconds, bool) or not seconds > 0:
            raise BadInput(f"seconds={seconds!r}: more than 0 are needed")
        if reference is not None:
            check_network(reference, "reference")
        self.policy = policy if isinstance(policy, Policy) else STANDARD if policy is None else read_policy(policy)
        self.seconds, self.exposure = float(seconds), exposure
        self._shape, self._reference = shape, reference
        self._model: Model | None = None
        self._previous: Model | None = None

    def before_training(self, model: Model | nn.Module, own_data: Batch | None = None) -> Vetting:
        """Vets a model that was received, beside the one of the call before.

        Args:
            model: as it was received.
            own_data: some of the client's examples, which let more be seen.

        Returns:
            Findings, alarms, what it took: `exit_code` is 1 where the model must not be trained on.

        Raises:
            BadInput: the model is no network, or the examples do not fit it.
        """
        check_network(model, "model")
        shape = self._shape or shape_of_images(own_data)
        received = as_model(model, shape)
        data = None if own_data is None else fitting(received, own_data)
        reference = None if self._reference is None else as_model(self._reference, shape)
        self._previous, self._model = self._model, received
        incoming = Incoming(received, self._previous, reference, data)
        return self._vetted(incoming, "the model received", self.policy)

    def before_sending(
        self, update: Update | Mapping[str, Tensor], batch: Batch, training: LocalTraining | None = None
    ) -> Vetting:
        """Looks at what an update gives away of the batch that it was computed on, with the model of `before_training`.

        Args:
            update: as it would be sent; named tensors are the mean gradient.
            batch: all examples that it was computed on.
            training: the protocol, if it is not FedSGD's.

        Raises:
            BadInput: there was no `before_training`, or update or batch do not fit its model.
        """
        if self._model is None:
            raise BadInput("before_sending without before_training: the model that was trained on is not known")
        model, batch = self._model, fitting(self._model, batch)
        sent = _fitting_update(update, model)
        known = training or (FedSGD() if sent.kind is UpdateKind.GRADIENT else None)
        measures = MeasuresExposure(seconds=max(LEAST_SECONDS, 0.7 * self.seconds))

        def exposed(of: Model, examples: Batch) -> tuple[Exposed, ...]:
            return measures.of_update(sent, of, examples, known)

        incoming = Incoming(model, self._previous, None, batch, exposure=exposed if self.exposure else None)
        return self._vetted(incoming, "the update to be sent", self._of_data())

    def _of_data(self) -> Policy:
        """The policy's checks that look at data; the model itself was looked at before."""
        cards = all_checks()
        entries = self.policy.checks or tuple(cards)
        kept = tuple(e for e in entries if cards[e.partition(":")[0]].own_data)
        return replace(self.policy, checks=kept or ("measured_exposure",), require=())

    def _vetted(self, incoming: Incoming, source: str, policy: Policy) -> Vetting:
        began, before = time.monotonic(), _largest()
        done = vetted(incoming, source, policy, seconds=self.seconds)
        grown = None if before is None else max(0, (_largest() or 0) - before)
        return replace(done, seconds=time.monotonic() - began, memory=grown)


def _fitting_update(update: Update | Mapping[str, Tensor], model: Model) -> Update:
    given = update if isinstance(update, Update) else Update(UpdateKind.GRADIENT, dict(update))
    unknown = [name for name in given.values if name not in model.params]
    if unknown or not given.values:
        raise BadInput(f"the update's {unknown[0] if unknown else 'values'!r} is none of the model's parameters")
    values = conform(given.values, {k: model.params[k] for k in given.values}, "update of parameter")
    return replace(given, values=values)


def _largest() -> int | None:
    """Bytes that the process held at its largest; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
