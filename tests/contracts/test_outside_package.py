"""A package from outside, built and installed in an environment of its own, adds components by entry points."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ATTACK = '''
"""Returns grey pictures."""

from dataclasses import dataclass

import torch

from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.roles import UNWATCHED, Attack, Card, Watch
from fedspill.core.types import Reconstruction, Update


@dataclass(frozen=True)
class Grey:
    """Looks at nothing.

    Attributes:
        level: of grey, in [0, 1].
    """

    level: float = 0.5

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """One grey picture."""
        pixels = torch.full((1, *knowledge.model.input.shape), self.level)
        return Reconstruction(pixels, objective=(0.0,), converged=False)


CARD: Card[Attack] = Card(
    title="Grey", paper="none", summary="Returns grey pictures.", presets={"paper": Grey(), "quick": Grey(0.4)},
    standard=True,
)
'''
FORGETFUL = ATTACK.replace("torch.full((1, *knowledge.model.input.shape), self.level)", "torch.rand(1, 3, 8, 8)")
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "grey-attacks"
version = "1.2"

[project.entry-points."fedspill.attacks"]
grey = "grey_attacks.grey"
missing = "grey_attacks.nowhere"
raising = "grey_attacks.raising"
ending = "grey_attacks.ending"
cardless = "grey_attacks"
dlg = "grey_attacks.grey"
"""
PLAN = """
audit.attacks = ["grey", "standard:quick"]
model.name = "mlp"
data = { name = "photos", size = 8, indices = "0" }
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that sees this one's packages, and the package beside them."""
    folder = tmp_path_factory.mktemp("outside")
    package = folder / "source" / "grey_attacks"
    package.mkdir(parents=True)
    (folder / "source" / "pyproject.toml").write_text(PROJECT)
    (package / "__init__.py").touch()
    (package / "grey.py").write_text(ATTACK)
    (package / "forgetful.py").write_text(FORGETFUL)
    (package / "raising.py").write_text("raise RuntimeError('two\\nlines')")
    (package / "ending.py").write_text("import sys; sys.exit(1)")
    venv.create(folder / "env", with_pip=False)
    made = folder / "env" / "bin" / "python"
    scheme = {"base": str(folder / "env"), "platbase": str(folder / "env")}
    site = Path(sysconfig.get_path("purelib", "venv", scheme))
    (site / "parent.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    install = ["install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    pip = [sys.executable, "-m", "pip", "--python", str(made), *install, str(folder / "source")]
    subprocess.run(pip, check=True, capture_output=True)
    return made


def ran(python: Path, *words: str, at: Path) -> subprocess.CompletedProcess[str]:
    """The outcome of a command in that environment; broken components may not end it."""
    return subprocess.run(
        [python, *words], cwd=at, capture_output=True, text=True, timeout=300, env={**os.environ, "COLUMNS": "200"}
    )


def test_it_is_listed_with_its_origin_and_broken_ones_are_named_in_a_line_each(python: Path, tmp_path: Path) -> None:
    listed = ran(python, "-m", "fedspill", "list", "attacks", at=tmp_path)
    assert listed.returncode == 0
    assert "from grey-attacks 1.2" in listed.stdout
    card = ran(python, "-W", "ignore", "-m", "fedspill", "list", "attacks", "grey", at=tmp_path)
    assert "grey-attacks 1.2" in card.stdout
    assert "Presets" in card.stdout
    assert "inverting_gradients" in listed.stdout
    said = listed.stderr.splitlines()
    assert [line.split(" of ")[0] for line in said] == [
        f"fedspill: attacks '{name}'" for name in ("cardless", "dlg", "ending", "missing", "raising")
    ]
    assert all("grey-attacks 1.2 is left out: " in line for line in said)
    assert "RuntimeError: two" in said[-1]


def test_a_plan_uses_it_and_standard_takes_it_and_the_report_says_where_it_comes_from(
    python: Path, tmp_path: Path
) -> None:
    (tmp_path / "plan.toml").write_text(PLAN.replace('"standard:quick"', '"linear_layer"'))
    audited = ran(python, "-m", "fedspill", "audit", "plan.toml", "--out", "out", "--redact", at=tmp_path)
    assert audited.returncode == 1, audited.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    origins = {f"{trial['attack']}:{trial['preset']}": trial.get("origin") for trial in report["trials"]}
    assert origins == {"grey:paper": "grey-attacks 1.2", "linear_layer:paper": None}
    assert "grey-attacks 1.2" in (tmp_path / "out" / "report.html").read_text()
    chosen = "from fedspill.auditing.resolving.components import choose; from fedspill.plan import parse_plan;"
    chosen += "print([c.label for c in choose(parse_plan({'audit': {'attacks': ['standard:quick']}}))])"
    standard = ran(python, "-W", "ignore", "-c", chosen, at=tmp_path)
    assert "grey:quick" in standard.stdout, standard.stderr


def test_its_author_runs_the_contracts_on_it(python: Path, tmp_path: Path) -> None:
    kept = ran(python, "-m", "pytest", "--fedspill-contracts", "grey_attacks.grey", "-q", at=tmp_path)
    assert kept.returncode == 0, kept.stdout
    assert "8 passed" in kept.stdout
    broken = ran(python, "-m", "pytest", "--fedspill-contracts", "grey_attacks.forgetful", "-q", at=tmp_path)
    assert broken.returncode == 1
    assert "randomness is an argument" in broken.stdout
    absent = ran(python, "-m", "pytest", "--fedspill-contracts", "grey_attacks.nowhere", at=tmp_path)
    assert absent.returncode == pytest.ExitCode.USAGE_ERROR
    assert "'grey_attacks.nowhere' cannot be imported" in absent.stderr
