"""Logits out of what a network returns: a tensor, a tuple, a mapping, or an object with `logits`."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.errors import BadInput
from fedspill.core.types import LossFn


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


LOG_PROBABILITIES = 1e-2
"""What the probabilities of every example may add up to beside 1, in log; rounding of 16 bits gives as much."""


def is_log_probabilities(outputs: Tensor) -> bool:
    """Whether a network puts out logarithms of probabilities, as those that end in a log-softmax do.

    They are logits less a number for each example, so that softmax and cross-entropy make the same of them.

    Args:
        outputs: (n, ..., classes), of inputs without meaning.
    """
    if outputs.ndim < 2 or outputs.shape[-1] < 2 or outputs.is_meta:
        return False
    return bool((outputs.detach().float().logsumexp(-1).abs() <= LOG_PROBABILITIES).all())


def of_log_probabilities(loss: LossFn) -> LossFn:
    """What a loss is by the logits of a network that ends in a log-softmax: negative log-likelihood is cross-entropy.

    Args:
        loss: `torch.nn.functional.nll_loss`, a `torch.nn.NLLLoss`, or another one, which stays as it is.
    """
    if loss is functional.nll_loss:
        return functional.cross_entropy
    if isinstance(loss, nn.NLLLoss) and loss.reduction == "mean" and loss.ignore_index < 0:
        return functional.cross_entropy if loss.weight is None else nn.CrossEntropyLoss(loss.weight)
    return loss


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
