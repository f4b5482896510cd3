"""Bins of an imprint, found in the model by its weights and read without the secret of whoever planted them.

Fowl, Geiping, Czaja, Goldblum, Goldstein: "Robbing the Fed: Directly Obtaining Private Data in Federated Learning with
Modified Models", ICLR 2022, arXiv:2110.13057. There the server reads what it planted; here whoever holds the model and
an update does, such as the client that received it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.roles import UNWATCHED, Attack, Card, Watch
from fedspill.core.types import Mark, Reconstruction, Update
from fedspill.inversion.discovery.imprint import FoundImprint, found_imprints


@dataclass(frozen=True)
class ImprintBins:
    """Reads every layer of which six rows or more point the same way.

    Converged means that stored data were recognised in at least one bin.
    """

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """What the bins hold: each example that is alone in one of them exactly.

        Raises:
            NotApplicable: no layer has such rows, what enters it does not show the input, or it was not trained.
        """
        found = found_imprints(knowledge.model)
        if not found:
            raise NotApplicable("no fully connected layer has six rows of one direction, so there are no bins to read")
        read, reasons = list[tuple[FoundImprint, Reconstruction]](), list[str]()
        for imprint in found:
            try:
                read.append((imprint, _best(imprint, update, knowledge, rng)))
            except NotApplicable as reason:
                reasons.append(f"{imprint.at}: {reason}")
        if not read:
            raise NotApplicable("; ".join(reasons))
        return _together(read)


def _best(imprint: FoundImprint, update: Update, knowledge: ServerKnowledge, rng: torch.Generator) -> Reconstruction:
    """Of the readings the one that is trusted most."""
    evened = imprint.evened(update)
    readings = [r.reconstruct(evened, knowledge, rng) for r in imprint.readouts(knowledge.model)]
    return max(readings, key=_trusted)


def _trusted(reading: Reconstruction) -> tuple[int, float]:
    if reading.confidence is None:
        return 0, 0.0
    return sum(mark == "alone" for mark in reading.marks), float(reading.confidence.sum())


def _together(read: list[tuple[FoundImprint, Reconstruction]]) -> Reconstruction:
    several, results = len(read) > 1, [result for _, result in read]
    origins = tuple(f"{i.at}, {o}" if several else o for i, result in read for o in result.origins)
    marks = tuple[Mark, ...](mark for result in results for mark in result.marks)
    return Reconstruction(
        inputs=torch.cat([result.inputs for result in results]),
        confidence=torch.cat([_confidence(result) for result in results]),
        converged=any(result.converged for result in results),
        notes=tuple(note for imprint, result in read for note in (_told(imprint), *result.notes)),
        origins=origins,
        marks=marks,
    )


def _confidence(result: Reconstruction) -> Tensor:
    return result.inputs.new_zeros(len(result.inputs)) if result.confidence is None else result.confidence


def _told(imprint: FoundImprint) -> str:
    rows, groups = sum(len(g.rows) for g in imprint.imprint.groups), len(imprint.imprint.groups)
    directions = "one direction" if groups == 1 else f"{groups} directions"
    return f"{rows} of {imprint.imprint.total} rows of {imprint.at!r} point in {directions}, as bins do."


CARD: Card[Attack] = Card(
    title="Bins of an imprint that somebody planted",
    paper="Fowl et al., ICLR 2022, arXiv:2110.13057; the blind search for its rows is not in the paper",
    summary="Finds rows of one direction in the model, and reads the examples between their biases.",
    presets={"paper": ImprintBins(), "quick": ImprintBins(), "strong": ImprintBins()},
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
)
