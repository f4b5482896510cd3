"""The evaluation of `vet`: levels by one half, ladders, tricks, and a record that a kill does not spoil."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.vetting import hiding, records
from benchmarks.vetting.dials import DIALS, WEIGHTS, Dial, rungs
from benchmarks.vetting.table import markdown
from benchmarks.vetting.thresholds import SHIPPED, VIEWS, Rate, chosen, held, left_out, rate, reasons

from fedspill.core.roles import Finding, Incoming
from tests.support.worlds import relu_mlp

NAME = "parallel_rows.rank"
TOP = len(DIALS[NAME].levels)


def case(kind: str, half: str, rung: int, entry: str = "imprint:paper", **more: Any) -> dict[str, Any]:
    about = {"case": f"{kind}/{half}/{rung}/{entry}", "kind": kind, "half": half, "network": half, "made": "default"}
    told = {"entry": entry, "trick": "plain", "read": 4, "of": 8} if kind == "planted" else {"stored": "float32"}
    return {**about, **told, "fixed": {}, "rungs": {NAME: rung}, **more}


@dataclass(frozen=True)
class Above:
    """Raises an alarm if its level is at most 3."""

    level: float

    def inspect(self, incoming: Incoming) -> list[Finding]:
        return [Finding("x", "y", 0.8, {}, "")] if self.level <= 3 else []


@pytest.mark.parametrize(("levels", "rung"), [((1, 2, 3, 4, 5), 3), ((4, 5), 0), ((1, 2), 2), ((3,), 1)])
def test_a_rung_is_the_number_of_levels_with_an_alarm(levels: tuple[int, ...], rung: int) -> None:
    assert Dial(WEIGHTS, levels, 0, Above).rung(Incoming(relu_mlp())) == rung


def test_what_is_computed_once_is_what_the_dials_say() -> None:
    model = relu_mlp()
    rows = model.params["1.weight"].clone()
    rows[:9] = rows[:1] + 0.1 * rows[:9]
    incoming = Incoming(model.with_params({**model.params, "1.weight": rows}))
    found = rungs(incoming)
    for name in ("weight_entropy", "parallel_rows.bundle", NAME):
        assert found[name] == DIALS[name].rung(incoming)
    assert found["parallel_rows.bundle"] > 0


def test_a_level_lies_halfway_between_honest_and_planted() -> None:
    honest = [case("honest", "A", r) for r in (0, 2, 1)]
    planted = [case("planted", "A", r) for r in (1, 7, 9, 10)]
    assert chosen(honest, planted)[NAME] == 6  # halfway from 3 to 9, which two of three reach
    assert chosen(honest, [])[NAME] == (3 + TOP) / 2
    assert (
        chosen(200 * [case("honest", "A", 0)] + honest[1:2], planted)[NAME] == 5
    )  # one of 200 may be told: 1 to 9, which two of four reach


def test_levels_of_a_half_are_of_that_half_and_of_other_tamperings() -> None:
    cases = [case("honest", "A", 2), case("honest", "B", 5), case("planted", "B", 9)]
    cases += [case("planted", "A", 7), case("planted", "A", 7), case("planted", "A", 11, "loki:paper")]
    assert held(cases, "A")[NAME] == 5  # 3 to 7
    assert held(cases, "A", without="imprint")[NAME] == 7  # 3 to 11
    assert held(cases, "B")[NAME] == 8  # 6 to 9
    assert left_out(cases, "imprint", VIEWS["weights alone"]) == Rate(1, 3)  # 9 is from 7, 7 is not from (6 + 11) / 2


def test_reasons_are_of_what_the_client_has() -> None:
    one = case("planted", "A", TOP, fixed={"structure": ["structure.modules"]})
    assert reasons(one, SHIPPED, VIEWS["weights alone"]) == [NAME]
    assert reasons(one, SHIPPED, list(VIEWS.values())[-1]) == [NAME, "structure.modules"]
    assert rate([one, case("planted", "A", 0)], SHIPPED, VIEWS["weights alone"]) == Rate(1, 2)


def test_the_interval_is_that_of_clopper_and_pearson() -> None:
    assert str(Rate(0, 10)) == "0 of 10, 0.0% (0.0% to 30.8%)"  # 1 - 0.025 ** (1 / 10)


def test_noise_is_of_the_share_that_it_says() -> None:
    rows, bias = torch.randn(64, 500), torch.full((64,), 3.0)
    out = hiding.noisy(0.1)({"weight": rows, "bias": bias}, {})
    assert float((out["weight"] - rows).norm() / rows.norm()) == pytest.approx(0.1, rel=0.05)
    assert torch.equal(out["bias"], bias)  # without a spread there is none to be a share of


def test_scaled_rows_stay_where_they_point() -> None:
    rows, bias = torch.randn(6, 9), torch.randn(6)
    out = hiding.scaled({"weight": rows, "bias": bias}, {})
    assert torch.allclose(torch.cosine_similarity(out["weight"], rows), torch.ones(6))
    assert torch.allclose(out["weight"].norm(dim=1) / rows.norm(dim=1), out["bias"] / bias)
    assert float((out["bias"] / bias).std()) > 0.1


def test_every_second_row_is_the_hosts() -> None:
    rows, host = torch.randn(4, 3), torch.randn(4, 3)
    out = hiding.mixed({"weight": rows}, {"weight": host})["weight"]
    assert torch.equal(out[::2], rows[::2])
    assert torch.equal(out[1::2], host[1::2])


def test_a_line_that_was_cut_off_costs_one_case(tmp_path: Path) -> None:
    file = tmp_path / "cases.jsonl"
    records.append(file, {"case": "a", "n": 1})
    file.write_text(file.read_text() + '{"case": "b", "n')
    records.append(file, {"case": "c", "n": 2})
    records.append(file, {"case": "a", "n": 3})
    assert records.read(file) == [{"case": "a", "n": 3}, {"case": "c", "n": 2}]


def test_the_table_names_what_is_missed() -> None:
    text = markdown([case("honest", "A", 0), case("honest", "B", 0), case("planted", "A", 0, "loki:paper")])
    assert "| loki:paper | A, default | plain (4) |" in text
