"""The benchmark of presets: what it records, and the intervals that it tells."""

import argparse
from pathlib import Path

import pytest
from benchmarks.common import records
from benchmarks.matching import presets
from scipy import stats


def kept(folder: Path, case: str, preset: str, steps: int, values: list[float]) -> None:
    runs = [{"image": i, "seed": 0, "psnr": v, "cpu_seconds": 2.0} for i, v in enumerate(values)]
    records.write(folder / f"{case}-{preset}{steps}.json", {"settings": "", "runs": runs})


def test_the_difference_is_paired_and_has_an_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "RESULTS", tmp_path)
    kept(tmp_path, "lenet", "strong", 240, [20.0, 31.0, 42.0])
    kept(tmp_path, "lenet", "paper", 2400, [10.0, 20.0, 30.0])
    found = list(presets.lines())
    differences = [10.0, 11.0, 12.0]
    low, high = stats.t.interval(0.95, 2, loc=11.0, scale=stats.sem(differences))
    assert found[-1] == f"| lenet | strong at 240 less paper at 2,400 | 11.00 ± {(high - low) / 2:.2f} | | | 3 | |"
    assert "| lenet | strong, 240 | 31.00 ± " in found[2]


def test_a_run_is_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "RESULTS", tmp_path)
    made = list[int]()

    def one(case: str, attack: object, image: int, seed: int) -> dict[str, float]:
        made.append(image)
        return {"image": image, "seed": seed, "psnr": 10.0 + image, "cpu_seconds": 1.0, "loss": 1.0}

    monkeypatch.setattr(presets, "one", one)
    args = argparse.Namespace(
        cases=["lenet"], images=2, seeds=1, presets=["strong240"], threads=1, device="cpu", benchmark="presets"
    )
    presets.run(args)
    presets.run(args)
    assert made == [9000, 9001]
    (path,) = tmp_path.iterdir()
    assert [r["psnr"] for r in records.read(path)["runs"]] == [9010.0, 9011.0]
