"""Handcrafted weights repeat: the normalised entropy of weight vectors is near 1 unless someone wrote them.

Dabholkar et al. 2025 (Maui, arXiv:2509.11451), sections 3.2 and 7.4.1. The paper's bin width and alarm level are not
known; those below are chosen so that honest float32 networks, untrained or trained, stay above.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.model import Model
from fedspill.core.roles import Card, Check, Finding, Incoming

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
AT_ONCE = 2**22
"""Weights that are sorted together."""
STORED = ((torch.bfloat16, 25, 2**8), (torch.float16, 25, 2**12))
"""Formats of 16 bits, with the shortest vector and how much of a long one is looked at: more coincide by chance."""


def entropy(vectors: Float[Tensor, "m n"], bin_width: float = 1e-6) -> Float[Tensor, " m"]:
    """Normalised entropy of each row: 0 if all its numbers share a bin, 1 if no two of them do.

    H = -sum p ln p / ln n over the shares p of the bins, which are as wide as `bin_width` times the row's largest
    absolute value, so that scaling a row changes nothing.
    """
    step = max(1, AT_ONCE // vectors.shape[1])
    return torch.cat([_entropy(rows, bin_width) for rows in vectors.split(step)])


def _entropy(vectors: Tensor, bin_width: float) -> Tensor:
    m, n = vectors.shape
    exact = vectors.double()
    width = bin_width * exact.abs().amax(1, keepdim=True)
    bins = (exact / width.clamp_min(1e-300)).floor().sort(1).values
    run = torch.zeros_like(bins, dtype=torch.long)
    run[:, 1:] = (bins[:, 1:] != bins[:, :-1]).cumsum(1)
    counts = exact.new_zeros(m, n).scatter_add_(1, run, torch.ones_like(exact))
    return 1 - torch.special.xlogy(counts, counts).sum(1) / (n * math.log(n))


@dataclass(frozen=True)
class Vectors:
    """The weights of one layer, cut in one way.

    Attributes:
        unit: "row", what one neuron or channel multiplies its inputs with; "kernel", one channel's share of that in a
            convolution; or "layer".
    """

    unit: str
    values: Float[Tensor, "m n"]


def weight_vectors(model: Model, smallest: int = 9, most: int = 2**17) -> Iterator[tuple[str, list[Vectors]]]:
    """What there is to look at, by parameter; without biases, norms, and layers that are 0 throughout.

    Args:
        smallest: shorter vectors say too little.
        most: numbers that are looked at of a longer vector, evenly spread.
    """
    for path, module in model.module.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            full = f"{path}.{name}".lstrip(".")
            weight = model.params.get(full)  # a tied weight stands under one of its names
            if weight is None or not _is_matrix(module, weight) or not bool(weight.any()):
                continue
            shortest, limit = _limits(weight, smallest, most)
            cut = _cut(module, name, weight.detach(), limit)
            yield full, [v for v in cut if v.values.shape[1] >= shortest]


def _limits(weight: Tensor, smallest: int, most: int) -> tuple[int, int]:
    for kind, shortest, longest in STORED:
        if torch.equal(weight, weight.to(kind).to(weight)):
            return max(smallest, shortest), min(most, longest)
    return smallest, most


def _is_matrix(module: nn.Module, weight: Tensor) -> bool:
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):  # other norms' weights have one axis
        return False
    return weight.ndim >= 2 and (isinstance(module, nn.Linear | nn.Embedding) or weight.squeeze().ndim >= 2)


def _cut(module: nn.Module, name: str, weight: Tensor, most: int) -> Iterator[Vectors]:
    rows = weight.flatten(1)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None and name == "weight":
        rows = torch.cat([rows[: module.padding_idx], rows[module.padding_idx + 1 :]])
    yield Vectors("row", _spread(rows, len(rows), most))
    if isinstance(module, CONVOLUTIONS) and weight[0, 0].numel() > 1:
        yield Vectors("kernel", weight.flatten(2).flatten(0, 1))
    some = min(len(rows), math.isqrt(most))
    yield Vectors("layer", _spread(rows, some, most // some).reshape(1, -1))


def _spread(matrix: Tensor, rows: int, columns: int) -> Tensor:
    """At most so many rows and columns, evenly spread."""
    row, column = (-(-size // limit) for size, limit in zip(matrix.shape, (rows, columns), strict=True))
    return matrix[::row, ::column]


MOST_ROWS = 512
"""Rows that are looked at for why a layer's numbers repeat."""
NOTE = 0.3
"""Severity where pruning or quantisation explains what repeats."""
THINNED, LEVELS, FLAT = 0.1, 16, 0.25
"""Share of zeros from which on a layer is pruned, different numbers from which on one is quantised, at least, and share
of its rows that may be of few numbers: those that are small beside the largest are."""


def stored_short(rows: Float[Tensor, "m n"], threshold: float, largest: float | None = None) -> str:
    """Why honest numbers of a layer may repeat: "pruned" or "quantised", or both; "" if that does not explain it.

    Args:
        rows: of the layer, or some of them.
        threshold: of the entropy.
        largest: absolute number of the layer, by which it may have been quantised; None is that of these rows.

    Without its zeros, and beside as many levels as it has, each row of such a layer is as diverse as an ordinary one. A
    row of one number again and again is not, nor are rows of one number and zeros, unless they are so short that chance
    leaves such, all with different numbers.
    """
    top = float(rows.abs().max()) if largest is None else largest
    zeros, levels = float((rows == 0).double().mean()), _levels(rows, top)
    thinned, rounded = zeros >= THINNED, levels is not None and len(levels) >= LEVELS
    filled = [row[row != 0] for row in rows if bool(row.any())]
    several = 0.5 * _several(zeros, rows.shape[1]) if filled else 0.0
    if not filled or not (thinned or rounded) or sum(len(row) > 1 for row in filled) < several * len(filled):
        return ""
    if not rounded and several < 0.45 and len(torch.cat(filled).unique()) < 0.5 * sum(map(len, filled)):
        return ""
    if not rounded and sum(len(row.unique()) for row in filled) < 0.5 * sum(map(len, filled)):
        return ""
    even = [_against_levels(row) for row in filled if len(row) >= LEVELS]
    if any(h < 0.5 * threshold for h in even) or sum(h < threshold for h in even) > FLAT * len(even):
        return ""
    return " and ".join(word for word, holds in (("pruned", thinned), ("quantised", rounded)) if holds)


