"""The verdict bounded: only where nothing was shown and a bound on every attack lies under the policy."""

import importlib.util
import io
import math

import pytest
from rich.console import Console
from scipy.stats import norm

from fedspill.auditing import parse_plan
from fedspill.auditing.bounding.chain import chain_of
from fedspill.auditing.bounding.recorded import recorded_bounds
from fedspill.auditing.resolving.scenario import prepare
from fedspill.auditing.run import run_audit
from fedspill.auditing.verdict import verdict
from fedspill.auditing.verdict.levels import Rules
from fedspill.auditing.verdict.roles import Circumstances
from fedspill.core.errors import BadInput
from fedspill.plan.build import pick_device
from fedspill.plan.sections import PolicySection
from fedspill.rendering.headline.guarantees import blocks
from fedspill.rendering.html.page import render
from fedspill.rendering.junit import junit
from fedspill.rendering.markdown import markdown
from fedspill.rendering.terminal import summary
from fedspill.report.bounds import Bounds
from fedspill.report.schema import AuditReport, Verdict, VerdictName
from tests.auditing.test_verdicts import HONEST, PLANTED, trial

PLAN = {
    "audit": {"attacks": ["linear_layer"]},
    "model": {"name": "mlp", "hidden": [12]},
    "data": {"name": "photos", "indices": "0:2", "size": 4},
    "client": {"num_examples": 1},
}
LDP = [{"name": "local_dp", "epsilon": 2.0}]
POLICY = {"prior": 1e-3, "max_success": 0.05}


def bounds(**changed: object) -> Bounds:
    scenario = prepare(parse_plan({**PLAN, **changed}), pick_device("cpu"))
    found = recorded_bounds(scenario)
    assert found is not None
    return found


def concluded(*trials, held: Bounds | None, judged: bool = True, **policy: object) -> Verdict:
    rules = Rules(PolicySection.model_validate(policy), judged=judged, metric="psnr")
    return verdict(trials, rules, Circumstances(bounds=held))


UNDER = Bounds(unit="update", prior=1e-3, policy_success=0.01)
OVER = UNDER.model_copy(update={"short": "any attacker's success is bounded by 0.3"})
NONE = Bounds(missing="no defence adds noise", short="no defence adds noise")


@pytest.mark.parametrize(
    ("one", "held", "name", "code"),
    [
        (trial(converged=False), UNDER, "bounded", 0),
        (trial(), UNDER, "bounded", 0),
        (trial(), OVER, "not shown", 0),
        (trial(), NONE, "not shown", 0),
        (trial(leaked=True, psnr=30), UNDER, "leaks", 1),
        (trial(recognisable=True), UNDER, "recognisable", 1),
        (trial(recognisable=None), UNDER, "not shown", 3),
        (trial(skipped="no linear layer"), UNDER, "not tested", 3),
    ],
)
def test_what_was_measured_goes_before_a_bound(one, held: Bounds, name: str, code: int) -> None:
    found = concluded(one, held=held)
    assert (found.name.value, found.exit_code) == (name, code)


def test_where_no_threshold_judges_a_bound_makes_no_verdict() -> None:
    assert concluded(trial(), held=UNDER, judged=False).name is VerdictName.NOT_SHOWN


def test_the_bound_is_of_every_kind_of_server_that_was_tried() -> None:
    found = concluded(trial(), trial("robbing_the_fed", role=PLANTED), held=UNDER)
    assert {r.role: r.name.value for r in found.by_role} == {HONEST: "bounded", PLANTED: "bounded"}


def test_more_leaks_than_a_bound_allows_are_said_to_contradict_it() -> None:
    told = concluded(trial(leaked=True, psnr=30), held=UNDER)
    assert "1 of 1 leaked is chance, or the prior is wrong, or a defence does not do what it says" in told.sentence
    assert "is chance" not in concluded(trial(leaked=True, psnr=30), held=NONE).sentence


def test_a_required_bound_passes_only_under_the_policy() -> None:
    said = "the policy requires a bound and none was computed"
    for held, code, words in ((None, 3, said), (NONE, 3, said), (OVER, 3, "none lies under it"), (UNDER, 0, "")):
        found = concluded(trial(), held=held, require_bound=True)
        assert found.exit_code == code
        assert words in found.sentence
    assert concluded(trial(), held=UNDER, strict=True).exit_code == 0


