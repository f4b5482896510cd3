"""What a readout read, candidate by candidate, beside what its own measurement had to give."""

from collections import Counter
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedspill.core.inputs import InputSpec
from fedspill.core.roles import Prediction
from fedspill.core.types import Reconstruction
from fedspill.report.trial import Predicted, Reading
from fedspill.scoring.exact import exact_copies

READ_EXACTLY = 1e-3
"""Distance of a representation from the true one, relative to its length, up to which it counts as read."""
MOST_UNSCORED = 256
"""Candidates that were not scored of which the tensors are kept: a picture shows no more."""


@dataclass(frozen=True)
class Ranked:
    """The candidates of an attack by how far it trusts them, the most trusted first.

    Attributes:
        scored: positions of at most n candidates, a guess per example, as baselines have.
        unscored: positions of the next ones, at most `MOST_UNSCORED`.
    """

    scored: list[int]
    unscored: list[int]


def ranked(confidence: Float[Tensor, " m"] | None, m: int, n: int) -> Ranked:
    """The order of trust of m candidates; without any confidence, and among equals, the attack's own order.

    All of m <= n candidates are scored, in the attack's order.
    """
    if m <= n:
        return Ranked(list(range(m)), [])
    trusted = torch.arange(m) if confidence is None else confidence.argsort(descending=True, stable=True)
    order = trusted.tolist()
    return Ranked(order[:n], order[n : n + MOST_UNSCORED])


def readings(
    rebuilt: Reconstruction, private: Tensor, spec: InputSpec, expected: Prediction | None, places: Ranked
) -> tuple[list[Reading], Predicted | None]:
    """One record per candidate, none if the attack does not say where it read them; and the prediction's success.

    Args:
        rebuilt: all that the attack returned, before the most trusted are chosen.
        private: (n, ...) examples.
        expected: what the readout must find; None if it makes no prediction.
        places: where each candidate is stored.
    """
    if not rebuilt.origins and expected is None:
        return [], None
    same = copies(rebuilt, private, spec, expected)
    success = None if expected is None else _predicted(rebuilt, expected, same)
    stored = {k: i for i, k in enumerate(places.scored)}
    spare = {k: i for i, k in enumerate(places.unscored)}
    confidence = None if rebuilt.confidence is None else rebuilt.confidence.tolist()
    records = [
        Reading(
            origin=origin,
            mark=rebuilt.marks[k] if rebuilt.marks else None,
            confidence=None if confidence is None else confidence[k],
            scored=stored.get(k),
            unscored=spare.get(k),
            holds=[] if expected is None else _holders(expected, origin),
            exact=int(same[k].long().argmax()) if bool(same[k].any()) else None,
        )
        for k, origin in enumerate(rebuilt.origins)
    ]
    return records, success


def copies(
    rebuilt: Reconstruction, private: Tensor, spec: InputSpec, expected: Prediction | None
) -> Bool[Tensor, "m n"]:
    """Which candidate equals which example, or, of a readout that reads these, which representation which."""
    if expected is None or expected.representations is None or rebuilt.representations is None:
        return exact_copies(rebuilt.inputs, private, spec)
    got, true = (v.detach().cpu().double() for v in (rebuilt.representations, expected.representations))
    return torch.cdist(got, true) < READ_EXACTLY * true.norm(dim=1)


def _holders(expected: Prediction, origin: str) -> list[int]:
    """Examples that are at this place; of several places the first one is where the candidate shows best."""
    first = origin.partition(",")[0]
    return [i for i, names in enumerate(expected.places) if first in names]


def _predicted(rebuilt: Reconstruction, expected: Prediction, copies: Bool[Tensor, "m n"]) -> Predicted:
    recoverable, exact = expected.recoverable.cpu(), copies.any(0)
    sure = torch.tensor([mark == "alone" for mark in rebuilt.marks], dtype=torch.bool)
    held = Counter(place for places in expected.places for place in places)
    return Predicted(
        what="examples" if expected.representations is None else "representations",
        n=len(recoverable),
        predicted=int(recoverable.sum()),
        exact=int(exact.sum()),
        both=int((recoverable & exact).sum()),
        alone=sum(any(held[place] == 1 for place in places) for places in expected.places),
        certified=int(copies[sure].any(0).sum()) if len(sure) else 0,
    )


def most_confident(rebuilt: Reconstruction, n: int) -> Reconstruction:
    """At most n candidates, those that the attack itself trusts most: a guess per example, as baselines have."""
    m = len(rebuilt.inputs)
    if m <= n:
        return rebuilt
    order = ranked(rebuilt.confidence, m, n).scored
    kept, inside = torch.tensor(order, device=rebuilt.inputs.device), rebuilt.representations
    return replace(
        rebuilt,
        inputs=rebuilt.inputs[kept],
        labels=None if rebuilt.labels is None else rebuilt.labels[kept.to(rebuilt.labels.device)],
        confidence=None if rebuilt.confidence is None else rebuilt.confidence[kept.to(rebuilt.confidence.device)],
        representations=None if inside is None else inside[kept.to(inside.device)],
        notes=(*rebuilt.notes, f"{m} candidates were returned; the {n} that the attack trusts most are scored."),
        origins=tuple(rebuilt.origins[k] for k in order) if rebuilt.origins else (),
        marks=tuple(rebuilt.marks[k] for k in order) if rebuilt.marks else (),
    )
