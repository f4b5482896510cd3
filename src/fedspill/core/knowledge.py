"""What the server holds when it attacks."""

import math
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.local_training.update import LocalTraining
from fedspill.core.model import Model
from fedspill.core.types import Batch, Params, Update
from fedspill.core.words import Knows as Knows


@dataclass(frozen=True)
class KnownDefence:
    """What a server knows of what the clients do to their updates (Kerckhoffs), in the update's own terms.

    A field that says nothing has its default. What a defence draws at random is never in here.

    Attributes:
        names: the defences, in the order in which they act.
        noise: standard deviation of the noise on every value of one client's update, in its unit.
        noise_of_sum: likewise of the sum over a client's examples, so that a mean of n has it over n.
        noise_of_step: likewise of the update over its local steps, so that an update of s steps has it s times.
        noise_share: likewise as a share of the update's root mean square without noise.
        survivors: values that are exactly 0 were not sent; only the others are to be matched.
        cut: values that were larger were cut to the largest size that was sent, one for all tensors.
        signs: of every value only the sign was sent.
        scale_free: the update's length says nothing, as after clipping.
        per_example: every example's gradient was scaled by itself before the mean, so that its weight is unknown.
        left_out: parameters whose gradient was altered beyond use, and is to be ignored.
        step: quantisation step per tensor, in the update's unit.
        bits: each tensor was rounded to this many bits, 2^(bits - 1) - 1 equal steps from 0 to its largest value.
        mixed: each input is a mixture of so many.
        random_layers: modules whose output is random: what lies behind them does not match.
    """

    names: tuple[str, ...] = ()
    noise: float | None = None
    noise_of_sum: float | None = None
    noise_of_step: float | None = None
    noise_share: float | None = None
    survivors: bool = False
    cut: bool = False
    signs: bool = False
    scale_free: bool = False
    per_example: bool = False
    left_out: frozenset[str] = frozenset()
    step: Mapping[str, float] | None = None
    bits: int | None = None
    mixed: int | None = None
    random_layers: frozenset[str] = frozenset()

    def after(self, other: "KnownDefence") -> "KnownDefence":
        """Both, where this one acts on what the other one left.

        Noise fills what was 0, and turns steps and signs into numbers again; of signs no noise before them is left.
        """
        clean = not self.is_noisy
        return KnownDefence(
            names=(*other.names, *self.names),
            noise=_together(None if self.signs else other.noise, self.noise),
            noise_of_sum=_together(None if self.signs else other.noise_of_sum, self.noise_of_sum),
            noise_of_step=_together(None if self.signs else other.noise_of_step, self.noise_of_step),
            noise_share=_together(None if self.signs else other.noise_share, self.noise_share),
            survivors=self.survivors or (other.survivors and clean),
            cut=self.cut or (other.cut and clean),
            signs=self.signs or (other.signs and clean),
            scale_free=self.scale_free or other.scale_free,
            per_example=self.per_example or other.per_example,
            left_out=self.left_out | other.left_out,
            step=self.step if self.step is not None else other.step if clean and not self.scale_free else None,
            bits=self.bits if self.bits is not None else other.bits if clean else None,
            mixed=_times(self.mixed, other.mixed),
            random_layers=self.random_layers | other.random_layers,
        )

    def averaged(self, answers: int) -> "KnownDefence":
        """What is known of the mean of several answers to one model, with noise drawn anew for each."""
        fields = ("noise", "noise_of_sum", "noise_of_step", "noise_share")
        drawn = {k: getattr(self, k) for k in fields if getattr(self, k) is not None}
        return replace(self, **{k: v / math.sqrt(answers) for k, v in drawn.items()})

    @property
    def averages(self) -> bool:
        """Whether the mean of several answers is one answer with less noise: nothing but noise is drawn or cut off."""
        kept = self.survivors or self.cut or self.signs or self.step is not None or self.bits is not None
        return not (kept or self.mixed or self.random_layers)

    @property
    def is_noisy(self) -> bool:
        """Whether noise is added to the update's values."""
        return any(self.noises)

    @property
    def noises(self) -> tuple[float, float, float, float]:
        """Noise, noise of the sum, of a step, and noise as a share; 0 for none."""
        return self.noise or 0.0, self.noise_of_sum or 0.0, self.noise_of_step or 0.0, self.noise_share or 0.0

    def deviation(self, update: Update, examples: int | None, clients: int = 1, steps: int = 1) -> float:
        """Standard deviation of the noise on every value of a mean over clients; 0 for none.

        Args:
            update: the mean that was observed; only noise that is a share of it asks for it.
            examples: n over all clients; None takes 1 each, which overstates the noise of a sum.
            clients: how many independent updates were averaged.
            steps: local steps of a client.
        """
        absolute, of_sum, of_step, share = self.noises
        size = sum(v.numel() for v in update.values.values())
        observed = update.norm() / max(size, 1) ** 0.5 if share else 0.0
        by_share = share * observed / math.sqrt(1 + share**2 / clients)
        each = math.hypot(absolute, of_sum * clients / max(examples or clients, 1), of_step * steps, by_share)
        return each / math.sqrt(clients)


