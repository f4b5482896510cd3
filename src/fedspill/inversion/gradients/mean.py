"""The mean gradient of a local step out of an update: one scale for FedSGD and FedAvg."""

from collections.abc import Iterable
from dataclasses import dataclass

from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.path import LocalPath, local_path
from fedspill.core.local_training.update import FedAvg
from fedspill.core.types import Params, Update, UpdateKind
from fedspill.inversion.gradients.defended.completion import completion


@dataclass(frozen=True)
class MeanGradient:
    """Gradients in float64, averaged over the local steps.

    Attributes:
        values: keyed as the update.
        scaled: False if the protocol is unknown or clips, so that the scale is arbitrary and weight decay remains; or
            if its optimiser leaves no more of a gradient than signs (see `is_proportional`).
        scale: by what the update was multiplied, and with it its rounding.
    """

    values: Params
    scaled: bool
    scale: float = 1.0


def local_steps(knowledge: ServerKnowledge, num_examples: int | None = None) -> int | None:
    """How many steps each client took, None if the server cannot tell."""
    training, count = knowledge.local_training, _share(knowledge, num_examples)
    return training.local_steps(count) if isinstance(training, FedAvg) and count is not None else None


def _share(knowledge: ServerKnowledge, num_examples: int | None) -> int | None:
    """How many examples a client holds, as far as it matters: any number makes the same full batches."""
    training, count = knowledge.local_training, num_examples or knowledge.num_examples
    if count is None or knowledge.client_sizes is not None:
        return 1 if isinstance(training, FedAvg) and training.minibatch_size is None else None
    return max(1, count // knowledge.num_clients)


def client_path(knowledge: ServerKnowledge, num_examples: int | None = None) -> LocalPath | None:
    """The path of each client's local training, None if the server cannot tell its protocol or its steps.

    None, too, where the end of training is not linear in its gradients (Adam and its kin; clipping).

    Args:
        knowledge: the protocol, the number of clients.
        num_examples: n over all clients, if the server has it from elsewhere than `knowledge`.
    """
    training, count = knowledge.local_training, _share(knowledge, num_examples)
    return local_path(training, count) if isinstance(training, FedAvg) and count is not None else None


def one_step(update: Update, knowledge: ServerKnowledge) -> bool:
    """The update is known to hold a single gradient per client, all taken at the parameters that were sent."""
    return update.kind is UpdateKind.GRADIENT or (local_steps(knowledge) == 1 and is_proportional(update, knowledge))


def is_proportional(update: Update, knowledge: ServerKnowledge) -> bool:
    """A delta is a combination of gradients, alike for every parameter, as far as the server knows.

    Not of Adam and its kin, which scale every parameter's gradient apart.
    """
    training = knowledge.local_training
    return update.kind is UpdateKind.GRADIENT or not isinstance(training, FedAvg) or training.rule.is_linear


def check_proportional(update: Update, knowledge: ServerKnowledge) -> None:
    """Raises NotApplicable if the update is known to be no combination of gradients, of which ratios could be read."""
    training = knowledge.local_training
    if isinstance(training, FedAvg) and not is_proportional(update, knowledge):
        name = type(training.rule).__name__
        raise NotApplicable(f"the clients train by {name}, which scales every entry apart: no ratio is left to read")


def mean_gradient(
    update: Update, knowledge: ServerKnowledge, names: Iterable[str], num_examples: int | None = None
) -> MeanGradient:
    """The named tensors of `update` as mean gradients; names that were not trained are left out.

    Those of linear layers are what they were before a defence that the server knows (`defended.completion`).

    Args:
        update: gradient or delta.
        knowledge: the model as sent, the protocol, the number of clients.
        names: of parameters.
        num_examples: n over all clients, if the server has it from elsewhere than `knowledge`.

    Raises:
        NotApplicable: the clients' optimiser is known to leave no more of gradients than signs.
    """
    check_proportional(update, knowledge)
    names = list(names)
    told = _before_defence(update, knowledge, names) if knowledge.defence is not None else update
    return signed_gradient(told, knowledge, names, num_examples)


def _before_defence(update: Update, knowledge: ServerKnowledge, names: Iterable[str]) -> Update:
    """The named tensors as they were before the clients' defence, as far as the rank of one step's gradient tells."""
    return completion(update, knowledge).whole(names) if one_step(update, knowledge) else update


def signed_gradient(
    update: Update, knowledge: ServerKnowledge, names: Iterable[str], num_examples: int | None = None
) -> MeanGradient:
    """As `mean_gradient`, for readers that use no more than signs where `is_proportional` is False."""
    values = {k: update.values[k].double() for k in names if k in update.values}
    if update.kind is UpdateKind.GRADIENT:
        return MeanGradient(values, True)
    path, start = client_path(knowledge, num_examples), knowledge.model.params
    if path is None:
        return MeanGradient(values, False)
    mean = {k: (v - path.decay * start[k].to(v)) / path.gradient for k, v in values.items()}
    return MeanGradient(mean, True, 1 / path.gradient)
