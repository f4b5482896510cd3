"""A pytest plugin: `--fedspill-contracts MODULE` runs the contract tests on a component, such as one's own attack.

It imports nothing of fedspill unless it is asked, since pytest loads it wherever fedspill is installed.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fedspill.testing.components import Component

CONTRACTS = Path(__file__).with_name("contracts.py")
FIXTURE = "fedspill_component"
MARK = "fedspill_contract"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option."""
    parser.getgroup("fedspill").addoption(
        "--fedspill-contracts",
        action="append",
        default=[],
        metavar="MODULE",
        help="run fedspill's contract tests on the CARD of this module (or MODULE:NAME); may be repeated",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Collects the contracts: alone if no test was named, else beside those that were.

    Raises:
        pytest.UsageError: a module has no usable card.
    """
    config.addinivalue_line("markers", f"{MARK}(*roles): a contract of components in these roles")
    if not config.getoption("--fedspill-contracts"):
        return
    sys.path.insert(0, str(config.invocation_params.dir))
    _given(config)
    named = [str(a) for a in config.invocation_params.args if Path(str(a).split("::")[0]).exists()]
    if str(CONTRACTS) not in config.args:
        config.args = [*(config.args if named else []), str(CONTRACTS)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Hands each contract the components of its roles: those of the option, else all of the catalogue."""
    if FIXTURE not in metafunc.fixturenames:
        return
    mark = next(metafunc.definition.iter_markers(MARK))
    chosen = [c for c in _given(metafunc.config) or _listed() if c.fits(*mark.args)]
    metafunc.parametrize(FIXTURE, chosen, ids=[c.name for c in chosen])


def _given(config: pytest.Config) -> "list[Component]":
    names: list[str] = config.getoption("--fedspill-contracts") or []
    if not names:
        return []
    found: Any = import_module("fedspill.testing.components")
    try:
        return [found.component_of(name) for name in names]
    except found.BadInput as error:
        raise pytest.UsageError(f"--fedspill-contracts: {error}") from error


def _listed() -> "list[Component]":
    listed: list[Component] = import_module("fedspill.testing.components").every_component()
    return listed
