"""Which candidates an attack claims to have read verbatim, by its own word and without the truth."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedspill.auditing.certifying.doubts import doubt
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.types import Reconstruction

SURE = 1 - 1e-3
"""Confidence of a candidate that an attack holds a certificate of."""
Basis = Literal["certificate", "objective"]
"""What a claim stands on: a blind certificate, of the candidate or of the whole update, which a closed form reproduces;
or an objective that fell below the level which the attack states, after a search or without one."""


@dataclass(frozen=True)
class Claims:
    """What an attack claims.

    Attributes:
        basis: what its claims stand on, whether or not it makes any.
        which: (m,) candidates that are claimed, each different one once.
    """

    basis: Basis
    which: Tensor

    def __len__(self) -> int:
        return int(self.which.sum())


def claims(rebuilt: Reconstruction, knowledge: ServerKnowledge) -> Claims:
    """The candidates that are claimed; none where the server knows that what was sent is not the examples' update.

    A candidate with a mark of its own is claimed by that mark and the attack's full confidence; one without by the
    attack's word on the whole, to which a closed form adds its confidence.

    Args:
        rebuilt: all that the attack returned.
        knowledge: of the server.
    """
    m, basis = len(rebuilt.inputs), basis_of(rebuilt)
    which = torch.zeros(m, dtype=torch.bool)
    if m and (rebuilt.marks or rebuilt.converged) and doubt(knowledge.defence) is None:
        which = torch.ones_like(which) if basis == "objective" else _marked(rebuilt) & _sure(rebuilt)
    return Claims(basis, which & _first(rebuilt))


def basis_of(rebuilt: Reconstruction) -> Basis:
    """What the claims of this attack stand on."""
    return "objective" if rebuilt.objective and not rebuilt.marks else "certificate"


def _marked(rebuilt: Reconstruction) -> Tensor:
    marks = rebuilt.marks or ("alone",) * len(rebuilt.inputs)
    return torch.tensor([mark == "alone" for mark in marks], dtype=torch.bool)


def _sure(rebuilt: Reconstruction) -> Tensor:
    if rebuilt.confidence is None:
        return torch.ones(len(rebuilt.inputs), dtype=torch.bool)
    return rebuilt.confidence.detach().cpu() >= SURE


def _first(rebuilt: Reconstruction) -> Tensor:
    """Candidates that no earlier one equals, value by value: a record that is held twice is read once."""
    read = rebuilt.inputs if rebuilt.representations is None else rebuilt.representations
    first = torch.zeros(len(read), dtype=torch.bool)
    if len(read):
        _, group = torch.unique(read.detach().cpu().flatten(1), dim=0, return_inverse=True)
        order = torch.arange(len(read))
        earliest = torch.full((int(group.max()) + 1,), len(read)).scatter_reduce(0, group, order, "amin")
        first[earliest] = True
    return first
