"""Parameters that make examples easy to rebuild from their gradients, searched on public ones."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.model import Model
from fedspill.core.rng import randn
from fedspill.core.roles import State, Watch
from fedspill.core.settings import Group
from fedspill.core.types import Batch, Params
from fedspill.core.watching.clock import OutOfTime, Pace
from fedspill.inversion.bilevel.rebuilding import Rebuilding, Rebuilt

LONGEST = 1.0
"""Norm that the derivative of one step is cut to."""


@dataclass(frozen=True)
class OuterSearch(Group):
    """How parameters are searched.

    Attributes:
        steps: of Adam on the parameters.
        lr: its first step, which falls to 0 by a cosine.
        images: public examples of one step, each rebuilt by itself.
        held_out: public examples that the search does not use, and by which its best parameters are chosen.
        judge_every: steps between two looks at those.
        noise: size of the noise that a descent begins at, in normalised pixels; 0 is a grey image, 1 what attacks use.
    """

    steps: int = 200
    lr: float = 3e-3
    images: int = 2
    held_out: int = 8
    judge_every: int = 20
    noise: float = 0.0

    def __post_init__(self) -> None:
        least = min(self.steps, self.images, self.held_out, self.judge_every)
        if least < 1 or not self.lr > 0 or not self.noise >= 0:
            raise BadInput(
                f"steps={self.steps}, images={self.images}, held_out={self.held_out}, judge_every={self.judge_every},"
                f" lr={self.lr}, noise={self.noise}: all must be at least 1, but lr above 0 and noise 0 or more"
            )


@dataclass
class LeakSearch:
    """A search, step by step; what is best on held-out examples is kept, which may be the start.

    Attributes:
        model: whose parameters are the start; float64, in eval mode.
        z: public encoded examples (n, ...), n at least 2.
        labels: theirs.
        inner: how an example is rebuilt.
        settings: of the search.
        rng: on the CPU.
        watch: hears of the steps and keeps the state; a resumed search gives the parameters of an unbroken one.
    """

    model: Model
    z: Tensor
    labels: Tensor
    inner: Rebuilding
    settings: OuterSearch
    rng: torch.Generator
    watch: Watch
    done: int = 0
    best: Params = field(default_factory=dict[str, Tensor])
    best_error: float = float("inf")
    curve: list[float] = field(default_factory=list[float])

    def __post_init__(self) -> None:
        kept = min(self.settings.held_out, len(self.z) // 2)
        self.held, self.used = range(kept), range(kept, len(self.z))
        self.starts = self._drawn(kept)
        self.names = self.model.trained_names(None)
        self.values = {k: self.model.params[k].detach().clone().requires_grad_() for k in self.names}
        self.optimiser = torch.optim.Adam(list(self.values.values()), self.settings.lr)
        self.best, self.pace = dict(self.model.params), Pace(self.watch.out_of_time)

    def run(self) -> Params:
        """All steps, or as many as the budget allows; goes on from the watch's state."""
        with suppress(OutOfTime):  # what was best before it stays
            if (state := self.watch.load()) is not None:
                self._resume(state)
            else:
                self._judge()
            self._search()
        return self.best

    def _search(self) -> None:
        while self.done < self.settings.steps and not self.watch.out_of_time():
            self._step()
            self.done += 1
            last = self.done == self.settings.steps
            if last or self.done % self.settings.judge_every == 0:
                self._judge()
            self.watch.progress(self.done, self.settings.steps, self.best_error)
            self.watch.save(self._state, last=last)

    def _now(self) -> Model:
        return self.model.with_params({**self.model.params, **{k: v.detach() for k, v in self.values.items()}})

    def _step(self) -> None:
        chosen = torch.randint(len(self.used), (self.settings.images,), generator=self.rng).tolist()
        model, starts, each = self._now(), self._drawn(len(chosen)), list[Params]()
        for place, start in zip(chosen, starts, strict=True):
            with self.pace.evaluation():
                each.append(self._rebuilt(model, self.used[place], start).derivative())
        self._along(_cut(_mean(each)))

    def _drawn(self, count: int) -> Tensor:
        """Where descents begin."""
        shape = (count, *self.z.shape[1:])
        return self.settings.noise * randn(shape, self.rng, self.z) if self.settings.noise else self.z.new_zeros(shape)

    def _rebuilt(self, model: Model, place: int, start: Tensor) -> Rebuilt:
        """One example by itself."""
        z, labels = self.z[place : place + 1], self.labels[place : place + 1]
        return self.inner.run(model, z, labels, start[None])

    def _along(self, derivative: Params) -> None:
        if not all(bool(v.isfinite().all()) for v in derivative.values()):
            return
        for name, value in self.values.items():
            value.grad = derivative[name]
        share = 0.5 * (1 + math.cos(math.pi * self.done / self.settings.steps))
        self.optimiser.param_groups[0]["lr"] = self.settings.lr * share
        self.optimiser.step()

    def _judge(self) -> None:
        """Keeps the parameters if held-out examples are rebuilt better than by those before."""
        model = self._now()
        with self.pace.evaluation():
            held = zip(self.held, self.starts, strict=True)
            errors = [self._rebuilt(model, place, start).error for place, start in held]
        error = sum(errors) / len(errors)
        self.curve.append(error)
        if error < self.best_error:
            self.best, self.best_error = dict(model.params), error

    def _state(self) -> State:
        return {
            "values": {k: v.detach() for k, v in self.values.items()},
            "optimiser": self.optimiser.state_dict(),
            "best": dict(self.best),
            "best_error": self.best_error,
            "done": self.done,
            "curve": list(self.curve),
            "rng": self.rng.get_state(),
        }

    def _resume(self, state: State) -> None:
        with torch.no_grad():
            for name, value in self.values.items():
                value.copy_(state["values"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.best = {k: v.to(self.z) for k, v in state["best"].items()}
        self.best_error, self.done = float(state["best_error"]), int(state["done"])
        self.curve = [float(e) for e in state["curve"]]
        self.rng.set_state(state["rng"].cpu())


def _mean(each: Sequence[Params]) -> Params:
    return {k: torch.stack([p[k] for p in each]).mean(0) for k in each[0]}


def _cut(derivative: Params) -> Params:
    norm = _norm(derivative)
    factor = (LONGEST / norm.clamp_min(1e-300)).clamp(max=1.0)
    return {k: v * factor for k, v in derivative.items()}


def _norm(values: Params) -> Float[Tensor, ""]:
    return torch.stack([v.square().sum() for v in values.values()]).sum().sqrt()


def leaking_params(
    model: Model, public: Batch, inner: Rebuilding, settings: OuterSearch, rng: torch.Generator, watch: Watch
) -> Params:
    """Parameters by whose gradients examples are rebuilt best, as far as the search came; in the model's own dtype.

    Args:
        model: where the search begins.
        public: examples, at least 2.
        inner: how an example is rebuilt.
        settings: of the search.
        rng: on the CPU.
        watch: of the search.
    """
    exact = model.in_eval_mode().to(model.like.device, torch.float64)
    public = public.to(exact.like)
    z = exact.input.encode(public.inputs)
    found = LeakSearch(exact, z, public.labels, inner, settings, rng, watch).run()
    return {k: v.to(model.params[k]) for k, v in found.items()}
