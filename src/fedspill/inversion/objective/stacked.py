"""Gradient matching of many updates in one stack: every candidate beside the update that it is a candidate for."""

from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.model import Model
from fedspill.core.probing.mean import is_mean_of_batches
from fedspill.core.types import Params
from fedspill.inversion.kernels.ghost_network import GhostNetwork
from fedspill.inversion.objective.autograd import evaluated
from fedspill.inversion.objective.matching import Valued, differentiated
from fedspill.inversion.objective.memory import NEGLIGIBLE, Demand, bound_bytes, of_candidates, usable_bytes

HELD = 2
"""Copies of an observed gradient beside the one that came: in the stack, and in the order in which tiles have it."""


@dataclass(frozen=True)
class MatchingMany:
    """Cosine distances to j observed gradients of one network in eval mode.

    Of r candidates the first r / j belong to the first update, and so on. The observed gradients are copied into one
    tensor for each parameter; candidates for the same update share them.

    Attributes:
        observed: gradients of the same parameters.
        labels: (j, n, ...), classes or class probabilities.
        runs: candidates for each update, r / j.
    """

    model: Model
    observed: tuple[Params, ...]
    labels: Tensor
    runs: int = 1

    def each(self, z: Float[Tensor, "r n ..."]) -> Float[Tensor, " r"]:
        """The distances, differentiable once."""
        return evaluated(partial(_valued, self._network), z, self._labels)

    def release(self) -> None:
        """Lets go of the copies of the observed gradients, so that the next ones have room."""
        if "_network" in self.__dict__:
            self.__dict__.pop("_network").close()

    @cached_property
    def stacks(self) -> bool:
        """Whether candidates for these updates may share a batch; two updates of different labels are tried."""
        other = next(
            (i for i, labels in enumerate(self.labels) if not labels.equal(self.labels[0])), len(self.labels) - 1
        )
        pair = sorted({0, other})
        network = GhostNetwork(self.model, _joined([self.observed[i] for i in pair]))
        agrees = network.stackable(self.labels[pair].repeat_interleave(2, 0))
        network.close()
        return agrees and is_mean_of_batches(self.model, self._labels)

    @property
    def fit(self) -> int:
        """How many updates fit into memory at a time, with all their runs; below 1 if none does."""
        values = self._parameters + self._start.numel() * self.runs
        if values * len(self.observed) < NEGLIGIBLE:
            return len(self.observed)
        free = usable_bytes(self.model.like.device, self._bytes)
        most = self.runs * bound_bytes(self.model, self._start, len(self._start), 1, self._parameters)
        if (most + HELD * self._bytes) * len(self.observed) <= free:
            return len(self.observed)
        fixed = self._demand.of(0)
        return min(len(self.observed), int((free - fixed) // (self._need_of_one - fixed)))

    def need(self) -> int:
        """Bytes that one evaluation of all values and gradients takes, measured on a few examples of two updates."""
        fixed = self._demand.of(0)
        return fixed + (self._need_of_one - fixed) * len(self.observed)

    @property
    def _need_of_one(self) -> int:
        return self._demand.of(self.runs) + HELD * self._bytes

    @property
    def _parameters(self) -> int:
        return sum(v.numel() for v in self.observed[0].values())

    @property
    def _bytes(self) -> int:
        return self._parameters * self.model.like.element_size()

    @property
    def _start(self) -> Tensor:
        return self.model.like.new_zeros(self.labels.shape[1], *self.model.input.encoded_shape)

    @cached_property
    def _demand(self) -> Demand:
        networks = [GhostNetwork(self.model, _joined(self.observed[:count])) for count in (1, 2)]

        def few(z: Tensor, labels: Tensor) -> Valued:
            return _valued(networks[len(z) - 1], z, labels.expand(len(z), *labels.shape))

        demand = of_candidates(few, self._start, self.labels[0])
        for network in networks:
            network.close()
        return demand

    @cached_property
    def _network(self) -> GhostNetwork:
        return GhostNetwork(self.model, _joined(self.observed))

    @cached_property
    def _labels(self) -> Tensor:
        return self.labels.repeat_interleave(self.runs, 0)


def _valued(network: GhostNetwork, z: Tensor, labels: Tensor) -> Valued:
    return differentiated(network.distances, z, labels)


def _joined(observed: tuple[Params, ...] | list[Params]) -> Params:
    return {k: torch.stack([one[k] for one in observed]) for k in observed[0]}
