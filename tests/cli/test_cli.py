"""The command as a user runs it: results, exit codes, one clear line for every bad input, a kill in the middle."""

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from fedspill import catalogue
from fedspill.cli import listing
from fedspill.cli.captured import image_shape, local_training, numbers
from fedspill.cli.main import app, main
from fedspill.core.errors import FedspillError
from fedspill.core.local_training.update import FedAvg, FedSGD, local_update
from fedspill.core.settings import flat_fields
from fedspill.core.types import Batch, ServerRole
from fedspill.zoo.data import load
from fedspill.zoo.models import build

PLAN = """
[audit]
attacks = [{ name = "inverting_gradients", steps = %d }]
metrics = ["psnr"]
[model]
name = "lenet"
[data]
name = "photos"
indices = "0:%d"
"""


def fedspill(*arguments: str):
    """Runs a command in this process; errors of fedspill are returned as exceptions."""
    return CliRunner().invoke(app, list(arguments))


def plan(folder: Path, steps: int = 3, n: int = 1, more: str = "") -> Path:
    path = folder / "plan.toml"
    path.write_text(PLAN % (steps, n) + more)
    return path


def test_audit_writes_everything_and_json_is_the_report(tmp_path: Path) -> None:
    done = fedspill("audit", str(plan(tmp_path)), "--out", str(tmp_path / "out"), "--json")
    assert done.exit_code in (0, 3)
    assert json.loads(done.stdout) == json.loads((tmp_path / "out" / "report.json").read_text())
    assert (tmp_path / "out" / "report.html").is_file()


def test_what_is_incomplete_fails_if_strict(tmp_path: Path) -> None:
    given = str(plan(tmp_path)), "--out", str(tmp_path / "out")
    assert fedspill("audit", *given).exit_code == 3
    done = fedspill("audit", *given, "--strict")
    assert done.exit_code == 1
    assert "The policy is strict" in " ".join(done.stdout.split())


def test_report_draws_the_views_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fedspill("audit", str(plan(tmp_path)), "--out", str(out))
    (out / "report.html").unlink()
    assert fedspill("report", str(out)).exit_code == 0
    assert (out / "report.html").is_file()
    assert fedspill("report", str(out), "--redact").exit_code == 0
    assert "data:image" not in (out / "redacted" / "report.html").read_text()


@pytest.mark.parametrize("what", ["attacks", "tamperings", "defences", "checks", "models", "data"])
def test_list(what: str) -> None:
    done = fedspill("list", what)
    assert done.exit_code == 0
    assert done.stdout.strip()


