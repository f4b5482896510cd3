"""The client's own examples, held against the model that they are to be put through."""

import torch

from fedspill.core.errors import BadInput
from fedspill.core.inputs import TokenSpec
from fedspill.core.model import Model
from fedspill.core.types import Batch


def fitting(model: Model, data: object) -> Batch:
    """The examples, if they are such as the model takes.

    Raises:
        BadInput: they are no `Batch`, of another shape, not finite, or of classes that the model has not.
    """
    if not isinstance(data, Batch):
        raise BadInput(f"own_data is a {type(data).__name__}; a fedspill.Batch of inputs and labels is needed")
    wanted = tuple(model.input.decode(_blank(model)).shape[1:])
    if tuple(data.inputs.shape[1:]) != wanted:
        raise BadInput(f"own_data holds inputs of {tuple(data.inputs.shape[1:])}, the model takes {wanted}")
    if not bool(data.inputs.isfinite().all()):
        raise BadInput("own_data holds NaN or infinite values; finite numbers are needed")
    classes = _classes(model, data)
    labels = data.labels
    named = classes > 0 and labels.ndim == 1 and not labels.is_floating_point()
    if named and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise BadInput(f"own_data has labels {labels.tolist()[:8]}; the model's classes are 0 to {classes - 1}")
    return data


def _blank(model: Model) -> torch.Tensor:
    zeros = model.like.new_zeros(1, *model.input.encoded_shape)
    return zeros.long() if isinstance(model.input, TokenSpec) else zeros


def _classes(model: Model, data: Batch) -> int:
    """0 where the model cannot be run, which the checks will say."""
    try:
        first = data[:1].to(model.like)
        with torch.no_grad():
            logits = model.in_eval_mode().logits(model.params, model.input.encode(first.inputs))
        return logits.shape[-1] if logits.ndim == 2 and logits.shape[-1] > 1 else 0
    except Exception:  # a network of anyone's, or one of which parameters are missing
        return 0
