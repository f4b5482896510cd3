"""Reports that were changed, cut or put beside other tensors: one line, whatever was done to them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from fedspill.auditing import parse_plan, run_audit
from fedspill.cli.main import app
from fedspill.core.errors import BadInput
from fedspill.report.store import REPORT_FILE, TENSOR_FILE, Store, read_report

PLAN = {
    "audit": {"attacks": ["linear_layer"], "metrics": ["psnr"]},
    "model": {"name": "mlp", "hidden": [4]},
    "data": {"name": "photos", "size": 4, "indices": "0:1"},
}
TRIAL = "linear_layer-paper.u0.s0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run_audit(parse_plan(PLAN), out=tmp_path, device="cpu")
    return tmp_path


def refused(folder: Path, said: str) -> None:
    done = CliRunner().invoke(app, ["report", str(folder)])
    assert isinstance(done.exception, BadInput), done
    assert said in str(done.exception)
    assert len(str(done.exception).splitlines()) == 1


@pytest.mark.parametrize("content", [b"\xff\xfe{}", b"", b"[", b"{}", b"[" * 10000, b"null", b'{"a": "\xc3"}'])
def test_what_is_no_report(folder: Path, content: bytes) -> None:
    (folder / REPORT_FILE).write_bytes(content)
    refused(folder, "is not a report of this version")


WRONG = {
    "no pixels": ({"private/0": torch.zeros(3, 0, 4)}, "without contents"),
    "whole numbers": ({"private/0": torch.zeros(3, 4, 4, dtype=torch.int8)}, "pictures that are not floats"),
    "no reconstruction": ({f"rebuilt/{TRIAL}": torch.zeros(0, 3, 4, 4)}, "more reconstructions than the 0"),
    "a number": ({f"rebuilt/{TRIAL}": torch.tensor(1.0)}, "more reconstructions than the 0"),
    "another size": ({f"rebuilt/{TRIAL}": torch.zeros(1, 3, 4, 5)}, "reconstructions (3, 4, 5) of examples (3, 4, 4)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_tensors_that_are_not_of_the_report(folder: Path, case: str) -> None:
    changes, said = WRONG[case]
    save_file({**load_file(folder / TENSOR_FILE), **changes}, folder / TENSOR_FILE)
    refused(folder, said)


def test_broken_tensors(folder: Path) -> None:
    whole = (folder / TENSOR_FILE).read_bytes()
    for content in (b"", whole[:50], whole[:-5], b"\xff" * 20):
        (folder / TENSOR_FILE).write_bytes(content)
        refused(folder, "is no whole safetensors file")


def test_a_report_that_no_view_can_show(folder: Path) -> None:
    told = json.loads((folder / REPORT_FILE).read_text())
    told["trials"][0]["scores"][0]["values"] = [1.0, 2.0]
    (folder / REPORT_FILE).write_text(json.dumps(told))
    refused(folder, "2 scores for 1 examples")
    told["trials"][0]["scores"][0]["values"] = [1.0]
    told["plan"] = {"audit": 3}
    (folder / REPORT_FILE).write_text(json.dumps(told))
    refused(folder, "")


def test_a_whole_report_is_read(folder: Path) -> None:
    report, tensors = read_report(folder)
    assert report.trials[0].name == TRIAL
    assert set(tensors) == {"private/0", f"rebuilt/{TRIAL}"}
    assert CliRunner().invoke(app, ["report", str(folder)]).exit_code == 0


def test_records_that_were_damaged_are_made_again(folder: Path) -> None:
    store = Store(folder, "")
    record = folder / "trials" / f"{TRIAL}.json"
    assert store.finished(TRIAL) is not None
    for content in (b"\xff", b"", b"[" * 10000, b"{}"):
        record.write_bytes(content)
        assert store.finished(TRIAL) is None
    result = run_audit(parse_plan(PLAN), out=folder, device="cpu")
    assert result.report.trials[0].scores[0].values == [100.0]
