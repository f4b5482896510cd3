"""The folder of an audit: what is done, what is under way, what was found. Files are written whole or not at all."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.tensor_files import partial_of, write_tensors, write_whole
from fedspill.report.schema import AuditReport, RoundRecord
from fedspill.report.trial import Trial

KEY_FILE = "fedspill.json"
REPORT_FILE = "report.json"
TENSOR_FILE = "reconstructions.safetensors"
TEXT_FILE = "reconstructions.json"

Texts = Mapping[str, list[str]]
"""Examples as text for people, one line each, by the names of the tensors that hold them."""


def write_texts(path: Path, texts: Texts) -> None:
    """Texts as JSON, whole or not at all."""
    write_whole(path, json.dumps(dict(texts), ensure_ascii=False, indent=1))


_ROUNDS = TypeAdapter(list[RoundRecord])

OWN_FOLDERS = ("trials", "rounds", "checkpoints", "pictures", "redacted")
OWN_FILES = (
    REPORT_FILE,
    TENSOR_FILE,
    TEXT_FILE,
    "report.html",
    "junit.xml",
    "worst.png",
    "attack.json",
    "checkpoint.pt",
)


def _held_key(folder: Path) -> str | None:
    """The key of the run that a folder holds; None if the file is missing or not ours."""
    try:
        held = json.loads((folder / KEY_FILE).read_bytes())["key"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return held if isinstance(held, str) and len(held) == 64 else None


def _clear(folder: Path) -> None:
    """Removes what fedspill writes, and nothing else; a kill meanwhile leaves the key, by which the folder is known."""
    for name in OWN_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in [*(folder / name for name in OWN_FILES), *folder.glob("rebuilt-*.png")]:
        path.unlink(missing_ok=True)
    _sweep(folder)


def _sweep(folder: Path) -> None:
    """Removes the half-written files of a run that was killed."""
    for place in (folder, *(folder / name for name in OWN_FOLDERS)):
        for path in place.glob(partial_of(Path("*")).name):
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Store:
    """An audit's output folder.

    Attributes:
        key: identifies plan, weights and data; a folder of another key is never written over.
    """

    folder: Path
    key: str

    def open(self, *, fresh: bool) -> None:
        """Makes the folder, or goes on in one of the same audit.

        Raises:
            BadInput: it holds something else.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise BadInput(f"--out {str(self.folder)!r} is a file; a folder is needed")
        held = (self.folder / KEY_FILE).is_file()
        if held and fresh and _held_key(self.folder) is not None:
            _clear(self.folder)
            self._claim()
        elif held:
            self._check_key()
            _sweep(self.folder)
        elif self.folder.is_dir() and self._holds_others():
            raise BadInput(f"folder {str(self.folder)!r} is not empty and holds no audit; choose another --out")
        else:
            self._claim()

    def _holds_others(self) -> bool:
        """Whether it holds more than the half-written key of a run that was killed at once."""
        first = partial_of(self.folder / KEY_FILE)
        return any(path != first for path in self.folder.iterdir())

    def _claim(self) -> None:
        try:
            write_whole(self.folder / KEY_FILE, json.dumps({"key": self.key}))
        except OSError as error:
            raise BadInput(f"cannot write to {str(self.folder)!r}: {error.strerror}") from None

    def _check_key(self) -> None:
        if _held_key(self.folder) != self.key:
            raise BadInput(
                f"folder {str(self.folder)!r} holds the audit of another plan, model or data;"
                " choose another --out, or --fresh to start over"
            )

    def checkpoint(self, trial: str) -> Path:
        """Where a running trial keeps its state."""
        return self.folder / "checkpoints" / f"{trial}.pt"

    def finished(self, trial: str) -> tuple[Trial, Mapping[str, Tensor]] | None:
        """A trial that an earlier run finished, with its tensors."""
        record, tensors = self._trial_files(trial)
        if not record.is_file():
            return None
        try:
            trial_record = Trial.model_validate_json(record.read_bytes())
            return trial_record, load_file(tensors) if tensors.is_file() else {}
        except (ValidationError, SafetensorError):
            return None  # damaged from outside: the trial is run again

    def keep(self, trial: Trial, tensors: Mapping[str, Tensor]) -> None:
        """A finished trial; its checkpoint is no longer needed."""
        record, values = self._trial_files(trial.name)
        if tensors:
            write_tensors(values, tensors)
        write_whole(record, trial.model_dump_json())
        if not trial.ended_by_budget:
            self.checkpoint(trial.name).unlink(missing_ok=True)

    def measured(self, world: str) -> list[RoundRecord] | None:
        """The rounds that an earlier run measured in one world; None if it did not."""
        path = self._rounds_file(world)
        try:
            return _ROUNDS.validate_json(path.read_bytes()) if path.is_file() else None
        except ValidationError:
            return None  # damaged from outside: the rounds are measured again

    def keep_measured(self, world: str, rounds: list[RoundRecord]) -> None:
        """The rounds of one world as they were measured."""
        write_whole(self._rounds_file(world), _ROUNDS.dump_json(rounds).decode())

    def _rounds_file(self, world: str) -> Path:
        return self.folder / "rounds" / f"{world}.json"

    def _trial_files(self, trial: str) -> tuple[Path, Path]:
        return self.folder / "trials" / f"{trial}.json", self.folder / "trials" / f"{trial}.safetensors"

    def tidy(self, *, complete: bool) -> None:
        """Removes what only a broken run would have needed.

        Args:
            complete: no trial was ended by the budget, so that none goes on.
        """
        checkpoints = self.folder / "checkpoints"
        if complete:
            shutil.rmtree(checkpoints, ignore_errors=True)
        if checkpoints.is_dir() and not any(checkpoints.iterdir()):
            checkpoints.rmdir()


