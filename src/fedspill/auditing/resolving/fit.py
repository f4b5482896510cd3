"""Whether model, data and clients fit together: what does not is told before anything is attacked."""

from dataclasses import replace

from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.local_training.draws import draws_anything, is_random
from fedspill.core.local_training.protocol import FedAvg, LocalTraining
from fedspill.core.model import Model
from fedspill.core.probing.state import check_memory
from fedspill.core.rng import seeded_globals, stream
from fedspill.core.roles import Stages
from fedspill.core.types import Batch
from fedspill.federation.client import Client

FEW = 2
"""Examples of a first step: a local training of a large network may take half a minute."""


def check_fit(
    model: Model,
    first: Batch,
    labels: Tensor,
    training: LocalTraining,
    defences: tuple[Stages, ...],
    micro_batch: int | None,
) -> bool:
    """Computes a first update (of one micro-batch): what does not fit is told now, not in the midst of an audit.

    Args:
        first: the first examples of the first client, as many as are on the device at a time.
        labels: of all examples.
        training: the clients' protocol.
        defences: what every client applies.
        micro_batch: examples that a client holds in memory at a time; None is all.

    Returns:
        Whether clients draw anything: two with the same examples may send different updates.

    Raises:
        BadInput: a network that draws in eval mode, one with a memory, labels that the model does not know, or an
            update that cannot be computed.
    """
    try:
        _check_labels(model, first, labels)
        z = model.input.encode(first.inputs)
        draws = draws_anything(model, training, z)
        if (draws or model.training) and is_random(model.in_eval_mode(), z[:1]):
            raise BadInput(
                "the network draws random numbers in eval mode too, so that no two answers agree; F.dropout and its kin"
                " want training=self.training"
            )
        check_memory(model)
        client = Client(*_shortest(model, first, training), defences, micro_batch)
        with seeded_globals(stream(0, "check")):
            sent = client.respond(model, stream(0, "check"))
        if sent is not None and not sent.values and training.conditions.loss_scale == 1:
            raise BadInput(
                "no gradient reaches a parameter that is trained (no_grad, detach, or frozen): the clients send nothing"
            )
        return draws
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if isinstance(error, BadInput):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(f"the client cannot compute an update with this model, data and mode: {reason}") from error


def _shortest(model: Model, first: Batch, training: LocalTraining) -> tuple[Batch, LocalTraining]:
    """One step of few examples tells whether any can be taken, but for layers that want more than one in each."""
    if model.training or not isinstance(training, FedAvg):
        return first, training
    return first[:FEW], replace(training, epochs=1, minibatch_size=None, accumulate=1, drop_last=False)


def _check_labels(model: Model, first: Batch, labels: Tensor) -> None:
    """Labels are classes that the model knows, or targets of the logits' shape.

    Raises:
        BadInput: they are neither.
    """
    logits = model.in_eval_mode().logits(model.params, model.input.encode(first[:1].inputs))
    if labels[:1].shape == logits.shape:
        return
    if logits.ndim != labels.ndim + 1:
        raise BadInput(
            f"the model's logits for one example have shape {tuple(logits.shape)}, its labels"
            f" {tuple(labels[:1].shape)}: next tokens want logits at every token, classes want them once"
        )
    highest, classes = int(labels.max()), max(2, logits.shape[-1])  # one output tells two classes apart
    if highest >= classes:
        raise BadInput(f"the data has labels up to {highest}, the model knows {classes} classes (0 to {classes - 1})")
