"""The files of `matching`: one JSON per cost case and per curve, each with the conditions of its numbers."""

import argparse
import contextlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from benchmarks.common import places
from fedspill.core.errors import BadInput

RESULTS = places.RESULTS / "matching"
QUICK = Path("runs") / "matching"
"""Where trials of the benchmark itself go; git ignores it."""
PACKAGES = ("torch", "breaching", "hydra-core", "numpy")
UNTOLD = ("--out", "--worker", "--state")
"""Options that change no number, and whose values are paths of a machine."""


def folder(args: argparse.Namespace) -> Path:
    """Of the results, one for each kind of device."""
    return Path(args.out or (QUICK if args.quick else RESULTS)) / str(args.device).partition(":")[0]


def parse_parts(
    about: str | None,
    parts: Mapping[str, tuple[ModuleType, Callable[[argparse.ArgumentParser], None]]],
    common: Callable[[argparse.ArgumentParser], None],
    words: list[str] | None,
    **defaults: str,
) -> argparse.Namespace:
    """The command line of a benchmark of several parts, each a module that says what it does and has a `run`.

    Args:
        parts: by name the module, and what adds its own options.
        common: adds the options of all parts.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(**defaults)
    choices = parser.add_subparsers(required=True, metavar="PART")
    for name, (module, own) in parts.items():
        one = choices.add_parser(name, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        one.set_defaults(run=module.run)
        common(one)
        own(one)
    return parser.parse_args(words)


def run_or_table(
    name: str,
    about: str | None,
    own: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], None],
    lines: Callable[[], Iterable[str]],
) -> None:
    """The command line of a benchmark on the CPU whose table is made of what was recorded.

    Args:
        own: adds the benchmark's own options.
        lines: of the table.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    own(parser)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    args.device, args.benchmark = "cpu", name
    if args.what == "table":
        print("\n".join(lines()))
    else:
        run(args)


def conditions(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that a number needs beside it."""
    found = dict[str, str]()
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return {
        "command": f"python -m benchmarks.{getattr(args, 'benchmark', 'matching')} {told(sys.argv[1:])}",
        "day": datetime.now(UTC).date().isoformat(),
        "versions": {**found, "torch": torch.__version__, "python": platform.python_version()},
        "device": device_name(args.device),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }


def told(words: list[str]) -> str:
    """A command line without the options whose values are of one machine only."""
    pairs = zip(["", *words], words, strict=False)
    return shlex.join([w for before, w in pairs if before not in UNTOLD and w.partition("=")[0] not in UNTOLD])


def device_name(device: str) -> str:
    """The card's name, or that of the processor."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else processor()


def processor() -> str:
    """The model's name as the kernel tells it, else as Python does."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def write(path: Path, record: dict[str, Any]) -> None:
    """Whole or not at all; lists of numbers in one line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(_text(record) + "\n")
    partial.replace(path)


def _text(record: Any, depth: int = 0) -> str:
    if not isinstance(record, dict) or depth > 1:
        return json.dumps(record)
    lines = [" " * (depth + 1) + json.dumps(k) + ": " + _text(v, depth + 1) for k, v in record.items()]
    return "{\n" + ",\n".join(lines) + "\n" + " " * depth + "}"


def read(path: Path) -> dict[str, Any]:
    """One record.

    Raises:
        BadInput: the file holds none.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is no record of this benchmark: {error}") from error
    if not isinstance(found, dict):
        raise BadInput(f"{path} is no record of this benchmark: it holds a {type(found).__name__}")
    return found


def is_done(path: Path, settings: dict[str, Any], *, redo: bool) -> bool:
    """Whether a record of these settings is there already.

    Raises:
        BadInput: a record of other settings is, and it may have taken hours.
    """
    if redo or not path.is_file():
        return False
    kept, wanted = read(path).get("settings"), json.loads(json.dumps(settings))
    if kept != wanted:
        differ = [k for k in {**(kept or {}), **wanted} if (kept or {}).get(k) != wanted.get(k)]
        raise BadInput(f"{path} was recorded with other settings ({', '.join(differ)}); --redo replaces it")
    return True
