"""D-SNR: gradients that one example dominates, of every parameter.

Garov et al., "Hiding in Plain Sight: Disguising Data Stealing Attacks in Federated Learning" (SEER), ICLR 2024,
arXiv:2306.03013, which defines the disaggregation signal-to-noise ratio: the largest norm of one example's gradient
over the sum of all others'. The published script leaves out biases, BatchNorm, shortcuts and the first convolution;
here none is. An honest network that knows all examples but one has a high ratio, too: so it is set against that of the
gradient by the logits, and what is left is the model's own doing.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.model import Model
from fedspill.core.roles import Card, Check, Finding, Incoming
from fedspill.inversion.gradients.singly import Singles, singles, tables
from fedspill.inversion.network.weights import bias_name, head_weight

NAME = "dominated_gradients"
INFINITE = 1e9
"""Stands for a ratio to 0."""
PULLED, REACHES = 1e-3, 1e-6
"""Shares of the largest below which the loss does not pull at an example, and none of it reaches the layers before."""


def d_snr(norms: Float[Tensor, " n"]) -> float:
    """The largest norm over the sum of the others; 0 if all are 0, at most `INFINITE`."""
    top = float(norms.max())
    others = float(norms.sum()) - top
    return 0.0 if top <= 0 else min(INFINITE, top / others) if others > 0 else INFINITE


@dataclass(frozen=True)
class DominatedGradients:
    """Finds parameters whose gradient is mostly one example's though the loss pulls at others as well.

    Attributes:
        alarm: D-SNR from which on one example dominates; of the paper.
        factor: so many times the D-SNR of the gradients by the logits it must be, else it is a note.
        examples: of fewer nothing is said.
        smallest: parameters of fewer numbers are passed over.
        silenced: share of the examples at which the loss pulls, of which none reaches a layer before the head.

    Raises:
        BadInput: a field out of range.
    """

    alarm: float = 1.0
    factor: float = 8.0
    examples: int = 4
    smallest: int = 8
    silenced: float = 0.5

    def __post_init__(self) -> None:
        whole = self.examples >= 2 and self.smallest >= 1
        if not (self.alarm > 0 and self.factor >= 1 and whole and 0 < self.silenced <= 1):
            raise BadInput(
                f"alarm={self.alarm} must be above 0, factor={self.factor} and smallest={self.smallest} from 1,"
                f" examples={self.examples} from 2, silenced={self.silenced} above 0 and at most 1"
            )

    def inspect(self, incoming: Incoming) -> list[Finding]:
        """At most one alarm and one note, each of the parameter with the largest ratio, and one of silenced examples.

        None without own data.

        Raises:
            BadInput: the network cannot be run on the client's data.
        """
        seen = singles(incoming)
        if seen is None or len(seen) < self.examples:
            return []
        ratios = ratios_of(seen, tables(incoming.model), self.smallest)
        by_loss = d_snr(seen.signals)
        high = {k: r for k, r in ratios.items() if r > self.alarm}
        planted = {k: r for k, r in high.items() if r > self.factor * by_loss}
        rest = {k: r for k, r in high.items() if k not in planted}
        found = [_finding(planted, by_loss, len(seen), planted=True)] if planted else []
        found += [_finding(rest, by_loss, len(seen), planted=False)] if rest else []
        return found + self._silent(incoming.model, seen)

    def _silent(self, model: Model, seen: Singles) -> list[Finding]:
        head = head_weight(model)
        if head is None or not (body := [k for k in seen.norms if k not in (head, bias_name(head))]):
            return []
        pulled, silent = silent_examples(seen, body)
        if pulled < self.examples or silent < self.silenced * pulled:
            return []
        return [_silenced(head, silent, pulled)]


def ratios_of(seen: Singles, passed_over: frozenset[str], smallest: int) -> dict[str, float]:
    """The D-SNR of each parameter, whatever layer it is of."""
    kept = {k: n for k, n in seen.norms.items() if k not in passed_over and seen.sizes[k] >= smallest}
    return {k: d_snr(torch.linalg.vector_norm(n, dim=1)) for k, n in kept.items()}


def silent_examples(seen: Singles, body: list[str]) -> tuple[int, int]:
    """How many examples the loss pulls at, and how many of these have no gradient in any of these parameters."""
    reach = torch.stack([torch.linalg.vector_norm(seen.norms[k], dim=1) for k in body]).norm(dim=0)
    pulled = seen.signals > PULLED * seen.signals.max()
    ratios = reach[pulled] / seen.signals[pulled]
    none = ratios <= REACHES * ratios.max() if len(ratios) else pulled
    return int(pulled.sum()), int(none.sum())


def _silenced(head: str, silent: int, pulled: int) -> Finding:
    return Finding(
        NAME,
        head,
        0.8,
        {"silenced": float(silent), "pulled": float(pulled)},
        f"The loss pulls at {pulled} examples, and the gradients of {silent} of them end at the head: they reach no"
        " layer before it.",
        rule="silenced",
        reads="The update of all layers before the head is that of the few others: of a batch of that few, or of one.",
        advice="Do not send this update; ask the server how the head was made.",
    )


def _finding(ratios: dict[str, float], by_loss: float, count: int, *, planted: bool) -> Finding:
    worst = max(ratios, key=lambda name: ratios[name])
    cause = "though the loss pulls at the others as well" if planted else "as the network knows the others already"
    return Finding(
        check=NAME,
        where=worst,
        severity=0.8 if planted else 0.3,
        evidence={
            "d_snr": ratios[worst],
            "d_snr_of_the_loss": by_loss,
            "parameters": float(len(ratios)),
            "examples": float(count),
        },
        explanation=f"One example's gradient is {min(ratios[worst], INFINITE):.3g} times that of all {count - 1} others"
        f" together, {cause} (D-SNR; {by_loss:.2g} by the logits).",
        rule="planted" if planted else "by_loss",
        reads="The update is that of a batch of one example, from which single pictures are rebuilt best.",
        advice="Do not send this update; ask the server how the head was made."
        if planted
        else "Train on a batch in which more examples still have a loss, or on more examples at a time.",
        also=tuple(name for name in ratios if name != worst)[:16],
    )


CARD: Card[Check] = Card(
    title="D-SNR: gradients that one example dominates",
    paper="Garov et al., ICLR 2024, arXiv:2306.03013",
    summary="Reports parameters whose gradient over the client's batch is one example's, whatever the loss says.",
    presets={"paper": DominatedGradients(), "quick": DominatedGradients()},
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
    own_data=True,
)
