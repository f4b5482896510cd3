"""Kills a command at one of its file operations, as SIGKILL would: nothing after it runs, and no cleanup."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

KILLED = 9
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def run_and_kill(command: Callable[[], object], folder: Path, at: int | None, half: bool = False) -> int:
    """Runs a command in a child and kills it before one of its operations that change a file below a folder.

    Args:
        command: what is run; its files lie below `folder`.
        folder: operations elsewhere do not count.
        at: number of the operation, from 0; None lets it end.
        half: of a file that is being written, or renamed once it is, leave the first half.

    Returns:
        How many such operations the command had begun; when it ends by itself, all of them.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _watched(command, str(folder), at, half, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code == (0 if at is None else KILLED), (code, told)
    return int(told)


def _watched(command: Callable[[], object], folder: str, at: int | None, half: bool, writing: int) -> None:
    begun = 0

    def hook(event: str, given: tuple) -> None:
        nonlocal begun
        if event == "open":
            path, _, flags = given
            if not isinstance(path, str | os.PathLike) or not flags & WRITING:
                return
        elif event in CHANGES:
            path = given[0]
        else:
            return
        path = os.fspath(path)
        if not str(path).startswith(folder):
            return
        if begun == at:
            if half:
                _halved(event, str(path))
            os.write(writing, str(begun).encode())
            os._exit(KILLED)
        begun += 1

    sys.addaudithook(hook)
    try:
        command()
    except BaseException as error:
        os.write(writing, repr(error).encode())
        os._exit(1)
    os.write(writing, str(begun).encode())
    os._exit(0)


def _halved(event: str, path: str) -> None:
    if event == "open":
        handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
        os.write(handle, b'{"half')
    elif event == "os.rename" and os.path.isfile(path):  # noqa: PTH113 - no hook may go through pathlib here
        os.truncate(path, os.path.getsize(path) // 2)  # noqa: PTH202
