"""What a readout read: recorded against its own measurement, drawn bin by bin, shown as text, never when redacted."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from typer.testing import CliRunner

from fedspill import catalogue
from fedspill.audit import parse_plan, run_audit
from fedspill.audit.readings import Ranked, ranked, readings
from fedspill.audit.report import Trial
from fedspill.audit.run import AuditResult
from fedspill.audit.store import TEXT_FILE, read_report, read_texts, write_texts
from fedspill.audit.trial import most_confident
from fedspill.cli.main import app
from fedspill.core.errors import BadInput
from fedspill.core.inputs import CategoricalColumn, NumericColumn, TableSpec, TokenSpec
from fedspill.core.model import Model
from fedspill.core.rng import rand, stream
from fedspill.core.roles import UNWATCHED, Card, Expected, Tampered
from fedspill.core.types import Batch, Reconstruction, ServerRole
from fedspill.rendering.bin_sheet import COLOURS, bin_sheet
from fedspill.rendering.bins import MOST_TILES, bins_read, embedded, sorted_out
from fedspill.rendering.folder import write_views
from fedspill.rendering.html import render
from fedspill.rendering.redact import redact
from fedspill.rendering.terminal import summary
from fedspill.rendering.texts import Piece, compared, text_pairs_of
from fedspill.zoo.pool import DataPool, from_tensors
from tests.report_factory import THEORY, State, pairs, report, with_bins
from tests.test_rendering import Strict
from tests.worlds import SPEC, batch, draw_weights, mlp

TABLE = TableSpec(
    (
        NumericColumn("age", mean=40.0, std=10.0, low=17.0, high=90.0, step=1.0),
        CategoricalColumn("work", ("farm", "<script>shop</script>")),
        CategoricalColumn("city", ("yes", "no")),
    )
)
HOSTILE = "<script>alert(1)</script>"


@dataclass(frozen=True)
class Fake:
    """A readout that returns what a test hands it; not an attack, but what the evaluation makes of one."""

    returned: Reconstruction
    expected: Expected

    def tamper(self, model: Model, public_data: Batch | None, round: int, rng: torch.Generator) -> Tampered:
        return Tampered(model, self)

    def reconstruct(self, update, knowledge, rng, watch=UNWATCHED) -> Reconstruction:
        return self.returned

    def expects(self, model: Model, z: Tensor) -> Expected:
        assert len(z) == len(self.expected.found)
        return self.expected


def bins_of(private: Tensor, noise: Tensor) -> Fake:
    """Seven bins over four examples: 0 and 1 alone, 2 and 3 together, 1 a second time, and one empty bin."""
    inputs = torch.stack([noise, private[1], private[0], private[1], noise])
    return Fake(
        Reconstruction(
            inputs,
            confidence=torch.tensor([0.2, 0.9, 0.8, 0.7, 0.1]),
            converged=True,
            notes=(THEORY,),
            origins=("bin 10", "bin 2", "bin 9", "bin 3", "bin 4"),
            marks=("mixture", "alone", "alone", "duplicate", "unsure"),
        ),
        Expected((("bin 9",), ("bin 2", "bin 3"), ("bin 10",), ("bin 10",)), torch.tensor([True, True, False, False])),
    )


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fake], None]:
    """Puts a fake readout into the catalogue."""

    def put(fake: Fake) -> None:
        card = Card("Fake", "none", "For tests.", {"paper": fake}, role=ServerRole.MALICIOUS_ARCHITECTURE, reads=True)
        monkeypatch.setattr(catalogue, "tamperings", lambda: {"fake": card})

    return put


def audit_of(model: Model, pool: DataPool, n: int = 4, **more) -> AuditResult:
    table = {"audit": {"attacks": ["fake"]}, "client": {"num_examples": n}}
    return run_audit(parse_plan(table), model=model, data=pool, device="cpu", **more)


def pictures_audit(planted: Callable[[Fake], None], **more) -> AuditResult:
    private = batch(4)
    planted(bins_of(private.inputs, torch.full(SPEC.shape, 0.5)))
    return audit_of(mlp(), from_tensors(private.inputs, private.labels), **more)


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
    assert trial.predicted.model_dump() == {"n": 4, "predicted": 2, "exact": 2, "both": 2}
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


@pytest.mark.parametrize(
    ("private", "rebuilt", "marked"),
    [
        ("the cat sat down", "the dog sat down", (["cat "], ["dog "])),
        ("the cat sat", "the cat sat", ([], [])),
        ("a b c", "b c", (["a "], [])),
        ("age = 39, work = farm", "age = 38, work = farm", (["age = 39, "], ["age = 38, "])),
        ("a = 1, b = 0, c = 1", "a = 0, b = 1, c = 1", (["a = 1, b = 0, "], ["a = 0, b = 1, "])),
    ],
)
def test_what_differs_is_marked(private: str, rebuilt: str, marked: tuple[list[str], list[str]]) -> None:
    sides = compared(private, rebuilt)
    assert tuple([p.text for p in side if not p.same] for side in sides) == marked
    assert tuple("".join(p.text for p in side) for side in sides) == (private, rebuilt)
    assert all(isinstance(p, Piece) and p.text for side in sides for p in side)


def rows_pool(n: int = 4) -> DataPool:
    inputs = torch.tensor([[20.0 + 7 * k, float(k % 2), float(k // 2 % 2)] for k in range(n)])

    def show(rows: Tensor) -> list[str]:
        return [
            f"age = {age:g}, work = {('farm', '<script>shop</script>')[int(work)]}, city = {int(city)}"
            for age, work, city in rows.tolist()
        ]

    like = from_tensors(rand((n, 1, 1, 1), stream(0, "rows"), torch.zeros(())))
    return replace(like, batch=Batch(inputs, torch.arange(n) % 2), num_classes=2, spec=TABLE, show=show)


def rows_model() -> Model:
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Linear(5, 8), nn.Sigmoid(), nn.Linear(8, 2))
    return Model.of(draw_weights(net), TABLE)


def rows_audit(planted: Callable[[Fake], None], **more) -> AuditResult:
    pool = rows_pool()
    planted(bins_of(pool.batch.inputs, torch.tensor([40.0, 0.0, 1.0])))
    return audit_of(rows_model(), pool, **more)


def test_rows_are_scored_judged_and_shown(planted, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = rows_audit(planted, out=out)
    found = result.report
    assert found.plan["audit"]["metrics"] == ["feature_accuracy", "exact_row"]
    assert found.plan["audit"]["leak_threshold"] == {"feature_accuracy": 0.95}
    assert [s.metric for s in found.trials[0].scores] == ["feature_accuracy", "exact_row"]
    assert found.trials[0].scores[1].values[:2] == [1.0, 1.0]
    assert [b.name for b in found.trials[0].baselines] == ["commonest row"]
    assert found.trials[0].identification == []
    assert found.leakage_rate is not None
    assert (found.leakage_rate.hits, found.leakage_rate.n) == (2, 4)
    assert read_texts(out) == result.texts
    assert result.texts["private/1"] == ["age = 27, work = <script>shop</script>, city = 0"]
    write_views(out, found, result.tensors, result.texts)
    html = (out / "report.html").read_text()
    page = Strict(html)
    assert "<script" not in html
    assert "age = 27, work = <script>shop</script>, city = 0" in page.text
    assert "mark" in {tag for tag, _ in page.tags}
    assert "What was read, bin by bin" in page.text
    assert not (out / "pictures").exists()


def test_a_report_is_written_again_from_its_folder(planted, tmp_path: Path) -> None:
    out = tmp_path / "out"
    rows_audit(planted, out=out)
    done = CliRunner().invoke(app, ["report", str(out)])
    assert done.exit_code == 0, done.output
    assert "private age = 27" in done.output
    first = (out / "report.html").read_text()
    assert "age = 27" in first
    assert CliRunner().invoke(app, ["report", str(out), "--redact"]).exit_code == 0
    shared = "".join(path.read_text() for path in (out / "redacted").iterdir())
    assert "age = 27" not in shared
    assert "2 of n = 4" in shared
    assert read_report(out)[0].trials[0].predicted is not None


def test_no_text_is_kept_when_redacted_and_old_ones_go(planted, tmp_path: Path) -> None:
    out = tmp_path / "out"
    closed = rows_audit(planted, out=out, redact=True)
    assert (closed.texts, closed.tensors) == ({}, {})
    assert "age = " not in "".join(path.read_text() for path in out.rglob("*") if path.is_file())
    rows_audit(planted, out=tmp_path / "open")
    assert (tmp_path / "open" / TEXT_FILE).is_file()
    rows_audit(planted, out=tmp_path / "open", redact=True, fresh=True)
    assert not (tmp_path / "open" / TEXT_FILE).exists()


def test_damaged_texts_are_refused(tmp_path: Path) -> None:
    write_texts(tmp_path / TEXT_FILE, {"private/0": ["ein Größe ↵"]})
    assert read_texts(tmp_path) == {"private/0": ["ein Größe ↵"]}
    (tmp_path / TEXT_FILE).write_text(json.dumps({"private/0": 3}))
    with pytest.raises(BadInput, match=TEXT_FILE):
        read_texts(tmp_path)
    assert read_texts(tmp_path / "none") == {}


class Words(nn.Module):
    """Sentences to scores of the next token."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(vocabulary, 6), nn.Linear(6, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens).mean(1))


