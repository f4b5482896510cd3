"""The report tells representations that were read from the pictures that they were inverted to."""

from pathlib import Path

import torch

from fedspill.core.rng import randn, stream
from fedspill.core.roles import Prediction
from fedspill.core.types import Reconstruction
from fedspill.rendering.bins import Owner, bins_read
from fedspill.rendering.folder import write_views
from fedspill.report.schema import redact
from fedspill.zoo.data.pool import from_tensors
from tests.support.readouts import Fake, audit_of, planted
from tests.support.worlds import batch, mlp

__all__ = ["planted"]


def of_representations(private: torch.Tensor) -> Fake:
    """Examples 0 and 2 are read, from rows of their own; what was read for 1 is off; 3 owns no row."""
    true = randn((4, 6), stream(0, "representations"), torch.zeros((), dtype=torch.float64))
    read = torch.stack([true[2], true[0] * (1 + 1e-5), true[1] * 1.1])
    blurred = (0.5 * private[[2, 0, 1]] + 0.2).clamp(0, 1)
    return Fake(
        Reconstruction(
            blurred,
            confidence=torch.tensor([1.0, 0.5, 0.2]),
            origins=("row 5, 9", "row 2", "row 7"),
            marks=("alone", "unsure", "unsure"),
            representations=read,
        ),
        Prediction(
            (("row 2",), ("row 7", "row 8"), ("row 5", "row 9", "row 8"), ("row 8",)),
            torch.tensor([True, True, True, False]),
            true,
        ),
    )


def test_a_representation_counts_as_read_although_its_picture_is_blurred(planted, tmp_path: Path) -> None:
    private = batch(4)
    planted(of_representations(private.inputs))
    result = audit_of(mlp(), from_tensors(private.inputs, private.labels), out=tmp_path / "out")
    trial = result.report.trials[0]
    assert [(r.origin, r.holds, r.exact) for r in trial.readings] == [
        ("row 5, 9", [2], 2),
        ("row 2", [0], 0),
        ("row 7", [1], None),
    ]
    assert trial.predicted is not None
    assert trial.predicted.model_dump() == {
        "what": "representations",
        "n": 4,
        "predicted": 3,
        "exact": 2,
        "both": 2,
        "alone": 3,
        "certified": 1,
    }
    (read,) = bins_read(result.report, result.tensors, {})
    facts = dict(read.facts)
    assert facts["representations read exactly"] == "2 of n = 4"
    assert facts["IR leakage rate (examples that own a row)"] == "75 %"
    assert facts["certified without the truth"] == "1, 1 of them rightly"
    assert read.owners == (Owner(0, "row 2", False), Owner(2, "row 5, 9", True))
    assert bins_read(redact(result.report), {}, {})[0].owners == ()
    write_views(tmp_path / "out", result.report, result.tensors)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Which rows of the head leaked which example" in page
    assert "What was read, row by row" in page
    assert "row 5, 9" in page
