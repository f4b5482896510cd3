"""`fedspill vet` as a new user would use it."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import Result
from typer.testing import CliRunner

from fedspill.cli.main import app
from fedspill.core.errors import BadInput
from fedspill.core.rng import stream
from fedspill.core.tensor_files import write_tensors
from fedspill.tamperings.label_flip import LabelFlip
from fedspill.tamperings.robbing_the_fed import RobbingTheFed
from fedspill.zoo.models import build

HONEST = build("lenet", input_shape=(3, 32, 32), num_classes=10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    models = {
        "honest": HONEST,
        "flipped": LabelFlip().tamper(HONEST, None, 0, stream(0, "server")).model,
        "imprint": RobbingTheFed().tamper(HONEST, None, 0, stream(0, "server")).model,
        "other": build("convnet", input_shape=(3, 32, 32), num_classes=10, options={"width": 4}),
    }
    for name, model in models.items():
        write_tensors(tmp_path / f"{name}.safetensors", {**model.params, **model.buffers})
    return tmp_path


def vet(*words: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["vet", *map(str, words)])


def test_an_honest_model_passes_and_says_what_that_is_worth(folder: Path) -> None:
    done = vet(folder / "honest.safetensors", "--reference", "lenet")
    assert done.exit_code == 0, done.output
    assert "Nothing planted was seen in honest.safetensors" in done.output
    assert "What these checks do not see is not safe for that" in done.output
    assert vet("--model", "lenet", "--weights", folder / "honest.safetensors").exit_code == 0


def test_the_report_of_a_planted_model_names_the_layer_what_is_read_from_whom_and_what_to_do(folder: Path) -> None:
    done = vet(folder / "imprint.safetensors", "--reference", "lenet")
    assert done.exit_code == 1
    for said in (
        "Do not train on imprint.safetensors",
        "planted.first.weight",
        "Threat model",
        "the server reads them",
    ):
        assert said in " ".join(done.output.split())
    assert "of every client that trains on the model" in " ".join(done.output.split())


def test_another_architecture_is_a_finding_and_no_error(folder: Path) -> None:
    done = vet(folder / "other.safetensors", "--model", "lenet")
    assert done.exit_code == 1, done.output
    for rule in ("[structure.foreign]", "[structure.missing]"):
        assert rule in done.output


def test_permuted_head_rows_are_seen_beside_the_round_before(folder: Path) -> None:
    file = folder / "flipped.safetensors"
    assert vet(file, "--model", "lenet").exit_code == 0
    done = vet(file, "--model", "lenet", "--previous", folder / "honest.safetensors")
    assert done.exit_code == 1
    assert "[change.permuted]" in done.output


def test_the_checksum_of_another_client_agrees_or_not(folder: Path) -> None:
    said = " ".join(vet(folder / "honest.safetensors", "--model", "lenet").output.split())
    digest = said.partition("Checksum of the weights: ")[2][:64]
    assert vet(folder / "honest.safetensors", "--model", "lenet", "--checksum", digest).exit_code == 0
    assert vet(folder / "flipped.safetensors", "--model", "lenet", "--checksum", digest).exit_code == 1


def test_what_was_accepted_once_is_not_raised_again(folder: Path) -> None:
    words = (folder / "imprint.safetensors", "--model", "lenet", "--baseline", folder / "baseline.json")
    assert vet(*words).exit_code == 1
    assert vet(*words, "--accept").exit_code == 0
    done = vet(*words)
    assert done.exit_code == 0
    assert "accepted before" in done.output
    other = vet(folder / "other.safetensors", "--model", "lenet", "--baseline", folder / "baseline.json")
    assert other.exit_code == 1


def test_a_policy_decides_what_fails(folder: Path) -> None:
    policy = folder / "policy.toml"
    policy.write_text('[vet]\nrequire = ["previous"]\nchecks = ["weight_entropy"]\n')
    done = vet(folder / "honest.safetensors", "--model", "lenet", "--policy", policy)
    assert done.exit_code == 1
    assert "[not_examined.previous]" in done.output


def test_sarif_junit_and_markdown_are_written(folder: Path) -> None:
    files = {"--sarif": folder / "a" / "o.sarif", "--junit": folder / "o.xml", "--summary": folder / "o.md"}
    words = [word for pair in files.items() for word in pair]
    done = vet(folder / "imprint.safetensors", "--model", "lenet", *words)
    assert done.exit_code == 1
    assert json.loads(files["--sarif"].read_text())["runs"][0]["results"][0]["ruleId"] == "structure.foreign"
    assert ElementTree.parse(files["--junit"]).getroot().get("failures") != "0"
    assert files["--summary"].read_text().startswith("### fedspill vet: do not train on it")
    printed = vet(folder / "imprint.safetensors", "--model", "lenet", "--summary", "md")
    assert printed.output.startswith("### fedspill vet: do not train on it")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "lenet"], "one file of weights is needed"),
        (["a.safetensors", "--weights", "a.safetensors", "--model", "lenet"], "one file of weights is needed"),
        (["honest.safetensors"], "--model or --reference is needed"),
        (["honest.safetensors", "--model", "lenet", "--accept"], "--accept is given without --baseline"),
        (["honest.safetensors", "--model", "lenet", "--previous", "none"], "file 'none' does not exist"),
        (["honest.safetensors", "--model", "lenet", "--policy", "none"], "file 'none' does not exist"),
    ],
)
def test_what_cannot_be_done_is_refused(
    words: list[str], said: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    done = vet(*words)
    assert isinstance(done.exception, BadInput)
    assert said in str(done.exception)
