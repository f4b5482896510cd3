"""`fedspill vet --own-data`: examples of the client's from a file, and what is refused."""

from pathlib import Path

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from fedspill.cli.main import app
from fedspill.core.errors import BadInput
from fedspill.core.rng import rand, stream
from fedspill.core.tensor_files import write_tensors
from fedspill.zoo.models import build

HONEST = build("lenet", input_shape=(3, 32, 32), num_classes=10)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    levels = ((torch.arange(8) + 0.5) / 8)[:, None, None, None]
    inputs = 0.5 * rand((8, 3, 32, 32), stream(0, "data"), torch.zeros(())) + 0.5 * levels
    write_tensors(tmp_path / "own.safetensors", {"inputs": inputs, "labels": torch.arange(8)})
    write_tensors(tmp_path / "bare.safetensors", {"inputs": inputs})
    write_tensors(tmp_path / "honest.safetensors", {**HONEST.params, **HONEST.buffers})
    return tmp_path


def vet(*words: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["vet", *map(str, words)])


def test_own_examples_are_looked_at_and_counted(data: Path) -> None:
    done = vet(data / "honest.safetensors", "--reference", "lenet", "--own-data", data / "own.safetensors")
    assert done.exit_code == 0, done.output
    assert "8 examples were used" in done.output
    assert "isolated_gradients" in done.output
    assert "no data was used" in vet(data / "honest.safetensors", "--reference", "lenet").output


def test_what_cannot_be_used_is_refused(data: Path) -> None:
    file = data / "honest.safetensors"
    for words, said in (
        (("--exposure",), "--own-data"),
        (("--own-data", data / "bare.safetensors"), "no labels"),
        (("--own-data", data / "none.safetensors"), "none.safetensors"),
    ):
        done = vet(file, "--reference", "lenet", *words)
        assert isinstance(done.exception, BadInput), done.output
        assert said in str(done.exception)
