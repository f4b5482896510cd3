"""The attack that reads the answers to a fishing head, or hands those who speak on to another attack."""

from dataclasses import dataclass, replace

import torch

from fedspill.core.errors import NobodyIsolated
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.roles import UNWATCHED, Isolated, Watch, nothing
from fedspill.core.types import Reconstruction, Update
from fedspill.inversion.fishing.catching import Catch, against, caught, handed_on
from fedspill.inversion.fishing.heads import Bait
from fedspill.inversion.fishing.reading import PictureReading, read_pictures
from fedspill.inversion.search.settings import SearchSettings

UNCOUNTED = "How many speak is not known (no number of examples, noise, or an update of another scale); one is assumed."


@dataclass(frozen=True)
class FishingReadout:
    """Takes the gradient of those who speak out of the update, and rebuilds their pictures.

    Converged is the word of the reading: a picture whose gradient is the isolated one, or a search that ended close.

    Attributes:
        bait: the head that was sent; None if this round was sent to learn about the batch alone.
        what: is fished for, in words of a report.
        how: pictures are made of a gradient.
        search: where it is not read exactly.
    """

    bait: Bait | None
    what: str
    how: PictureReading
    search: SearchSettings

    def evaluations(self) -> int:
        """How often one run evaluates its objective, at most."""
        return self.search.steps * self.search.rule().evaluations

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """A picture for each example that speaks; none if nobody does.

        Raises:
            NotApplicable: the head was not trained, the clients' optimiser leaves no ratios, or nothing else was sent.
        """
        try:
            alone = self.isolated(update, knowledge)
        except NobodyIsolated as nobody:
            return nothing(knowledge, str(nobody))
        read = read_pictures(alone.update, alone.knowledge, self.how, self.search, rng, watch)
        got, count = read.pictures, len(read.pictures.inputs)
        return replace(
            got,
            labels=got.labels if alone.labelled else None,
            label_method="fishing" if alone.labelled else None,
            notes=(alone.note, *got.notes),
            origins=(self.what,) * count,
            marks=("alone" if read.exactly else "unsure",) * count,
        )

    def isolated(self, update: Update, knowledge: ServerKnowledge) -> Isolated:
        """The update of those who speak alone, as any attack takes it.

        Raises:
            NobodyIsolated: nobody speaks.
            NotApplicable: the head was not trained, or the clients' optimiser leaves no ratios.
        """
        if self.bait is None:
            raise NobodyIsolated(f"No example speaks: {self.what}.")
        catch = caught(self.bait, update, knowledge)
        if catch is None:
            raise NobodyIsolated(self._nobody(noisy=against(self.bait, update, knowledge)))
        handed = handed_on(self.bait, catch, knowledge)
        labelled = self.bait.label == self.bait.row
        return Isolated(*handed, labelled, self._described(catch, knowledge.num_examples))

    def _nobody(self, *, noisy: bool) -> str:
        if noisy:
            return (
                f"No example is heard: the row of {self.what} answers with the sign that nobody gives it, as noise"
                " does; whether the batch holds one cannot be told."
            )
        return f"No example speaks: the batch holds none of {self.what}."

    def _described(self, catch: Catch, number: int | None) -> str:
        if catch.count is None:
            return f"Fished for {self.what}. {UNCOUNTED}"
        return f"Fished for {self.what}: {catch.count} of {number} examples speak."
