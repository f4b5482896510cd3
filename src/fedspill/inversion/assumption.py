"""A hypothesis about the clients with what its search compares."""

from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_update import FedAvg, FedSGD
from fedspill.core.types import Params, Update
from fedspill.inversion.corrected import EVERY, CorrectedMatching
from fedspill.inversion.distances import Distance
from fedspill.inversion.hypotheses import Hypothesis
from fedspill.inversion.matching import Matching
from fedspill.inversion.outcome import distance_to
from fedspill.inversion.surrogate import Surrogate, surrogate

AS_ONE = (
    "Local training of {steps} steps was matched as one gradient, at parameters between those sent and those returned"
    " (Zhu et al. 2023); on random examples the two differ by a cosine distance of {off:.1g}."
)
CORRECTED = f" Every {EVERY} iterations this was corrected by training on the candidate."
NEGLIGIBLE = 0.02
"""Share of a blank image's distance that a stand-in may be off without being corrected."""


@dataclass(frozen=True)
class Assumption:
    """What follows from one hypothesis.

    Attributes:
        labels: of the hypothesis, on the model's device.
        matching: with what the client computed; the judge of every result.
        stand_in: one gradient in place of local training, where there is one.
        sure: the protocol was granted, or is none but a gradient.
    """

    hypothesis: Hypothesis
    labels: Tensor
    matching: Matching
    stand_in: Surrogate | None
    sure: bool

    @classmethod
    def of(
        cls, hypothesis: Hypothesis, knowledge: ServerKnowledge, observed: Update, distance: Distance, *, shorten: bool
    ) -> "Assumption":
        """Of a hypothesis with labels.

        Args:
            shorten: look for a gradient that stands in for local training.
        """
        assert hypothesis.labels is not None, "hypotheses() infers what was not granted"
        model, training, clients = knowledge.model, hypothesis.training, knowledge.num_clients
        labels = hypothesis.labels.to(model.like.device)
        stand_in = None
        if shorten and isinstance(training, FedAvg):
            stand_in = surrogate(model, observed, training, labels, clients)
        sure = isinstance(training, FedSGD) or knowledge.local_training is not None
        return cls(hypothesis, labels, Matching(model, observed, training, clients, distance), stand_in, sure)

    @cached_property
    def corrects(self) -> bool:
        """The stand-in is so far off that a search must correct it: not by much less than what a blank image is off."""
        if self.stand_in is None:
            return False
        blank = self.matching.model.like.new_zeros(len(self.labels), *self.matching.model.input.encoded_shape)
        return not self.stand_in.off < NEGLIGIBLE * distance_to(self.short, blank, self.labels)

    def distance(self) -> Matching | CorrectedMatching:
        """What one search minimises, of one candidate."""
        if self.stand_in is not None and self.corrects:
            return CorrectedMatching(self.short, self.stand_in)
        return self.short

    @cached_property
    def short(self) -> Matching:
        """With one gradient, where there is one: that of the client, or the one that stands in for its training."""
        if self.stand_in is None:
            return self.matching
        return replace(
            self.matching,
            model=self.stand_in.model,
            observed=self.stand_in.update,
            training=self.stand_in.training,
        )

    @property
    def gradient(self) -> Params | None:
        """Of one example, if that is what was observed, or what stands in for it; at `short.model`."""
        single = self.hypothesis.num_examples == 1 and isinstance(self.short.training, FedSGD)
        return self.short.observed.values if single and self.sure else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the result must know."""
        training = self.hypothesis.training
        if self.stand_in is None or not isinstance(training, FedAvg):
            return ()
        steps = training.local_steps(len(self.labels) // self.matching.clients)
        return (AS_ONE.format(steps=steps, off=self.stand_in.off) + (CORRECTED if self.corrects else ""),)
