"""An audit examines itself: what must not pass, be lost, be overwritten or be counted wrongly."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedspill.auditing import parse_plan, run_audit
from fedspill.auditing.judge import judge, prior_only
from fedspill.auditing.readings import most_confident
from fedspill.auditing.resolving.defaults import resolved
from fedspill.auditing.resolving.evaluation import evaluation_of
from fedspill.auditing.resolving.scenario import prepare
from fedspill.auditing.verdict import worst_examples
from fedspill.auditing.watch import Silent
from fedspill.core.errors import BadInput
from fedspill.core.model import Model
from fedspill.core.rng import rand, stream
from fedspill.core.types import Batch, Reconstruction
from fedspill.rendering.folder import write_views
from fedspill.report.leakage import leaked_share, with_leak_flags
from fedspill.report.schema import AuditReport
from fedspill.scoring.baselines import mean_image
from fedspill.zoo.data import from_tensors
from tests.support.audits import BRIEF, EXACT, audit
from tests.support.worlds import SPEC, batch, conv_bn, draw_weights, mlp


def test_a_finished_audit_is_not_run_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    audit({"audit": BRIEF}, out=out)
    record = next((out / "trials").glob("*.u0.s0.json"))
    changed = json.loads(record.read_text()) | {"seconds": 12345.0}
    record.write_text(json.dumps(changed))
    assert audit({"audit": BRIEF}, out=out).report.trials[0].seconds == 12345.0
    assert audit({"audit": BRIEF}, out=out, fresh=True).report.trials[0].seconds != 12345.0


def test_a_folder_of_another_audit_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    audit({"audit": BRIEF}, out=out)
    before = (out / "report.json").read_bytes()
    with pytest.raises(BadInput, match="holds the audit of another plan, model or data"):
        audit({"audit": {**BRIEF, "seeds": [5]}}, out=out)
    assert (out / "report.json").read_bytes() == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(BadInput, match="is not empty and holds no audit"):
        audit({"audit": BRIEF}, out=other, fresh=True)
    assert (other / "thesis.txt").read_text() == "mine"


def test_views_are_written_and_a_redacted_audit_holds_no_pixel(tmp_path: Path) -> None:
    result = audit({"audit": EXACT}, out=tmp_path / "open")
    report = write_views(tmp_path / "open", result.report, result.tensors)
    assert (tmp_path / "open" / report.pictures.strip).is_file()
    assert {p.name for p in (tmp_path / "open").iterdir()} >= {"report.html", "report.json", "junit.xml", "worst.png"}
    stored = load_file(tmp_path / "open" / "reconstructions.safetensors")
    torch.testing.assert_close(stored["private/0"], stored["rebuilt/linear_layer-paper.u0.s0"][0])
    closed = audit({"audit": EXACT}, out=tmp_path / "closed", redact=True)
    write_views(tmp_path / "closed", closed.report, closed.tensors)
    suffixes = {p.suffix for p in (tmp_path / "closed").rglob("*") if p.is_file()}
    assert suffixes == {".json", ".html", ".xml"}
    assert "data:image" not in (tmp_path / "closed" / "report.html").read_text()
    assert closed.report.leakage_rate == result.report.leakage_rate


def test_public_and_private_data_must_be_disjoint() -> None:
    table = {"data": {"name": "photos", "indices": "0:2"}, "server": {"public": {"name": "photos", "indices": "1:3"}}}
    with pytest.raises(BadInput, match="1 examples are both public and private"):
        run_audit(parse_plan({**table, "audit": BRIEF}), device="cpu")
    with pytest.raises(BadInput, match=r"grants public_data, but server\.public names none"):
        run_audit(parse_plan({"server": {"knows": ["public_data"]}, "audit": BRIEF}), device="cpu")


def test_too_few_examples_for_one_update() -> None:
    with pytest.raises(BadInput, match="3 examples"):
        audit({"audit": BRIEF, "client": {"num_examples": 4}})


def test_a_lax_threshold_is_called_so() -> None:
    images = rand((1, 3, 8, 8), stream(0, "flat"), torch.zeros(())) * 0.01 + 0.5
    plan = parse_plan({"audit": {**BRIEF, "leak_threshold": {"psnr": 10.0}}})
    report = run_audit(plan, model=mlp(), data=(images, torch.zeros(1, dtype=torch.long)), device="cpu").report
    assert "lax threshold" in {c.topic for c in report.caveats}


@pytest.mark.parametrize(("shade", "leaks"), [(0.0, False), (0.002, False), (None, True)])
def test_what_a_guess_meets_too_leaks_only_where_it_is_rebuilt_more_closely(shade: float | None, leaks: bool) -> None:
    picture = rand((1, 3, 8, 8), stream(0, "flat"), torch.zeros(())) * 0.01 + 0.5
    table = {"audit": {**BRIEF, "leak_threshold": {"psnr": 10.0}}}
    pool = from_tensors(picture, torch.zeros(1, dtype=torch.long))
    scenario = prepare(parse_plan(table), torch.device("cpu"), model=mlp(), pool=pool)
    private = scenario.private(0)
    rebuilt = Reconstruction(private.inputs if shade is None else mean_image(SPEC, 1).to(private.inputs) + shade)
    guesses = prior_only(scenario, private, 0)
    assert judge(scenario, rebuilt, private).leaked == [True]
    judged = judge(scenario, rebuilt, private, guesses)
    assert judged.leaked == [leaks]
    assert judged.leakage_rate is not None
    assert judged.leakage_rate.hits == leaks


def test_a_threshold_that_could_not_be_judged_is_no_pass() -> None:
    table = {"attacks": ["linear_layer"], "metrics": ["ms_ssim", "psnr"], "leak_threshold": {"ms_ssim": 0.5}}
    verdict = audit({"audit": table, "policy": {"fails": ["leaks"]}}).report.verdict
    assert verdict.exit_code == 3
    assert "the leak thresholds could not be judged" in verdict.sentence
    unset = audit({"audit": {**table, "leak_threshold": {}}}).report.verdict
    assert "No leak threshold was set" in unset.sentence


def test_the_rate_counts_examples_that_nothing_was_matched_to() -> None:
    evaluation = evaluation_of(resolved(parse_plan({"audit": EXACT}), SPEC).audit, SPEC)
    whole = audit({"audit": EXACT, "client": {"num_examples": 3}}).report.trials[0]
    alone = [s.model_copy(update={"values": [100.0 if s.metric == "psnr" else 0.0, None, None]}) for s in whole.scores]
    trial = whole.model_copy(update={"scores": alone, "matched": [0, None, None], "leaked": None})
    trial = with_leak_flags(trial, evaluation.thresholds)
    assert trial.leaked == [True, False, False]
    assert [(w.example, w.leaked) for w in worst_examples(evaluation.main_metric, [trial])] == [(0, True)]
    share = leaked_share([trial])
    assert share is not None
    assert (share.hits, share.n) == (1, 3)


class NaNs(torch.nn.Module):
    """A network whose loss is NaN for nearly every input but the private ones."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(192, 10)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        noise_like = z.detach().std() < 1.15  # uniform pixels have 1.27 after normalisation, a random start 1
        return self.head(z.flatten(1)) * (torch.nan if noise_like else 1.0)


