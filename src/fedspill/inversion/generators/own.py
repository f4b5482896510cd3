"""A user's own generator, `package.module:factory`."""

import re

from torch import nn

from fedspill.core.errors import BadInput
from fedspill.core.libraries.named import called
from fedspill.inversion.generators.generator import Generator

NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_own(name: str) -> bool:
    """Whether a generator's name is of the form `package.module:factory`."""
    return NAME.fullmatch(name) is not None


def own_generator(name: str, latent_shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> Generator:
    """What `package.module:factory` returns when called without arguments; modules in the current folder are found too.

    Args:
        name: of the factory.
        latent_shape: of one latent.
        image_shape: (c, h, w) that its images are to have, which `checked` tries.

    Raises:
        BadInput: there is no such factory, it fails, or it returns something else than a network.
    """
    made = called(name, "generator")
    if not isinstance(made, nn.Module):
        raise BadInput(
            f"generator {name!r} returns {type(made).__name__}; an nn.Module from latents to images is needed"
        )
    return Generator.of(made, latent_shape, image_shape, repr(name))
