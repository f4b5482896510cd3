"""Heads that leak representations: objective, baselines, training that resumes, and the command."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from fedspill.cli.main import app
from fedspill.core.errors import BadInput
from fedspill.core.rng import rand, randn, stream
from fedspill.core.roles import State, Unwatched
from fedspill.core.settings import with_fields
from fedspill.core.tensor_files import read_metadata, read_tensors
from fedspill.inversion.representations.heads.making import make_head
from fedspill.inversion.representations.heads.settings import PAPER, SpAB
from fedspill.inversion.representations.heads.spab_training import column_sparsity, expected_loss
from fedspill.inversion.representations.heads.weights import HeadWeights, Kind, check_kind
from fedspill.inversion.theory.ownership import expected_leakage, leakage_rates
from fedspill.plan.file import parse_as
from fedspill.training.leaking_head import train_spab
from fedspill.training.plan import SpabPlan
from fedspill.training.spab_search import suggested
from fedspill.training.state import Silent

LIKE = torch.zeros(())
SHORT = {"epochs": 6, "steps": 8, "minibatch": 64, "sizes": (8, 32)}
QUICK = with_fields(SpAB(), **SHORT, lr=2e-2, leakage=1.0, shrinkage=3.0, dense=0.1, frequent=0.1)
CPU = torch.device("cpu")


def public(n: int = 600) -> tuple[Tensor, Tensor]:
    """Non-negative representations of very different norms, with four classes on directions of their own."""
    rng = stream(0, "features")
    labels = torch.arange(n) % 4
    centres = 2 * rand((4, 24), stream(0, "centres"), LIKE)
    size = 0.3 + 2 * rand((n, 1), rng, LIKE)
    return size * (centres[labels] + randn((n, 24), rng, LIKE)).relu(), labels


def made(kind: Kind, settings: SpAB = QUICK, width: int = 48, **watch: object) -> HeadWeights:
    features, labels = public()
    return make_head(kind, features, labels, 4, width, settings, stream(0, "head"), **watch)  # type: ignore[arg-type]


def fresh() -> Tensor:
    return public(1600)[0][600:]


def test_rows_of_the_quantile_head_fire_at_its_rate() -> None:
    features, _ = public()
    for rate in (0.25, 0.1, 0.02):
        head = made("quantile", replace(QUICK, quantile=rate))
        fires = [int((features @ w + b > 0).sum()) for w, b in zip(head.weight, head.bias, strict=True)]
        assert sum(fires) / (48 * 600) == pytest.approx(rate, abs=1 / 600)


def test_the_terms_are_what_they_say() -> None:
    z = randn((32, 10), stream(0, "z"), LIKE).double()
    columns = [
        sum(max(0.0, float(v)) for v in z[:, j]) + 3.0 * float((-z[:, j].max()).exp().log1p()) for j in range(10)
    ]
    assert float(column_sparsity(z, 3.0)) == pytest.approx(sum(columns) / 32)
    entries = [max(0.0, float(v)) + 3.0 * float((-v).exp().log1p()) for v in z.flatten()]
    assert float(column_sparsity(z, 3.0, "entries")) == pytest.approx(sum(entries) / 32)
    wanted = -sum(w * (expected_leakage(z, s) + 1e-3).log().mean() for s, w in ((8, 4.0), (16, 1.0)))
    torch.testing.assert_close(expected_loss(z, (8, 16), 2.0), wanted)
    torch.testing.assert_close(expected_loss(z, (12,), 0.4), expected_loss(z[:24], (12,), 0.4))


def test_batches_larger_than_the_data_are_judged_by_the_rates_of_rows() -> None:
    u = 40 * (rand((40, 30), stream(0, "u"), LIKE).double() - 0.95).sign()
    fires, rng = u > 0, stream(0, "draw")
    found = torch.zeros(40)
    for _ in range(300):
        others = fires[torch.randint(40, (99,), generator=rng)]
        found += (fires & ~others.any(0)).any(1)
    # Rows are no longer independent of each other once the others' are drawn together, hence the tolerance.
    assert float(expected_leakage(u, 100).mean()) == pytest.approx(float(found.mean()) / 300, abs=0.03)


def test_training_raises_leakage_and_keeps_accuracy() -> None:
    features, labels = public(1600)[0][600:], public(1600)[1][600:]
    heads = {kind: made(kind, with_fields(QUICK, epochs=20), 96) for kind in ("plain", "random", "quantile", "spab")}
    rates = {k: (h.leakage(features, 8), h.leakage(features, 32)) for k, h in heads.items()}
    for kind in ("plain", "random", "quantile"):
        assert rates["spab"][0] > rates[kind][0], rates
        assert rates["spab"][1] > rates[kind][1], rates
    assert heads["spab"].accuracy(features, labels) > heads["plain"].accuracy(features, labels) - 0.1
    assert heads["spab"].leakage(features, 32) == pytest.approx(
        float(leakage_rates(heads["spab"].outputs(features), 32).mean())
    )


def test_wrong_labels_are_learned_where_asked() -> None:
    features, labels = public()
    head = made("spab", with_fields(QUICK, epochs=20, mislabel=True), 96)
    assert head.accuracy(features, labels) < 0.15
    assert head.accuracy(features, (labels + 1) % 4) > 0.6


@pytest.mark.parametrize("kind", ["plain", "random", "quantile", "spab"])
def test_the_same_seed_gives_the_same_head_and_no_global_generator_is_touched(kind: Kind) -> None:
    before = torch.get_rng_state()
    one, two = made(kind), made(kind)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(two).values(), strict=True))
    x = fresh()[:5]
    torch.testing.assert_close(one.module()(x), one.logits(x))


class Killed(Exception):
    pass


class Keeper(Unwatched):
    """Keeps the state as a file would, and kills the training after some epochs."""

    def __init__(self, path: Path, limit: int | None) -> None:
        self.path, self.limit = path, limit

    def progress(self, done: int, total: int, objective: float) -> None:
        assert 0 <= objective <= 2

    def save(self, state: object, *, last: bool = False) -> None:
        assert callable(state)
        torch.save(state(), self.path)
        if self.limit is not None and torch.load(self.path, weights_only=True)["numbers"][0] == self.limit:
            raise Killed

    def load(self) -> State | None:
        return torch.load(self.path, weights_only=True) if self.path.is_file() else None

    def out_of_time(self) -> bool:
        return False


@pytest.mark.parametrize("settings", [QUICK, with_fields(PAPER, **SHORT)])
def test_a_killed_training_goes_on_bit_for_bit(tmp_path: Path, settings: SpAB) -> None:
    with pytest.raises(Killed):
        made("spab", settings, watch=Keeper(tmp_path / "state", 4))
    resumed, whole = made("spab", settings, watch=Keeper(tmp_path / "state", None)), made("spab", settings)
    assert all(torch.equal(a, b) for a, b in zip(vars(resumed).values(), vars(whole).values(), strict=True))


def test_bad_settings_and_features_are_named() -> None:
    features, labels = public(20)
    for bad, match in [
        (lambda: with_fields(SpAB(), epochs=0), "epochs=0"),
        (lambda: with_fields(SpAB(), sizes=(1,)), "sizes="),
        (lambda: with_fields(SpAB(), rate=0.0), "rate=0"),
        (lambda: with_fields(SpAB(), dense=0.9, frequent=0.2), "dense=0.9"),
        (lambda: with_fields(SpAB(), temperature=(0.3, 0.0)), "temperature="),
        (lambda: with_fields(SpAB(), noise=float("nan")), "noise=nan"),
        (lambda: make_head("spab", features[:1], labels[:1], 4, 8, QUICK, stream(0)), "n >= 2, are needed"),
        (lambda: make_head("spab", features, labels, 3, 8, QUICK, stream(0)), "largest label 3"),
        (lambda: check_kind("none"), "unknown head 'none'"),
    ]:
        with pytest.raises(BadInput, match=match):
            bad()


TABLE = {
    "model": {"name": "cnn", "weights": "untrained", "width": 4, "channels": 4},
    "data": {"name": "photos", "split": "public", "indices": "0:300"},
    "test": {"name": "photos", "split": "private", "indices": "0:64"},
    "head": {"width": 40, "batches": 4},
    "spab": {"epochs": 3, "steps": 2, "minibatch": 32, "sizes": [4, 8]},
}


class Impatient(Silent):
    def progress(self, done: int, total: int, objective: float) -> None:
        if done == 2:
            raise Killed


def test_the_training_of_a_plan_is_resumed_and_writes_a_head(tmp_path: Path) -> None:
    plan, one, two = parse_as(SpabPlan, TABLE), tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    with pytest.raises(Killed):
        train_spab(plan, one, device=CPU, listener=Impatient())
    assert (tmp_path / "one.safetensors.partial").is_file()
    assert not one.is_file()
    report, other = train_spab(plan, one, device=CPU), train_spab(plan, two, device=CPU)
    assert report == other
    tensors, again = read_tensors(one), read_tensors(two)
    assert all(torch.equal(v, again[k]) for k, v in tensors.items())
    assert {k: tuple(v.shape) for k, v in tensors.items()} == {
        "0.weight": (40, 64),
        "0.bias": (40,),
        "2.weight": (report_classes := tensors["2.bias"].shape[0], 40),
        "2.bias": (report_classes,),
    }
    assert [r.size for r in report.rates] == [4, 8]
    assert all(0 <= r.mean <= 1 for r in report.rates)
    assert read_metadata(one)["head"] == "spab"
    assert not (tmp_path / "one.safetensors.partial").is_file()


def test_settings_are_searched_and_a_search_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    plan, out = parse_as(SpabPlan, TABLE), tmp_path / "head.safetensors"
    few = train_spab(plan, out, device=CPU, trials=2)
    assert few.settings["epochs"] == 3
    started = (tmp_path / "head.trials").read_text()
    train_spab(plan, out, device=CPU, trials=3)
    assert (tmp_path / "head.trials").read_text().startswith(started), "trials that are done are not repeated"
    with pytest.raises(BadInput, match="another plan"):
        train_spab(parse_as(SpabPlan, {**TABLE, "head": {"width": 41}}), out, device=CPU, trials=3)


def test_a_search_keeps_the_objective_that_was_asked_for(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(5):
        published, expected = suggested(PAPER, study.ask()), suggested(SpAB(), study.ask())
        assert published.expected.leakage == 0.0
        assert published.rows.start == "constant"
        assert published.rows.constant != PAPER.rows.constant
        assert expected.expected.leakage > 0
        start, end = expected.expected.temperature
        assert 0.1 * start <= end <= start


def test_the_reading_of_the_published_objective_is_one_setting_that_older_plans_do_not_hold(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    entries = parse_as(SpabPlan, {**TABLE, "spab": {**TABLE["spab"], "leakage": 0.0, "alive_over": "entries"}})
    assert entries.spab.columns.alive_over == "entries"
    assert entries.model_dump()["spab"]["alive_over"] == "entries"
    with pytest.raises(BadInput, match="alive_over: Input should be 'maximum' or 'entries'"):
        parse_as(SpabPlan, {"spab": {"alive_over": "columns"}})
    older = parse_as(SpabPlan, TABLE)
    assert older.spab.columns.alive_over == "maximum"
    assert "alive_over" not in older.model_dump()["spab"], "states and trials of older runs are known again"
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [suggested(entries.spab, study.ask()).columns for _ in range(5)]
    assert all(c.alive_over == "entries" and c.alive <= 1 for c in drawn)


def test_both_readings_of_the_published_objective_make_columns_sparse() -> None:
    features = fresh()
    plain = made("plain", with_fields(QUICK, epochs=20), 96)
    for reading, alive in (("maximum", 2.0), ("entries", 0.02)):
        settings = with_fields(PAPER, **SHORT, lr=2e-2, shrinkage=3.0, alive=alive, alive_over=reading)
        head = made("spab", with_fields(settings, epochs=20), 96)
        assert head.leakage(features, 8) > plain.leakage(features, 8), reading
        assert (head.outputs(features) > 0).double().mean() < (plain.outputs(features) > 0).double().mean() / 2


def test_test_examples_come_from_the_source_of_the_data_unless_they_name_another() -> None:
    data = {"name": "digits", "size": 12, "split": "train", "indices": "0:300"}
    plan = parse_as(SpabPlan, {"data": data, "test": {"indices": "0:64"}})
    assert (plan.test.name, plan.test.size, plan.test.indices, plan.test.split) == ("digits", 12, "0:64", "test")
    assert parse_as(SpabPlan, {"data": data, "test": {"name": "photos"}}).test.size is None
    assert parse_as(SpabPlan, {"data": data}).test.name == "digits"


def test_the_command_trains_and_names_what_is_wrong(tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.toml", tmp_path / "head.safetensors"
    text = (f"[{name}]\n" + "\n".join(f"{k} = {v!r}" for k, v in table.items()) for name, table in TABLE.items())
    plan.write_text("\n".join(text), encoding="utf-8")
    done = CliRunner().invoke(app, ["train", "spab", str(plan), "--out", str(out), "--set", "head.kind=quantile"])
    assert done.exit_code == 0, done.output
    assert "IR leakage rate" in done.output
    assert out.is_file()
    wrong = CliRunner().invoke(app, ["train", "spab", str(plan), "--out", str(out), "--set", "spab.epoch=3"])
    assert wrong.exit_code != 0
    with pytest.raises(BadInput, match="allowed here: epochs"):
        parse_as(SpabPlan, {"spab": {"epoch": 3}})
    with pytest.raises(BadInput, match="lr: Input should be a valid number"):
        parse_as(SpabPlan, {"spab": {"lr": "fast"}})
    assert list(parse_as(SpabPlan, TABLE).model_dump()["spab"])[:5] == ["epochs", "steps", "minibatch", "lr", "leakage"]