def test_a_search_that_saw_only_nan_is_not_converged(tmp_path: Path) -> None:
    model = Model.of(draw_weights(NaNs()), SPEC)
    result = audit({"audit": BRIEF}, n=1, model=model, out=tmp_path / "out")
    trial = result.report.trials[0]
    assert (trial.converged, trial.confidence) == (False, [0.0])
    assert result.report.verdict.exit_code == 3
    assert AuditReport.model_validate_json((tmp_path / "out" / "report.json").read_text()) == result.report


def test_what_decides_results_is_in_the_key(tmp_path: Path) -> None:
    private, plan = batch(2), parse_plan({"audit": BRIEF})
    flipped = private.labels.flip(0)
    other = torch.nn.Sequential(*[torch.nn.ReLU() if isinstance(m, torch.nn.Sigmoid) else m for m in mlp().module])
    variants = [
        {"model": mlp(), "data": (private.inputs, flipped)},
        {"model": replace(mlp(), module=other), "data": (private.inputs, private.labels)},
        {"model": replace(mlp(), input=replace(SPEC, mean=(0.0,))), "data": (private.inputs, private.labels)},
        {"model": mlp(), "data": (private.inputs, private.labels), "redact": True},
    ]
    run_audit(plan, model=mlp(), data=(private.inputs, private.labels), device="cpu", out=tmp_path / "out")
    for variant in variants:
        with pytest.raises(BadInput, match="another plan, model or data"):
            run_audit(plan, device="cpu", out=tmp_path / "out", **variant)


