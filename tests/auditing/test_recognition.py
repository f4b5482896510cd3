"""What an audit calls recognisable: pictures, sentences and rows that did not leak, beside others and a guess."""

from dataclasses import replace

import torch

import fedspill
from fedspill.auditing.recognition import recognisable
from fedspill.auditing.resolving.scenario import Scenario, prepare
from fedspill.core.types import Batch
from fedspill.plan.file import parse_plan
from fedspill.zoo.data import load

POOL = load("photos", size=16)
PRIVATE = POOL.batch.inputs[[120, 130]]


def scenario(**plan: object) -> Scenario:
    table = {"audit": {"attacks": ["linear_layer"]}, "model": {"name": "mlp"}, **plan}
    table["data"] = {"name": "photos", "size": 16, "indices": "120,130", **table.get("data", {})}
    return prepare(parse_plan(table), torch.device("cpu"))


def flags(rebuilt: torch.Tensor, made: Scenario, matched: list[int | None]) -> list[bool] | None:
    private = Batch(PRIVATE, torch.zeros(2, dtype=torch.long))
    return recognisable(made, rebuilt, private, matched, [False, False])


def test_each_picture_is_told_from_the_others_of_the_plan_and_from_photographs() -> None:
    made = scenario()
    noise = 0.1 * torch.randn(PRIVATE.shape, generator=torch.Generator().manual_seed(0))
    assert flags((PRIVATE + noise).clamp(0, 1), made, [0, 1]) == [True, True]
    assert flags((PRIVATE + noise).clamp(0, 1), made, [None, 1]) == [False, True], "nothing was matched to the first"
    assert flags((PRIVATE + noise).flip(0), made, [0, 1]) == [False, False], "each is told to be the other"
    assert flags(torch.full_like(PRIVATE, 0.5), made, [0, 1]) == [False, False]


def test_what_leaked_is_recognisable_and_without_thresholds_nothing_is_judged() -> None:
    made, private = scenario(), Batch(PRIVATE, torch.zeros(2, dtype=torch.long))
    assert recognisable(made, PRIVATE[:0], private, [None, None], [True, False]) == [True, False]
    loose = replace(made, evaluation=replace(made.evaluation, thresholds={}))
    assert recognisable(loose, PRIVATE, private, [0, 1], None) is None


def test_a_picture_below_the_threshold_that_everyone_knows_fails_an_audit_unless_the_policy_allows_it() -> None:
    """The update of a fully connected layer, with noise on it: read at 15 dB."""
    plan = {
        "audit": {"attacks": ["linear_layer"]},
        "model": {"name": "mlp"},
        "data": {"name": "photos", "size": 16, "indices": "120"},
        "defences": [{"name": "gradient_noise", "sigma": 1e-2}],
        "server": {"knows_defence": False},
    }
    report = fedspill.audit(plan).report
    (trial,) = report.trials
    assert 14 < trial.scores[0].values[0] < 16
    assert (trial.leaked, trial.recognisable) == ([False], [True])
    assert (report.verdict.name.value, report.verdict.exit_code) == ("recognisable", 1)
    assert report.worst[0].recognisable
    assert [r.name.value for r in report.verdict.by_role] == ["recognisable"]
    allowed = fedspill.audit({**plan, "policy": {"fails": ["leaks"]}}).report.verdict
    assert (allowed.name.value, allowed.exit_code) == ("recognisable", 3), "of leaks nothing can be said"


def test_a_sentence_half_of_which_is_right() -> None:
    pool = load("sentences", length=16)
    data = {"name": "sentences", "length": 16, "indices": "0:60"}
    plan = parse_plan({"data": data, "model": {"name": "transformer", "width": 8}})
    made = prepare(plan, torch.device("cpu"))
    private = Batch(pool.batch.inputs[:1], pool.batch.labels[:1])
    half, none = private.inputs.clone(), torch.zeros_like(private.inputs)
    half[:, 10:] = 0
    assert recognisable(made, half, private, [0], [False]) == [True]
    assert recognisable(made, none, private, [0], [False]) == [False]
