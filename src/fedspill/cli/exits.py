"""How a command ends: what it answers, or one line on stderr and an exit code that no verdict has."""

import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console

from fedspill.core.errors import FedspillError

BAD_INPUT = 2
DEFECT = 70
"""Of fedspill or of the user's own code; it must not read as "leaks" (1)."""
INTERRUPTED = 130
UNREAD = 141
"""Nobody reads what the command prints any more."""
VARIABLE = "FEDSPILL_TRACEBACK"
"""Set to anything, tracebacks are shown instead of written to a file."""
MEMORY = ("not enough memory", "can't allocate memory", "CUDA out of memory", "Unable to allocate")


def exit_code_of(command: Callable[[], int | None]) -> int:
    """Runs a command to its end, whatever that is; the exit code."""
    try:
        return command() or 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as end:  # of typer, where nobody reads on; or of the user's own code
        return UNREAD if end.code == 1 and isinstance(end.__context__, BrokenPipeError) else _defect(end)
    except BaseException as error:
        return _told(error)


def _told(error: BaseException) -> int:
    if isinstance(error, click.ClickException):
        return _usage(error)
    if isinstance(error, FedspillError):
        return _bad(str(error))
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        return UNREAD
    if isinstance(error, OSError):
        return _bad(f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else ""))
    if _out_of_memory(error):
        return _bad(f"the memory of this machine does not suffice: {_first_line(error)}")
    return _defect(error)


def _usage(error: click.ClickException) -> int:
    from typer.rich_utils import rich_format_error

    rich_format_error(error)
    return error.exit_code if error.exit_code != 1 else BAD_INPUT


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in MEMORY)
    )


def _bad(text: str) -> int:
    _say(text)
    return BAD_INPUT


def _defect(error: BaseException) -> int:
    error = error.__cause__ or error if isinstance(error, click.exceptions.Abort) else error
    lines = "".join(traceback.format_exception(error))
    if os.environ.get(VARIABLE):
        sys.stderr.write(lines)
        where = ""
    else:
        where = f"; traceback: {_kept(lines)} ({VARIABLE}=1 shows it here)"
    _say(f"defect, please report it: {type(error).__name__}: {_first_line(error)}{where}")
    return DEFECT


def _kept(lines: str) -> Path | str:
    try:
        with tempfile.NamedTemporaryFile("w", prefix="fedspill-", suffix=".txt", delete=False) as file:
            file.write(lines)
        return Path(file.name)
    except OSError as error:
        return f"not written, {error.strerror}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


def _say(text: str) -> None:
    flat = " ".join(line.strip() for line in text.splitlines())
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in flat)
    Console(stderr=True).print(f"fedspill: {line}", style="red", markup=False, highlight=False, soft_wrap=True)