def _several(zeros: float, length: int) -> float:
    """Share of the rows that hold any number which hold several, if numbers were left out by chance."""
    none, one = zeros**length, length * zeros ** (length - 1) * (1 - zeros)
    return 1 - one / (1 - none) if none < 1 else 1.0


def _levels(rows: Float[Tensor, "m n"], largest: float) -> Tensor | None:
    """The whole multiples of one step that the numbers are, of the layer or else of its rows; None if they are none."""
    for scale in (rows.new_tensor(largest), rows.abs().amax(1, keepdim=True)):
        steps = rows.double() / scale.double().clamp_min(1e-300)
        for top in (127, 128, 255, 7, 8):
            whole = (steps * top).round()
            if bool(((steps * top - whole).abs() < 1e-3).all()):
                return whole.unique()
    return None


def _against_levels(row: Float[Tensor, " n"]) -> float:
    counts = row.unique(return_counts=True)[1].double()
    shares = counts / counts.sum()
    return float(-(shares * shares.log()).sum() / math.log(max(2, len(counts)))) if len(counts) > 1 else 0.0


@dataclass(frozen=True)
class WeightEntropy:
    """Finds layers in which weights repeat: one-hot and empty kernels, constant rows, equal rows.

    It sees neither rows that are told apart by small random numbers, nor trap weights, nor a trained head that leaks
    (Maui): no finding says little. Pruned and quantised networks are found too, as a note.

    Attributes:
        bin_width: numbers nearer than this share of the vector's largest one may count as equal.
        threshold: a vector with a lower normalised entropy is reported.
        smallest: shorter vectors are passed over.
        most: numbers that are looked at of a longer vector, evenly spread: the finite number of bins would lower it.

    Raises:
        BadInput: a field out of range.
    """

    bin_width: float = 1e-6
    threshold: float = 0.8
    smallest: int = 9
    most: int = 2**17

    def __post_init__(self) -> None:
        if not (0 < self.bin_width < 1 and 0 < self.threshold < 1 and 2 <= self.smallest <= self.most):
            raise BadInput(
                f"bin_width={self.bin_width} and threshold={self.threshold} must lie between 0 and 1,"
                f" smallest={self.smallest} from 2 to most={self.most}"
            )

    def inspect(self, incoming: Incoming) -> list[Finding]:
        """One finding per layer that has vectors below the threshold."""
        layers = weight_vectors(incoming.model, self.smallest, self.most)
        params = incoming.model.params
        findings = (self._layer(name, cut, params[name].detach().flatten(1)) for name, cut in layers)
        return [f for f in findings if f is not None]

    def _layer(self, name: str, cut: list[Vectors], rows: Float[Tensor, "m n"]) -> Finding | None:
        values = {v.unit: entropy(v.values, self.bin_width) for v in cut}
        low = {unit: h < self.threshold for unit, h in values.items()}
        if not any(bool(flags.any()) for flags in low.values()):
            return None
        least = min(float(h.min()) for h in values.values())
        counts = {unit: (int(flags.sum()), len(flags)) for unit, flags in low.items()}
        evidence = {"lowest_entropy": least, "bin_width": self.bin_width, "threshold": self.threshold}
        for unit, (hits, of) in counts.items():
            evidence |= {f"lowest_{unit}": float(values[unit].min()), f"low_{unit}_share": hits / of}
        short = stored_short(_spread(rows, MOST_ROWS, rows.shape[1]), self.threshold, float(rows.abs().max()))
        explanation = _sentence(counts, least, self.threshold)
        return Finding(
            check="weight_entropy",
            where=name,
            severity=NOTE if short else 1 - 0.5 * least / self.threshold,
            evidence=evidence,
            explanation=f"{explanation} The layer looks {short}, which explains it." if short else explanation,
            rule="stored_short" if short else "",
            reads="Kernels that hand pixels on, and rows that are all alike, let a server read a client's examples off"
            " the gradient of the layer behind them or of this one.",
            advice="If nobody pruned or quantised the model, do not train on it, and ask the server where the layer"
            " comes from.",
        )


def _sentence(counts: dict[str, tuple[int, int]], least: float, threshold: float) -> str:
    parts = [
        "the layer as a whole" if unit == "layer" else f"{k} of {n} {unit}s" for unit, (k, n) in counts.items() if k
    ]
    return (
        f"Weights repeat in {' and '.join(parts)}: normalised entropy down to {max(0.0, least):.3f}, below"
        f" {threshold:g}. Handcrafted weights do so (one-hot kernels, constant or equal rows), as do pruned ones."
    )


CARD: Card[Check] = Card(
    title="Entropy of weight vectors",
    paper="Dabholkar et al. 2025, arXiv:2509.11451, section 3.2",
    summary="Reports layers in which weights repeat as handcrafted ones do: identity kernels, constant or equal rows.",
    presets={"paper": WeightEntropy(), "quick": WeightEntropy(most=2**14)},
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
)
