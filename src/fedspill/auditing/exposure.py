"""What a client's own update gives away: every closed form of the catalogue, run blind on it, within a time.

The client is both sides here: the attacks are told no more than a server that counts the examples knows, and only what
they return is held against the truth.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool

from fedspill import catalogue
from fedspill.auditing.resolving.components import misfit
from fedspill.auditing.resolving.defaults import defaults
from fedspill.auditing.scheduling.shares import CLOSED, READS
from fedspill.auditing.watch import Silent, TrialWatch
from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import TableSpec
from fedspill.core.knowledge import KnownDefence, ServerKnowledge
from fedspill.core.local_training.update import FedSGD, LocalTraining, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import Attack, Card, ClientContext, Exposed
from fedspill.core.types import Batch, Reconstruction, ServerRole, Update
from fedspill.core.watching.clock import OutOfTime, until
from fedspill.scoring.leakage import criterion, leaked
from fedspill.scoring.metrics import by_names
from fedspill.scoring.score import Scored, score_all, score_pairs

SECONDS = 50.0
"""For all attacks together."""
FEW = 2
"""Examples that are attacked where the time is too short for more: whoever reads a batch reads a smaller one first."""
OF_ONE = ("rgap",)
"""What reads one example, and no more."""


@dataclass(frozen=True)
class MeasuresExposure:
    """Attacks the gradient of a batch: what `Incoming.exposure` is.

    Attributes:
        seconds: for all attacks together; each has at most half of what is left while others wait.
        most: examples whose gradient is attacked, the first ones.
        preset: of the attacks, "paper" of those that have none of this name.
        seed: of what they draw.
        attacks: names of those that are run; None runs all that fit.

    Raises:
        BadInput: no time, or no example.
    """

    seconds: float = SECONDS
    most: int = 8
    preset: str = "quick"
    seed: int = 0
    attacks: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not (self.seconds > 0 and self.most >= 1):
            raise BadInput(f"seconds={self.seconds} must be above 0, most={self.most} from 1")

    def __call__(self, model: Model, batch: Batch) -> tuple[Exposed, ...]:
        """Of the mean gradient of the batch's first examples, as FedSGD sends it; where no attack on it comes to a
        result in half of the time, of the first two examples alone.

        Raises:
            BadInput: it cannot be computed.
        """
        end, batch = time.monotonic() + self.seconds, batch[: min(self.most, len(batch))]
        if len(batch) <= FEW:
            return self._of(model, batch)
        found = replace(self, seconds=self.seconds / 2)._of(model, batch)
        if any(not one.failed for one in found):
            return found
        of_few = replace(self, seconds=max(1e-3, end - time.monotonic()))._of(model, batch[:FEW])
        return of_few if any(not one.failed for one in of_few) else found

    def _of(self, model: Model, batch: Batch) -> tuple[Exposed, ...]:
        training = FedSGD()
        return self.of_update(local_update(model, batch, training), model, batch, training)

    def as_sent(self, update: Update, context: ClientContext, attacks: tuple[str, ...]) -> tuple[Exposed, ...]:
        """Of an update with the defences before it, as a client's own defence looks at it.

        Raises:
            BadInput: an attack that the catalogue does not have.
        """
        if unknown := sorted(set(attacks) - set(catalogue.attacks())):
            raise BadInput(f"unknown attack {unknown[0]!r}; there are {', '.join(sorted(catalogue.attacks()))}")
        return replace(self, attacks=attacks).of_update(update, context.model, context.batch, context.training)

    def of_update(
        self,
        update: Update,
        model: Model,
        batch: Batch,
        training: LocalTraining | None,
        defence: KnownDefence | None = None,
    ) -> tuple[Exposed, ...]:
        """Of an update as it is about to be sent; one entry per attack that fits the model, the update and the number
        of examples.

        Args:
            training: the protocol, as far as the server knows it.
            defence: what the server knows of what was done to the update.
        """
        end = time.monotonic() + self.seconds
        knowledge = ServerKnowledge(model, 1, len(batch), None, training, defence=defence)
        cards = self._fitting(knowledge)
        done = list[Exposed]()
        for number, (name, card) in enumerate(cards.items()):
            left = max(0.0, end - time.monotonic())
            share = left if number == len(cards) - 1 else CLOSED * left
            entry = f"{name}:{self.preset if self.preset in card.presets else 'paper'}"
            found = self._of_one(entry, card, update, knowledge, batch, share)
            done += [] if found is None else [found]
        return tuple(done)

    def _asked(self) -> Mapping[str, Card[Attack]]:
        cards = catalogue.attacks()
        return cards if self.attacks is None else {n: cards[n] for n in self.attacks}

    def _fitting(self, knowledge: ServerKnowledge) -> Mapping[str, Card[Attack]]:
        """Closed forms first, what searches a little besides after them."""
        cards = {n: c for n, c in self._asked().items() if _reads(n, c, knowledge)}
        return dict(sorted(cards.items(), key=lambda named: named[1].iterative))

    def _of_one(
        self, entry: str, card: Card[Attack], update: Update, knowledge: ServerKnowledge, batch: Batch, seconds: float
    ) -> Exposed | None:
        """None if the attack does not fit; whatever else it raises is told."""
        began, nobody = time.monotonic(), torch.zeros(len(batch), dtype=torch.bool)
        attack, rng = card.presets[entry.partition(":")[2]], stream(self.seed, "attack", entry, 0)
        try:
            with until(began + seconds):
                rebuilt = attack.reconstruct(update, knowledge, rng, TrialWatch(Silent(), deadline=began + seconds))
        except NotApplicable:
            return None
        except OutOfTime:
            return Exposed(entry, nobody, None, "", time.monotonic() - began, "its share of the time ended")
        except Exception as error:  # of an attack of anyone's, on a network of anyone's
            reason = (str(error).strip().splitlines() or [""])[0][:200]
            return Exposed(entry, nobody, None, "", time.monotonic() - began, f"{type(error).__name__}: {reason}")
        read, closest, said = judged(rebuilt, batch, knowledge.model)
        return Exposed(entry, read, closest, said, time.monotonic() - began)


def _reads(name: str, card: Card[Attack], knowledge: ServerKnowledge) -> bool:
    closed = not card.iterative or name in READS or (name in OF_ONE and knowledge.num_examples == 1)
    ours = card.in_standard and card.role is ServerRole.HONEST_BUT_CURIOUS
    return closed and ours and not knowledge.missing(card.needs) and misfit(card, knowledge.model.input) is None


def judged(rebuilt: Reconstruction, private: Batch, model: Model) -> tuple[Bool[torch.Tensor, " n"], float | None, str]:
    """Which examples are rebuilt, the value of the closest, and by what that is judged.

    As an audit judges by default; besides, a reconstruction must be closer than the mean of the client's own examples
    where these are pictures or numbers, as dull ones are close to anything.
    """
    usual, spec = defaults(model.input), model.input
    metrics = by_names(tuple(usual.leak_threshold), table=spec if isinstance(spec, TableSpec) else None)
    private = private.to(model.like)
    table = spec if isinstance(spec, TableSpec) else None
    scored = score_all(rebuilt.inputs.to(private.inputs), private.inputs, metrics, table=table)
    read = leaked(scored.values(), usual.leak_threshold, scored.directions()) & _better(
        scored, private, metrics[0].name
    )
    values = scored.metrics[0].values
    present = values[~values.isnan()]
    closest = None
    if len(present):
        closest = float(present.max() if scored.metrics[0].higher_is_closer else present.min())
    return read, closest, criterion(usual.leak_threshold, metrics)


def _better(scored: Scored, private: Batch, name: str) -> Bool[torch.Tensor, " n"]:
    if name != "psnr" or len(private) < 2:
        return torch.ones(len(private), dtype=torch.bool)
    mean = private.inputs.mean(0, keepdim=True).expand_as(private.inputs)
    guess = score_pairs(mean, private.inputs, by_names((name,))).metrics[0].values
    return scored.metrics[0].values > guess
