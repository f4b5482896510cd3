"""What version 0.1.0 left behind is read, shown and gone on with; every plan that it took is still one.

The files under `fixtures` were written by the code of before the tree was laid anew:

- `report.json`: an audit of two photographs, four trials; `views.json`: the numbers that its views showed.
- `interrupted`: the output folder of `plan.toml`, killed by SIGKILL 49 steps into the second of its two trials.
- `components.json`: every component's presets with all their fields.
"""

import dataclasses
import html
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
import torch
from rich.console import Console
from torch.torch_version import TorchVersion

import fedspill
from fedspill import catalogue
from fedspill.auditing import read_plan, run_audit
from fedspill.auditing.resolving.components import components_of
from fedspill.core.errors import BadInput
from fedspill.core.settings import flat_fields
from fedspill.plan.file import read_as
from fedspill.plan.tables import table_of
from fedspill.rendering.folder import write_views
from fedspill.rendering.html.page import render
from fedspill.rendering.junit import junit
from fedspill.rendering.terminal import summary
from fedspill.report.leakage import leaked_share
from fedspill.report.schema import Pictures, json_schema
from fedspill.report.store import read_report
from fedspill.report.trial import Trial
from fedspill.sweeping.grid import points
from fedspill.sweeping.trials import trials_of
from fedspill.training.plan import AutoencoderPlan, DecoderPlan, GeneratorPlan, RobustPlan, SpabPlan
from tests.support.places import PLANS
from tests.support.watches import Heard

FIXTURES = Path(__file__).parent / "fixtures"
INTERRUPTED = FIXTURES / "interrupted"
FIRST, SECOND = (f"inverting_gradients-paper-steps=1500-restarts=1.u{k}.s0" for k in range(2))
STEPS_DONE = 49
NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e[-+]?\d+)?")
COMPONENTS: dict[str, dict[str, dict[str, Any]]] = json.loads((FIXTURES / "components.json").read_text())


def test_an_old_report_is_read_and_keeps_every_value() -> None:
    report, _ = read_report(FIXTURES)
    held = json.loads((FIXTURES / "report.json").read_text())
    assert "leaked" not in held["trials"][0]
    assert _within(held, report.model_dump(mode="json")) == []
    jsonschema.validate(held, json_schema())


def test_which_examples_leaked_is_derived_for_an_old_report() -> None:
    report, _ = read_report(FIXTURES)
    assert [t.leaked for t in report.trials] == [[False, True]] * 4
    assert [t.leakage_rate.hits for t in report.trials if t.leakage_rate] == [1] * 4
    assert leaked_share(report.trials) == report.leakage_rate


def _page_text(page: str) -> str:
    return re.sub(r"<[^>]*>", " ", re.sub(r"<(style|svg)\b.*?</\1>", " ", page, flags=re.DOTALL))


@pytest.mark.parametrize("view", ["terminal", "page", "junit"])
def test_views_of_an_old_report_show_its_numbers_still(view: str) -> None:
    """Other numbers may stand beside them."""
    report, _ = read_report(FIXTURES)
    written = io.StringIO()
    summary(report, Console(file=written, width=120))
    texts = {"terminal": written.getvalue(), "page": _page_text(render(report, [])), "junit": junit(report)}
    assert set(json.loads((FIXTURES / "views.json").read_text())[view]) <= set(NUMBER.findall(texts[view]))


