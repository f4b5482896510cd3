"""The demonstration's settings are sound; its pictures are made by `make demo`."""

from pathlib import Path

from fedspill.auditing import parse_plan, run_audit
from fedspill.auditing.watch import Silent
from fedspill.cli import demo
from fedspill.cli.demo import SETTINGS


def test_the_exact_scene_is_exact() -> None:
    exact = next(s for s in SETTINGS if s.name == "fully_connected")
    report = run_audit(parse_plan(exact.plan), device="cpu").report
    assert report.leakage_rate is not None
    assert report.leakage_rate.rate == 1.0
    assert all(w.value > 60 for w in report.worst)


def test_the_page_leads_to_every_scene(tmp_path: Path, monkeypatch) -> None:
    quick = tuple(s for s in SETTINGS if s.name == "fully_connected")
    monkeypatch.setattr(demo, "SETTINGS", quick)
    demo.run_demo(tmp_path, Silent(), "cpu", fresh=False)
    page = (tmp_path / "index.html").read_text()
    assert (tmp_path / "fully_connected" / "report.html").is_file()
    assert 'href="fully_connected/report.html"' in page
    assert "<script" not in page
    assert page.count("data:image/png") >= 3


def test_no_scene_lowers_the_threshold() -> None:
    for setting in SETTINGS:
        assert setting.plan["audit"].get("leak_threshold", {"psnr": 20.0})["psnr"] >= 20, setting.name


def test_the_aggregate_scene_is_read_exactly() -> None:
    scene = next(s for s in SETTINGS if s.name == "aggregate")
    trial = run_audit(parse_plan(scene.plan), device="cpu").report.trials[0]
    assert trial.predicted is not None
    assert trial.predicted.both == trial.predicted.predicted == 64
    assert trial.leakage_rate is not None
    assert trial.leakage_rate.hits == 64
