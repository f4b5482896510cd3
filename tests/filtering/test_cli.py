"""`fedspill filters` as a new user would use it."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

import fedspill
from fedspill.cli.main import app
from fedspill.core.errors import BadInput
from fedspill.testing.worlds import batch, mlp

CHAIN = """
import torch
def noised():
    rng = torch.Generator()
    rng.seed()
    def chain(update):
        floats = {k: v for k, v in update.items() if v.is_floating_point()}
        norm = torch.cat([v.flatten() for v in floats.values()]).norm()
        factor = torch.clamp(1 / norm.clamp_min(1e-30), max=1.0)
        return {k: v * factor + 0.05 * torch.randn(v.shape, generator=rng) for k, v in floats.items()}
    return chain
def passes(update):
    return update
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "site_of_tests.py").write_text(CHAIN, encoding="utf-8")
    return tmp_path


def filters(*words: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, ["filters", *map(str, words)])


def test_a_right_chain_passes_and_says_what_that_is_worth(here: Path) -> None:
    done = filters("site_of_tests:noised", "--clip", "1", "--noise", "0.05", "--seconds", "0")
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    for words in ("Nothing broken was seen in site_of_tests:noised: no alarm", "noised (std 0.05", "Privacy: epsilon"):
        assert words in said
    assert "is not safe for that" in said


@pytest.mark.usefixtures("linear_layer_alone")
def test_a_chain_that_does_nothing_leaks_and_has_no_privacy(here: Path) -> None:
    done = filters("site_of_tests:passes", "--seconds", "300", "--json")
    assert done.exit_code == 1
    told = json.loads(done.output)
    assert told["privacy"]["text"] == "no differential privacy: no noise"
    assert {f["rule"] for f in told["findings"] if f["alarm"]} == {"leaks"}
    linear = next(one for one in told["after"] if one["attack"].startswith("linear_layer"))
    assert linear["read"] == linear["examples"] == 1
    assert {tensor["became"][0] for tensor in told["tensors"]} == {"passed unchanged"}


def test_noise_that_is_meant_and_missing_is_an_alarm_in_the_shell(here: Path) -> None:
    done = filters("site_of_tests:passes", "--noise", "0.05", "--seconds", "0")
    assert done.exit_code == 1
    assert "[noise.none]" in done.output


def test_help_shows_the_forms_and_examples_at_80_columns() -> None:
    done = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["filters", "--help"])
    said = " ".join(done.output.split())
    for words in ("privacy.json", "flower:package.module:mods", "Examples:", "Exit code: 0 no alarm"):
        assert words in said
    assert max(map(len, done.output.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere.toml",), "does not exist"),
        (("nothing",), "is none of"),
        (("site_of_tests:noised", "--pushes", "5"), "an even number"),
        (("site_of_tests:noised", "--weights", "site_of_tests.py"), "--weights is given without --model"),
    ],
)
def test_what_cannot_be_used_is_refused(here: Path, words: tuple[str, ...], said: str) -> None:
    done = filters(*words)
    assert isinstance(done.exception, BadInput)
    assert said in str(done.exception)


def test_python_takes_a_function_and_a_network_of_ones_own() -> None:
    done = fedspill.filters(lambda update: update, mlp(), data=batch(2), noise=0.1, seconds=0)
    assert done.exit_code == 1
    assert done.examples == 2
    assert [f.rule for f in done.alarms] == ["noise.none"]
    added = next(f for f in done.fates if f.kind == "added")
    assert added.became == ("passed unchanged",)