def _together(one: float | None, other: float | None) -> float | None:
    """Independent noise twice; None for none at all."""
    return one if other is None else other if one is None else math.hypot(one, other)


def _times(one: int | None, other: int | None) -> int | None:
    return one if other is None else other if one is None else one * other


Simulate = Callable[[Batch, torch.Generator], Update | None]
"""Examples, as many as are behind the attacked update, and a source of draws, to what the server would receive of them;
None where the clients' defences withhold it."""


@dataclass(frozen=True)
class ServerKnowledge:
    """Data that the server holds; a field that it does not hold is None, there are no flags.

    Attributes:
        model: as sent to the clients, tampered with or not.
        num_clients: how many updates were averaged into the one that is attacked; a server always knows.
        num_examples: n, over all clients.
        labels: of the private examples, in their order: classes (n,), next tokens (n, t), or what
            else the loss takes, such as several labels each (n, k).
        local_training: the protocol with its settings; its `draws` are None unless they are known, too.
        public_data: examples from the clients' distribution, disjoint from the private ones.
        client_sizes: examples of each client in their order, where the server was granted their number and they differ;
            the mean over clients is then weighted by them.
        defence: what the clients do to their updates; None also where they do nothing.
        bn_statistics: mean and variance of the private batch at every BatchNorm layer: "NAME.mean", "NAME.var".
        simulate: this protocol's clients, defences included where those are known, run on examples of the server's own;
            None where it cannot run them. What they draw comes from the given generator, never from the real clients'.

    Example:
        >>> import fedspill, torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10))
        >>> model = fedspill.Model.of(net, fedspill.ImageSpec((3, 8, 8)))
        >>> knowledge = fedspill.ServerKnowledge(model, num_examples=4)
        >>> [grant.value for grant in knowledge.holds()]
        ['num_examples']
    """

    model: Model
    num_clients: int = 1
    num_examples: int | None = None
    labels: Int[Tensor, " n ..."] | Float[Tensor, " n ..."] | None = None
    local_training: LocalTraining | None = None
    public_data: Batch | None = None
    bn_statistics: Params | None = None
    client_sizes: tuple[int, ...] | None = None
    defence: KnownDefence | None = None
    simulate: Simulate | None = None

    @property
    def draws(self) -> int | None:
        """The seed of what the clients drew: orders, augmentation, dropout."""
        return None if self.local_training is None else self.local_training.draws

    def holds(self) -> frozenset[Knows]:
        """The grants that this server has."""
        held = {
            Knows.NUM_EXAMPLES: self.num_examples,
            Knows.LABELS: self.labels,
            Knows.LOCAL_TRAINING: self.local_training,
            Knows.PUBLIC_DATA: self.public_data,
            Knows.BN_STATISTICS: self.bn_statistics,
            Knows.DRAWS: self.draws,
            Knows.DEFENCE: self.defence,
        }
        return frozenset(k for k, v in held.items() if v is not None)

    def missing(self, needs: Set[Knows]) -> frozenset[Knows]:
        """The needs that this server cannot meet."""
        return frozenset(needs) - self.holds()
