"""The benchmark of scaling laws: fits, tables, and a trial of its measurements."""

import json
from pathlib import Path

import pytest
from benchmarks.scaling import __main__ as scaling
from benchmarks.scaling import cost, table
from benchmarks.scaling.cases import LINES
from benchmarks.scaling.fit import law
from benchmarks.scaling.measured import measured
from benchmarks.scaling.plot import plot
from benchmarks.scaling.table import BEGIN, END, text, written

from fedspill.core.errors import BadInput

CONDITIONS = {
    "command": "python -m benchmarks.scaling cost",
    "day": "2026-01-01",
    "versions": {"torch": "2"},
    "device": "a processor",
    "threads": 1,
    "load": 0.5,
    "clock": "process_time",
}


def test_a_power_law_is_found_exactly() -> None:
    found = law([1.0, 2.0, 8.0], [3.0, 12.0, 192.0])
    assert (found.exponent, found.last) == (pytest.approx(2), pytest.approx(2))


def test_the_last_slope_tells_what_a_constant_share_hides() -> None:
    found = law([1.0, 10.0, 100.0], [100.0 + x for x in (1.0, 10.0, 100.0)])
    assert found.exponent < 0.2 < found.last


def record(at: Path, line: str, x: int, median: float, peak: float) -> None:
    found = {"median": median, "start_mb": 300.0, "peak_mb": peak}
    at.mkdir(exist_ok=True, parents=True)
    (at / f"cost-{line}-{x}.json").write_text(json.dumps({"conditions": CONDITIONS, "found": found}))


def test_the_table_holds_lines_with_two_points_and_their_exponents(tmp_path: Path) -> None:
    for x in (1, 2, 4):
        record(tmp_path, "batch", x, 0.25 * x, 300 + 10 * x**2)
    record(tmp_path, "width", 8, 1.0, 310.0)
    shown = text(tmp_path).splitlines()
    rows = [row for row in shown if row.startswith("| ") and "what grows" not in row]
    assert rows == ["| ResNet-20, images | 1, 2, 4 | 0.250, 0.500, 1.000 | 1.00 (1.00) | 10, 40, 160 | 2.00 (2.00) |"]
    assert "a processor, PyTorch 2, 1 thread(s); 2026-01-01; load of the machine 0.5 to 0.5." in shown[-1]
    plot(measured(tmp_path), tmp_path / "new" / "plot.png")
    assert (tmp_path / "new" / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_measured_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nothing of this benchmark lies in"):
        text(tmp_path)


def test_only_what_is_between_the_marks_is_replaced() -> None:
    assert written(f"a\n{BEGIN}old{END}\nz", "new") == f"a\n{BEGIN}\n\nnew\n{END}\nz"
    with pytest.raises(BadInput, match="no <!--"):
        written("a", "new")


def test_the_documentation_has_the_marks() -> None:
    assert written((table.DOCS / "performance.md").read_text(), "x")


def test_every_line_grows() -> None:
    for line in LINES.values():
        assert len(line.points) > 1
        assert list(line.points) == sorted(line.points)


def test_a_trial_measures_each_point_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["cost", "--quick", "--lines", "recomputed", "--out", str(tmp_path)]
    scaling.main(words)
    paths = sorted((tmp_path / "cpu").iterdir())
    assert [p.name for p in paths] == ["cost-recomputed-1.json", "cost-recomputed-5.json"]
    one, five = (json.loads(p.read_text()) for p in paths)
    assert one["settings"]["point"]["steps"] == 1
    assert one["conditions"]["command"].startswith("python -m benchmarks.scaling")
    assert str(tmp_path) not in paths[0].read_text()
    assert 2 < five["found"]["median"] / one["found"]["median"] < 20
    assert one["found"]["peak_mb"] > one["found"]["start_mb"]
    monkeypatch.setattr(cost, "measure", lambda *a: pytest.fail("it was measured again"))
    scaling.main(words)
    with pytest.raises(SystemExit, match=r"other settings \(threads\)"):
        scaling.main([*words, "--threads", "2"])
