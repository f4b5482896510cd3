"""Advice from end to end: on a plan that leaks, after a kill, and on input that is none."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import fedspill
from fedspill.advising import measuring, whole
from fedspill.advising.ladders import Facts, Ladder, ladders_of
from fedspill.cli.exits import BAD_INPUT, exit_code_of
from fedspill.cli.main import app
from fedspill.core.errors import BadInput
from fedspill.plan.tables import table_of
from fedspill.rendering.advising.words import elsewhere
from fedspill.rendering.html.plan_text import plan_text
from fedspill.report.advice import Advice
from fedspill.report.sweep import Outcome
from tests.support.advice import TINY

SHORT = ("the update clipped, and noise (local DP)",)


def few(facts: Facts) -> list[Ladder]:
    """One ladder, of three strengths: too weak, enough, more than enough."""
    rungs = tuple((("defences", [{"name": "local_dp", "epsilon": epsilon}]),) for epsilon in (1e8, 30.0, 1.0))
    return [Ladder(what, "noise", rungs) for what in SHORT if any(lad.what == what for lad in ladders_of(facts))]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "ladders_of", few)


@pytest.mark.usefixtures("short")
def test_advice_holds_in_a_plain_audit_under_other_seeds(tmp_path: Path) -> None:
    advice = fedspill.advise(TINY, out=tmp_path, budget=600, seeds=2)
    (change,) = advice.changes
    assert [tried.found for tried in advice.walks[0].tried] == ["leaks", "stops"]
    assert (advice.exit_code, advice.leaking, [leak.attack for leak in advice.leaks]) == (
        0,
        True,
        ["linear_layer:paper"],
    )
    assert not {*advice.seeds} & {*advice.fresh_seeds}
    assert (change.before.leaked, change.after.leaked, change.after.seeds) == (1, 0, advice.fresh_seeds)
    assert change.elsewhere is not None
    assert (change.elsewhere.leaked, change.elsewhere.examples) == (0, 4)
    assert "up to 49% may" in elsewhere(change.elsewhere)
    assert change.bound is not None
    assert change.bound.epsilon == pytest.approx(30.0, rel=1e-3)
    assert None not in (change.price.before, change.price.after)
    assert change.price.held_out == 20
    (tmp_path / "plan.toml").write_text(plan_text({**TINY, "audit": {**TINY["audit"], "seeds": [77, 78]}}))
    pasted = table_of(tmp_path / "plan.toml", change.settings)
    assert fedspill.audit(tmp_path / "plan.toml").report.verdict.name.value == "leaks"
    held = fedspill.audit(pasted).report
    assert held.verdict.name.value == "not shown", held.verdict.sentence


@pytest.mark.usefixtures("short")
def test_a_search_that_was_killed_goes_on_and_measures_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacked, trained = list[str](), list[str]()
    run_audit, utility = measuring.run_audit, measuring.utility
    alive = 3

    def audited(plan: Any, **rest: Any) -> Any:
        if len(attacked) == alive:
            raise KeyboardInterrupt
        attacked.append(plan.model_dump_json())
        return run_audit(plan, **rest)

    def learnt(scenario: Any, section: Any) -> Any:
        trained.append(scenario.plan.model_dump_json())
        return utility(scenario, section)

    monkeypatch.setattr(measuring, "run_audit", audited)
    monkeypatch.setattr(measuring, "utility", learnt)
    with pytest.raises(KeyboardInterrupt):
        fedspill.advise(TINY, out=tmp_path, budget=600, seeds=1)
    alive = 100
    second = fedspill.advise(TINY, out=tmp_path, budget=600, seeds=1)
    assert len(attacked) == len({*attacked}) == 6
    assert len(trained) == len({*trained}) == 2
    assert fedspill.advise(TINY, out=tmp_path, budget=600, seeds=1) == second
    assert (len(attacked), len(trained)) == (6, 2)


@pytest.mark.usefixtures("short")
def test_a_budget_that_is_used_up_advises_nothing(tmp_path: Path) -> None:
    advice = fedspill.advise(TINY, out=tmp_path, budget=1e-3)
    assert (advice.exit_code, advice.changes, advice.walks[0].tried[0].found) == (3, [], "unmeasured")


def test_where_nothing_was_found_a_broken_ladder_goes_on_with_what_the_others_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A measurement is said to take 10 s: the first ladder leaves of its share, the second needs more than its own."""
    run, attacked = measuring.Measurer._run, list[str]()

    def slow(self: measuring.Measurer, plan: str, device: str) -> Outcome:
        attacked.append(plan)
        return run(self, plan, device).model_copy(update={"seconds": 10.0})

    def two(facts: Facts) -> list[Ladder]:
        weak = [(("defences", [{"name": "local_dp", "epsilon": epsilon}]),) for epsilon in (1e9, 1e8)]
        steps = [(("defences", [{"name": "dp_sgd", "noise_multiplier": z}]),) for z in (1e-9, 1e-8, 1e-7, 10.0)]
        return [Ladder("one", "noise", tuple(weak)), Ladder("other", "noise", tuple(steps))]

    monkeypatch.setattr(measuring.Measurer, "_run", slow)
    monkeypatch.setattr(whole, "ladders_of", two)
    advice = fedspill.advise(TINY, out=tmp_path, budget=100, seeds=1)
    assert [len(walk.tried) for walk in advice.walks] == [2, 4]
    assert [change.what for change in advice.changes] == ["other"]
    assert len(attacked) == len({*attacked})


def test_nothing_leaks(tmp_path: Path) -> None:
    quiet = {**TINY, "defences": [{"name": "local_dp", "epsilon": 1.0}]}
    advice = fedspill.advise(quiet, out=tmp_path, budget=30)
    assert (advice.verdict, advice.leaking, advice.walks) == ("not shown", False, [])


@pytest.mark.usefixtures("short")
def test_the_command_says_what_leaks_and_what_to_paste(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plan.toml").write_text(plan_text(TINY))
    words = ["advise", "plan.toml", "--device", "cpu", "--seeds", "1", "--budget", "10m"]
    done = CliRunner(env={"COLUMNS": "120"}).invoke(app, words)
    assert done.exit_code == 0, done.exception
    assert "leaks to an honest-but-curious server" in done.stdout
    assert "--set 'defences=[{name = \"local_dp\", epsilon = 30.0}]'" in done.stdout
    kept = Advice.model_validate_json(Path("fedspill-advice-plan/advice.json").read_text())
    printed = CliRunner().invoke(app, [*words, "--json"]).stdout
    assert Advice.model_validate(json.loads(printed)) == kept


@pytest.mark.parametrize(
    ("change", "words", "told"),
    [
        ({"client": {"num_examples": 0}}, [], "client.num_examples"),
        ({"audit": {"attacks": ["nobody"]}}, [], "nobody"),
        ({"data": {"name": "photos", "size": 4, "indices": "900000"}}, [], "out of range"),
        ({}, ["--budget", "none"], "needs an end"),
        ({}, ["--budget", "soon"], "no duration"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(
    change: Mapping[str, Any],
    words: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plan.toml").write_text(plan_text({**TINY, **change}))
    code = exit_code_of(lambda: app(["advise", "plan.toml", *words], standalone_mode=False))
    assert code == BAD_INPUT
    assert told in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["plan.toml"]


def test_python_refuses_what_is_no_plan() -> None:
    with pytest.raises(BadInput, match="does not exist"):
        fedspill.advise("nowhere.toml")
    with pytest.raises(BadInput, match="seeds=0"):
        fedspill.advise(TINY, seeds=0)
