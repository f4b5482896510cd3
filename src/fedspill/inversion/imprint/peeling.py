"""Several linear functions and iterative cancellation: what one bin gives is taken out of the bins of the others.

Every example lies in one bin of each group, as an item in an invertible Bloom lookup table (Goodrich, Mitzenmacher
2011, arXiv:1101.2245), or in several rows of an LT code (`soliton`). Not in Robbing the Fed; docs/peeling.md tells what
came before.

Peeling reads an example from one bin and hands its error on to the next. Each example lies in one bin of every group,
so that there are more bins than examples, and least squares over all of them keeps the errors from adding up. It
matters for numbers that no lattice is coarse enough to round, such as a count of hundreds of thousands in float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.inversion.codebooks.codebook import ALONE, Codebook
from fedspill.inversion.imprint.bin_readout import DOUBTFUL, Readings, joined, read_group
from fedspill.inversion.imprint.certificate import Accounts
from fedspill.inversion.imprint.contents import Contents
from fedspill.inversion.imprint.rows import Imprint

ROUNDS = 2


def jointly_fitted(
    held: Sequence[Contents],
    remaining: Sequence[Contents],
    imprint: Imprint,
    features: Float[Tensor, "m f"],
    share: Float[Tensor, " m"],
) -> Float[Tensor, "m f"]:
    """The features that explain the bins best, in turns with their shares.

    Args:
        held: contents before anything was taken out.
        remaining: contents afterwards; bins that still hold something are left out.
        imprint: the groups.
        features: as they were peeled.
        share: c of each.
    """
    bins = imprint.bins(features)
    member, weight, bias = list[Tensor](), list[Tensor](), list[Tensor]()
    for j, (before, after) in enumerate(zip(held, remaining, strict=True)):
        within = bins[:, j] == torch.arange(len(before.bias), device=bins.device)[:, None]
        used = within.any(1) & ~after.known()
        member.append(within[used].to(features))
        weight.append(before.weight[used])
        bias.append(before.bias[used])
    within, sums, totals = (torch.cat(p) for p in (member, weight, bias))
    if int(within.any(0).sum()) < len(features) or len(within) < len(features):
        return features
    # A sum is rounded by the size of its parts, not by its own: shares of opposite sign may almost cancel.
    size = within @ share.abs()
    trust = size.min() / size
    for _ in range(ROUNDS):
        features = _solved(within * share, sums, trust)
        share = _solved(within, totals[:, None], trust)[:, 0]
    return features


def _solved(matrix: Tensor, right: Tensor, trust: Tensor) -> Tensor:
    # The pseudo-inverse of a small matrix; bins that share all their examples leave it singular.
    return torch.linalg.pinv(trust[:, None] * matrix, rtol=1e-9) @ (trust[:, None] * right)


LEFT_OVER = 1e-3
"""Share of what was taken out of a bin below which the rest is nothing."""


PURE = (3e-4, 1e-2, ALONE)
"""Residuals up to which examples are taken out, the purest first: one whose share is a thousandth of another's hides
behind it in their bin, and shows only in how far the two are off the lattice."""
NEAR = 1e-2
"""Relative change by which the fit to all bins may correct an example."""


@dataclass
class Peel:
    """The bins as they are after some examples were taken out.

    Attributes:
        held: contents by group; the tensors are changed in place.
        dirty: bins that changed since they were last looked at.
    """

    imprint: Imprint
    held: list[Contents]
    dirty: list[Tensor]

    @classmethod
    def of(cls, held: Sequence[Contents], imprint: Imprint) -> "Peel":
        """A copy to work on."""
        copies = [
            Contents(h.weight.clone(), h.bias.clone(), h.noise.clone(), h.rough.clone(), h.deviation) for h in held
        ]
        return cls(imprint, copies, [torch.ones_like(h.bias, dtype=torch.bool) for h in copies])

    def take(self, x: Float[Tensor, " f"], group: int, place: int) -> float | None:
        """Takes an example, found in a bin of a group, out of its bins in all groups; its share c.

        None, and nothing is done, if one of these bins holds nothing, which no true example leaves behind.
        """
        where = self.imprint.bins(x[None])[0].tolist()
        kept = [(j, b) for j, b in enumerate(where) if b >= 0]
        if (group, place) not in kept or any(not bool(self.held[j].filled()[b]) for j, b in kept):
            return None
        source = self.held[group]
        # Least squares over all features and the bias: far less noise than the bias alone.
        c = float((source.weight[place] @ x + source.bias[place]) / (x @ x + 1))
        error = float(source.noise[place]) / float(x @ x + 1) ** 0.5
        for j, b in kept:
            held = self.held[j]
            held.weight[b] -= c * x
            held.bias[b] -= c
            rest = _left_over(c, float(x.norm()), held, b)
            held.noise[b] += error + rest[0]
            held.rough[b] += error * float(x.norm()) + rest[1]
            self.dirty[j][b] = True
        return c


def _left_over(c: float, size: float, held: Contents, place: int) -> tuple[float, float]:
    # Only where all that is left is that small; otherwise it is an example of its own with a small share.
    rest, features = abs(float(held.bias[place])), float(held.weight[place].norm())
    return (rest, features) if rest < LEFT_OVER * abs(c) and features < LEFT_OVER * abs(c) * size else (0.0, 0.0)


def peel(held: Sequence[Contents], imprint: Imprint, codebook: Codebook, accounts: Accounts | None = None) -> Readings:
    """Examples that are recognised, taken out, until nothing new appears; then what the other bins still hold.

    Only single examples that are recognised are taken out: one false example would spoil its bins in every group.

    Args:
        held: contents by group.
        imprint: the groups.
        codebook: what stored data look like.
        accounts: asked where the codebook recognises nothing.
    """
    state, readings = Peel.of(held, imprint), list[Readings]()
    ask: Accounts | None = None
    while True:
        fresh = next((new for level in PURE if (new := _round(state, codebook, ask, level))), [])
        readings += fresh
        if not fresh and (readings or ask is accounts):
            break
        if not fresh:  # nothing is stored data: begin again, and ask
            ask, state = accounts, Peel.of(held, imprint)
    if readings and codebook.open:
        readings = [_refined(joined(readings), held, state, codebook)]
    rest = [read_group(h, imprint, j, codebook) for j, h in enumerate(state.held)]
    doubtful = [replace(r, confidence=r.confidence.clamp_max(DOUBTFUL)) for r in rest if len(r)]
    return joined([*readings, *doubtful]) if readings or doubtful else joined(rest)


def _round(state: Peel, codebook: Codebook, accounts: Accounts | None, level: float) -> list[Readings]:
    """One look at every bin that changed; those that were not pure enough are looked at again at the next level."""
    fresh = list[Readings]()
    for j, dirty in enumerate(state.dirty):
        if not bool((dirty & state.held[j].known()).any()):
            continue
        looked, state.dirty[j] = dirty, torch.zeros_like(dirty)
        seen = read_group(state.held[j], state.imprint, j, codebook, looked, accounts)
        places, off = _places(state, j, looked), codebook.residual(seen.features)
        for i, mark in enumerate(seen.marks):
            if mark != "alone" or bool(state.dirty[j][places[i]]):
                continue
            if level < float(off[i]) < ALONE:  # beyond it is none of the codebook's
                state.dirty[j][places[i]] = True
                continue
            exact = _cleaned(codebook, seen.features[i : i + 1])
            share = state.take(exact[0], j, int(places[i]))
            if share is not None:
                fresh.append(replace(seen.pick([i]), features=exact, share=seen.share.new_tensor([share])))
    return fresh


def _cleaned(codebook: Codebook, features: Float[Tensor, "1 f"]) -> Float[Tensor, "1 f"]:
    """Stored data without rounding; other data as they are."""
    return codebook.nearest(features) if float(codebook.residual(features)[0]) < ALONE else features


def _refined(readings: Readings, held: Sequence[Contents], state: Peel, codebook: Codebook) -> Readings:
    fitted = jointly_fitted(held, state.held, state.imprint, readings.features, readings.share)
    near = (fitted - readings.features).norm(dim=1) < NEAR * readings.features.norm(dim=1)
    cleaned = torch.cat([_cleaned(codebook, row[None]) for row in fitted])
    return replace(readings, features=torch.where(near[:, None], cleaned, readings.features))


def _places(state: Peel, group: int, looked: Tensor) -> Int[Tensor, " m"]:
    return (state.held[group].known() & looked).nonzero()[:, 0]