def read_report(folder: Path) -> tuple[AuditReport, Mapping[str, Tensor]]:
    """A report and its tensors ("private/INDEX", "rebuilt/TRIAL", "unscored/TRIAL"), from an audit's folder.

    Raises:
        BadInput: there is no report, or it is not one of this schema.
    """
    path = folder / REPORT_FILE
    if not path.is_file():
        raise BadInput(f"{str(folder)!r} holds no {REPORT_FILE}; give the output folder of an audit")
    try:
        report = AuditReport.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(
            f"{str(path)!r} is not a report of this version: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from None
    except (AttributeError, TypeError, ValueError) as error:  # of a plan of odd values
        raise BadInput(f"{str(path)!r} is not a report of this version: {str(error).splitlines()[0]}") from None
    return report, _fitting(report, folder / TENSOR_FILE)


def _fitting(report: AuditReport, path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file, if they are those of which the report speaks."""
    try:
        tensors = load_file(path) if path.is_file() else {}
    except (SafetensorError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise BadInput(f"{str(path)!r} is no whole safetensors file: {str(error).splitlines()[0]}") from None
    for trial in report.trials:
        if (reason := misfit(trial, tensors)) is not None:
            raise BadInput(f"{str(path)!r} is not of this report: trial {trial.name!r} {reason}")
    return tensors


def misfit(trial: Trial, tensors: Mapping[str, Tensor]) -> str | None:
    """Why a trial's record and the tensors of its examples cannot belong together; None if they can."""
    private = [tensors[key] for k in trial.examples if (key := f"private/{k}") in tensors]
    rebuilt, unscored = (tensors.get(f"{kind}/{trial.name}") for kind in ("rebuilt", "unscored"))
    if any(not t.numel() or t.is_complex() for t in private):
        return "has private examples without contents"
    if any(t.ndim == 3 and not t.is_floating_point() for t in private):
        return "has pictures that are not floats"
    if len({t.shape for t in private}) > 1:
        return "has private examples of different shapes"
    for stack, used in ((rebuilt, _used(trial)), (unscored, [r.unscored for r in trial.readings])):
        if stack is None:
            continue
        if not stack.ndim or any(not 0 <= k < len(stack) for k in used if k is not None):
            return f"speaks of more reconstructions than the {len(stack) if stack.ndim else 0} there are"
        if private and (stack.shape[1:] != private[0].shape or stack.is_complex()):
            return f"has reconstructions {tuple(stack.shape[1:])} of examples {tuple(private[0].shape)}"
    lengths = {len(s.values) for s in trial.scores if s.values}
    if lengths - {len(trial.examples)}:
        return f"has {lengths.pop()} scores for {len(trial.examples)} examples"
    return None


def _used(trial: Trial) -> list[int | None]:
    return [*trial.matched, *(reading.scored for reading in trial.readings)]


def read_texts(folder: Path) -> Texts:
    """The texts beside a report's tensors; none of images.

    Raises:
        BadInput: the file is damaged.
    """
    path = folder / TEXT_FILE
    if not path.is_file():
        return {}
    try:
        return TypeAdapter(dict[str, list[str]]).validate_json(path.read_bytes())
    except ValidationError as error:
        raise BadInput(f"{str(path)!r} holds no texts of an audit: {error.errors()[0]['msg']}") from None
