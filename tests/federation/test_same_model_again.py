"""A server that sends the same model again: the mean of the answers, their noise, and what is bounded."""

import pytest
import torch

from fedspill.auditing import parse_plan, run_audit
from fedspill.core.errors import BadInput
from fedspill.core.knowledge import KnownDefence
from fedspill.core.local_training.update import FedSGD, local_update, mean_update
from fedspill.core.types import Update, UpdateKind
from fedspill.federation.aggregation import mean_of_answers
from fedspill.report.schema import AuditReport
from tests.support.worlds import batch, mlp

NOISE = {"name": "gradient_noise", "sigma": 0.3, "relative": True, "distribution": "gaussian"}


def audited(repeats: int, *defences: dict, **client: object) -> AuditReport:
    table = {
        "audit": {"attacks": ["linear_layer"], "metrics": ["psnr"], "identification": [], "seeds": [0, 1, 2]},
        "client": client,
        "server": {"repeats": repeats},
        "defences": list(defences),
    }
    private = batch(1)
    return run_audit(parse_plan(table), model=mlp(), data=(private.inputs, private.labels), device="cpu").report


def psnr(report: AuditReport) -> float:
    values = [t.scores[0].mean for t in report.trials]
    return sum(v for v in values if v is not None) / len(values)


def test_the_mean_is_that_of_plain_pytorch_and_of_equal_answers_the_answer() -> None:
    updates = [local_update(mlp(), batch(n), FedSGD()) for n in (1, 2, 3)]
    mean = mean_of_answers([updates[0], None, *updates[1:]])
    assert mean is not None
    for key, value in mean_update(updates).values.items():
        torch.testing.assert_close(mean.values[key], value)
    same = mean_of_answers([updates[0]] * 7)
    assert same is not None
    assert all(torch.equal(same.values[k], v) for k, v in updates[0].values.items())
    assert mean_of_answers([updates[0]]) is updates[0]
    assert mean_of_answers([None]) is None


def test_noise_falls_by_the_root_of_the_answers() -> None:
    draws = torch.Generator().manual_seed(0)
    sent = (Update(UpdateKind.GRADIENT, {"w": torch.randn(10_000, generator=draws)}) for _ in range(25))
    mean = mean_of_answers(sent)
    assert mean is not None
    assert mean.values["w"].std().item() == pytest.approx(0.2, rel=0.03)
    known = KnownDefence(names=("x",), noise=1.0, noise_share=0.5).averaged(25)
    assert (known.noise, known.noise_share, known.noise_of_sum) == (0.2, 0.1, None)


def test_hundred_answers_are_read_as_one_with_a_tenth_of_the_noise() -> None:
    once, again = psnr(audited(1, NOISE)), psnr(audited(100, NOISE))
    tenth = psnr(audited(1, {**NOISE, "sigma": 0.03}))
    assert again > once + 8
    assert again == pytest.approx(tenth, abs=3)


def test_without_noise_nothing_changes_and_a_caveat_says_what_the_server_did() -> None:
    once, again = audited(1), audited(3)
    assert psnr(once) == psnr(again)
    assert [c.topic for c in again.caveats if c.topic == "same model"] == ["same model"]
    assert not [c for c in once.caveats if c.topic == "same model"]


def test_what_is_bounded_is_of_all_answers() -> None:
    private = {"name": "local_dp", "clip": 1.0, "epsilon": 8.0}
    once, again = (audited(n, private).bounds for n in (1, 16))
    assert once is not None
    assert again is not None
    assert (once.rounds, again.rounds) == (1, 16)
    assert once.mu is not None
    assert again.mu == pytest.approx(4 * once.mu)


@pytest.mark.parametrize(
    ("defence", "match"),
    [
        ({"name": "pruning", "share": 0.5}, "of pruning no mean is taken"),
        ({"name": "quantisation", "bits": 1}, "of quantisation no mean is taken"),
        ({"name": "mixup", "k": 2}, "of mixup no mean is taken"),
    ],
)
def test_what_is_more_than_noise_is_refused(defence: dict, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        audited(2, defence)


def test_a_federation_has_rounds_of_its_own() -> None:
    table = {"server": {"repeats": 2}, "federation": {"rounds": 2, "server_lr": 0.1}}
    with pytest.raises(BadInput, match="leave repeats out"):
        run_audit(parse_plan(table), device="cpu")


def test_a_plan_without_it_keeps_its_digest() -> None:
    plan = parse_plan({"server": {"repeats": 1}})
    assert "repeats" not in plan.server.model_dump()
    assert parse_plan({"server": {"repeats": 4}}).server.model_dump()["repeats"] == 4
