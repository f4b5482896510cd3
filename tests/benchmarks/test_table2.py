"""The benchmark of Table 2: which images make up an update, and what its table tells."""

from pathlib import Path

import pytest
import torch
from benchmarks.common import records

from benchmarks import table2
from fedspill.core.types import Batch


def test_an_update_has_the_first_images_of_different_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pool:
        batch = Batch(torch.zeros(40, 3, 2, 2), torch.tensor([3, 3, 1, 3, 0, 1, 2] + [0] * 33))

    asked = list[tuple[int, ...]]()

    def load(_: str, *, split: str, indices: tuple[int, ...]) -> Pool:
        asked.append(indices)
        return Pool()

    monkeypatch.setattr(table2.data, "load", load)
    assert table2.group(1, 4) == (9040, 9042, 9044, 9046)
    assert table2.group(1, 1) == (9040,)
    assert asked[0] == tuple(range(9040, 9080))


def test_the_table_has_the_standard_error_beside_the_papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table2, "RESULTS", tmp_path)
    runs = [{"update": i, "psnr": v, "cpu_seconds": 10.0} for i, v in enumerate([20.0, 22.0, 24.0])]
    records.write(tmp_path / "a.json", {"cell": [5, 1, 1], "width": 16, "steps": 240, "runs": runs})
    *_, last = table2.lines()
    assert last == "| 5, 1, 1 | 25.05 ± 0.33 | 16 | 240 | 3 | 22.00 ± 1.15 | 10 |"


@pytest.mark.parametrize("text", ["1,2,3", "5,1", "a,b,c"])
def test_cells_that_the_paper_does_not_have_are_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["table2", "run", "--cells", text])
    with pytest.raises(SystemExit) as ended:
        table2.main()
    assert ended.value.code == 2
