"""`fedspill rank` as a user runs it."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from fedspill.cli.exits import BAD_INPUT, exit_code_of
from fedspill.cli.main import app
from fedspill.cli.rank import reach, show
from fedspill.inversion.recursion.rank_analysis import LayerRank

OPEN = LayerRank(("stages.0.1.convolutional_part.0.conv1",), 65536, 36864, 60000, False, None, False)
HEAD = LayerRank(("head",), 3200, 3200, 3200, True, "head", True)


class Small(nn.Sequential):
    """Of a user's own."""


def net() -> nn.Module:
    return Small(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 2))


@pytest.mark.parametrize("table", [[OPEN, HEAD], [HEAD]])
def test_the_table_fits_80_columns_and_says_where_the_recursion_ends(table: list[LayerRank]) -> None:
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    show(table, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert ("ends at the input of" in text) == (len(table) == 2)
    assert reach(table) in " ".join(text.split())


def test_json_holds_every_layer() -> None:
    done = CliRunner().invoke(app, ["rank", f"{__name__}:net", "--shape", "1x8x8", "--num-classes", "2", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [layer["layers"] for layer in told["layers"]] == [["0"], ["3"]]
    assert [(layer["values"], layer["determined"]) for layer in told["layers"]] == [(64, True), (144, True)]


@pytest.mark.parametrize(
    "words",
    [
        ["rank", "no_such_network"],
        ["rank", "lenet", "--shape", "32"],
        ["rank", "lenet", "--weights", "no_such.safetensors"],
        ["rank", "gpt"],
        ["rank", "lenet", "--num-classes", "0"],
        ["rank"],
    ],
    ids=" ".join,
)
def test_bad_input_is_refused_in_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code = exit_code_of(lambda: app(words, standalone_mode=False))
    assert code == BAD_INPUT
    assert capsys.readouterr().err.strip()


def test_weights_are_those_of_the_file(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    silent = {k: v.clone() for k, v in net().state_dict().items()}
    silent["0.weight"].zero_()  # no output says anything: the gradient alone does
    save_file(silent, tmp_path / "weights.safetensors")
    given = ["rank", f"{__name__}:net", "--shape", "1x8x8", "--num-classes", "2", "--json", "--weights"]
    done = CliRunner().invoke(app, [*given, str(tmp_path / "weights.safetensors")])
    first = json.loads(done.stdout)["layers"][0]
    assert first["rank"] == first["gradient"] < first["values"]
