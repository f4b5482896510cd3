"""`fedspill bounds` as a user runs it."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from fedspill.auditing import parse_plan
from fedspill.auditing.bounding.bounds import Assumed, plan_bounds
from fedspill.auditing.bounding.chain import chain_of
from fedspill.auditing.resolving.scenario import prepare
from fedspill.cli.bounds.words import lines, show
from fedspill.cli.exits import BAD_INPUT, exit_code_of
from fedspill.cli.main import app
from fedspill.plan.build import pick_device

SMALL = {
    "audit": {"attacks": ["linear_layer"]},
    "model": {"name": "mlp", "hidden": [12], "activation": "sigmoid"},
    "data": {"name": "photos", "indices": "0:2", "size": 4},
    "client": {"num_examples": 1},
}
LDP = [{"name": "local_dp", "epsilon": 8.0}]


def bounds(**changed: object):
    return plan_bounds(parse_plan({**SMALL, **changed}), pick_device("cpu"), Assumed(spread=0.1))


def written(folder: Path, defence: str = "") -> str:
    plan = (
        '[audit]\nattacks = ["linear_layer"]\n[model]\nname = "mlp"\nhidden = [12]\n[data]\nname = "photos"\n'
        f'indices = "0:2"\nsize = 4\n[client]\nnum_examples = 1\n{defence}'
    )
    (folder / "plan.toml").write_text(plan)
    return str(folder / "plan.toml")


def test_a_plan_without_defences_says_that_nothing_is_proven_and_what_is_determined() -> None:
    told = bounds()
    assert (told.spent, told.success, told.psnr, told.floor) == (None, (), None, None)
    assert told.chain.reason == "no defence adds noise"
    assert told.identifiable is not None
    assert told.identifiable.determined
    assert told.identifiable.values == 48


def test_local_dp_is_bounded_with_all_that_belongs_to_it() -> None:
    told = bounds(defences=LDP)
    assert told.spent is not None
    assert told.spent.epsilon == pytest.approx(8.0)
    assert [row.prior for row in told.success] == [0.1, 1e-3, 1e-6]
    assert told.success[0].mu == pytest.approx(1.666 / 2, abs=1e-3)  # an update of 0 lies C away, not 2 C
    assert told.psnr is not None
    assert told.psnr > 20.0  # the spread of the prior is -20 dB
    assert told.floor is not None
    assert told.floor.mse <= 0.01
    assert told.identifiable is None


def test_rounds_of_a_federation_add_up() -> None:
    plan = {"client": {"protocol": "fedavg", "num_examples": 2, "clients": 2, "lr": 0.1}, "federation": {"rounds": 4}}
    told, one = bounds(defences=LDP, **plan), bounds(defences=LDP)
    assert told.rounds == 4
    assert "over rounds" in told.floor_reason
    assert told.success[0].mu == pytest.approx(2 * one.success[0].mu)
    assert told.spent.epsilon > one.spent.epsilon


def test_networks_with_relu_have_no_error_floor() -> None:
    told = bounds(defences=LDP, model={"name": "mlp", "hidden": [40]}, client={"num_examples": 1})
    assert told.floor is None
    assert "not continuous" in told.floor_reason


def test_statistics_of_batch_norm_undo_noise_that_does_not_cover_them() -> None:
    defences = [{"name": "clipping"}, {"name": "gradient_noise", "distribution": "gaussian"}]
    model = {"name": "resnet18", "mode": "train"}
    plan = {**SMALL, "model": model, "data": {"name": "photos", "indices": "0:2", "size": 4}, "defences": defences}
    chain = chain_of(prepare(parse_plan({**plan, "client": {"num_examples": 2}}), pick_device("cpu")))
    assert "BatchNorm" in chain.reason


def test_what_is_told_fits_80_columns() -> None:
    for told in (bounds(), bounds(defences=LDP)):
        console = Console(width=80, file=io.StringIO(), force_terminal=False)
        show(told, console)
        assert isinstance(console.file, io.StringIO)
        text = console.file.getvalue()
        assert max(map(len, text.splitlines())) <= 80
        assert all("".join(sentence.split()) in "".join(text.split()) for _, sentence in lines(told))


def test_json_holds_what_the_table_says(tmp_path: Path) -> None:
    plan = written(tmp_path, '[[defences]]\nname = "local_dp"\nepsilon = 2.0\n')
    done = CliRunner().invoke(app, ["bounds", plan, "--json", "--draws", "2"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["spent"]["epsilon"] == pytest.approx(2.0)
    assert told["spent"]["release"]["unit"] == "update"
    assert len(told["success"]) == 3


def test_it_is_said_in_words(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["bounds", written(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "no differential privacy" in done.stdout


def test_help_has_examples() -> None:
    done = CliRunner().invoke(app, ["bounds", "--help"])
    assert "fedspill bounds plan.toml" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    "words",
    [
        ["no_such_plan.toml"],
        [],
        ["PLAN", "--spread", "0"],
        ["PLAN", "--spread", "nan"],
        ["PLAN", "--centre", "2"],
        ["PLAN", "--draws", "0"],
        ["PLAN", "--seconds", "0"],
        ["PLAN", "--device", "tpu"],
        ["PLAN", "--set", "defences.0.epsilon=-1"],
    ],
    ids=" ".join,
)
def test_bad_input_is_refused(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = written(tmp_path, '[[defences]]\nname = "local_dp"\n')
    given = [plan if word == "PLAN" else word for word in words]
    code = exit_code_of(lambda: app(["bounds", *given], standalone_mode=False))
    assert code == BAD_INPUT
    assert capsys.readouterr().err.strip()
