"""Logits out of what a network returns: a tensor, a tuple, a mapping, or an object with `logits`."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor

from fedspill.core.errors import BadInput


def logits_of(answer: Any) -> Tensor:
    """The logits.

    A tensor is the logits; of anything else the entry `logits`, or the only tensor, or of a tuple the first tensor.

    Raises:
        BadInput: none can be told; or there are others of the same shape, which a loss may count too.
    """
    if isinstance(answer, Tensor):
        return answer
    named = _named(answer)
    tensors = {k: v for k, v in named.items() if isinstance(v, Tensor)}
    kind = type(answer).__name__
    if not tensors or ("logits" not in tensors and len(tensors) > 1 and isinstance(answer, Mapping)):
        raise BadInput(
            f"the network returns a {kind} of {_words(named)}; a tensor of logits, or an entry `logits`, is needed"
        )
    key = "logits" if "logits" in tensors else next(iter(tensors))
    others = [k for k, v in tensors.items() if k != key and v.shape == tensors[key].shape]
    if others and (key != "logits" or any("aux" in k for k in others)):
        raise BadInput(
            f"the network returns a {kind} of several logits ({key}, {', '.join(others)}), and a loss may count all of"
            " them; hand over a module that returns those that are trained"
        )
    return tensors[key]


def _named(answer: Any) -> dict[str, Any]:
    if isinstance(answer, Mapping):
        return {str(k): v for k, v in cast("Mapping[Any, Any]", answer).items()}
    if hasattr(answer, "_asdict"):
        return dict(answer._asdict())
    if isinstance(answer, tuple | list):
        return {str(i): v for i, v in enumerate(cast("Sequence[Any]", answer))}
    return dict(vars(answer)) if hasattr(answer, "__dict__") else {}


def _words(named: Mapping[str, Any]) -> str:
    return ", ".join(list(named)[:6]) or "nothing"