def listed(*words: str, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    listing.show(words[0], words[1] if len(words) > 1 else None, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("what", ["attacks", "tamperings", "defences", "checks"])
def test_lists_name_every_component_once_in_80_columns(what: str) -> None:
    text = listed(what)
    assert max(map(len, text.splitlines())) <= 80
    lines = [line.strip() for line in text.splitlines()]
    for name in getattr(catalogue, what)():
        assert lines.count(name) == 1


def test_attacks_stand_under_what_their_server_must_be_willing_to_do() -> None:
    lines = [line.rstrip() for line in listed("attacks").splitlines()]
    roles = [role.value for role in ServerRole]
    heads = [next(k for k, line in enumerate(lines) if line.startswith(f"{role}: ")) for role in roles]
    assert heads == sorted(heads)
    every = {**catalogue.attacks(), **{k: c for k, c in catalogue.tamperings().items() if c.reads}}
    for name, card in every.items():
        at = lines.index(f"  {name}")
        assert roles[sum(at > head for head in heads) - 1] == card.role.value


@pytest.mark.parametrize("name", ["inverting_gradients", "robbing_the_fed"])
def test_a_whole_card_holds_every_preset_and_field(name: str) -> None:
    card = {**catalogue.attacks(), **catalogue.tamperings()}[name]
    text = listed("attacks", name)
    assert max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split())
    assert all(words in flat for words in (card.title, card.paper, card.summary, card.role.value, "no grant"))
    assert f'[audit] attacks = ["{name}"]' in flat
    first = text.partition("Presets")[2].partition("quick: as paper, but")[0].splitlines()
    fields = [line.split()[0] for line in first if re.match(r"  \w", line)]
    assert fields == list(flat_fields(card.presets["paper"]))
    heads = [line for line in text.partition("Presets")[2].splitlines() if re.match(r"\w", line)]
    assert [head.partition(":")[0].strip() for head in heads] == list(card.presets)


def test_one_of_each_other_list_and_names_that_are_none() -> None:
    assert '[[defences]] name = "local_dp"' in listed("defences", "local_dp")
    assert '[server] tampering = "label_flip"' in listed("tamperings", "label_flip")
    assert "every check looks at every model" in listed("checks", "weight_entropy")
    assert "ResNet-18" in listed("models", "resnet18")
    for words, said in (
        (("attacks", "dgl"), "unknown attack 'dgl'; there are .*, dlg, .*, trap_weights$"),
        (("attacks", "label_flip"), "fedspill list tamperings label_flip knows it"),
        (
            ("checks", "dlg"),
            rf"unknown check 'dlg'; there are {', '.join(sorted(catalogue.checks()))} "
            r"\(fedspill list attacks dlg knows it\)",
        ),
        (("data", "nothing"), "unknown data 'nothing'; there are "),
    ):
        with pytest.raises(FedspillError, match=said):
            listed(*words)


@pytest.mark.parametrize("command", [[], ["audit"], ["attack"], ["bounds"], ["demo"], ["list"], ["doctor"], ["report"]])
def test_help_is_there_with_examples(command: list[str]) -> None:
    done = fedspill(*command, "--help")
    assert done.exit_code == 0
    assert "Usage" in done.stdout


def test_doctor_finds_this_machine_fit() -> None:
    done = fedspill("doctor")
    assert "one update" in done.stdout
    assert done.exit_code == 0, done.stdout


@pytest.fixture
def captured(tmp_path: Path) -> Path:
    """A folder with a factory, weights, and an update of one photograph."""
    (tmp_path / "nets_for_test.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 10))\n"
    )
    model = build("mlp", input_shape=(3, 8, 8), num_classes=10, options={"hidden": [16]})
    names = dict(zip(("1.weight", "1.bias", "3.weight", "3.bias"), model.params, strict=True))
    save_file({new: model.params[old].contiguous() for new, old in names.items()}, tmp_path / "global.safetensors")
    photo = load("photos", indices="0:1", size=8).batch
    update = local_update(model, Batch(photo.inputs, torch.tensor([3])), FedSGD())
    save_file({new: update.values[old].contiguous() for new, old in names.items()}, tmp_path / "update.safetensors")
    save_file({"photo": photo.inputs}, tmp_path / "truth.safetensors")
    return tmp_path


def attack(folder: Path, *more: str, update: str = "update.safetensors", weights: str = "global.safetensors"):
    return bare(folder, "--mean", "0.5", "--std", "0.25", *more, update=update, weights=weights)


def bare(folder: Path, *more: str, update: str = "update.safetensors", weights: str = "global.safetensors"):
    """An attack that is told nothing of what images are normalised by."""
    return fedspill(
        *("attack", "--model", "nets_for_test:make", "--weights", str(folder / weights)),
        *("--update", str(folder / update), "--kind", "gradient", "--shape", "3x8x8", "--out", str(folder / "out")),
        *more,
    )


def test_a_captured_update_is_attacked_without_truth(captured: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(captured))
    done = attack(captured, "--attack", "linear_layer", "--num-examples", "1")
    assert done.exit_code == 0, done.output
    rebuilt = load_file(captured / "out" / "reconstructions.safetensors")["rebuilt"]
    torch.testing.assert_close(rebuilt, load_file(captured / "truth.safetensors")["photo"], atol=1e-4, rtol=0)
    told = json.loads((captured / "out" / "attack.json").read_text())
    assert told["converged"] is True
    assert told["labels"] == [3]
    assert (captured / "out" / "rebuilt-0.png").is_file()


def truth(folder: Path, labelled: bool = True) -> str:
    photo = load_file(folder / "truth.safetensors")["photo"]
    save_file({"inputs": photo} | ({"labels": torch.tensor([3])} if labelled else {}), folder / "labelled.safetensors")
    return str(folder / "labelled.safetensors")


@pytest.mark.parametrize("labelled", [True, False])
def test_a_captured_update_is_judged_by_its_truth_as_an_audit_is(captured: Path, monkeypatch, labelled: bool) -> None:
    monkeypatch.syspath_prepend(str(captured))
    done = attack(captured, "--attack", "linear_layer", "--num-examples", "1", "--truth", truth(captured, labelled))
    assert done.exit_code == 1, done.output
    said = " ".join(done.output.replace("│", " ").split())
    assert "This setting leaks to an honest-but-curious server: 1 of 1 private examples leaked (psnr >= 20 dB)" in said
    report = json.loads((captured / "out" / "report.json").read_text())
    assert report["verdict"]["exit_code"] == 1
    assert report["trials"][0]["matched"] == [0]
    said = [caveat["text"] for caveat in report["caveats"] if caveat["topic"] == "no labels"]
    assert len(said) == (not labelled)
    assert all("unknown" in text and "class 0" not in text for text in said)
    for name in ("report.html", "junit.xml", "attack.json", "rebuilt-0.png", "worst.png"):
        assert (captured / "out" / name).is_file(), name
    kept = load_file(captured / "out" / "reconstructions.safetensors")
    rebuilt = kept["rebuilt/linear_layer-paper.u0.s0"]
    torch.testing.assert_close(rebuilt, kept["private/0"][None], atol=1e-4, rtol=0)
    assert fedspill("report", str(captured / "out")).exit_code == 0


def test_the_exit_code_of_a_judged_update_is_the_verdicts(captured: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(captured))
    options = ("--num-examples", "1", "--truth", truth(captured))
    beyond = ("--leak-threshold", "psnr=100.5", "--fresh", *options)
    assert attack(captured, "--attack", "linear_layer", *beyond).exit_code == 1, "recognisable, if no leak"
    blind = ("--attack", "dlg", "--set", "steps=1", "--set", "restarts=1", "--leak-threshold", "psnr=99", *options)
    assert attack(captured, *blind, "--fresh").exit_code == 3, "nothing can be concluded"
    for more, said in [
        (("--leak-threshold", "psnr=20"), "without --truth"),
        (("--truth", "none.npz"), "does not exist"),
        ((*options, "--leak-threshold", "psnr"), "METRIC=VALUE is needed"),
        (("--num-examples", "2", *options[2:]), "num_examples=2 was given, and the truth holds 1"),
    ]:
        error = attack(captured, "--attack", "linear_layer", *more, "--fresh").exception
        assert isinstance(error, FedspillError), more
        assert said in str(error)


def test_bad_files_of_a_captured_update(captured: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(captured))
    whole = (captured / "update.safetensors").read_bytes()
    (captured / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    good = load_file(captured / "update.safetensors")
    save_file({**good, "1.bias": good["1.bias"] * torch.nan}, captured / "nan.safetensors")
    save_file({**good, "1.bias": torch.zeros(3)}, captured / "shape.safetensors")
    save_file({"other": torch.zeros(3)}, captured / "names.safetensors")
    weights = load_file(captured / "global.safetensors")
    save_file({**weights, "1.bias": weights["1.bias"] * torch.inf}, captured / "inf.safetensors")
    for update, said in [
        ("cut.safetensors", "no whole safetensors file"),
        ("nan.safetensors", "NaN or infinite"),
        ("shape.safetensors", "has shape (3,), the model needs (16,)"),
        ("names.safetensors", "holds none of the model's parameters"),
        ("none.safetensors", "does not exist"),
    ]:
        error = attack(captured, update=update).exception
        assert isinstance(error, FedspillError), update
        assert said in str(error)
    error = attack(captured, weights="inf.safetensors").exception
    assert isinstance(error, FedspillError)
    assert "NaN or infinite" in str(error)
    assert not (captured / "out").exists(), "nothing is half-written"


BAD = {
    "toml": (["audit", "bad.toml"], "is not valid TOML"),
    "no plan": (["audit", "none.toml"], "does not exist"),
    "unknown key": (["audit", "plan.toml", "--set", "client.batch=3"], "plan key 'client.batch' is unknown"),
    "batch of 0": (["audit", "plan.toml", "--set", "client.num_examples=0"], "greater than or equal to 1"),
    "unknown attack": (["audit", "plan.toml", "--set", "audit.attacks=['dgl']"], "unknown attack 'dgl'"),
    "unknown model": (["audit", "plan.toml", "--set", "model.name=lenett"], "unknown model 'lenett'"),
    "unknown data": (["audit", "plan.toml", "--set", "data.name=cifar"], "unknown data 'cifar'"),
    "unknown metric": (["audit", "plan.toml", "--set", "audit.metrics=['psnr','loudness']"], "loudness"),
    "missing weights": (["audit", "plan.toml", "--set", "model.weights=none.pt"], "does not exist"),
    "no such index": (["audit", "plan.toml", "--set", "data.indices='0:100000'"], "out of range"),
    "unknown device": (["audit", "plan.toml", "--device", "tpu"], "it is auto, cpu or cuda"),
    "trainable": (["audit", "plan.toml", "--set", "client.trainable=['hed.*']"], "'hed.*' matches none of"),
    "no report": (["report", "."], "holds no report.json"),
    "bad budget": (["audit", "plan.toml", "--budget", "soon"], "no duration"),
    "none at once": (["audit", "plan.toml", "--at-once", "0"], "audit.at_once"),
    "a quality at once": (["audit", "plan.toml", "--at-once", "2", "--quality", "20dB"], "leave out one of the two"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(case: str, tmp_path: Path, monkeypatch, capsys) -> None:
    plan(tmp_path)
    (tmp_path / "bad.toml").write_text("[audit\n")
    monkeypatch.chdir(tmp_path)
    arguments, said = BAD[case]
    before = set(tmp_path.iterdir())
    monkeypatch.setattr(sys, "argv", ["fedspill", *arguments])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as stopped:
        main()
    shown = capsys.readouterr()
    assert stopped.value.code == 2
    assert said in shown.err
    assert "Traceback" not in shown.err
    assert len(shown.err.strip().splitlines()) == 1
    assert set(tmp_path.iterdir()) == before, "nothing is half-written"


def test_what_contradicts_itself_in_a_captured_update(captured: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(captured))
    for more, said in [
        (("--labels", "99"), "the model's classes are 0 to 9"),
        (("--labels", "3,5", "--num-examples", "3"), "are 2 labels, --num-examples says 3"),
        (("--epochs", "2"), "with --kind gradient there is no local training"),
        (("--kind", "delta", "--epochs", "2"), "needs both --epochs and --lr"),
        (("--momentum", "0.9"), "--momentum given: with --kind gradient there is no local training"),
        (("--client", "clients=2"), "give --clients"),
        (("--client", "lr=0.1"), "with --kind gradient there is no local training"),
        (("--client", "epoch=2"), "--client epoch is unknown"),
        (("--attack", "dgl"), "unknown attack 'dgl'"),
        (("--set", "steps=many"), "field 'steps'"),
        (("--budget", "soon"), "no duration"),
    ]:
        error = attack(captured, *more).exception
        assert isinstance(error, FedspillError), more
        assert said in str(error)
        assert not (captured / "out").exists(), more


GIVEN = ("--mean", "0.5", "--std", "0.25")


@pytest.mark.parametrize(
    "stated",
    [
        ("--loss", "cross_entropy,label_smoothing=0.1"),
        ("--client", 'loss={name="cross_entropy",label_smoothing=0.1}'),
        ("--loss", '{name="cross_entropy",label_smoothing=0.1}'),
        ("--loss", "nets_for_test:smooth,share=0.1"),
    ],
)
def test_the_loss_of_a_captured_update_is_the_one_that_is_stated(captured: Path, monkeypatch, stated) -> None:
    monkeypatch.syspath_prepend(str(captured))
    with (captured / "nets_for_test.py").open("a") as file:
        file.write(
            "def smooth(logits, labels, share):\n"
            "    return nn.functional.cross_entropy(logits, labels, label_smoothing=share)\n"
        )
    monkeypatch.delitem(sys.modules, "nets_for_test", raising=False)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 10))
    net.load_state_dict(load_file(captured / "global.safetensors"))
    photo = load_file(captured / "truth.safetensors")["photo"]
    nn.CrossEntropyLoss(label_smoothing=0.1)(net((photo - 0.5) / 0.25), torch.tensor([3])).backward()
    sent = {k: v.grad for k, v in net.named_parameters() if v.grad is not None}
    save_file(sent, captured / "smoothed.safetensors")
    options = ("--attack", "linear_layer", "--labels", "3", "--truth", truth(captured))
    for more, fits in [(stated, True), ((), False)]:
        done = attack(captured, *options, *more, "--fresh", update="smoothed.safetensors")
        assert done.exit_code in (0, 1), done.output
        trial = json.loads((captured / "out" / "report.json").read_text())["trials"][0]
        assert (trial["self_check"] < 1e-6) is fits, trial["self_check"]


def test_a_captured_run_of_another_loss_is_another_run(captured: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(captured))
    assert attack(captured, "--attack", "linear_layer").exit_code == 0
    assert attack(captured, "--attack", "linear_layer").exit_code == 0, "the same run"
    error = attack(captured, "--attack", "linear_layer", "--loss", "focal").exception
    assert isinstance(error, FedspillError), "the folder holds another run"


@pytest.mark.parametrize(
    "stated",
    [
        ("--mean", "127.5", "--std", "63.75", "--range", "0,255"),
        ("--mean", "0", "--std", "0.5", "--range", "-1,1"),
        ("--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25"),
    ],
)
def test_one_normalisation_in_three_words(captured: Path, monkeypatch, stated) -> None:
    monkeypatch.syspath_prepend(str(captured))
    done = bare(captured, "--attack", "linear_layer", "--num-examples", "1", *stated)
    assert done.exit_code == 0, done.output
    rebuilt = load_file(captured / "out" / "reconstructions.safetensors")["rebuilt"]
    torch.testing.assert_close(rebuilt, load_file(captured / "truth.safetensors")["photo"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "give --mean and --std"),
        (("--mean", "0.5"), "both are needed"),
        ((*GIVEN, "--normalise", "none"), "--normalise none and --mean, --std are given"),
        ((*GIVEN, "--range", "0"), "two numbers are needed"),
        ((*GIVEN, "--range", "1,0"), "below that of white"),
        (("--mean", "0.5,0.5", "--std", "1,1"), "the data has 3 channels"),
        ((*GIVEN, "--loss", "focal,gama=2"), "has no field gama"),
        ((*GIVEN, "--loss", "focall"), "loss 'focall' is unknown"),
        ((*GIVEN, "--loss", "focal,2"), "NAME,FIELD=VALUE is needed"),
        ((*GIVEN, "--loss", "torch.nn:CrossEntropyLoss,smoothing=2"), "cannot be made with"),
        ((*GIVEN, "--loss", "focal", "--client", "loss=focal"), "one of the two is needed"),
        ((*GIVEN, "--client", "loss={share=1}"), "has no name"),
    ],
)
def test_a_normalisation_or_a_loss_that_is_not_said_or_fits_nothing(captured: Path, monkeypatch, more, said) -> None:
    monkeypatch.syspath_prepend(str(captured))
    error = bare(captured, "--attack", "linear_layer", *more).exception
    assert isinstance(error, FedspillError), repr(error)
    assert said in str(error)
    assert len(str(error).splitlines()) == 1
    assert not (captured / "out").exists()


def test_defects_do_not_read_as_leaks(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "broken_factory.py").write_text("def make():\n    return 1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(
        sys, "argv", ["fedspill", "audit", str(plan(tmp_path)), "--set", "model.name=broken_factory:make"]
    )
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    monkeypatch.setattr(sys, "argv", ["fedspill", "audit", str(plan(tmp_path)), "--out", "/proc/none"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_killed_audit_goes_on_to_the_same_result(tmp_path: Path) -> None:
    steps = 1500
    path = plan(tmp_path, steps=steps)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    often = "from fedspill.auditing import watch; watch.CHECKPOINT_SECONDS = 0.2; from fedspill.cli import main; main()"
    command = [sys.executable, "-c", often, "audit", str(path), "--out"]
    with subprocess.Popen([*command, str(tmp_path / "killed")], env=environment, stderr=subprocess.DEVNULL) as running:
        checkpoints = tmp_path / "killed" / "checkpoints"
        for _ in range(1200):
            if list(checkpoints.glob("*.pt")) or running.poll() is not None:
                break
            time.sleep(0.1)
        running.send_signal(signal.SIGKILL)
    assert list(checkpoints.glob("*.pt")), "killed before it was done, after a checkpoint"
    assert not (tmp_path / "killed" / "report.json").exists()
    resumed = subprocess.run(
        [*command, str(tmp_path / "killed")], env=environment, capture_output=True, text=True, check=False
    )
    assert "going on from the checkpoint" in resumed.stderr
    subprocess.run([*command, str(tmp_path / "whole")], env=environment, capture_output=True, check=False)
    first, second = (load_file(tmp_path / name / "reconstructions.safetensors") for name in ("killed", "whole"))
    assert all(torch.equal(first[k], v) for k, v in second.items())
    trials = [json.loads((tmp_path / name / "report.json").read_text())["trials"][0] for name in ("killed", "whole")]
    assert trials[0]["objective"] == trials[1]["objective"]
    assert trials[0]["iterations"] == steps


@pytest.mark.parametrize("text", ["3x32", "0x2x2", "9" * 5000 + "x1x1", "\u0663x8x8", "9999999x9999999x3", "3x8x8\n"])
def test_shapes_that_are_none_or_fill_the_memory(text: str) -> None:
    with pytest.raises(FedspillError, match="--shape"):
        image_shape(text)


@pytest.mark.parametrize("text", ["a", "1,", "nan", "1e999999", "0.5,-inf"])
def test_statistics_that_are_no_numbers(text: str) -> None:
    with pytest.raises(FedspillError, match="--mean"):
        numbers(text, "--mean")


def test_what_a_plan_says_of_a_client_a_captured_update_takes_too() -> None:
    steps = {"epochs": 2, "minibatch_size": None, "lr": 0.1, "momentum": None, "weight_decay": 0.01}
    told = local_training("weights", steps, ["momentum=0.9", 'trainable=["3.*"]'])
    assert told == FedAvg(2, None, 0.1, 0.9, 0.01, ("3.*",))
    assert local_training("delta", dict.fromkeys(steps), []) is None
    assert local_training("gradient", {}, ['trainable=["3.*"]']) == FedSGD(("3.*",))


@pytest.mark.parametrize(
    ("kind", "options", "further", "said"),
    [
        ("gradient", {"momentum": 0.9}, [], "--momentum given: with --kind gradient"),
        ("gradient", {}, ["schedule=cosine"], "--client schedule given: with --kind gradient"),
        ("gradient", {}, ["clip_norm=-1"], "--client clip_norm: Input should be greater than 0"),
        ("delta", {"momentum": 1.5}, [], "--momentum: Input should be less than 1"),
        ("delta", {"minibatch_size": 0}, [], "--minibatch-size: Input should be greater"),
        ("delta", {"weight_decay": math.inf}, [], "--weight-decay: inf is no finite number"),
        ("delta", {}, ["momentum=inf"], "--client 'momentum': inf is no finite number"),
        ("delta", {}, ["momentum"], "--client 'momentum': write FIELD=VALUE"),
        ("delta", {}, ["momentun=0.5"], "--client momentun is unknown"),
        ("delta", {"momentum": 0.5}, ["optimizer=adam"], "--momentum: adam has no momentum"),
        ("delta", {}, ["augmentation={flip=3}"], "--client augmentation: augmentation"),
        ("delta", {"momentum": 0.5}, ["momentum=0.9"], "--momentum and --client momentum are given"),
    ],
)
def test_a_refusal_of_a_captured_client_names_what_was_typed(kind, options, further, said) -> None:
    steps = {"epochs": 1, "lr": 0.1} if kind == "delta" else {}
    with pytest.raises(FedspillError) as caught:
        local_training(kind, {**steps, **options}, further)
    assert str(caught.value).startswith(said)
    assert "plan" not in str(caught.value)


def test_the_headline_goes_where_it_is_wanted(tmp_path: Path) -> None:
    out, file = tmp_path / "out", tmp_path / "new" / "headline.md"
    done = fedspill("audit", str(plan(tmp_path)), "--out", str(out), "--summary", "md")
    assert done.exit_code in (0, 1, 3)
    told = done.stdout
    assert told.startswith("### fedspill: ")
    assert "**What to change first**" in told
    again = fedspill("report", str(out), "--summary", "md")
    assert (again.exit_code, again.stdout) == (0, told)
    beside = fedspill("report", str(out), "--summary", str(file))
    assert "Worst examples" in beside.stdout
    assert file.read_text(encoding="utf-8") == told
    both = fedspill("audit", str(plan(tmp_path)), "--out", str(out), "--json", "--summary", str(file))
    assert json.loads(both.stdout) == json.loads((out / "report.json").read_text())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("md", "--json"), "both print"),
        (("headline.txt",), "a file that ends in .md"),
        (("",), "a file that ends in .md"),
        (("/proc/none/headline.md",), "nothing can be written in '/proc/none'"),
    ],
)
def test_a_headline_that_goes_nowhere_is_refused_before_anything_runs(tmp_path: Path, given, said) -> None:
    error = fedspill("audit", str(plan(tmp_path)), "--out", str(tmp_path / "out"), "--summary", *given).exception
    assert isinstance(error, FedspillError), repr(error)
    assert said in str(error)
    assert not (tmp_path / "out").exists()
