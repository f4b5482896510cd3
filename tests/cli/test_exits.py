"""However a command ends, its exit code says so, and only a verdict exits with 1."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch

from fedspill.cli.exits import exit_code_of
from fedspill.cli.main import main
from fedspill.core.errors import BadInput, NotApplicable

ENDS = {
    "bad input": (BadInput("size=0\nis wrong"), 2),
    "an attack that does not fit": (NotApplicable("no head"), 2),
    "a file that cannot be written": (PermissionError(errno.EACCES, "Permission denied", "out"), 2),
    "wrong options": (click.UsageError("No such option: --x"), 2),
    "too little memory": (MemoryError("Unable to allocate 3 TiB"), 2),
    "too little memory for a tensor": (RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), 2),
    "a torch that lacks an operator": (RuntimeError("operator torchvision::nms does not exist"), 70),
    "an end of file": (click.exceptions.Abort(), 70),
    "a recursion": (RecursionError("maximum recursion depth exceeded"), 70),
    "sys.exit in the user's code": (SystemExit(1), 70),
    "Ctrl-C": (KeyboardInterrupt(), 130),
    "a reader that went away": (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141),
}


def raising(error: BaseException | type[BaseException]):
    def command() -> int:
        raise error

    return command


@pytest.mark.parametrize("case", ENDS)
def test_an_end_without_a_verdict_is_one_line_and_never_1(case: str, capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    error, code = ENDS[case]
    assert exit_code_of(raising(error)) == code
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    if not isinstance(error, click.UsageError):
        assert len(shown.splitlines()) == (code in (2, 70))


def test_a_verdict_is_its_own_exit_code() -> None:
    assert [exit_code_of(lambda code=code: code) for code in (None, 0, 1, 3)] == [0, 0, 1, 3]


def test_the_traceback_of_a_defect_is_kept_or_shown(capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    exit_code_of(raising(ZeroDivisionError("division by zero")))
    (kept,) = tmp_path.iterdir()
    assert str(kept) in capsys.readouterr().err
    assert "ZeroDivisionError" in kept.read_text()
    kept.unlink()
    monkeypatch.setenv("FEDSPILL_TRACEBACK", "1")
    exit_code_of(raising(ZeroDivisionError("division by zero")))
    assert "Traceback" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["audit"], ["audit", "x.toml", "--nope"], ["list", "colours"], ["nothing"]])
def test_a_command_that_does_not_parse_is_bad_input(arguments: list[str], monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["fedspill", *arguments])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "Usage" in capsys.readouterr().err


def test_control_characters_of_a_message_do_not_reach_the_terminal(capsys) -> None:
    exit_code_of(raising(BadInput("a\x1b[31mb\x00c\nd")))
    assert capsys.readouterr().err == "fedspill: a\\x1b[31mb\\x00c d\n"


BROKEN = {
    "a build for another torch": 'raise RuntimeError("operator torchvision::nms does not exist")',
    "a library that is missing": 'raise OSError("libcudart.so.13: cannot open shared object file")',
}
MEASURE = """
import torch
from fedspill.cli.doctor import examine
from fedspill.scoring.metrics import MSSSIM
grey = torch.linspace(0, 1, 176).expand(1, 1, 176, 176)
print(float(MSSSIM()(grey * 0.9, grey)))
print([(l.what, l.level) for l in examine() if l.what in ("torchvision", "torchmetrics", "one update")])
"""


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_torchvision_breaks_neither_metrics_nor_doctor(case: str, tmp_path: Path) -> None:
    from fedspill.scoring.metrics import MSSSIM

    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(BROKEN[case])
    (tmp_path / "torchvision-0.28.0.dist-info").mkdir()
    (tmp_path / "torchvision-0.28.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n"
    )
    paths = os.pathsep.join([str(tmp_path), *(p for p in sys.path if p)])
    done = subprocess.run(
        [sys.executable, "-c", MEASURE],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    value, lines = done.stdout.strip().splitlines()
    grey = torch.linspace(0, 1, 176).expand(1, 1, 176, 176)
    assert float(value) == pytest.approx(float(MSSSIM()(grey * 0.9, grey)), abs=1e-6)
    assert lines == "[('torchvision', 'problem'), ('torchmetrics', 'ok'), ('one update', 'ok')]"
