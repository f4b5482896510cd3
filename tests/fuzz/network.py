"""The network whose weights and updates are broken."""

from torch import nn

from fedspill.zoo.models import build


def make() -> nn.Module:
    """A small network with the parameter names of the zoo's."""
    return build("mlp", input_shape=(3, 4, 4), num_classes=10, options={"hidden": [4]}).module
