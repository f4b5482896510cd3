"""Killed at any of its file operations and run again, a command gives what it gives unbroken, and leaves no more."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from fedspill.auditing import watch
from fedspill.cli.main import app
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.rendering import folder
from fedspill.zoo.data import load
from fedspill.zoo.models import build
from tests.support.kills import run_and_kill

ALL = bool(os.environ.get("FEDSPILL_FUZZ"))
"""`make fuzz` tries every operation; the suite those of the first file, before a folder is known, and two more."""

PLAN = """
[audit]
attacks = ["linear_layer", { name = "inverting_gradients", steps = 2 }]
metrics = ["psnr"]
[model]
name = "mlp"
hidden = [4]
[data]
name = "photos"
size = 4
indices = "0:1"
"""
HEAD = """
[model]
name = "cnn"
width = 2
channels = 2
weights = "untrained"
[data]
name = "photos"
size = 8
indices = "0:32"
[test]
split = "public"
indices = "0:16"
[head]
width = 8
[spab]
epochs = 2
sizes = [4]
"""
MOVING = ("started", "seconds", "command", "objective")


def page(*parts: object) -> str:
    return "<html></html>"


def command(*words: str) -> Callable[[], None]:
    def run() -> None:
        watch.CHECKPOINT_SECONDS = 0.0
        folder.render = page  # the figures of a page take longer than the rest, and are no file operations
        done = CliRunner().invoke(app, list(words))
        ended = done.exception is None or isinstance(done.exception, SystemExit)
        assert ended, done.exception
        assert done.exit_code in (0, 1, 3), done.output

    return run


def plain(value: object) -> object:
    """A report without what no two runs share."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k not in (*MOVING, "foreseen")}
    return [plain(v) for v in value] if isinstance(value, list) else value


def contents(folder: Path) -> dict[str, object]:
    """What a folder holds: tensors and reports by their contents, views by their names."""
    held = dict[str, object]()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            held[name] = {k: v.tolist() for k, v in load_file(path).items()}
        else:
            held[name] = plain(json.loads(path.read_text())) if path.suffix == ".json" else None
    return held


def check_all(run: Callable[[], None], place: Path) -> None:
    """Kills a command at its operations, one after the other, runs it again, and compares."""
    count = run_and_kill(run, place, None)
    wanted = contents(place)
    assert count > 5
    both = [(at, half) for at in range(count) for half in (False, True)]
    for at, half in both if ALL else [(1, True), (2, False), (count // 2, True), (count - 1, False)]:
        shutil.rmtree(place)
        place.mkdir()
        run_and_kill(run, place, at, half)
        run_and_kill(run, place, None)
        assert contents(place) == wanted, (at, half)


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What every child needs is loaded before they part."""
    place = tmp_path_factory.mktemp("warm")
    (place / "plan.toml").write_text(PLAN)
    assert CliRunner().invoke(app, ["audit", str(place / "plan.toml"), "--out", str(place / "out")]).exit_code < 2


@pytest.mark.parametrize("fresh", [False, True])
def test_an_audit(tmp_path: Path, fresh: bool) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    out = tmp_path / "out"
    out.mkdir()
    more = ["--fresh"] if fresh else []
    check_all(command("audit", str(tmp_path / "plan.toml"), "--out", str(out), *more), out)


def test_an_attack(tmp_path: Path) -> None:
    model = build("mlp", input_shape=(3, 4, 4), num_classes=10)
    update = local_update(model, load("photos", indices="0:1", size=4).batch, FedSGD())
    save_file({k: v.contiguous() for k, v in model.params.items()}, tmp_path / "model.safetensors")
    save_file({k: v.contiguous() for k, v in update.values.items()}, tmp_path / "update.safetensors")
    out = tmp_path / "out"
    out.mkdir()
    run = command(
        *("attack", "--model", "mlp", "--weights", str(tmp_path / "model.safetensors")),
        *("--update", str(tmp_path / "update.safetensors"), "--kind", "gradient", "--shape", "3x4x4"),
        *("--attack", "inverting_gradients", "--set", "steps=2", "--num-examples", "1", "--labels", "0"),
        *("--mean", "0.5", "--std", "0.25"),
        *("--out", str(out)),
    )
    check_all(run, out)


def test_a_training_of_a_head(tmp_path: Path) -> None:
    (tmp_path / "head.toml").write_text(HEAD)
    out = tmp_path / "out"
    out.mkdir()
    check_all(command("train", "spab", str(tmp_path / "head.toml"), "--out", str(out / "head.safetensors")), out)