def test_sentences_are_scored_judged_and_shown(planted) -> None:
    tokens = torch.randint(0, 30, (4, 6), generator=stream(0, "sentences"))
    like = from_tensors(rand((4, 1, 1, 1), stream(0, "rows"), torch.zeros(())))

    def show(rows: Tensor) -> list[str]:
        return [" ".join(f"w{t}" for t in row) + f" {HOSTILE}" for row in rows.tolist()]

    pool = replace(like, batch=Batch(tokens, tokens[:, 0]), num_classes=30, spec=TokenSpec(6, 30), show=show)
    planted(bins_of(tokens, torch.zeros(6, dtype=torch.long)))
    with torch.random.fork_rng():
        net = draw_weights(Words(30))
    result = audit_of(Model.of(net, TokenSpec(6, 30)), pool)
    found = result.report
    assert [s.metric for s in found.trials[0].scores] == ["token_accuracy", "exact_sentence", "bleu", "rouge_l"]
    assert [s.values[0] for s in found.trials[0].scores] == pytest.approx([1.0] * 4)
    assert found.trials[0].baselines == []
    assert found.trials[0].predicted is not None
    assert (found.trials[0].predicted.both, found.leakage_rate.hits) == (2, 2)
    assert result.tensors[f"rebuilt/{found.trials[0].name}"].dtype == torch.long
    shown = text_pairs_of(found, result.texts)
    assert shown[0].rebuilt == shown[0].private == show(tokens[:1])[0]
    page = render(found, [], shown, bins_read(found, result.tensors, result.texts))
    assert "<script" not in page
    assert HOSTILE in Strict(page).text
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    summary(found, console, result.texts)
    assert isinstance(console.file, io.StringIO)
    assert HOSTILE in " ".join(console.file.getvalue().split())
