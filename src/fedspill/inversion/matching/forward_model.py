"""A hypothesis about the clients with what its search compares."""

from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor

from fedspill.core.knowledge import KnownDefence, ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD
from fedspill.core.types import Params, Update
from fedspill.inversion.gradients.defended.completion import completion
from fedspill.inversion.gradients.mean import one_step
from fedspill.inversion.matching.hypotheses import Hypothesis
from fedspill.inversion.matching.outcome import distance_to
from fedspill.inversion.objective.adapted import adapted
from fedspill.inversion.objective.distances import Distance
from fedspill.inversion.objective.matching import Matching
from fedspill.inversion.objective.surrogate import CorrectedMatching, Surrogate, find_surrogate

AS_ONE = (
    "Local training of {steps} steps was matched as one gradient, at parameters between those sent and those returned"
    " (Zhu et al. 2023), corrected by training on the candidate; the result is judged by the training itself."
)
NEGLIGIBLE = 0.02
"""Share of a blank image's distance that a stand-in may be off to have its activations read without a proof."""


@dataclass(frozen=True)
class ForwardModel:
    """What follows from one hypothesis.

    Attributes:
        labels: of the hypothesis, on the model's device.
        matching: with what the client computed; the judge of every result.
        stand_in: one gradient in place of local training, where there is one.
        sure: the protocol was granted, or is none but a gradient.
        defence: what is known of the clients' defences; the distance of `matching` is adapted to them.
    """

    hypothesis: Hypothesis
    labels: Tensor
    matching: Matching
    surrogate: Surrogate | None
    sure: bool
    defence: KnownDefence | None = None
    _made: list[CorrectedMatching] = field(default_factory=list[CorrectedMatching], init=False)

    @classmethod
    def of(
        cls, hypothesis: Hypothesis, knowledge: ServerKnowledge, observed: Update, distance: Distance, *, shorten: bool
    ) -> "ForwardModel":
        """The model of a hypothesis with labels.

        Args:
            shorten: look for a gradient that stands in for local training.
        """
        assert hypothesis.labels is not None, "hypotheses() infers what was not granted"
        model, training, clients = knowledge.model, hypothesis.training, knowledge.num_clients
        labels = hypothesis.labels.to(model.like.device)
        surrogate = None
        # Of what is spoiled nobody knows the way, so that nothing lies between its ends.
        whole = knowledge.defence is None or not knowledge.defence.left_out
        if shorten and whole and isinstance(training, FedAvg):
            surrogate = find_surrogate(model, observed, training, labels, clients)
        observed, completed = before_defence(observed, knowledge)
        distance = adapted(distance, knowledge.defence, clients, completed)
        sure = isinstance(training, FedSGD) or knowledge.local_training is not None
        matching = Matching(model, observed, training, clients, distance)
        return cls(hypothesis, labels, matching, surrogate, sure, knowledge.defence)

    @property
    def corrects(self) -> bool:
        """A search corrects the stand-in by training on its candidates; of one local step it is exact."""
        return self.surrogate is not None and self.surrogate.model is not self.matching.model

    @cached_property
    def close(self) -> bool:
        """What one gradient tells is told by the clients' own, or by one that is hardly off: what a blank image is."""
        if not self.corrects or self.surrogate is None:
            return True
        blank = self.matching.model.like.new_zeros(len(self.labels), *self.matching.model.input.encoded_shape)
        return self.surrogate.off < NEGLIGIBLE * distance_to(self.single_gradient, blank, self.labels)

    def distance(self) -> Matching | CorrectedMatching:
        """What one search minimises, of one candidate."""
        if self.surrogate is None or not self.corrects:
            return self.single_gradient
        self._made.append(made := CorrectedMatching(self.single_gradient, self.surrogate))
        return made

    def release(self) -> None:
        """Lets go of copies of the network that a search made, before the next one."""
        for matching in (self.matching, self.single_gradient, *(m.matching for m in self._made)):
            matching.release()

    @cached_property
    def single_gradient(self) -> Matching:
        """The matching of one gradient, where there is one: the client's, or that which stands in for its training."""
        if self.surrogate is None:
            return self.matching
        return replace(
            self.matching,
            model=self.surrogate.model,
            observed=self.surrogate.update,
            training=self.surrogate.training,
        )

    @property
    def gradient(self) -> Params | None:
        """One example's gradient, if that, or what stands in for it, was observed; taken at `single_gradient.model`.

        None, too, of what is known to be no gradient any more, but a part of one, or its signs.
        """
        if self.defence is not None and _is_partial(self.defence):
            return None
        single = self.hypothesis.num_examples == 1 and isinstance(self.single_gradient.training, FedSGD)
        return self.single_gradient.observed.values if single and self.sure else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the result must know."""
        training = self.hypothesis.training
        if self.surrogate is None or not isinstance(training, FedAvg):
            return ()
        steps = training.local_steps(len(self.labels) // self.matching.clients)
        return (AS_ONE.format(steps=steps),) if self.corrects else ()


MOST = 0.9
"""Share of the update's values in completed layers from which on these are matched: others are adapted to as ever."""


def before_defence(observed: Update, knowledge: ServerKnowledge) -> tuple[Update, frozenset[str]]:
    """What is to be matched, with those layers whose rank tells what was not sent of them; and their parameters.

    Behind noise alone a candidate's own rank is as low as theirs, so that nothing is gained.
    """
    known = knowledge.defence
    if known is None or not (known.survivors or known.cut) or not one_step(observed, knowledge):
        return observed, frozenset()
    told = completion(observed, knowledge)
    values = {k: v.numel() for k, v in observed.values.items()}
    if sum(values[k] for k in told.names) < MOST * sum(values.values()):
        return observed, frozenset()
    return told.whole(told.names).to(knowledge.model.like), told.names


def _is_partial(defence: KnownDefence) -> bool:
    return bool(defence.survivors or defence.cut or defence.signs or defence.left_out)