class Dropping(torch.nn.Module):
    """Dropout as a function, which no list of modules shows."""

    def __init__(self, always: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.always = torch.nn.Linear(192, 32), torch.nn.Linear(32, 10), always

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        hidden = self.first(z.flatten(1)).relu()
        return self.second(torch.nn.functional.dropout(hidden, 0.5, self.training or self.always))


def test_dropout_in_train_mode_is_drawn_for_each_client_and_said() -> None:
    model = Model.of(draw_weights(Dropping()), SPEC, training=True)
    plan = {"audit": BRIEF, "client": {"num_examples": 2, "clients": 2}}
    unknown = audit(plan, n=2, model=model).report
    granted = {**plan, "server": {"knows": ["labels", "num_examples", "local_training", "draws"]}}
    known = audit(granted, n=2, model=model).report
    assert "random draws" in [c.topic for c in unknown.caveats]
    assert "random draws" not in [c.topic for c in known.caveats]
    for report in (unknown, known):
        assert report.trials[0].self_check == pytest.approx(0, abs=1e-6), "the evaluation knows the draws"
    assert unknown.trials[0].gradient_norm == known.trials[0].gradient_norm


def test_a_network_that_draws_in_eval_mode_is_refused() -> None:
    with pytest.raises(BadInput, match="random numbers in eval mode"):
        audit({"audit": BRIEF}, model=Model.of(draw_weights(Dropping(always=True)), SPEC))


class Turned(torch.nn.Module):
    """Gradients of its input come with strides of another order."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = torch.nn.Linear(24, 4), torch.nn.Linear(32, 10)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.last(self.layer(z.permute(0, 2, 1, 3).flatten(2)).sigmoid().flatten(1))


@pytest.mark.parametrize("attack", ["dlg", "idlg"])
def test_searches_take_gradients_of_any_strides(attack: str) -> None:
    entry = {"name": attack, "steps": 2, "restarts": 1}
    plan = {"audit": {"attacks": [entry], "metrics": ["psnr"]}, "client": {"num_examples": 1}}
    report = audit(plan, n=1, model=Model.of(draw_weights(Turned()), SPEC)).report
    assert report.trials[0].skipped is None


class Deaf(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(192, 10)

    @torch.no_grad()
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.layer(z.flatten(1))


def test_a_network_that_no_gradient_reaches_is_told() -> None:
    with pytest.raises(BadInput, match="no gradient reaches a parameter"):
        audit({"audit": BRIEF}, model=Model.of(draw_weights(Deaf()), SPEC))


def test_several_labels_at_once_are_computed_as_a_plain_loop_does() -> None:
    net, labels = draw_weights(mlp().own_module()).requires_grad_(), torch.tensor([[1, 0] * 5, [0] * 10, [1] * 10])
    inputs = batch(3).inputs
    plan = parse_plan({"audit": BRIEF, "client": {"num_examples": 1, "loss": "binary_cross_entropy"}})
    report = run_audit(plan, model=Model.of(net, SPEC), data=(inputs, labels), device="cpu").report
    for trial, image, label in zip(report.trials, inputs.split(1), labels.split(1), strict=True):
        answer = net(SPEC.encode(image))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(answer, label.float())
        norm = torch.stack([g.square().sum() for g in torch.autograd.grad(loss, list(net.parameters()))]).sum().sqrt()
        assert trial.gradient_norm == pytest.approx(float(norm), rel=1e-5)
        assert trial.self_check == pytest.approx(0, abs=1e-6)


def test_labels_that_the_model_does_not_know_are_refused() -> None:
    data = (batch(2).inputs, torch.tensor([0, 10]))
    with pytest.raises(BadInput, match=r"labels up to 10, the model knows 10 classes"):
        run_audit(parse_plan({"audit": BRIEF}), model=mlp(), data=data, device="cpu")


def test_a_given_model_is_described_and_the_plans_model_refused() -> None:
    environment = audit({"audit": BRIEF}, n=1, model=conv_bn(training=True)).report.environment
    assert environment.model.startswith("the caller's Sequential")
    assert environment.model.endswith("train mode")
    with pytest.raises(BadInput, match=r"the plan sets model\.name, but a model was given"):
        audit({"audit": BRIEF, "model": {"name": "lenet"}})


def test_public_data_reach_a_malicious_server_only_if_granted() -> None:
    def seen(knows: list[str]) -> Batch | None:
        table = {
            "server": {"knows": knows, "public": {"name": "photos", "split": "public", "indices": "0:4", "size": 8}}
        }
        pool = from_tensors(batch(1).inputs, batch(1).labels)
        return prepare(parse_plan(table), torch.device("cpu"), model=mlp(), pool=pool).granted_public

    assert seen(["labels"]) is None
    granted = seen(["labels", "public_data"])
    assert granted is not None
    assert len(granted) == 4


def test_only_as_many_candidates_are_scored_as_there_are_examples() -> None:
    many = Reconstruction(
        torch.rand(5, 3, 8, 8, generator=stream(0, "c")), confidence=torch.tensor([0.1, 0.9, 0.2, 0.8, 0.3])
    )
    kept = most_confident(many, 2)
    assert torch.equal(kept.inputs, many.inputs[[1, 3]])
    assert "5 candidates" in kept.notes[-1]
    assert most_confident(many, 5) is many


def test_one_update_of_zero_does_not_end_the_audit() -> None:
    images = batch(2).inputs
    dead = mlp()
    zero = {k: torch.zeros_like(v) for k, v in dead.params.items()}
    zero["3.bias"][0] = 1e9  # certain of class 0, and wrong about class 1
    plan = parse_plan({"audit": BRIEF})
    data = (images, torch.tensor([0, 1]))
    report = run_audit(plan, model=dead.with_params(zero), data=data, device="cpu").report
    assert [bool(t.skipped) for t in report.trials] == [True, False]


def test_fresh_removes_only_what_fedspill_wrote(tmp_path: Path) -> None:
    out = tmp_path / "out"
    audit({"audit": BRIEF}, out=out)
    (out / "notes.txt").write_text("mine")
    audit({"audit": BRIEF}, out=out, fresh=True)
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "report.json").is_file()


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    audit({"audit": BRIEF})
    assert torch.equal(torch.get_rng_state(), before)


def test_under_a_budget_closed_forms_go_first_and_the_report_keeps_the_plans_order() -> None:
    turns = list[str]()

    class Listening(Silent):
        def trial(self, number: int, total: int, name: str) -> None:
            turns.append(name.split("-")[0])

    table = {"attacks": [*BRIEF["attacks"], "linear_layer"], "metrics": ["psnr"], "budget": "60s"}
    report = audit({"audit": table}, n=1, listener=Listening()).report
    assert turns == ["linear_layer", "inverting_gradients"]
    assert [t.attack for t in report.trials] == ["inverting_gradients", "linear_layer"]


def test_attacks_run_on_what_a_server_with_a_readout_made_too() -> None:
    plan = parse_plan(
        {
            "audit": {"attacks": [{"name": "inverting_gradients", "preset": "quick", "steps": 3}]},
            "model": {"name": "mlp"},
            "data": {"name": "photos", "size": 16, "indices": "0:2"},
            "client": {"num_examples": 2},
            "server": {"tampering": "robbing_the_fed:quick"},
        }
    )
    trial = run_audit(plan, device="cpu").report.trials[0]
    assert trial.added_parameters == 128 * (768 + 1) + 768 * (128 + 1)
    assert trial.role == "malicious architecture"
    assert trial.self_check is not None
    assert trial.self_check < 1e-6
