"""Adam with Langevin noise: after a warm-up the step size falls with a cosine, and each step adds noise of its size.

Yin et al. 2021 (GradInversion, arXiv 2104.07586), section 3.3.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fedspill.core.rng import randn, stream
from fedspill.inversion.search.step_rules import SignedAdam, Variables


class _NoisyAdam(torch.optim.Adam):
    """Noise on the first variable alone, drawn anew from the seed and the number of the step, so that runs resume."""

    def __init__(self, variables: Variables, lr: float, noise: float, seed: int) -> None:
        super().__init__(variables, lr=lr)
        self._noise, self._seed = noise, seed

    def step(self, closure: Any = None) -> Any:
        """One step of Adam, then the noise."""
        value = super().step(closure)
        group = self.param_groups[0]
        first: Tensor = group["params"][0]
        if self._noise:
            drawn = randn(tuple(first.shape), stream(self._seed, "langevin", self.steps()), first)
            with torch.no_grad():
                first.add_(drawn, alpha=self._noise * float(group["lr"]))
        return value

    def steps(self) -> int:
        """How many were made."""
        state = self.state.get(self.param_groups[0]["params"][0], {})
        return int(state["step"]) if "step" in state else 0


@dataclass
class Phase:
    """Where a search stands, for objectives that change on the way.

    Attributes:
        done: share of the run, in [0, 1].
    """

    done: float = 0.0
    optimiser: _NoisyAdam | None = None

    @property
    def steps(self) -> int:
        """How many were made."""
        return 0 if self.optimiser is None else self.optimiser.steps()


@dataclass(frozen=True)
class LangevinAdam(SignedAdam):
    """The step rule.

    Attributes:
        noise: standard deviation of what is added after each step, in step sizes.
        warm_up: share of the run over which the step size rises.
        seed: of the noise.
        phase: told where the search stands.
    """

    signed: bool = False
    noise: float = 0.2
    warm_up: float = 0.0025
    seed: int = 0
    phase: Phase = field(default_factory=Phase)

    def optimiser(self, variables: Variables, *, capturable: bool = False) -> torch.optim.Optimizer:
        """A fresh optimiser over the variables, of which the first is the candidate."""
        self.phase.optimiser = _NoisyAdam(variables, self.lr, self.noise, self.seed)
        return self.phase.optimiser

    def set_step_size(self, optimiser: torch.optim.Optimizer, done: float) -> None:
        """Sets the step size that belongs to the share of the run that is done, in [0, 1]."""
        self.phase.done = done
        super().set_step_size(optimiser, done)

    def step_size(self, done: float) -> float:
        """Linear in the warm-up, then a cosine down to 0."""
        if done < self.warm_up:
            return self.lr * max(done, 1e-3 * self.warm_up) / self.warm_up
        return self.lr * 0.5 * (1 + math.cos(math.pi * (done - self.warm_up) / (1 - self.warm_up)))
