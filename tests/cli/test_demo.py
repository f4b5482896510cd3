"""The demonstration's scenes are sound and its sentences true; its pictures are made by `make demo`."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fedspill.auditing import parse_plan, run_audit
from fedspill.cli.demo import SETTINGS, Setting, run, words
from fedspill.cli.main import app
from fedspill.rendering.drawing.pictures import Pair


def setting(name: str) -> Setting:
    return next(s for s in SETTINGS if s.name == name)


def small(name: str, network: dict[str, Any] | None = None, **data: object) -> dict[str, Any]:
    """A scene's plan with another network, or with some keys of its data changed; `indices` are those of one update."""
    plan = setting(name).plan
    first, _, last = str(data.get("indices", "")).partition(":")
    client = {**plan["client"], "num_examples": int(last) - int(first)} if last else plan["client"]
    return {**plan, "model": network or plan["model"], "data": {**plan["data"], **data}, "client": client}


def pair(private: float, rebuilt: float | None) -> Pair:
    """One flat picture of 2x2 pixels beside another, in brightness steps."""
    flat = torch.ones(3, 2, 2, dtype=torch.float64) / 255
    return Pair("trial", 0, private * flat, None if rebuilt is None else rebuilt * flat)


def test_there_are_four_scenes_and_none_lowers_the_threshold() -> None:
    assert [s.title[:2].rstrip("ab.") for s in SETTINGS] == ["1", "1", "2", "3", "4"]
    for s in SETTINGS:
        assert s.plan["audit"].get("leak_threshold", {"psnr": 20.0})["psnr"] >= 20, s.name
        assert len(s.title) <= 78
        parse_plan(s.plan)


@pytest.mark.parametrize("name", ["one_photograph", "fully_connected"])
def test_a_scene_that_says_exact_is_exact(name: str) -> None:
    plan = parse_plan(small(name, indices="0:1", size=16))
    result = run_audit(plan, device="cpu")
    assert result.report.leakage_rate is not None
    assert result.report.leakage_rate.rate == 1.0
    assert all(w.value > 60 for w in result.report.worst)
    assert setting(name).tell(result, plan, "cpu").startswith("1 of 1 photographs were copied exactly")
    told = words.copies_and_finds(result, plan, "cpu")
    assert told.endswith("1 of 1 rebuilt pictures lead to the right photograph among 100 (by chance 0.01).")


def test_the_federation_is_read_exactly() -> None:
    plan = small("federation", {"name": "mlp", "hidden": [16]}, size=16)
    trial = run_audit(parse_plan(plan), device="cpu").report.trials[0]
    assert trial.predicted is not None
    assert trial.predicted.both == trial.predicted.predicted == 64
    assert trial.leakage_rate is not None
    assert trial.leakage_rate.hits == 64


@pytest.mark.parametrize(
    ("rebuilt", "told"),
    [
        ([10.0, 20.0], "2 of 2 photographs were copied exactly: no pixel differs at all."),
        ([10.0, 20.25], "2 of 2 photographs were copied exactly: no pixel is off by more than 0.25 of 255"),
        ([10.0, 20.0001], "is off by even a thousandth"),
        ([10.0, 20.75], "1 of 2 photographs were copied exactly: no pixel differs at all."),
        ([10.0, None], "1 of 2"),
        ([10.0, math.nan], "1 of 2"),
        ([None, 0.0], "None of the 2 photographs was copied exactly."),
    ],
)
def test_copies_are_counted_by_what_a_picture_file_would_hold(rebuilt: list[float | None], told: str) -> None:
    assert told in words.copied([pair(10.0, rebuilt[0]), pair(20.0, rebuilt[1])])


def test_found_is_the_nearest_of_the_whole_gallery() -> None:
    gallery = torch.stack([pair(10.0 * k, None).private for k in range(6)])
    pairs = [pair(10.0, 14.0), pair(20.0, 26.0), pair(40.0, None), pair(50.0, 49.0)]
    assert words.found(pairs, gallery) == 2
    assert words.found([pair(10.0, None)], gallery) == 0
    rng = torch.Generator().manual_seed(0)
    private, guess = torch.rand(5, 3, 2, 2, generator=rng), torch.rand(5, 3, 2, 2, generator=rng)
    others = torch.rand(20, 3, 2, 2, generator=rng)
    drawn = [Pair("trial", 0, p, 0.5 * p + 0.5 * g) for p, g in zip(private, guess, strict=True)]
    mixed = torch.stack([p.rebuilt for p in drawn if p.rebuilt is not None])
    nearest = torch.cdist(mixed.flatten(1), torch.cat([private, others]).flatten(1)).argmin(1)
    hits = int((nearest == torch.arange(5)).sum())
    assert 0 < hits < 5, "else this shows nothing"
    assert words.found(drawn, torch.cat([private, others])) == hits


def test_the_noise_is_as_long_as_is_said() -> None:
    plan = small("fully_connected", size=8, indices="0:1")
    plan["audit"] = {**plan["audit"], "attacks": ["linear_layer"]}
    report = run_audit(parse_plan({**plan, "defences": [{"name": "local_dp", "clip": 0.5}]}), device="cpu").report
    sent = report.trials[0].gradient_norm
    assert sent is not None
    assert words.noise_to_update(report) == pytest.approx(sent / 0.5, rel=0.01)


def test_vetting_tells_the_network_that_was_sent_from_the_agreed_one() -> None:
    plan = small("federation", {"name": "lenet"}, size=32)
    told = words.vetting(parse_plan(plan), "cpu")
    assert told.startswith("Vetting warns of 2 layers in the network that was sent (planted.")
    assert told.endswith("and of none in the one that was agreed on.")


def test_what_is_said_shown_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = replace(setting("fully_connected"), plan=small("fully_connected", size=16))
    monkeypatch.setattr(run, "SETTINGS", (quick,))
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["demo", "--out", str(tmp_path), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    said, page = done.stdout.partition("\nOpen ")[0], (tmp_path / "index.html").read_text()
    assert max(len(line) for line in said.splitlines()) <= 80
    assert setting("fully_connected").title in said
    for text in (" ".join(said.split()), page):
        assert "8 of 8 photographs were copied exactly" in text
    assert (tmp_path / "fully_connected" / "report.html").is_file()
    assert 'href="fully_connected/report.html"' in page
    assert "<script" not in page
    assert page.count("data:image/png") >= 3
    with Image.open(tmp_path / "demo.png") as picture:
        assert picture.width == 1800
