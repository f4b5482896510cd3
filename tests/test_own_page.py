"""docs/own.md: every block of Python and of the shell runs as it stands there, one after the other."""

import re
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedspill.api.results import AuditResult
from fedspill.cli.main import app
from fedspill.core.errors import BadInput
from fedspill.plan.file import parse_plan

PAGE = (Path(__file__).parents[1] / "docs" / "own.md").read_text(encoding="utf-8")
FIVE = ("A model", "Data", "A loss", "An optimiser", "A captured update")
LOSSES = (
    "from torch.nn import functional as F\n"
    "def smooth(logits, labels):\n"
    "    return F.cross_entropy(logits, labels, label_smoothing=0.1)\n"
)
NETS = (
    "from torch import nn\n"
    "def make():\n"
    "    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 64), nn.ReLU(), nn.Linear(64, 10))\n"
)


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def blocks(text: str, language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [code for said, code in fenced if said == language]


@pytest.mark.parametrize("title", FIVE)
def test_each_is_five_lines(title: str) -> None:
    first = blocks(section(title), "python")[0]
    assert 3 <= len([line for line in first.splitlines() if line.strip()]) <= 5


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own folder, with a package of networks and losses."""
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "nets.py").write_text(NETS)
    (tmp_path / "my_package" / "losses.py").write_text(LOSSES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("my_package", "my_package.nets", "my_package.losses"):
        sys.modules.pop(name, None)


def test_every_block_runs_as_it_stands(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    ran = blocks(PAGE, "python")
    for code in ran:
        exec(compile(code, "docs/own.md", "exec"), names)
        result = names.get("result")
        if "result =" in code:
            assert isinstance(result, AuditResult)
            assert result.report.trials[0].skipped is None
            assert result.report.leakage_rate is not None
    assert len(ran) == 2 + len(FIVE)
    assert (folder / "my-audit" / "report.html").is_file()
    assert capsys.readouterr().out.count("This setting leaks to ") == 2
    (command,) = [c for c in blocks(PAGE, "") if c.startswith("fedspill attack")]
    done = CliRunner().invoke(app, shlex.split(command.replace("\\\n", " "))[1:])
    assert done.exit_code == 1, (done.output, done.exception)
    assert (folder / "my-captured-audit" / "report.html").is_file()


@pytest.mark.usefixtures("folder")
def test_the_keys_of_a_plan_that_the_page_names_are_keys_of_a_plan() -> None:
    said = [code for title in FIVE for code in re.findall(r"`([^`\n]+)`", section(title))]
    settings = [code for code in said if re.match(r"(model|data|client)\.\w+ = ", code)]
    assert len(settings) == 4
    for setting in settings:
        text = setting.replace('"folder:images"', '"photos"')
        if "optimizer" in text:
            text += '\nclient.protocol = "fedavg"\nclient.lr = 0.01'
        assert parse_plan(tomllib.loads(text)).model_dump(exclude_unset=True)
    with pytest.raises(BadInput):
        parse_plan(tomllib.loads('client.los = "focal"'))
