"""The classification layer's gradient and the weights that it was taken at, as label inference needs them."""

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.probing.head import Head, last_linear
from fedspill.core.types import Params, Update
from fedspill.inversion.gradients.defended.posterior import Entries, posterior_rows
from fedspill.inversion.gradients.defended.sent import as_it_was, noise_on
from fedspill.inversion.gradients.layer import sent
from fedspill.inversion.gradients.mean import client_path, signed_gradient


@dataclass(frozen=True)
class ClassifierGradient:
    """The mean gradient of the head in float64, with the number of examples behind it.

    Attributes:
        scaled: False if the scale is arbitrary (FedAvg of unknown settings); of Adam and its kin only signs are right.
        weight: the head's own, at the middle of the client's path.
        offset: the head's bias there, None if it has none.
        scale: by what the update was multiplied.
    """

    head: Head
    values: Params
    num_examples: int
    scaled: bool
    weight: Float[Tensor, "k d"]
    offset: Float[Tensor, " k"] | None
    scale: float = 1.0

    def rows(self) -> Float[Tensor, "k d"]:
        """The gradient of the weight, one row per class."""
        return self.head.rows(self.values[self.head.weight])

    def row_sums(self) -> Float[Tensor, " k"]:
        """s_c, the sum of class c's row."""
        return self.rows().sum(1)

    def bias(self) -> Float[Tensor, " k"]:
        """The gradient of the bias.

        Raises:
            NotApplicable: the head has no bias.
        """
        if self.head.bias is None:
            raise NotApplicable(f"this label method reads the head's bias, and the head {self.head.name!r} has none")
        if self.head.bias not in self.values:
            raise NotApplicable(f"this label method reads {self.head.bias!r}, which the update does not hold")
        return self.values[self.head.bias]


def head_gradient(update: Update, knowledge: ServerKnowledge, num_examples: int) -> ClassifierGradient:
    """Reads the head out of an update.

    Raises:
        NotApplicable: no head is found, or its weight was not trained.
    """
    head = last_linear(knowledge.model)
    sent(update, head.weight, "the head's weight")
    names = [n for n in (head.weight, head.bias) if n is not None]
    mean = signed_gradient(update, knowledge, names, num_examples)
    middle = {n: _middle(update, knowledge, n, num_examples) for n in names}
    offset = None if head.bias is None else middle[head.bias]
    return ClassifierGradient(
        head, mean.values, num_examples, mean.scaled, head.rows(middle[head.weight]), offset, mean.scale
    )


def read_behind_noise(gradient: ClassifierGradient, update: Update, knowledge: ServerKnowledge) -> ClassifierGradient:
    """With the bias gradient of one example as all of the head tells it, where it was sent with noise or with gaps.

    The weight's rows are multiples of it. Of softmax less one-hot the label's entry is the largest, and negative.
    """
    head, known = gradient.head, knowledge.defence
    if gradient.num_examples != 1 or known is None or head.bias is None or head.bias not in gradient.values:
        return gradient
    deviation = noise_on(head.weight, update, knowledge, known, gradient.scale)
    if not deviation:
        return gradient
    kept = head.rows(as_it_was(update, head.weight, known).double()) > 0, as_it_was(update, head.bias, known)
    told = posterior_rows(Entries(gradient.rows(), gradient.bias(), *kept, deviation))
    return replace(gradient, values={**gradient.values, head.bias: -told * told[told.abs().argmax()].sign()})


def _middle(update: Update, knowledge: ServerKnowledge, name: str, num_examples: int) -> Tensor:
    value = knowledge.model.params[name].double()
    path = client_path(knowledge, num_examples)
    if path is None or name not in update.values:
        return value
    return value - update.values[name].double() * path.middle
