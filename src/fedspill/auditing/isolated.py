"""The plan's attacks on what a tampering has isolated: an update of few examples out of that of a whole batch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.roles import UNWATCHED, Attack, Isolated, Isolates, Job, ReconstructsMany, Watch
from fedspill.core.types import Reconstruction, Update


@dataclass(frozen=True)
class OnIsolated:
    """An attack that gets what a readout isolates, in place of the update."""

    attack: Attack
    readout: Isolates

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """What the attack makes of the examples that are isolated.

        Raises:
            NotApplicable: nobody is isolated, or the attack does not fit.
        """
        alone = self.readout.isolated(update, knowledge)
        return _told(alone, self.attack.reconstruct(alone.update, alone.knowledge, rng, watch))

    def reconstruct_many(self, jobs: Sequence[Job], watch: Watch = UNWATCHED) -> list[Reconstruction]:
        """Each job as by `reconstruct`, at once where the attack can.

        Raises:
            NotApplicable: in one of the jobs nobody is isolated, or the attack does not fit one of them.
        """
        if not isinstance(self.attack, ReconstructsMany):
            return [self.reconstruct(job.update, job.knowledge, job.rng, watch) for job in jobs]
        alone = [self.readout.isolated(job.update, job.knowledge) for job in jobs]
        handed = [Job(a.update, a.knowledge, job.rng) for a, job in zip(alone, jobs, strict=True)]
        return [_told(a, got) for a, got in zip(alone, self.attack.reconstruct_many(handed, watch), strict=True)]


def _told(alone: Isolated, got: Reconstruction) -> Reconstruction:
    """With how it was isolated, and without labels that are not known to be theirs."""
    got = replace(got, notes=(alone.note, *got.notes))
    return got if alone.labelled else replace(got, labels=None, label_method=None)