def test_the_numbers_are_those_of_the_plain_twin() -> None:
    told = bounds(defences=LDP, policy=POLICY)
    assert told.mu is not None
    assert told.policy_success == pytest.approx(norm.cdf(norm.ppf(1e-3) + told.mu))
    assert [s.success for s in told.success] == pytest.approx(
        [norm.cdf(norm.ppf(p) + told.mu) for p in (0.1, 1e-3, 1e-6)]
    )
    assert (told.unit, told.rounds, told.under_policy) == ("update", 1, True)
    assert told.privacy is not None
    assert told.privacy.epsilon == pytest.approx(2.0)


def test_rounds_count_and_can_cost_the_verdict() -> None:
    client = {"protocol": "fedavg", "num_examples": 2, "clients": 2, "lr": 0.1}
    one = bounds(defences=LDP, policy=POLICY)
    many = bounds(defences=LDP, policy=POLICY, client=client, federation={"rounds": 400})
    assert many.mu == pytest.approx(20 * one.mu)
    assert one.under_policy
    assert not many.under_policy


def test_dp_sgd_bounds_each_example_whatever_their_number() -> None:
    defences = [{"name": "dp_sgd", "noise_multiplier": 4.0}]
    for n in (1, 2):
        told = bounds(defences=defences, policy=POLICY, client={"num_examples": n})
        assert told.unit == "example"
        assert told.mu == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("defences", "why"),
    [
        ([], "no defence adds noise"),
        ([{"name": "clipping"}], "no defence adds noise"),
        ([{"name": "mixup"}, {"name": "dp_sgd"}], "mixes or changes examples before"),
        ([{"name": "pruning"}, {"name": "dp_sgd"}], "acts between the clipping of every example and the noise"),
        ([{"name": "gating"}, *LDP, {"name": "soteria"}], "may look at the private data again"),
    ],
)
def test_where_nothing_is_proven_the_reason_is_said(defences: list[dict[str, object]], why: str) -> None:
    told = bounds(defences=defences, policy={**POLICY, "require_bound": True}, client={"num_examples": 2})
    assert why in told.missing
    assert not told.under_policy


def test_statistics_that_no_noise_covers_undo_a_bound() -> None:
    told = bounds(defences=LDP, policy=POLICY, server={"knows": ["bn_statistics"]})
    assert "BatchNorm statistics of the private batch" in told.missing


def test_without_a_prior_nothing_is_held_against_the_policy() -> None:
    told = bounds(defences=LDP)
    assert "policy.prior" in told.short
    assert len(told.success) == 3


def test_a_plan_that_asks_for_nothing_has_no_blocks() -> None:
    assert recorded_bounds(prepare(parse_plan(PLAN), pick_device("cpu"))) is None


def test_a_missing_library_is_a_reason_and_closed_forms_need_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert bounds(defences=LDP, policy=POLICY).under_policy
    noise = [
        {"name": "clipping"},
        {"name": "gradient_noise", "sigma": 1.0, "relative": False, "distribution": "laplace"},
    ]
    client = {"protocol": "fedavg", "num_examples": 2, "clients": 2, "lr": 0.1}
    told = bounds(defences=noise, policy=POLICY, client=client, federation={"rounds": 3})
    assert "pip install 'fedspill[privacy]'" in told.missing


@pytest.mark.parametrize("policy", [{"prior": 0}, {"prior": 1}, {"prior": math.nan}, {"max_success": 0}])
def test_impossible_policies_are_refused(policy: dict[str, object]) -> None:
    with pytest.raises(BadInput, match="policy"):
        parse_plan({"policy": policy})


def test_an_audit_says_it_in_every_view() -> None:
    report = run_audit(parse_plan({**PLAN, "defences": LDP, "policy": POLICY}), device="cpu").report
    assert (report.verdict.name, report.verdict.exit_code) == (VerdictName.BOUNDED, 0)
    assert not any("A bound on what any attack" in line for line in report.not_tested)
    assert [b.name for b in blocks(report)] == ["Measured", "Declared", "Bounded"]
    assert AuditReport.model_validate_json(report.model_dump_json()) == report
    console = Console(width=100, file=io.StringIO())
    summary(report, console)
    assert isinstance(console.file, io.StringIO)
    for text in (console.file.getvalue(), markdown(report), render(report, [])):
        for word in ("Measured", "Declared", "Bounded", "0.001"):
            assert word in text
    assert '<testcase classname="fedspill" name="verdict"' in junit(report)
    assert 'failures="0"' in junit(report)


def test_the_chain_of_mixup_and_dp_sgd_is_no_release_for_the_command_either() -> None:
    plan = {**PLAN, "client": {"num_examples": 2}, "defences": [{"name": "mixup"}, {"name": "dp_sgd"}]}
    assert chain_of(prepare(parse_plan(plan), pick_device("cpu"))).release is None
