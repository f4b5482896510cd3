"""The plan's attacks on what a tampering has isolated: an update of few examples out of that of a whole batch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from fedspill.core.errors import NobodyIsolated
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.roles import UNWATCHED, Attack, Isolated, Isolates, Job, ReconstructsMany, Watch, nothing
from fedspill.core.types import Reconstruction, Update


@dataclass(frozen=True)
class OnIsolated:
    """An attack that gets what a readout isolates, in place of the update."""

    attack: Attack
    readout: Isolates

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """What the attack makes of the examples that are isolated; nothing where nobody is.

        Raises:
            NotApplicable: the attack, or what isolates, does not fit.
        """
        try:
            alone = self.readout.isolated(update, knowledge)
        except NobodyIsolated as nobody:
            return nothing(knowledge, str(nobody))
        return _told(alone, self.attack.reconstruct(alone.update, _of_few(alone.knowledge), rng, watch))

    def reconstruct_many(self, jobs: Sequence[Job], watch: Watch = UNWATCHED) -> list[Reconstruction]:
        """Each job as by `reconstruct`, at once where the attack can.

        Raises:
            NotApplicable: the attack, or what isolates, does not fit one of the jobs.
        """
        if not isinstance(self.attack, ReconstructsMany):
            return [self.reconstruct(job.update, job.knowledge, job.rng, watch) for job in jobs]
        alone = [self._isolated(job) for job in jobs]
        handed = [
            Job(a.update, _of_few(a.knowledge), j.rng)
            for a, j in zip(alone, jobs, strict=True)
            if isinstance(a, Isolated)
        ]
        got = iter(self.attack.reconstruct_many(handed, watch) if handed else [])
        return [_told(a, next(got)) if isinstance(a, Isolated) else a for a in alone]

    def _isolated(self, job: Job) -> Isolated | Reconstruction:
        try:
            return self.readout.isolated(job.update, job.knowledge)
        except NobodyIsolated as nobody:
            return nothing(job.knowledge, str(nobody))


def _of_few(knowledge: ServerKnowledge) -> ServerKnowledge:
    """Without the simulated clients, whose updates are those of whole batches."""
    return replace(knowledge, simulate=None)


def _told(alone: Isolated, got: Reconstruction) -> Reconstruction:
    """With how it was isolated, and without labels that are not known to be theirs."""
    got = replace(got, notes=(alone.note, *got.notes))
    return got if alone.labelled else replace(got, labels=None, label_method=None)
