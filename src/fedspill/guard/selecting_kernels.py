"""Kernels and rows that pick one number out of their input and hand it on, and channels that hand on nothing.

Boenisch et al., arXiv:2112.02918; Fowl et al., arXiv:2110.13057; LOKI, arXiv:2303.12233: convolutions that carry a
picture to the layer that records it. Jitter on the weights does not hide them: what counts is how much of a row's
energy lies in one number, the transmitted signal over the noise. Pruning by size leaves such rows, too: a note.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.roles import Card, Check, Finding, Incoming
from fedspill.inversion.network.weights import Weights, layer_weights

NAME = "selecting_kernels"
READS = (
    "Channels that hand pixels on as they are carry a client's pictures to a deeper layer, whose gradient then shows"
    " them to the server as if it were the first."
)
ADVICE = "Do not train on it; ask the server how this layer came about, and look at the layers behind it."


MANY = 32
"""Rows among which one that picks is a note: PyTorch's truncated normal rounds one number in a million to its bound,
which is a hundred times the others."""
REPEATED, COMMON = 3, 0.02
"""Rows whose one number is the same from which on somebody wrote them, and at least this share of all such: of
thousands of numbers of 16 bits some coincide."""


NEVER = 2.0
"""A share that none reaches: short vectors say nothing."""
AT_ONCE = 2**22
"""Numbers that are looked at together."""


def peak_share(vectors: Float[Tensor, "m n"]) -> Float[Tensor, " m"]:
    """How much of each vector's energy its largest number holds; 0 of a vector of zeros."""
    step = max(1, AT_ONCE // vectors.shape[1])
    return torch.cat([_peak_share(part.double()) for part in vectors.split(step)])


def _peak_share(vectors: Tensor) -> Tensor:
    top = vectors.abs().amax(-1, keepdim=True)
    scaled = (vectors / top.clamp_min(1e-300)).square()
    return (1 / scaled.sum(-1).clamp_min(1)) * (top[..., 0] > 0)


@dataclass(frozen=True)
class SelectingKernels:
    """Finds rows of nearly one number, layers of nearly one-hot kernels, and layers most of whose kernels are empty.

    Attributes:
        row: share of a row's energy in one number from which on the row picks that number. Trained rows have up to
            0.6, so that 0.9 leaves room.
        kernel: likewise of a kernel, of which trained ones often have much; only many such are reported.
        kernels: share of the layer's kernels that must be one-hot, where no whole row is.
        empty: share of the kernels that are 0 from which on a note is made; pruned networks have them, too.
        shortest: rows of fewer numbers, such as those of depthwise convolutions, say nothing by themselves.

    Raises:
        BadInput: a field out of range.
    """

    row: float = 0.9
    kernel: float = 0.98
    kernels: float = 0.25
    empty: float = 0.25
    shortest: int = 16

    def __post_init__(self) -> None:
        shares = (self.row, self.kernel, self.kernels, self.empty)
        if not (all(0 < x < 1 for x in shares) and self.shortest >= 2):
            raise BadInput(
                f"row={self.row}, kernel={self.kernel}, kernels={self.kernels} and empty={self.empty} must lie between"
                f" 0 and 1, shortest={self.shortest} from 2"
            )

    def inspect(self, incoming: Incoming) -> list[Finding]:
        """At most one finding for each layer, embeddings excepted."""
        layers = layer_weights(incoming.model, incoming.misfit.tensors)
        return [f for w in layers if not w.embedding and bool(w.rows.any()) for f in self._layer(w)]

    def _layer(self, weights: Weights) -> Iterator[Finding]:
        rows = weights.rows
        kernels = rows.unflatten(1, (-1, weights.kernel)).flatten(0, 1)
        picks = peak_share(rows) >= (self.row if rows.shape[1] >= self.shortest else NEVER)
        one_hot = peak_share(kernels) >= (self.kernel if weights.kernel > 3 else NEVER)
        empty = float((~kernels.any(1)).double().mean())
        evidence = {"picking_rows": float(picks.sum()), "rows": float(len(rows))}
        evidence |= {"one_hot_kernels": float(one_hot.double().mean()), "empty_kernels": empty}
        if bool(picks.any()):
            seen = f"{int(picks.sum())} of {len(picks)} rows pick one number of their input and hand it on."
            lone = int(picks.sum()) == 1 and len(picks) >= MANY
            severity = 0.3 if lone else 0.8
            seen = f"{seen} One alone comes about by rounding in a truncated normal, too." if lone else seen
            yield _finding(weights, "row", severity, evidence, seen, pruned=_is_pruned(rows, picks))
        elif float(one_hot.double().mean()) >= self.kernels:
            seen = f"{evidence['one_hot_kernels']:.0%} of the kernels hold one number and otherwise next to nothing."
            yield _finding(weights, "one_hot", 0.7, evidence, seen, pruned=_is_pruned(kernels, one_hot))
        elif empty >= self.empty and weights.kernel > 1:
            seen = f"{empty:.0%} of the kernels are 0. Pruned channels are so, and those that a server has shut."
            yield _finding(weights, "empty", 0.3, evidence, seen)


def _is_pruned(vectors: Float[Tensor, "m n"], picks: Bool[Tensor, " m"]) -> bool:
    """Whether pruning left one number in the vectors that pick: the others are thinned out, too, and few such alike.

    A server that hands pixels on writes the same number again and again, or leaves one number in every vector.
    """
    others, filled = vectors[~picks], vectors.any(1)
    peaks = vectors[picks].abs().amax(1)
    same = len(peaks) > 1 and int(peaks.unique(return_counts=True)[1].max()) >= max(
        min(REPEATED, len(peaks)), COMMON * len(peaks)
    )
    most = float(picks.sum()) >= 0.8 * float(filled.sum())
    return bool(len(others)) and not same and not most and float((others == 0).double().mean()) >= 0.3


def _finding(
    weights: Weights, rule: str, severity: float, evidence: dict[str, float], seen: str, *, pruned: bool = False
) -> Finding:
    if pruned:
        seen, severity = f"{seen} The layer is thinned out as pruning does it, which leaves such rows by chance.", 0.3
    return Finding(NAME, weights.name, severity, evidence, seen, rule=rule, reads=READS, advice=ADVICE)


CARD: Card[Check] = Card(
    title="One-hot, identity and empty kernels",
    paper="Boenisch et al., EuroS&P 2023, arXiv:2112.02918; Zhao et al., IEEE S&P 2024, arXiv:2303.12233",
    summary="Reports rows and kernels that pick one number and hand it on, up to noise, and layers of empty kernels.",
    presets={"paper": SelectingKernels(), "quick": SelectingKernels()},
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
)
