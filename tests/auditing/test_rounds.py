"""A federation over rounds from a plan: what is attacked in which round, by whom, and what a dormant module gives."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

import fedspill
from fedspill.attacks.linear_layer import LinearLayer
from fedspill.auditing.run import AuditResult
from fedspill.auditing.scheduling import schedule
from fedspill.auditing.servers import Servers
from fedspill.core.errors import BadInput
from fedspill.core.model import Model
from fedspill.core.types import Reconstruction, Update
from fedspill.rendering.facts import private_examples
from fedspill.report.trial import Trial
from tests.support.audits import EXACT, audit
from tests.support.worlds import SPEC, batch, draw_weights, mlp

LR = {"client": {"protocol": "fedavg", "lr": 0.05, "epochs": 1}}


def run(
    federation: dict, *, attacks: list, n: int = 8, out: Path | None = None, model: Model | None = None, **more: object
) -> AuditResult:
    plan = {"audit": {**EXACT, "attacks": attacks}, "federation": federation, **LR, **more}
    return audit(plan, n=n, model=model or mlp(), out=out)


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
    result = run({"rounds": 2, "sizes": clients}, attacks=["linear_layer", "inverting_gradients"])
    searched = [t for t in result.report.trials if t.attack == "inverting_gradients"]
    assert len(searched) == 1
    assert all("equally many" in (t.skipped or "") for t in searched)
    assert ran(result)
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


FOUR = {"rounds": 4, "sizes": [1, 2, 1], "observed": [1, 3], "observes": "each"}


def plain_trajectory(model: Model, data: object, count: int, lr: float) -> list[tuple[float, float]]:
    """Accuracy and loss before each round of FedAvg with one full-batch step: gradient descent on all examples."""
    net, found = model.module, list[tuple[float, float]]()
    net.load_state_dict({**model.params, **model.buffers})
    z, labels = SPEC.encode(data.inputs), data.labels  # type: ignore[attr-defined]
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    for _ in range(count):
        net.zero_grad()
        logits = net(z)
        loss = functional.cross_entropy(logits, labels)
        found.append((float((logits.argmax(1) == labels).double().mean()), loss.item()))
        loss.backward()
        optimizer.step()
    return found


def test_accuracy_and_loss_before_every_round_are_those_of_a_plain_loop() -> None:
    rounds = run(FOUR, attacks=["linear_layer"], n=4).report.rounds
    wanted = plain_trajectory(mlp(), batch(4), 4, 0.05)
    assert [(r.number, r.world, r.clients, r.examples, r.n) for r in rounds] == [
        (k, None, [0, 1, 2], 4, 4) for k in range(4)
    ]
    assert [r.accuracy for r in rounds] == [accuracy for accuracy, _ in wanted]
    assert [r.loss for r in rounds] == pytest.approx([loss for _, loss in wanted], rel=1e-4)
    assert len({r.loss for r in rounds}) == 4, "the model moves"


def test_a_round_says_what_leaked_in_it() -> None:
    result = run(FOUR, attacks=["linear_layer"], n=4)
    for one in result.report.rounds:
        here = [t for t in ran(result) if t.round == one.number]
        if one.number not in (1, 3):
            assert (one.observer, one.leakage, one.worst) == (None, None, None)
            continue
        assert one.observer == "server"
        assert one.leakage is not None
        assert (one.leakage.hits, one.leakage.n) == (sum(sum(t.leaked or []) for t in here), 4)
        assert one.leakage.hits >= 2
        values = [v for t in here for s in t.scores if s.metric == "psnr" for v in s.values if v is not None]
        assert one.worst is not None
        assert one.worst.value == max(values)


def test_every_altering_server_has_a_history_of_its_own() -> None:
    attacks = ["linear_layer", {**DORMANT, "cutoffs": "laplace", "active_from": 1}]
    federation = {"rounds": 3, "sizes": [2, 2], "observed": [0, 2], "server_lr": 0.1}
    more = {"server": {"role": "malicious architecture"}, "client": {"protocol": "fedsgd"}}
    rounds = run(federation, attacks=attacks, n=4, **more).report.rounds
    assert [(r.number, (r.world or "")[:15]) for r in rounds] == [
        *((k, "") for k in range(3)), *((k, "robbing_the_fed") for k in range(3)),
    ]  # fmt: skip
    plain, altered = rounds[:3], rounds[3:]
    wanted = plain_trajectory(mlp(), batch(4), 3, 0.1)
    assert [r.loss for r in plain] == pytest.approx([loss for _, loss in wanted], rel=1e-4)
    assert plain[0].loss == altered[0].loss, "before the first round nothing was altered"
    assert plain[2].loss != altered[2].loss
    assert "dormant" in (altered[0].untested or "")
    assert altered[2].leakage is not None
    assert altered[2].untested is None


class Killed(Exception):
    """Stands for a kill."""


def test_a_killed_audit_keeps_its_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attacks, one_each = ["linear_layer"], {"rounds": 3, "sizes": [1, 1], "observed": [1, 2]}
    whole = run(one_each, attacks=attacks, n=2).report.rounds
    done, walked, real, run_rounds = list[str](), list[str](), schedule.run_trial, Servers._run

    def killed(servers: Servers, task: object, *rest: object) -> object:
        if len(done) == 1:
            raise Killed
        done.append(task.name)  # type: ignore[attr-defined]
        return real(servers, task, *rest)  # type: ignore[arg-type]

    def counted(servers: Servers, world: object, seed: int, rounds: object, watch: object) -> object:
        walked.append(world.label)  # type: ignore[attr-defined]
        return run_rounds(servers, world, seed, rounds, watch)  # type: ignore[arg-type]

    out = tmp_path / "out"
    monkeypatch.setattr(schedule, "run_trial", killed)
    with pytest.raises(Killed):
        run(one_each, attacks=attacks, n=2, out=out)
    monkeypatch.setattr(schedule, "run_trial", real)
    kept = out / "rounds" / "plain.json"
    assert [r["number"] for r in json.loads(kept.read_text())] == [0, 1, 2]
    assert run(one_each, attacks=attacks, n=2, out=out).report.rounds == whole
    monkeypatch.setattr(Servers, "_run", counted)
    assert run(one_each, attacks=attacks, n=2, out=out).report.rounds == whole
    assert walked == [], "all is on record"
    for damaged in ("[]", None):
        kept.unlink() if damaged is None else kept.write_text(damaged)
        assert run(one_each, attacks=attacks, n=2, out=out).report.rounds == whole
        assert json.loads(kept.read_text())[2]["loss"] == whole[2].loss


def test_a_federation_that_diverges_is_told_in_one_line() -> None:
    client = {"protocol": "fedavg", "lr": 1e39, "epochs": 2}
    with pytest.raises(BadInput, match="the federation diverged"):
        run({"rounds": 3, "sizes": [2, 2], "observed": [2]}, attacks=["linear_layer"], n=4, client=client)


def test_an_example_that_several_rounds_tell_of_counts_once() -> None:
    report = run(FOUR, attacks=["linear_layer"], n=4).report
    leaked = {e for t in report.trials for e, hit in zip(t.examples, t.leaked or [], strict=True) if hit}
    assert report.leakage_rate is not None
    assert (report.leakage_rate.hits, report.leakage_rate.n) == (len(leaked), 4)
    assert sorted(w.example for w in report.worst) == [0, 1, 2, 3]
    assert private_examples(report) == 4


def test_a_head_that_is_fine_tuned_over_rounds_moves_alone() -> None:
    client = {**LR["client"], "trainable": ["3.*"]}
    searched = [{"name": "inverting_gradients", "steps": 3, "restarts": 1}]
    result = run({"rounds": 3, "sizes": [1, 1], "observed": [0, 2]}, attacks=searched, n=2, client=client)
    report = result.report
    assert [r.observer for r in report.rounds] == ["server", None, "server"]
    assert report.rounds[0].loss != report.rounds[2].loss
    assert all(t.self_check == pytest.approx(0, abs=1e-6) for t in ran(result))
    assert "between 0 and 2" in " ".join(report.not_tested)
    assert "rounds 0, 2" in " ".join(report.not_tested)


def test_another_client_that_looks_on_is_named() -> None:
    federation = {"rounds": 2, "sizes": [1, 2, 1], "observed": [0, 1], "observer": "client", "as_client": 2}
    report = run(federation, attacks=["linear_layer"], n=4).report
    assert [r.observer for r in report.rounds] == ["client 2", "client 2"]
    assert any("sees more than client 2" in line for line in report.not_tested)
    assert "Updates of rounds later than 1." in report.not_tested


@pytest.mark.parametrize("observer", ["server", "client"])
def test_running_statistics_of_the_round_reach_the_attack(observer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    got, asked = list[Update](), LinearLayer.reconstruct

    def heard(attack: LinearLayer, update: Update, *rest: object) -> Reconstruction:
        got.append(update)
        return asked(attack, update, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(LinearLayer, "reconstruct", heard)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.BatchNorm1d(16), nn.Sigmoid(), nn.Linear(16, 10))
    model = Model.of(draw_weights(net), SPEC, training=True)
    federation = {"rounds": 2, "sizes": [2, 3], "observed": [0, 1], "observer": observer, "as_client": 0}
    run(federation, attacks=["linear_layer"], n=5, model=model)
    for number, update in enumerate(got):
        assert update.buffers is not None
        if number == 0:  # one local step each: 0.9 of the start, 0.1 of what the batch shows
            first = Model.of(net, SPEC).module[1](SPEC.encode(batch(5).inputs).flatten(1))  # type: ignore[index]
            means = torch.stack([first[:2].mean(0), first[2:].mean(0)])
            wanted = 0.1 * (means[1] if observer == "client" else 0.4 * means[0] + 0.6 * means[1])
            assert torch.allclose(update.buffers["2.running_mean"], wanted, atol=1e-5)
    assert not torch.equal(*(u.buffers["2.running_mean"] for u in got if u.buffers))


def test_lost_rounds_of_an_altering_server_are_run_again(tmp_path: Path) -> None:
    federation = {"rounds": 2, "sizes": [2, 2], "server_lr": 0.1}
    more = {"server": {"role": "malicious architecture"}, "client": {"protocol": "fedsgd"}, "out": tmp_path / "out"}
    attacks = [{**DORMANT, "cutoffs": "laplace", "active_from": 1}]
    first = run(federation, attacks=attacks, n=4, **more).report.rounds
    (kept,) = (tmp_path / "out" / "rounds").glob("*.json")
    kept.write_bytes(b"\xff")
    assert run(federation, attacks=attacks, n=4, **more).report.rounds == first
    assert [r.number for r in first] == [0, 1]
    assert first[1].leakage is not None


def test_noise_on_an_update_of_nothing_is_attacked_and_not_divided_by() -> None:
    still = {
        "audit": {"attacks": ["linear_layer"], "metrics": ["psnr"], "budget": 5.0},
        "model": {"name": "mlp", "hidden": [4]},
        "data": {"name": "photos", "size": 4, "indices": "0:2"},
        "client": {"protocol": "fedavg", "lr": 1e-20},
        "federation": {"rounds": 2, "sizes": [1, 1]},
        "defences": [{"name": "gradient_noise", "sigma": 1e-3}],
    }
    (trial,) = fedspill.audit(still).report.trials
    assert trial.skipped is None
    assert trial.self_check is None