def test_an_old_report_is_written_again_with_all_views(tmp_path: Path) -> None:
    report, tensors = read_report(FIXTURES)
    again = write_views(tmp_path, report, tensors)
    assert read_report(tmp_path)[0] == again == report.model_copy(update={"pictures": Pictures()})
    cases = ElementTree.parse(tmp_path / "junit.xml").findall("testsuite/testcase")
    assert [c.get("name") for c in cases] == ["verdict", *(t.name for t in report.trials)]
    page = html.unescape((tmp_path / "report.html").read_text())
    assert report.verdict.sentence in page
    assert "1 of 2 private examples at PSNR ≥ 20.5 dB and MSE ≤ 0.01, by any attack" in page


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, in the versions of fedspill and PyTorch that wrote it: its key holds them."""
    versions = json.loads((INTERRUPTED / "versions.json").read_text())
    monkeypatch.setattr(fedspill, "__version__", versions["fedspill"])
    monkeypatch.setattr(torch, "__version__", TorchVersion(versions["torch"]))
    out = tmp_path / "out"
    for part in ("trials", "checkpoints"):
        shutil.copytree(INTERRUPTED / part, out / part)
    shutil.copy(INTERRUPTED / "fedspill.json", out)
    return out


def test_an_interrupted_audit_is_gone_on_with(interrupted: Path) -> None:
    state = torch.load(interrupted / "checkpoints" / f"{SECOND}.pt", weights_only=True)
    record, heard = interrupted / "trials" / f"{FIRST}.json", Heard()
    before, old = record.read_bytes(), Trial.model_validate_json(record.read_text())
    result = run_audit(read_plan(INTERRUPTED / "plan.toml"), out=interrupted, device="cpu", listener=heard)
    first, second = result.report.trials
    assert heard.trials == [f"2/2 {SECOND}"]
    assert f"going on from the checkpoint {SECOND}.pt" in heard.messages
    assert record.read_bytes() == before
    assert first == old.model_copy(update={"leaked": [True]})
    assert heard.steps[0][0] > state["step"] == STEPS_DONE
    curve = {step: value for step, value in second.objective if step < STEPS_DONE}
    assert curve == {step: state["history"][step] for step in curve}
    assert len(curve) > 1
    assert (second.iterations, second.leaked) == (1500, [True])
    assert result.report.leakage_rate is not None
    assert (result.report.leakage_rate.hits, result.report.leakage_rate.n) == (2, 2)
    assert [w.leaked for w in result.report.worst] == [True, True]
    assert read_report(interrupted)[0] == result.report
    assert not (interrupted / "checkpoints").exists()


def test_the_folder_of_another_plan_is_left_alone(interrupted: Path) -> None:
    with pytest.raises(BadInput, match="another plan, model or data"):
        run_audit(read_plan(INTERRUPTED / "plan.toml", ["model.seed=1"]), out=interrupted, device="cpu")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {name: _plain(part) for name, part in flat_fields(value).items()}
    return repr(value)


def _within(old: Any, new: Any, where: str = "") -> list[str]:
    """What of the old value the new one lacks or has otherwise; it may have more keys."""
    if isinstance(old, dict) and isinstance(new, dict):
        lost = [f"{where}.{key} is gone" for key in old if key not in new]
        return lost + [line for key in old if key in new for line in _within(old[key], new[key], f"{where}.{key}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for k, pair in pairs for line in _within(*pair, f"{where}.{k}")]
    return [] if old == new else [f"{where} was {old!r} and is {new!r}"]


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_keeps_its_presets_and_fields(component: str) -> None:
    kind, _, name = component.partition(":")
    presets = getattr(catalogue, kind)()[name].presets
    assert _within(COMPONENTS[component], {k: _plain(v) for k, v in presets.items()}, component) == []


def test_a_lost_field_would_be_told() -> None:
    old = {"paper": {"steps": "300", "unknowns": {"examples": "(1,)"}}}
    assert _within(old, {"paper": {"steps": "300", "more": "1", "unknowns": {"examples": "(1,)", "more": "1"}}}) == []
    assert _within(old, {"paper": {"steps": "200", "unknowns": {}}}, "dlg") == [
        "dlg.paper.steps was '300' and is '200'",
        "dlg.paper.unknowns.examples is gone",
    ]


TRAINING = {
    "robust": RobustPlan,
    "decoder": DecoderPlan,
    "head": SpabPlan,
    "autoencoder": AutoencoderPlan,
    "generator": GeneratorPlan,
}


@pytest.mark.parametrize("path", sorted(PLANS.rglob("*.toml")), ids=lambda p: p.stem)
def test_every_shipped_plan_parses(path: Path) -> None:
    if path.parent.name == "train":
        (kind,) = (plan for section, plan in TRAINING.items() if f"[{section}]" in path.read_text().splitlines())
        read, of = read_as(kind, path), path.stem.rpartition("_")[0]
        assert (read.data.name if isinstance(read, GeneratorPlan) else read.model.name) == of
    elif path.parent.name == "sweep":
        assert all(trial.refused is None for trial in trials_of(points(table_of(path))))
    else:
        assert components_of(read_plan(path)).worlds
