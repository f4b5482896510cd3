"""One command on one input, in this process, and what it may do."""

import contextlib
import io
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedspill.cli.exits import exit_code_of
from fedspill.cli.main import app
from fedspill.rendering import folder

SECONDS = 20
"""An input that takes longer is heavy, not wrong, and is left."""
ROOM = 6 << 30
"""Bytes of addresses that an input may ask for beyond those that are taken."""


class TooLong(BaseException):
    """The input is heavy."""


def _end(*given: object) -> None:
    raise TooLong


def command(*words: str) -> tuple[int, str]:
    """Exit code of a command, and what it said on stderr."""
    told, heavy = io.StringIO(), list[TooLong]()

    def run() -> int | None:
        try:
            return app(list(words), standalone_mode=False)
        except TooLong as error:
            heavy.append(error)
            return None

    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = exit_code_of(run)
    if heavy:
        raise heavy[0]
    return code, told.getvalue()


def check(*words: str) -> str:
    """Runs a command in the current folder; ends but 0 to 3, tracebacks and leftovers of a refusal are faults.

    Returns:
        How it ended, in a word.
    """
    before = _files()
    with limited(), contextlib.nullcontext() if words[0] == "report" else one_line_pages():
        try:
            code, told = command(*words)
        except TooLong:
            return "heavy"
    assert code in (0, 1, 2, 3), f"exit code {code}: {told}"
    assert "Traceback" not in told, told
    if code == 2:
        assert told.strip(), "a refusal says why"
        assert "fedspill: " not in told or told.rstrip().splitlines()[-1].startswith("fedspill: "), told
        left = {path for path in _files() - before if not path.endswith("fedspill.json")}
        # An attack may find out in the midst of an audit that it does not fit one of its updates; the others are kept.
        assert not left or "does not apply" in told, f"a refusal left {left}"
    assert not [path for path in _files() if path.endswith(".partial")], "something half-written is left"
    return f"exit {code}"


def _files() -> set[str]:
    return {str(path) for path in Path.cwd().rglob("*") if path.is_file()}


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """An alarm, and a limit of memory, so that an input that asks for all of it is refused, and not ended by Linux."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, hard))
    before = signal.signal(signal.SIGALRM, _end)
    # Once more and again: one that comes while the collector runs somebody's callback is swallowed there.
    signal.setitimer(signal.ITIMER_REAL, SECONDS, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextlib.contextmanager
def one_line_pages() -> Iterator[None]:
    """Without the figures of an HTML page, which take longer than all the rest; `fedspill report` draws them."""
    render: Any = folder.render
    folder.render = lambda *parts: "<html></html>"
    try:
        yield
    finally:
        folder.render = render


@contextlib.contextmanager
def new_folder() -> Iterator[Path]:
    """An empty folder as the current one, and as the one of temporary files."""
    here, temporary, paths = Path.cwd(), tempfile.tempdir, list(sys.path)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        os.chdir(name)
        (Path(name) / "tmp").mkdir()
        tempfile.tempdir = str(Path(name) / "tmp")
        try:
            yield Path(name)
        finally:
            os.chdir(here)
            tempfile.tempdir, sys.path[:] = temporary, paths
