"""Reports of sentences and rows: scored, judged and shown as text."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from typer.testing import CliRunner

from fedspill.auditing.run import AuditResult
from fedspill.cli.main import app
from fedspill.core.errors import BadInput
from fedspill.core.inputs import TokenSpec
from fedspill.core.model import Model
from fedspill.core.rng import rand, stream
from fedspill.core.types import Batch
from fedspill.rendering.bins import bins_read
from fedspill.rendering.folder import write_views
from fedspill.rendering.html.page import render
from fedspill.rendering.terminal import summary
from fedspill.rendering.texts import Piece, compared, text_pairs_of
from fedspill.report.store import TEXT_FILE, read_report, read_texts, write_texts
from fedspill.zoo.data.pool import DataPool, from_tensors
from tests.support.readouts import HOSTILE, TABLE, Fake, audit_of, bins_of
from tests.support.reports import Strict
from tests.support.worlds import draw_weights


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


def test_sentences_are_scored_judged_and_shown(planted, tmp_path: Path) -> None:
    tokens = torch.randint(0, 30, (4, 6), generator=stream(0, "sentences"))
    like = from_tensors(rand((4, 1, 1, 1), stream(0, "rows"), torch.zeros(())))

    def show(rows: Tensor) -> list[str]:
        return [" ".join(f"w{t}" for t in row) + f" {HOSTILE}" for row in rows.tolist()]

    pool = replace(like, batch=Batch(tokens, tokens[:, 0]), num_classes=30, spec=TokenSpec(6, 30), show=show)
    planted(bins_of(tokens, torch.zeros(6, dtype=torch.long)))
    with torch.random.fork_rng():
        net = draw_weights(Words(30))
    result = audit_of(Model.of(net, TokenSpec(6, 30)), pool, out=tmp_path / "out")
    assert read_texts(tmp_path / "out") == result.texts
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
