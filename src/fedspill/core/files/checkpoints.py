"""What `torch.save` wrote, as tensors only; and safetensors files."""

import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.files.archives import line
from fedspill.core.files.contents import named_tensors
from fedspill.core.files.openings import opening

FOREIGN = re.compile(r"GLOBAL ([\w.]+)|Unsupported (?:global|class|type):? ?([\w.]+)")

SENTENCE = re.compile(r"[^\W\d]{2}.* ")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint that `weights_only=True` loads, nested mappings as one.

    Raises:
        BadInput: a broken file, or one that holds code or anything but tensors.
    """
    try:
        # A sparse tensor whose indices lie outside its shape would be written to outside its memory.
        with warnings.catch_warnings(), torch.sparse.check_sparse_tensor_invariants():
            warnings.simplefilter("ignore")  # of PyTorch, about formats of its own
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the reader trips over, the file is of no use
        raise BadInput(
            f"{str(path)!r} cannot be read as tensors only (weights_only=True), and fedspill never unpickles:"
            f" {_reason(error)}; save a state_dict, or safetensors"
        ) from error
    return named_tensors(content, repr(str(path)))


def _reason(error: Exception) -> str:
    """In a few words; PyTorch's own lines advise to load the file all the same."""
    text = str(error)
    if (foreign := FOREIGN.search(text)) is not None:
        return f"it holds {foreign[1] or foreign[2]}, which is no tensor"
    if "PytorchStreamReader" in text:
        return "it is a broken archive, or one that was cut off"
    if "Unsupported operand" in text:
        return "it is a plain pickle, or broken"
    if "Weights only load failed" in text:
        return _sentence(text.partition("WeightsUnpickler error:")[2], "it holds objects, or is broken")
    return _sentence(text, "it is broken, or no checkpoint of torch.save")


def _sentence(text: str, otherwise: str) -> str:
    """The first line if that is a sentence; some errors hold a key, a number, or nothing in the place of one."""
    first = text.strip().partition("\n")[0]
    return line(Exception(first)) if SENTENCE.search(first) else otherwise


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        BadInput: a broken file, or a type of number that PyTorch has not.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError, AttributeError, KeyError) as error:
        raise BadInput(f"{str(path)!r} is no whole safetensors file: {line(error)}") from error


def read_metadata(path: str | Path) -> dict[str, str]:
    """What a safetensors file says of itself; {} for other files.

    Raises:
        BadInput: a safetensors file that is broken, empty, or a text.
    """
    if Path(path).suffix != ".safetensors" or not Path(path).is_file():
        return {}
    opening(Path(path))
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(f"{str(path)!r} is no whole safetensors file: {line(error)}") from error
