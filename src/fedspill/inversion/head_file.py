"""A trained two-layer head as one safetensors file."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from fedspill.core.errors import BadInput
from fedspill.inversion.heads import HeadWeights
from fedspill.inversion.transfer import Extractor, representation_shape

NAMES = ("0.weight", "0.bias", "2.weight", "2.bias")
"""As `HeadWeights.module` calls them."""


def read_head(path: str | Path, extractor: Extractor) -> HeadWeights:
    """The head in a file that `fedspill train spab` wrote, on the extractor's device and in its dtype.

    Raises:
        BadInput: there is no such file, it holds no head of two layers, or one for other representations.
    """
    path, like = Path(path), extractor.model.like
    if not path.is_file():
        raise BadInput(f"head file {str(path)!r} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(f"{str(path)!r} is no whole safetensors file: {str(error)[:160]}") from error
    if sorted(found) != sorted(NAMES) or not all(bool(v.isfinite().all()) for v in found.values()):
        raise BadInput(f"{str(path)!r} holds {sorted(found)}; finite {sorted(NAMES)} are needed, a head of two layers")
    head = HeadWeights(*(found[name].to(like) for name in NAMES))
    length = int(torch.tensor(representation_shape(extractor.model, extractor.at)).prod())
    (rows, inputs), classes = head.weight.shape, len(head.last_bias)
    if inputs != length or head.bias.shape != (rows,) or head.last_weight.shape != (classes, rows):
        shapes = {name: tuple(found[name].shape) for name in NAMES}
        raise BadInput(f"{str(path)!r} holds {shapes}; the extractor gives {length} values to its head")
    return head
