"""How a search makes a step: Adam on signs or gradients with a falling step size, or L-BFGS."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Variables = list[Tensor]
Schedule = Literal["drops", "cosine"]


@dataclass(frozen=True)
class SignedAdam:
    """Adam on the sign of the gradient, or on the gradient itself, with a step size that falls.

    Defaults are those of Inverting Gradients, appendix C: times 0.1 after 3/8, 5/8 and 7/8 of the run.

    Attributes:
        lr: the first step size.
        signed: take the sign.
        schedule: "drops", or "cosine": from `lr` to 0 (Loshchilov and Hutter 2017, arXiv 1608.03983).
        decay_at: where it drops, in shares of the run.
        decay: what it is multiplied by.
    """

    lr: float = 0.1
    signed: bool = True
    schedule: Schedule = "drops"
    decay_at: tuple[float, ...] = (3 / 8, 5 / 8, 7 / 8)
    decay: float = 0.1

    @property
    def evaluations(self) -> int:
        """Evaluations of the objective in one iteration, at most."""
        return 1

    def optimiser(self, variables: Variables, *, capturable: bool = False) -> torch.optim.Optimizer:
        """A fresh optimiser over the variables; `capturable` as CUDA graphs need it, its step size on the device."""
        if not capturable:
            return torch.optim.Adam(variables, lr=self.lr)
        lr = torch.tensor(self.lr, device=variables[0].device)
        return torch.optim.Adam(variables, lr=lr, capturable=True)

    def before_step(self, optimiser: torch.optim.Optimizer, variables: Variables, done: float) -> None:
        """Sets the step size for the share of the run that is done, and signs the gradients."""
        self.set_step_size(optimiser, done)
        self.sign(variables)

    def set_step_size(self, optimiser: torch.optim.Optimizer, done: float) -> None:
        """Sets the step size that belongs to the share of the run that is done, in [0, 1]."""
        size = self.step_size(done)
        for group in optimiser.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(size)
            else:
                group["lr"] = size

    def step_size(self, done: float) -> float:
        """The step size after this share of the run, in [0, 1]."""
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * done))
        return self.lr * self.decay ** sum(done >= mark for mark in self.decay_at)

    def sign(self, variables: Variables) -> None:
        """The signs of the gradients in their place, if so set."""
        if self.signed:
            for v in variables:
                if v.grad is not None:
                    v.grad.sign_()


@dataclass(frozen=True)
class LBFGS:
    """L-BFGS as in the code of DLG: `inner` evaluations at most in one iteration.

    With `line_search` (strong Wolfe) a step never raises the objective; the field's codes do without.
    """

    lr: float = 1.0
    history: int = 100
    inner: int = 20
    line_search: bool = False

    @property
    def evaluations(self) -> int:
        """Evaluations of the objective in one iteration, at most; a line search may add some."""
        return self.inner + 1

    def optimiser(self, variables: Variables) -> torch.optim.Optimizer:
        """A fresh optimiser over the variables."""
        return torch.optim.LBFGS(
            variables,
            lr=self.lr,
            max_iter=self.inner,
            history_size=self.history,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe" if self.line_search else None,
        )

    def before_step(self, optimiser: torch.optim.Optimizer, variables: Variables, done: float) -> None:
        """L-BFGS takes the gradients as they are."""


StepRule = SignedAdam | LBFGS
