"""The layers of a plain fully connected network."""

from dataclasses import dataclass

from torch import nn

from fedspill.core.errors import NotApplicable
from fedspill.inversion.network.activations import Invertible
from fedspill.inversion.network.trace import Step, Trace


@dataclass(frozen=True)
class Dense:
    """One fully connected layer: names of its parameters, and what follows it.

    Attributes:
        activation: element-wise, with a derivative that its output tells; None if nothing follows.
    """

    weight: str
    bias: str | None
    activation: Invertible | None = None


def dense_layers(traced: Trace) -> list[Dense]:
    """The layers of a plain fully connected network, from its input to its logits.

    Raises:
        NotApplicable: something else is among them; names it.
    """
    layers = list[Dense]()
    for step in traced.steps:
        if not step.linked:
            raise NotApplicable(f"something that is not a layer happens before {step.describe()}")
        if isinstance(step.module, nn.Linear):
            layers.append(_dense(step))
        elif isinstance(step.module, Invertible) and layers:
            if layers[-1].activation is not None:
                raise NotApplicable(f"two activations follow each other at {step.describe()}")
            layers[-1] = Dense(layers[-1].weight, layers[-1].bias, step.module)
        elif not step.passes():
            raise NotApplicable(f"{step.describe()} is neither fully connected nor an activation of known slope")
    if not layers or not traced.closed:
        raise NotApplicable("the network is not a chain of fully connected layers")
    return layers


def _dense(step: Step) -> Dense:
    weight = step.parameter("weight")
    if weight is None:
        raise NotApplicable(f"{step.describe()} holds no weight of its own")
    return Dense(weight, step.parameter("bias"))
