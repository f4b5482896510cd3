"""What every training shares: who hears of it, and a state on disk from which a killed run goes on."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from pydantic import BaseModel

from fedspill import __version__
from fedspill.core.errors import BadInput
from fedspill.core.tensor_files import partial_of, write_state, write_tensors, write_whole
from fedspill.core.watching.watch import Forecast


@runtime_checkable
class Listener(Protocol):
    """Hears how a training goes."""

    def progress(self, done: int, total: int, objective: float) -> None:
        """`done` of `total` steps; `objective` is the loss."""
        ...

    def message(self, text: str) -> None:
        """One line for people."""
        ...


class Silent:
    """Nobody listens."""

    def progress(self, done: int, total: int, objective: float) -> None:
        """Nobody listens."""

    def message(self, text: str) -> None:
        """Nobody listens."""


@dataclass(frozen=True)
class StateFile:
    """FILE.partial beside the file that a training will write.

    Attributes:
        key: what decides the result; the state of another plan is refused.
    """

    path: Path
    key: str

    @classmethod
    def beside(cls, out: Path, plan: BaseModel) -> "StateFile":
        """The state file of the training of `plan` that writes `out`; half-written files of a killed run are removed.

        Raises:
            BadInput: `out` is no safetensors file, or lies in no folder.
        """
        if out.suffix != ".safetensors":
            raise BadInput(f"--out {str(out)!r} must end in .safetensors")
        if not out.parent.is_dir():
            raise BadInput(f"--out {str(out)!r}: the folder {str(out.parent)!r} does not exist")
        state = out.with_name(out.name + ".partial")
        for file in (out, out.with_suffix(".json"), state):
            partial_of(file).unlink(missing_ok=True)
        conditions = [plan.model_dump(mode="json"), __version__, torch.__version__]
        return cls(state, json.dumps(conditions, sort_keys=True))

    def load(self) -> dict[str, Any] | None:
        """What an earlier, broken run of the same training left, if any.

        Raises:
            BadInput: the file is broken, or of another training.
        """
        if not self.path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, weights_only=True)
        except Exception as error:  # half a file
            raise BadInput(f"{str(self.path)!r} is no whole state; remove it to start anew") from error
        if state.pop("key", None) != self.key:
            raise BadInput(f"{str(self.path)!r} is the state of another training; remove it to start anew")
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Keeps a state, whole or not at all."""
        write_state(self.path, {**state, "key": self.key})

    def remove(self) -> None:
        """The training is done."""
        self.path.unlink(missing_ok=True)


@dataclass
class FileWatch:
    """What a training inside `inversion` is watched by: it tells a listener and keeps its state in a file."""

    listener: Listener
    file: StateFile
    seconds: float = 30.0
    _written: float = field(default_factory=time.monotonic)

    def progress(self, done: int, total: int, objective: float) -> None:
        """Passes it on."""
        self.listener.progress(done, total, objective)

    def save(self, state: Callable[[], Mapping[str, Any]], *, last: bool = False) -> None:
        """Writes the last state, and one every so many seconds."""
        if last or time.monotonic() - self._written >= self.seconds:
            self.file.save(state())
            self._written = time.monotonic()

    def load(self) -> Mapping[str, Any] | None:
        """What an earlier, broken run left."""
        return self.file.load()

    def out_of_time(self) -> bool:
        """A training has no budget."""
        return False

    def forecast(self, forecast: Callable[[], Forecast]) -> None:
        """Trainings make no forecast."""

    def planned(self, steps: int, restarts: int, seconds: float) -> tuple[int, int]:
        """A training goes its whole length."""
        return steps, restarts

    def quality(self) -> float | None:
        """A training goes on to its end."""
        return None


def finished(
    out: Path, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, str], report: BaseModel, file: StateFile
) -> None:
    """Writes what was trained, with facts in its header, and the figures beside it (FILE.json); the state is gone."""
    write_tensors(out, dict(tensors), dict(facts))
    write_whole(out.with_suffix(".json"), report.model_dump_json(indent=1))
    file.remove()


def check_held_out(examples: int, held_out: int, minibatch: int) -> None:
    """Raises BadInput where the data do not suffice for those that are held out and one mini-batch."""
    if examples < held_out + minibatch:
        raise BadInput(
            f"data has {examples} examples; held_out={held_out} and one mini-batch of {minibatch} are needed"
        )
