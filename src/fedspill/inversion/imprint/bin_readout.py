"""Candidates read out of bins: each bin for itself, as the paper does."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.types import Mark
from fedspill.inversion.codebooks.codebook import Codebook, recognise
from fedspill.inversion.imprint.certificate import Accounts
from fedspill.inversion.imprint.contents import Contents
from fedspill.inversion.imprint.rows import Imprint

SURE, OPEN, DOUBTFUL = 1.0, 0.5, 0.25
"""Confidence in stored data, in what cannot be told, and in what looks like a mixture."""
REPEATED = 0.75
"""Confidence in what two groups show alike: a mixture rarely meets in both."""
ALIKE = 1e-2
"""Distance between two candidates, relative to the length of the shorter, up to which they are the same."""


@dataclass(frozen=True)
class Readings:
    """Candidates as features of the place where they were read.

    Attributes:
        features: flat, float64.
        origins: the name of the bin of each.
        marks: one each.
        confidence: in [0, 1]; above 0.5 only if a single example was recognised.
        share: c of each, its weight in the update.
    """

    features: Float[Tensor, "m f"]
    origins: tuple[str, ...]
    marks: tuple[Mark, ...]
    confidence: Float[Tensor, " m"]
    share: Float[Tensor, " m"]

    def __len__(self) -> int:
        return len(self.features)

    def pick(self, which: Sequence[int]) -> "Readings":
        """Some of them, in this order."""
        return Readings(
            self.features[list(which)],
            tuple(self.origins[i] for i in which),
            tuple(self.marks[i] for i in which),
            self.confidence[list(which)],
            self.share[list(which)],
        )


def joined(parts: Sequence[Readings]) -> Readings:
    """All readings of several, at least one."""
    if len(parts) == 1:
        return parts[0]
    return Readings(
        torch.cat([p.features for p in parts]),
        tuple(o for p in parts for o in p.origins),
        tuple(m for p in parts for m in p.marks),
        torch.cat([p.confidence for p in parts]),
        torch.cat([p.share for p in parts]),
    )


def candidates(held: Sequence[Contents], imprint: Imprint) -> tuple[Float[Tensor, "m f"], Float[Tensor, " m"]]:
    """What all bins show that lies inside them, and the shares c; nothing is judged."""
    features, shares = list[Tensor](), list[Tensor]()
    for h, group in zip(held, imprint.groups, strict=True):
        filled = h.known().nonzero()[:, 0]
        inside = group.bins(h.ratio(filled)) == filled
        features.append(h.ratio(filled[inside]))
        shares.append(h.bias[filled[inside]])
    return torch.cat(features), torch.cat(shares)


def read_bins(
    held: Sequence[Contents], imprint: Imprint, codebook: Codebook, accounts: Accounts | None = None
) -> Readings:
    """The weighted mean of every bin whose sum of c is known, with what is believed of it.

    Confidence also ranks: among the doubtful, larger bins come first, as the paper picks the candidates with the
    largest mean gradient when there are more than examples.
    """
    return joined([read_group(held[j], imprint, j, codebook, None, accounts) for j in range(len(held))])


def read_group(
    held: Contents,
    imprint: Imprint,
    group: int,
    codebook: Codebook,
    only: Tensor | None = None,
    accounts: Accounts | None = None,
) -> Readings:
    """The same for one group, or for some of its bins.

    Args:
        held: contents of the group.
        imprint: all groups.
        group: which one.
        codebook: what stored data look like.
        only: (k,) the bins to read.
        accounts: asked where the codebook recognises nothing, as with data that are not stored in 8 bits.
    """
    filled = (held.known() if only is None else held.known() & only).nonzero()[:, 0]
    features = held.ratio(filled)
    names = imprint.names_of(group)
    inside = imprint.groups[group].bins(features) == filled
    recognition = recognise(codebook, features)
    alone, mixed = recognition.alone & inside, recognition.mixed | ~inside
    if accounts is not None and not bool(alone.any()):
        alone = torch.zeros_like(alone).masked_scatter(~mixed, accounts(features[~mixed], held.bias[filled][~mixed]))
    confidence = torch.where(alone, SURE, torch.where(mixed, DOUBTFUL, OPEN)).to(features)
    size = held.weight.mean(1)[filled].abs()
    rank = size.argsort().argsort().to(features) / max(1, len(size))
    marks: list[Mark] = [
        "alone" if a else "mixture" if m else "unsure" for a, m in zip(alone.tolist(), mixed.tolist(), strict=True)
    ]
    return Readings(
        features,
        tuple(names[b] for b in filled.tolist()),
        tuple(marks),
        torch.where(alone, confidence, confidence * (0.5 + 0.5 * rank)),
        held.bias[filled],
    )


def told_once(readings: Readings) -> Readings:
    """What several bins show alike is kept where it is surest, and believed more; the others are marked, and come last.

    With several groups an example that is not recognised stays in each of its bins. Two examples that meet in two
    groups look alike in both, too, so that it is no certificate.
    """
    features, trust = readings.features, readings.confidence
    size = features.norm(dim=1)
    alike = torch.cdist(features, features) <= ALIKE * torch.minimum(size[:, None], size[None])
    alike &= ~torch.eye(len(features), dtype=torch.bool, device=features.device)
    earlier = torch.ones_like(alike).tril(-1)
    copies = (alike & ((trust[None] > trust[:, None]) | ((trust[None] == trust[:, None]) & earlier))).any(1)
    believed = torch.where(alike.any(1), trust.clamp_min(REPEATED), trust)
    marks: list[Mark] = ["duplicate" if c else m for c, m in zip(copies.tolist(), readings.marks, strict=True)]
    return replace(readings, marks=tuple(marks), confidence=torch.where(copies, 0.0, believed))
