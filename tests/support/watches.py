"""Watches of tests: one that remembers, one that breaks, one whose time is up."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from fedspill.auditing.watch import Silent
from fedspill.core.roles import State, Unwatched


class Broken(Exception):
    """Stands in for a kill."""


class BreakingWatch(Unwatched):
    """Keeps every state as bytes, as a file would, and breaks the run off after some steps."""

    def __init__(self, break_after: int | None = None, kept: bytes | None = None) -> None:
        self.break_after, self.kept, self.saves = break_after, kept, 0

    def save(self, state, *, last=False) -> None:
        buffer = io.BytesIO()
        torch.save(dict(state()), buffer)
        self.kept, self.saves = buffer.getvalue(), self.saves + 1
        if self.saves == self.break_after:
            raise Broken

    def load(self):
        return None if self.kept is None else torch.load(io.BytesIO(self.kept), weights_only=True)


class Impatient(Unwatched):
    """A budget of a few questions."""

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def out_of_time(self) -> bool:
        self.patience -= 1
        return self.patience < 0


class Ending(Unwatched):
    """A budget that a test ends."""

    over = False

    def out_of_time(self) -> bool:
        return self.over


class Recorder(Unwatched):
    """Keeps states, and ends the search at a step."""

    def __init__(self, end: int | None = None, state=None) -> None:
        self.end, self.state, self.done, self.told = end, state, 0, list[float]()

    def progress(self, done: int, total: int, objective: float) -> None:
        self.done = done
        self.told.append(objective)

    def save(self, state, *, last: bool = False) -> None:
        if last:
            self.state = state()

    def load(self):
        return self.state

    def out_of_time(self) -> bool:
        return self.end is not None and self.done >= self.end


@dataclass
class Kept(Unwatched):
    """A watch that keeps states in memory and is killed at the given save."""

    state: Mapping[str, Any] | None = None
    saves: int = 0
    killed_at: int = -1
    heard: list[int] = field(default_factory=list)

    def progress(self, done: int, total: int, objective: float) -> None:
        self.heard.append(done)

    def save(self, state: Callable[[], State], *, last: bool = False) -> None:
        self.saves += 1
        self.state = state()
        if self.saves == self.killed_at:
            raise KeyboardInterrupt

    def load(self) -> State | None:
        return self.state

    def out_of_time(self) -> bool:
        return False


@dataclass
class Heard(Silent):
    """Keeps what it is told."""

    def __post_init__(self) -> None:
        self.messages, self.trials, self.steps = list[str](), list[str](), list[tuple[int, int]]()
        self.results = list[str]()

    def message(self, text: str) -> None:
        self.messages.append(text)

    def found(self, text: str) -> None:
        self.results.append(text)

    def trial(self, number: int, total: int, name: str) -> None:
        self.trials.append(f"{number}/{total} {name}")

    def progress(self, done: int, total: int, objective: float) -> None:
        self.steps.append((done, total))


class Killed(BaseException):
    """As a signal would."""
