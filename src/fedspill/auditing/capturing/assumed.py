"""What is assumed of a client that draws, where nobody knows what: masks, views of its examples, their order."""

from dataclasses import replace

from fedspill.core.errors import BadInput
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.draws import is_random, without_draws
from fedspill.core.local_training.protocol import FedAvg, LocalTraining
from fedspill.core.model import Model
from fedspill.core.probing.inputs import probe_inputs

MASKS = (
    "The network draws in train mode (dropout, stochastic depth): the masks of the client are not known, so the attack"
    " assumes none."
)
VIEWS = "The client augments its examples: its draws are not known, so the attack assumes examples as they are."
ORDER = "The client shuffles its examples: their order is not known, so the attack assumes the one in which they are."


def without_unknown_draws(knowledge: ServerKnowledge) -> tuple[ServerKnowledge, tuple[str, ...]]:
    """What an attack is given of a client whose draws are not known, and what a reader has to know of it.

    Raises:
        BadInput: the network draws in eval mode too.
    """
    model, training = knowledge.model, knowledge.local_training
    if _draws(model.in_eval_mode()):
        raise BadInput(
            "the network draws random numbers in eval mode too, so that no two answers agree; F.dropout and its kin"
            " want training=self.training"
        )
    if knowledge.draws is not None:
        return knowledge, ()
    notes = (*((MASKS,) if model.training and _draws(model) else ()), *_of_examples(training))
    if not notes:
        return knowledge, ()
    calm, protocol = without_draws(model, training)
    if _draws(calm):
        raise BadInput(
            "the network still draws with its dropout switched off: drawing belongs to modules other than BatchNorm,"
            " while `self.training` is true"
        )
    return replace(knowledge, model=calm, local_training=protocol), notes


def _draws(model: Model) -> bool:
    return is_random(model, probe_inputs(model.input, 2, model.like))


def _of_examples(training: LocalTraining | None) -> tuple[str, ...]:
    if training is None:
        return ()
    shuffles = isinstance(training, FedAvg) and training.shuffle
    return (*((VIEWS,) if training.conditions.augmentation else ()), *((ORDER,) if shuffles else ()))
