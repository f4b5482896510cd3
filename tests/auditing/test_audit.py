"""Whole audits on small worlds: verdicts, honesty, resume, files."""

import json
from pathlib import Path

import jsonschema
import pytest

from fedspill.auditing import parse_plan, run_audit
from fedspill.auditing.resolving.defaults import check_policy
from fedspill.core.errors import BadInput, NotApplicable
from fedspill.report.schema import AuditReport, json_schema
from tests.support.audits import BRIEF, EXACT, audit
from tests.support.worlds import conv_bn


def test_an_exact_recovery_leaks_and_says_so_everywhere(tmp_path: Path) -> None:
    result = audit({"audit": EXACT}, out=tmp_path / "out")
    report = result.report
    assert (report.verdict.name.value, report.verdict.exit_code) == ("leaks", 1)
    assert report.leakage_rate is not None
    assert (report.leakage_rate.hits, report.leakage_rate.n) == (3, 3)
    assert report.leakage_rate.low < 1 == report.leakage_rate.high
    for trial in report.trials:
        (psnr, _) = trial.scores
        assert psnr.values == [100.0]
        assert psnr.capped == 1
        assert trial.converged
        assert trial.matched == [0]
        assert trial.leaked == [True]
        assert all(b.scores[0].values[0] < 20 for b in trial.baselines)
        assert [i.rate.hits for i in trial.identification] == [1, 1]
    assert [w.value for w in report.worst] == [100.0] * 3


def test_the_report_keeps_its_schema(tmp_path: Path) -> None:
    result = audit({"audit": EXACT}, out=tmp_path / "out")
    held = json.loads((tmp_path / "out" / "report.json").read_text())
    jsonschema.validate(held, json_schema())
    assert AuditReport.model_validate(held) == result.report
    assert {"plan", "environment", "trials", "leakage_rate", "caveats", "verdict"} <= set(held)
    score = held["trials"][0]["scores"][0]
    assert {"metric", "unit", "higher_is_closer", "values"} <= set(score)


def test_an_attack_that_fails_is_not_evidence_of_safety() -> None:
    report = audit({"audit": BRIEF}).report
    assert report.verdict.name.value == "not shown"
    assert report.verdict.exit_code == 3
    assert "not evidence of safety" in report.verdict.sentence
    assert "no attack converged" in report.verdict.sentence
    assert "not converged" in {c.topic for c in report.caveats}


def test_a_required_bound_that_is_missing_is_3() -> None:
    policy = {"require_bound": True, "fails": ["leaks"]}
    table = {"audit": {**EXACT, "leak_threshold": {"psnr": 101.0}}, "policy": policy}
    assert audit(table).report.verdict.exit_code == 3
    del policy["require_bound"]
    assert audit(table).report.verdict.exit_code == 0


def test_the_policy_decides() -> None:
    assert audit({"audit": EXACT, "policy": {"max_leakage_rate": 1.0}}).report.verdict.exit_code == 0
    capped = audit({"audit": EXACT, "policy": {"max_leakage_rate": 1.0, "max_psnr": 30.0}}).report.verdict
    assert (capped.exit_code, "100.0 dB" in capped.sentence) == (1, True)
    with pytest.raises(BadInput, match=r"policy\.max_psnr is set, but audit\.metrics does not hold 'psnr'"):
        check_policy(parse_plan({"audit": {"metrics": ["mse"], "leak_threshold": {}}, "policy": {"max_psnr": 9.0}}))


def test_the_worst_case_is_over_all_attacks() -> None:
    both = [*EXACT["attacks"], *BRIEF["attacks"]]
    report = audit({"audit": {**BRIEF, "attacks": both}}).report
    assert {w.trial.split(".")[0] for w in report.worst} == {"linear_layer-paper"}
    assert len(report.trials) == 6


def test_what_does_not_apply_is_skipped_by_standard_and_refused_by_name() -> None:
    table = {"audit": {"attacks": ["standard"], "budget": "20s", "metrics": ["psnr"]}}
    report = audit(table, n=1, model=conv_bn()).report
    skipped = {t.attack: t.skipped for t in report.trials if t.skipped and not t.skipped.startswith("not needed")}
    # cocktail_party is the last search, before whose turn the budget may end. Whether softmax_disaggregation reads this
    # update hangs on rounding (processors without AVX-512: it does not); where it does, nex and tableak are not needed.
    reached = set(skipped) - {"cocktail_party"}
    always = {"dager", "imprint_bins", "linear_layer", "logistic_regression", "spear"}
    assert reached in (always, always | {"softmax_disaggregation", "nex", "tableak"})
    with pytest.raises(NotApplicable, match="attack 'linear_layer:paper' does not apply"):
        audit({"audit": EXACT}, model=conv_bn())


def test_the_budget_ends_the_search_and_is_reported(tmp_path: Path) -> None:
    table = {
        "audit": {"attacks": [{"name": "inverting_gradients", "steps": 10**6}], "metrics": ["psnr"], "budget": "2s"}
    }
    table |= {"policy": {"fails": ["leaks"]}}
    table["audit"]["leak_threshold"] = {"psnr": 99.0}
    report = audit(table, n=1, out=tmp_path / "out").report
    assert report.trials[0].ended_by_budget
    assert report.verdict.exit_code == 3
    assert "budget" in {c.topic for c in report.caveats}
    assert report.trials[0].seconds < 20


def test_the_same_seed_gives_the_same_report_and_another_seed_another() -> None:
    first, second = (audit({"audit": BRIEF}).report.trials for _ in range(2))
    assert [t.scores for t in first] == [t.scores for t in second]
    assert audit({"audit": {**BRIEF, "seeds": [1]}}).report.trials[0].scores != first[0].scores


def test_labels_are_granted_or_inferred_and_the_report_says_which() -> None:
    granted = audit({"audit": BRIEF}).report.trials[0].labels
    assert (granted.source, granted.overlap) == ("granted", None)
    inferred = audit({"audit": BRIEF, "server": {"knows": ["num_examples"]}}).report.trials[0].labels
    assert (inferred.source, inferred.overlap) == ("inferred", 1.0)


def test_attacker_and_client_compute_the_same() -> None:
    table = {"client": {"protocol": "fedavg", "num_examples": 3, "epochs": 2, "minibatch_size": 2, "momentum": 0.9}}
    trial = audit({"audit": BRIEF, **table}, model=conv_bn(training=True)).report.trials[0]
    assert trial.self_check == pytest.approx(0, abs=1e-6)
    assert trial.gradient_norm > 0


def test_unknown_numbers_of_examples_are_searched() -> None:
    entry = {"name": "inverting_gradients", "steps": 5, "unknowns": {"examples": [1, 2]}}
    table = {"audit": {**BRIEF, "attacks": [entry]}, "client": {"num_examples": 2}, "server": {"knows": []}}
    trial = audit(table, n=2).report.trials[0]
    assert any("2 hypotheses" in note for note in trial.notes)


@pytest.mark.parametrize("options", [{}, {"stem": "cifar"}])
def test_a_small_stem_on_large_pictures_is_a_caveat_unless_it_was_asked_for(options: dict) -> None:
    plan = {
        "audit": {"attacks": [{"name": "inverting_gradients", "steps": 1}]},
        "model": {"name": "resnet20_4", "width": 1, **options},
        "data": {"name": "photos", "size": 66, "indices": "0:1"},
        "server": {"knows": ["labels", "num_examples"]},
    }
    report = run_audit(parse_plan(plan)).report
    assert ("stem" in {c.topic for c in report.caveats}) == (not options)
