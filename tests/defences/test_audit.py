"""Defences in an audit: what ran, what is proven, and what the evaluation compares."""

from dataclasses import dataclass, replace

import pytest

from fedspill import catalogue
from fedspill.auditing import parse_plan, run_audit
from fedspill.auditing.run import AuditResult
from fedspill.core.errors import BadInput
from fedspill.core.roles import Card, PrivacyCost, Stages
from fedspill.rendering.html.page import render
from tests.support.defences import audit
from tests.support.worlds import batch, mlp, relu_mlp

LEAKY = [{"name": "robbing_the_fed", "rows": 40, "functions": ["random"], "cutoffs": "auto"}]


@pytest.mark.parametrize("attacks", [["linear_layer"], LEAKY], ids=["linear_layer", "robbing_the_fed"])
def test_less_epsilon_leaks_less(attacks: list) -> None:
    n = 1 if attacks == ["linear_layer"] else 8
    best = list[float]()
    for defences in ([], *([{"name": "local_dp", "epsilon": e}] for e in (1e13, 1e9, 1.0))):
        (trial,) = audit(defences, attacks, n).report.trials
        best.append(max((v for v in trial.scores[0].values if v is not None), default=0.0))  # no bin above the noise
    assert best[0] > 80
    assert best[1] > 60, "next to no noise"
    assert best[1] > best[2] > best[3]
    assert best[3] < 20


SETTINGS = {
    "fedsgd": {},
    "two clients": {"clients": 2},
    "fedavg": {"protocol": "fedavg", "epochs": 2, "clients": 2},
    "micro-batches": {"micro_batch": 2},
}


@pytest.mark.parametrize("client", SETTINGS.values(), ids=SETTINGS)
def test_the_self_check_compares_before_protection(client: dict) -> None:
    attack = {"name": "inverting_gradients", "steps": 3}
    report = audit([{"name": "local_dp", "epsilon": 1.0}], [attack], client=client).report
    assert report.trials[0].self_check == pytest.approx(0, abs=1e-6)
    assert "self-check" not in {c.topic for c in report.caveats}


def test_the_report_says_what_ran_and_what_is_proven() -> None:
    defences = [{"name": "gradient_noise", "preset": "dlg"}, {"name": "local_dp", "clip": 0.5, "epsilon": 2.0}]
    report = audit(defences, ["linear_layer"]).report
    noise, local = report.defences
    assert (noise.name, noise.preset, noise.cost) == ("gradient_noise", "dlg", None)
    assert noise.fields == {"sigma": 0.1, "relative": False, "distribution": "gaussian"}
    assert (local.cost.epsilon, local.cost.delta) == (2.0, 1e-5)
    assert local.cost.noise == pytest.approx(1.9938, rel=1e-4)
    assert "privacy cost" in {c.topic for c in report.caveats}
    assert any("defences" in line for line in report.not_tested)
    page = render(report, [])
    assert "gradient_noise:dlg" in page
    assert "(2.000, 1e-05)-differentially private" in page
    assert "[[defences]]" in page
    bare = audit([], ["linear_layer"]).report
    assert bare.defences == []
    assert "privacy cost" not in {c.topic for c in bare.caveats}
    assert "before they sent" not in render(bare, [])


def test_a_folder_belongs_to_its_defences(tmp_path) -> None:
    private, out = batch(1), tmp_path / "out"

    def run(epsilon: float) -> AuditResult:
        table = {"audit": {"attacks": ["linear_layer"], "metrics": ["psnr"]}}
        plan = parse_plan({**table, "defences": [{"name": "local_dp", "epsilon": epsilon}]})
        return run_audit(plan, model=mlp(), data=(private.inputs, private.labels), device="cpu", out=out)

    first = run(4.0)
    assert run(4.0).report.trials == first.report.trials
    with pytest.raises(BadInput, match="another plan"):
        run(5.0)


@dataclass(frozen=True)
class Doubling:
    """A change of the architecture, and a gate."""

    open: bool = True

    def stages(self) -> Stages:
        def prepare(model):
            return replace(model, params={k: 2 * v for k, v in model.params.items()})

        return Stages(prepare=prepare, protect=lambda update, context, rng: update if self.open else None)

    def cost(self) -> PrivacyCost | None:
        return None


@pytest.fixture
def doubling(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(title="Doubling", paper="-", summary="-.", presets={"paper": Doubling()})
    known = catalogue.defences()
    monkeypatch.setattr(catalogue, "defences", lambda: {**known, "doubling": card})


@pytest.mark.usefixtures("doubling")
def test_the_architecture_is_prepared_once_and_before_the_server_sends() -> None:
    base = relu_mlp()
    twice = replace(base, params={k: 2 * v for k, v in base.params.items()})
    for attacks in (["linear_layer"], LEAKY):
        by_plan, by_hand = audit([{"name": "doubling"}], attacks).report, audit([], attacks, model=twice).report
        assert by_plan.environment.weights_sha256 == by_hand.environment.weights_sha256
        assert [t.scores for t in by_plan.trials] == [t.scores for t in by_hand.trials]
        assert by_plan.trials[0].gradient_norm == by_hand.trials[0].gradient_norm
        assert by_plan.trials[0].self_check == by_hand.trials[0].self_check


@pytest.mark.usefixtures("doubling")
def test_an_update_that_is_withheld_is_recorded_and_not_an_error() -> None:
    report = audit([{"name": "doubling", "open": False}], ["linear_layer"]).report
    assert report.trials[0].skipped == "the clients' defences withheld every update"
    assert report.verdict.exit_code == 3
