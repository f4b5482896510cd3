"""Ladders, the walk up a ladder, and the budget: against plain lists."""

import copy
import itertools
import math
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import norm

from fedspill.advising.ladders import EPSILONS, Facts, Ladder, facts_of, ladders_of
from fedspill.advising.searching import walk
from fedspill.advising.settings import laid_over, texts, toml
from fedspill.advising.spending import SEARCHING, Purse
from fedspill.auditing.resolving.scenario import prepare
from fedspill.core.errors import BadInput
from fedspill.plan.file import parse_plan
from fedspill.plan.tables import table_of
from fedspill.report.advice import Found, Tried
from tests.support.advice import TINY


def facts(**sections: Any) -> Facts:
    table = {**TINY, **sections}
    plan = parse_plan(table)
    return facts_of(table, plan, prepare(plan, torch.device("cpu")))


def ladders(**sections: Any) -> dict[str, Ladder]:
    return {ladder.what: ladder for ladder in ladders_of(facts(**sections))}


def oracle(answers: dict[int, Found]) -> tuple[Callable[[int], Tried], list[int]]:
    asked = list[int]()

    def measure(strength: int) -> Tried:
        asked.append(strength)
        return Tried(settings=[str(strength)], found=answers[strength])

    return measure, asked


@pytest.mark.parametrize(
    ("answers", "taken", "measured"),
    [
        ({1: "leaks", 2: "leaks", 4: "stops", 8: "stops"}, 4, [1, 2, 4]),
        ({1: "stops", 2: "leaks", 4: "leaks", 8: "leaks"}, 1, [1]),
        ({1: "leaks", 2: "stops", 4: "leaks", 8: "stops"}, 2, [1, 2]),
        ({1: "leaks", 2: "untested", 4: "refused", 8: "stops"}, 8, [1, 2, 4, 8]),
        ({1: "leaks", 2: "leaks", 4: "leaks", 8: "leaks"}, None, [1, 2, 4, 8]),
        ({1: "leaks", 2: "unmeasured", 4: "stops", 8: "stops"}, None, [1, 2]),
    ],
)
def test_the_weakest_that_was_measured_to_stop_is_taken(
    answers: dict[int, Found], taken: int | None, measured: list[int]
) -> None:
    measure, asked = oracle(answers)
    strength, last = walk([1, 2, 4, 8], measure)[-1]
    assert asked == measured
    assert (strength if last.found == "stops" else None) == taken


def test_ladders_rise_in_strength() -> None:
    found = ladders()
    examples = [dict(rung)["client.num_examples"] for rung in found["more examples behind an update"].rungs]
    epochs = [dict(rung)["client.epochs"] for rung in found["local steps"].rungs]
    local = [dict(rung)["defences"][0]["epsilon"] for rung in found["the update clipped, and noise (local DP)"].rungs]
    clipped = found["every example clipped, and noise (DP-SGD)"].rungs
    noise = [dict(rung)["defences"][0]["noise_multiplier"] for rung in clipped]
    shares = [dict(rung)["defences"][0]["share"] for rung in found["only the largest values sent"].rungs]
    bits = [dict(rung)["defences"][0]["bits"] for rung in found["fewer bits for a value"].rungs]
    for rising in (examples, epochs, noise, shares):
        assert all(a < b for a, b in itertools.pairwise(rising))
    for falling in (local, bits):
        assert all(a > b for a, b in itertools.pairwise(falling))
    for multiplier, epsilon in zip(noise, EPSILONS, strict=True):  # the analytic Gaussian mechanism by its definition
        low, high = 1 / (2 * multiplier) - epsilon * multiplier, -1 / (2 * multiplier) - epsilon * multiplier
        assert norm.cdf(low) - math.exp(epsilon + norm.logcdf(high)) <= 1e-5


def test_every_strength_is_a_plan_that_can_be_pasted() -> None:
    before = copy.deepcopy(TINY)
    found = [rung for ladder in ladders_of(facts()) for rung in ladder.rungs]
    for rung in found:
        changed = laid_over(TINY, rung)
        parse_plan(changed)
        assert all(tomllib.loads(f"v = {toml(value)}")["v"] == value for _, value in rung)
    assert before == TINY


def test_texts_lie_over_a_file_as_the_change_itself(tmp_path: Any) -> None:
    (tmp_path / "plan.toml").write_text("[client]\nnum_examples = 1\n")
    change = (("client.num_examples", 2), ("defences", [{"name": "local_dp", "clip": 1.0, "epsilon": 3.0}]))
    pasted = table_of(tmp_path / "plan.toml", texts(change))
    assert pasted == laid_over({"client": {"num_examples": 1}}, change)


def test_examples_that_a_plan_lacks_are_named_after_its_own() -> None:
    rungs = ladders(data={"name": "photos", "size": 4, "indices": "3:5"})["more examples behind an update"].rungs
    assert rungs[0] == (("client.num_examples", 2),)
    assert rungs[1] == (("client.num_examples", 4), ("data.indices", "3:7"))


def test_a_defence_that_the_plan_has_is_made_stronger() -> None:
    own = [{"name": "clipping", "norm": 2.0}, {"name": "local_dp", "clip": 0.5, "epsilon": 50.0}]
    found = ladders(defences=own)
    local = [dict(rung)["defences"] for rung in found["the update clipped, and noise (local DP)"].rungs]
    assert local[0] == [own[0], {"name": "local_dp", "clip": 0.5, "epsilon": 30.0}]
    assert [entries[1]["epsilon"] for entries in local] == [30.0, 10.0, 3.0, 1.0]


def test_batch_norm_and_one_update_are_looked_at() -> None:
    net = {"name": "resnet20"}
    with_norm = ladders(model=net, data={"name": "photos", "size": 8, "indices": "0"})
    assert next(iter(with_norm)) == "GroupNorm instead of BatchNorm"
    assert "GroupNorm instead of BatchNorm" not in ladders()
    assert dict(ladders()["the first layers frozen"].rungs[0])["client.trainable"] == ["3.*"]


def test_ladders_share_what_is_left_and_leave_a_part_for_prices() -> None:
    purse = Purse(100.0)
    purse.next_ladder(3)
    assert purse.until == pytest.approx(100 * SEARCHING / 3)
    purse.spent = 60.0
    assert not purse.open()
    purse.next_ladder(2)
    assert purse.until == pytest.approx(60 + (100 * SEARCHING - 60) / 2)
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(BadInput, match="budget="):
            Purse(wrong)
