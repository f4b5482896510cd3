"""The report shows what was read, bin by bin."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from fedspill.auditing.readings import Ranked, most_confident, ranked, readings
from fedspill.core.rng import rand, stream
from fedspill.core.types import Reconstruction
from fedspill.rendering.bins import MOST_TILES, bins_read, embedded, sorted_out
from fedspill.rendering.drawing.bin_sheet import COLOURS, bin_sheet
from fedspill.rendering.folder import write_views
from fedspill.rendering.html.page import render
from fedspill.rendering.terminal import summary
from fedspill.report.schema import redact
from fedspill.report.trial import Trial
from fedspill.zoo.data.pool import from_tensors
from tests.support.readouts import audit_of, bins_of, pictures_audit
from tests.support.reports import THEORY, State, Strict, pairs, report, with_bins
from tests.support.worlds import SPEC, batch, mlp


def test_every_candidate_is_on_record_beside_the_measurement(planted, tmp_path: Path) -> None:
    result = pictures_audit(planted, out=tmp_path / "out")
    trial = result.report.trials[0]
    assert [(r.origin, r.scored, r.holds, r.exact) for r in trial.readings] == [
        ("bin 10", 3, [2, 3], None),
        ("bin 2", 0, [1], 1),
        ("bin 9", 1, [0], 0),
        ("bin 3", 2, [1], 1),
        ("bin 4", None, [], None),
    ]
    assert [r.mark for r in trial.readings] == ["mixture", "alone", "alone", "duplicate", "unsure"]
    assert [r.confidence for r in trial.readings] == pytest.approx([0.2, 0.9, 0.8, 0.7, 0.1])
    assert [r.unscored for r in trial.readings] == [None, None, None, None, 0]
    assert trial.predicted is not None
    counts = {"n": 4, "predicted": 2, "exact": 2, "both": 2, "alone": 2, "certified": 2}
    assert trial.predicted.model_dump() == {"what": "examples", **counts}
    assert "prediction" not in {c.topic for c in result.report.caveats}
    assert result.report.environment.parameters == sum(p.numel() for p in mlp().params.values())
    rebuilt, unscored = (result.tensors[f"{kind}/{trial.name}"] for kind in ("rebuilt", "unscored"))
    assert torch.equal(rebuilt[:2], batch(4).inputs[[1, 0]])
    assert torch.equal(unscored, torch.full((1, *SPEC.shape), 0.5))
    again = pictures_audit(planted, out=tmp_path / "out")
    assert again.report.trials == result.report.trials
    assert set(again.tensors) == set(result.tensors)


def test_a_readout_that_falls_short_of_its_measurement_says_so(planted) -> None:
    private = batch(4)
    fake = bins_of(private.inputs, torch.full(SPEC.shape, 0.5))
    blurred = replace(fake.returned, inputs=(fake.returned.inputs + 0.01).clamp(0, 1))
    planted(replace(fake, returned=blurred))
    found = audit_of(mlp(), from_tensors(private.inputs, private.labels)).report
    assert found.trials[0].predicted is not None
    assert (found.trials[0].predicted.exact, found.trials[0].predicted.predicted) == (0, 2)
    assert "prediction" in {c.topic for c in found.caveats}


def test_exact_is_60_decibels() -> None:
    private = 0.25 + 0.5 * rand((2, 3, 8, 8), stream(0, "sixty"), torch.zeros(()))
    near, far = private + 0.99e-3, private + 1.01e-3
    whole = Reconstruction(torch.cat([near, far]), origins=("a", "b", "c", "d"))
    records, predicted = readings(whole, private, SPEC, None, ranked(None, 4, 4))
    assert [r.exact for r in records] == [0, 1, None, None]
    assert predicted is None


def test_an_attack_without_places_has_no_readings() -> None:
    private = batch(2).inputs
    assert readings(Reconstruction(private), private, SPEC, None, ranked(None, 2, 2)) == ([], None)


def test_the_most_trusted_are_scored_with_their_marks() -> None:
    confidence = torch.tensor([0.1, 0.9, 0.5, 0.9])
    assert ranked(confidence, 4, 2) == Ranked([1, 3], [2, 0])
    assert ranked(confidence, 4, 4) == Ranked([0, 1, 2, 3], [])
    assert len(ranked(None, 1000, 10).unscored) == 256
    many = Reconstruction(
        batch(4).inputs, confidence=confidence, origins=("a", "b", "c", "d"), marks=("unsure", "alone") * 2
    )
    kept = most_confident(many, 2)
    assert (kept.origins, kept.marks) == (("b", "d"), ("alone", "alone"))


def test_sorts_of_readings() -> None:
    audit, _ = with_bins(report())
    assert sorted_out(audit.trials[0]) == ["exact", "exact", "mixture", "empty", "duplicate", "other"]
    unmeasured = [r.model_copy(update={"holds": []}) for r in audit.trials[0].readings]
    blind = audit.trials[0].model_copy(update={"readings": unmeasured, "predicted": None})
    assert sorted_out(blind) == ["exact", "exact", "mixture", "other", "duplicate", "other"]


def test_tiles_stand_in_the_order_of_the_bins_without_empty_ones() -> None:
    audit, tensors = with_bins(report())
    (read,) = bins_read(audit, tensors, {})
    assert [t.origin for t in read.tiles] == ["bin 2", "bin 9", "bin 10", "other 1", "other 2"]
    name = audit.trials[0].name
    assert read.tiles[0].picture is not None
    assert torch.equal(read.tiles[0].picture, tensors[f"rebuilt/{name}"][2])
    assert read.tiles[4].picture is not None
    assert torch.equal(read.tiles[4].picture, tensors[f"unscored/{name}"][1])
    facts = dict(read.facts)
    assert facts["bins read"] == "6"
    assert facts["exact copies"] == "2 of n = 4"
    assert facts["predicted by the measurement alone"] == "3 of n = 4"
    assert facts["read although they hold no example"] == "1"
    assert facts["added parameters"] == "500 (5 % of the model's 10,000)"
    assert read.left_out == 0
    assert bins_read(redact(audit), tensors, {})[0].tiles == ()


def crowded(n: int) -> tuple[Trial, dict[str, Tensor]]:
    audit, _ = with_bins(report())
    first = audit.trials[0].readings[5]
    read = [first.model_copy(update={"origin": f"bin {k}", "unscored": k, "scored": None}) for k in range(n)]
    trial = audit.trials[0].model_copy(update={"readings": read})
    return trial, {f"unscored/{trial.name}": torch.rand(n, 3, 8, 8, generator=stream(0, "crowd"))}


def test_at_most_256_tiles_and_the_rest_is_counted() -> None:
    trial, tensors = crowded(300)
    (read,) = bins_read(report().model_copy(update={"trials": [trial]}), tensors, {})
    assert (len(read.tiles), read.left_out) == (MOST_TILES, 44)
    assert [t.origin for t in read.tiles][9:11] == ["bin 9", "bin 10"]
    assert Image.open(io.BytesIO(bin_sheet(read))).size[0] <= 1080


def test_frames_have_the_colour_of_their_sort() -> None:
    audit, tensors = with_bins(report())
    (read,) = bins_read(audit, tensors, {})
    drawn = Image.open(io.BytesIO(bin_sheet(read)))
    cell = 96 + 2 * 4 + 4
    corners = [drawn.getpixel((k * cell + 1, 1)) for k in range(len(read.tiles))]
    expected = [tuple(bytes.fromhex(COLOURS[t.sort][1:])) for t in read.tiles]
    assert corners == expected
    with pytest.raises(ValueError, match="at least 1 is needed"):
        bin_sheet(bins_read(audit, {}, {})[0])


def test_the_page_shows_the_bins_and_what_the_paper_expects(tmp_path: Path) -> None:
    audit, tensors = with_bins(report())
    page = Strict(render(audit, [], (), bins_read(audit, tensors, {})))
    assert "What was read, bin by bin" in page.text
    assert THEORY in page.text
    assert "500 (5 % of the model's 10,000)" in page.text
    assert sum(a.get("class") == "sheet" for tag, a in page.tags if tag == "img") == 1
    written = write_views(tmp_path, audit, tensors)
    name = audit.trials[0].name
    assert written.pictures.bins == {name: f"pictures/{name}.bins.png"}
    assert (tmp_path / "pictures" / f"{name}.bins.png").is_file()


def test_a_redacted_page_keeps_the_numbers_and_no_picture(tmp_path: Path) -> None:
    audit, tensors = with_bins(report())
    page = render(redact(audit), [], (), bins_read(redact(audit), tensors, {}))
    assert "<img" not in page
    assert "2 of n = 4" in Strict(page).text
    assert THEORY in Strict(page).text
    write_views(tmp_path, redact(audit), tensors)
    assert list(tmp_path.rglob("*.png")) == []


def test_the_terminal_tells_the_bins_and_the_theory() -> None:
    audit, _ = with_bins(report())
    console = Console(width=200, file=io.StringIO(), force_terminal=False)
    summary(audit, console)
    assert isinstance(console.file, io.StringIO)
    printed = " ".join(console.file.getvalue().split())
    assert "exact copies: 2 of n = 4" in printed
    assert THEORY in printed


def test_the_sheets_with_the_most_copies_are_in_the_page() -> None:
    audit, tensors = with_bins(report())
    one = bins_read(audit, tensors, {})[0]
    poor = replace(one, trial="poor", counts={"exact": 0})
    assert embedded([poor, one], 1) == ([one], [poor])


def test_a_large_update_is_shown_whole() -> None:
    large, small = report(State(num_examples=30, updates=1)), report()
    sheets = [
        sum(a.get("class") == "sheet" for tag, a in Strict(render(r, pairs(r, side=8))).tags if tag == "img")
        for r in (large, small, redact(large))
    ]
    assert sheets == [1, 0, 0]
