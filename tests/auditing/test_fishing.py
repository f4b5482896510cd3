"""Fishing in audits: over the rounds of a federation, within `standard`, and before the plan's own attacks."""

import torch

from fedspill.auditing.run import AuditResult
from fedspill.core.model import Model
from fedspill.report.trial import Trial
from tests.support.audits import audit
from tests.support.networks import smooth_net
from tests.support.worlds import mlp, relu_mlp

KNOWS = ["num_examples", "local_training"]
STILL = {"server_lr": 1e-3}


def run(attacks: list, *, model: Model, n: int, **more: object) -> AuditResult:
    server = {"role": "malicious parameters", "knows": KNOWS, **more.pop("server", {})}  # pyright: ignore
    plan = {"audit": {"attacks": attacks, "metrics": ["psnr"]}, "client": {"num_examples": n}, "server": server, **more}
    return audit(plan, n=n, model=model)


def leaked(trial: Trial) -> int:
    return sum(trial.leaked or [])


def test_the_second_round_reads_a_picture_of_a_class_that_the_first_one_found() -> None:
    # Labels 0 to 9 and once more 0 to 2: seven classes have one example.
    federation = {"rounds": 2, "observed": [1], **STILL}
    fishing = {"name": "class_fishing", "preset": "quick", "steps": 2}
    (trial,) = run([fishing], model=smooth_net(torch.float32), n=13, federation=federation).report.trials
    assert (trial.role, trial.converged, leaked(trial)) == ("malicious parameters", True, 1)
    assert trial.self_check is not None
    assert trial.self_check < 1e-6
    assert trial.added_parameters == 0
    assert trial.notes[0].endswith("1 of 13 examples speak.")


def test_cutoffs_move_over_the_rounds_of_a_federation() -> None:
    federation = {"rounds": 10, "observed": [0, 9], **STILL}
    fishing = {"name": "feature_fishing", "preset": "quick", "steps": 2}
    scouting, last = run([fishing], model=smooth_net(torch.float32), n=7, federation=federation).report.trials
    assert (leaked(scouting), leaked(last)) == (0, 1)
    assert scouting.converged is False
    assert last.labels is not None
    assert last.labels.source == "none"


def test_the_plans_attacks_get_what_is_isolated() -> None:
    server = {"tampering": {"name": "class_fishing", "preset": "quick", "target": 2}}
    result = run(["linear_layer"], model=mlp(), n=8, server=server)
    (trial,) = result.report.trials
    assert (trial.role, trial.converged, leaked(trial)) == ("malicious parameters", True, 1)
    honest = run(["linear_layer"], model=mlp(), n=8).report.trials[0]
    assert leaked(honest) == 0


def test_a_tampering_before_the_plans_attacks_goes_on_from_round_to_round() -> None:
    federation = {"rounds": 9, **STILL}
    server = {"tampering": "feature_fishing:quick"}
    (trial,) = run(["linear_layer"], model=mlp(), n=8, federation=federation, server=server).report.trials
    assert leaked(trial) == 1
    assert trial.notes[0].endswith("1 of 8 examples speak.")


def test_an_update_without_anybody_rebuilds_nobody() -> None:
    server = {"tampering": {"name": "class_fishing", "target": 9}}
    (trial,) = run(["linear_layer"], model=relu_mlp(), n=3, server=server).report.trials
    assert trial.skipped is None
    assert (leaked(trial), trial.notes) == (0, ["No example speaks: the batch holds none of class 9."])


def test_standard_tries_both() -> None:
    result = audit(
        {
            "audit": {"attacks": ["standard:quick"], "metrics": ["psnr"], "budget": "8s"},
            "server": {"role": "malicious parameters", "knows": KNOWS},
        },
        n=1,
        model=relu_mlp(),
    )
    tried = {t.attack: t for t in result.report.trials}
    assert {"class_fishing", "feature_fishing"} <= set(tried)
