"""A federation over rounds from a plan: what is attacked in which round, by whom, and what a dormant module gives."""

import pytest

from fedspill.auditing.run import AuditResult
from fedspill.core.errors import BadInput
from fedspill.report.trial import Trial
from tests.support.audits import EXACT, audit
from tests.support.worlds import mlp

LR = {"client": {"protocol": "fedavg", "lr": 0.05, "epochs": 1}}


def run(federation: dict, *, attacks: list, n: int = 8, **more: object) -> AuditResult:
    plan = {"audit": {**EXACT, "attacks": attacks}, "federation": federation, **LR, **more}
    return audit(plan, n=n, model=mlp())


def ran(result: AuditResult) -> list[Trial]:
    return [t for t in result.report.trials if t.skipped is None]


def test_each_client_of_each_observed_round_is_attacked() -> None:
    result = run({"rounds": 4, "sizes": [1, 2, 1], "observed": [0, 3], "observes": "each"}, attacks=["linear_layer"])
    trials = result.report.trials
    assert [(t.round, t.examples) for t in trials] == [
        (0, [0]), (0, [1, 2]), (0, [3]), (3, [0]), (3, [1, 2]), (3, [3]),
    ]  # fmt: skip
    assert all(t.self_check == pytest.approx(0, abs=1e-6) for t in trials)
    assert [t.leaked for t in trials if len(t.examples) == 1] == [[True]] * 4
    assert len({t.gradient_norm for t in trials}) == 6, "the model moves"


@pytest.mark.parametrize("clients", [[2, 1], [3, 1, 2]])
def test_the_mean_of_unequal_clients_is_not_searched_as_if_they_were_equal(clients: list[int]) -> None:
    result = run({"rounds": 2, "sizes": clients}, attacks=["standard"])
    searched = next(t for t in result.report.trials if t.attack == "inverting_gradients")
    assert "equally many" in (searched.skipped or "")
    assert all(t.self_check == pytest.approx(0, abs=1e-6) for t in ran(result))


def test_another_client_reads_what_the_others_sent() -> None:
    federation = {
        "rounds": 2,
        "sizes": [2, 1],
        "observer": "client",
        "as_client": 0,
        "server_lr": 0.5,
        "server_momentum": 0.9,
    }
    (trial,) = run(federation, attacks=["linear_layer"]).report.trials
    assert (trial.round, trial.examples, trial.leaked) == (1, [2], [True])


DORMANT = {"name": "robbing_the_fed", "preset": "sparse", "rows": 64, "active_from": 5}


def test_a_dormant_imprint_is_read_in_the_round_in_which_it_wakes() -> None:
    federation = {"rounds": 6, "sizes": [2, 2], "observed": [4, 5], "server_lr": 0.1}
    more = {"server": {"role": "malicious architecture"}}
    dormant, awake = run(
        federation, attacks=[{**DORMANT, "cutoffs": "laplace"}], n=4, client={"protocol": "fedsgd"}, **more
    ).report.trials
    assert (dormant.round, awake.round) == (4, 5)
    assert "dormant" in (dormant.skipped or "")
    assert awake.predicted is not None
    assert awake.predicted.both == awake.predicted.predicted > 0
    assert sum(awake.leaked or []) >= awake.predicted.both


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rounds": 2, "observed": [2]}, r"observed=\[2\]"),
        ({"rounds": 2, "sizes": [5, 9]}, "need 14, the data has 8"),
        ({"rounds": 1, "sizes": [3], "observer": "client"}, "one of several"),
        ({"rounds": 1, "sizes": [3, 1], "observer": "client", "as_client": 7}, "client 7 looks on"),
        ({"rounds": 1, "observer": "client", "observes": "each"}, "sees global models"),
    ],
)
def test_what_cannot_be_is_named(change: dict, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        run(change, attacks=["linear_layer"])
    with pytest.raises(BadInput, match="server_lr is missing"):
        run({"rounds": 2}, attacks=["linear_layer"], client={"protocol": "fedsgd"})
