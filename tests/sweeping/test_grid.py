"""The table `sweep` of a plan multiplied out, and the digests by which trials are known."""

import itertools
import tomllib
from pathlib import Path

import pytest

from fedspill.core.errors import BadInput
from fedspill.plan.file import parse_plan
from fedspill.sweeping import grid
from fedspill.sweeping.grid import points, takes_list
from fedspill.sweeping.trials import digest_of, trials_of

PLAN = """
[audit]
attacks = ["linear_layer"]
[model]
name = "mlp"
"""


def swept(text: str) -> list[grid.Point]:
    return points(tomllib.loads(PLAN + text))


def test_every_combination_is_there_once_in_order() -> None:
    found = swept("[sweep]\nclient.num_examples = [1, 8]\nmodel.seed = [0, 1, 2]\n")
    wanted = list(itertools.product([1, 8], [0, 1, 2]))
    assert [(p.table["client"]["num_examples"], p.table["model"]["seed"]) for p in found] == wanted
    assert [tuple(p.values.values()) for p in found] == wanted
    assert all(p.table["model"]["name"] == "mlp" and "sweep" not in p.table for p in found)
    assert len({id(p.table["model"]) for p in found}) == 6  # no two share a table that one might change


def test_keys_may_be_dotted_by_toml_or_in_quotes() -> None:
    dotted, quoted = (swept(f"[sweep]\n{key} = [1, 8]\n") for key in ("client.num_examples", '"client.num_examples"'))
    assert dotted == quoted
    inner = swept("[sweep.client]\nnum_examples = [1, 8]\n")
    assert inner == dotted


def test_one_entry_stands_for_a_list_of_one_where_a_key_takes_lists() -> None:
    text = """[sweep]
audit.attacks = ["linear_layer", { name = "dlg", preset = "quick" }, ["linear_layer", "dlg"]]
audit.seeds = [0, 7]
defences = [[], "clipping", { name = "gradient_noise", sigma = 0.1 }]
"""
    found = swept(text)
    plans = [parse_plan(p.table) for p in found]
    assert len(plans) == 18
    assert [e.label for e in plans[0].audit.attacks] == ["linear_layer:paper"]
    assert [e.label for e in plans[-1].audit.attacks] == ["linear_layer:paper", "dlg:paper"]
    assert [p.audit.seeds for p in plans[:6]] == [(0,)] * 3 + [(7,)] * 3
    assert [[e.label for e in p.defences] for p in plans[:3]] == [
        [],
        ["clipping:paper"],
        ["gradient_noise:paper(sigma=0.1)"],
    ]


@pytest.mark.parametrize(
    ("key", "wrapped"),
    [
        ("audit.attacks", True),
        ("audit.seeds", True),
        ("audit.metrics", True),
        ("defences", True),
        ("server.knows", True),
        ("federation.observed", True),
        ("federation.sizes", True),
        ("client.trainable", True),
        ("client.loss", False),  # a name, or a list of them
        ("model.mean", False),  # a number, a list, or a word
        ("model.width", False),
        ("client.num_examples", False),
        ("defences.0.epsilon", False),
        ("nonsense.key", False),
    ],
)
def test_which_keys_take_nothing_but_lists(key: str, wrapped: bool) -> None:
    assert takes_list(key) == wrapped


def test_fields_of_an_entry_vary_by_its_place_and_what_has_no_place_is_refused() -> None:
    text = '[[defences]]\nname = "gradient_noise"\n[sweep]\ndefences.0.sigma = [0.1, 0.2]\n'
    assert [p.table["defences"][0]["sigma"] for p in swept(text)] == [0.1, 0.2]
    (refused,) = swept("[sweep]\ndefences.0.sigma = [0.1]\n")
    assert refused.refused is None  # a table is made, which the plan's check then refuses
    (refused,) = swept('[sweep]\n"audit.attacks.3.steps" = [1]\n')
    assert (
        refused.refused == "plan key 'sweep.audit.attacks.3.steps': '3' is no place in a list of 1; they count from 0"
    )


def test_several_tables_are_grids_one_after_the_other() -> None:
    text = '[[sweep]]\nmodel.seed = [0, 1]\n[[sweep]]\nclient.num_examples = [4]\ndefences = ["clipping"]\n'
    assert [dict(p.values) for p in swept(text)] == [
        {"model.seed": 0},
        {"model.seed": 1},
        {"client.num_examples": 4, "defences": ["clipping"]},
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"the plan has no table \[sweep\]"),
        ("[sweep]\n", r"the plan has no table \[sweep\]"),
        ("sweep = 3\n", r"the plan has no table \[sweep\]"),
        ("[sweep]\nclient.num_examples = 8\n", r"'sweep.client.num_examples': a list .* \(got 8\)"),
        ("[sweep]\nclient.num_examples = []\n", r"'sweep.client.num_examples': a list .* \(got \[\]\)"),
        ('[sweep]\nmodel.seed = [1]\n"model.seed" = [2]\n', "'sweep.model.seed' is given twice"),
        ("[sweep]\nmodel.seed = [99999999999999999999]\n", "64 bits"),
        ("[sweep]\nmodel.seed = [nan]\n", "no finite number"),
    ],
)
def test_what_is_no_grid_is_refused_by_name(text: str, words: str) -> None:
    table = tomllib.loads(text if text.startswith("sweep") else PLAN + text)
    with pytest.raises(BadInput, match=words):
        points(table)


def test_a_grid_without_end_is_refused_before_it_is_made() -> None:
    axes = "\n".join(f"model.k{k} = {list(range(10))}" for k in range(30))
    with pytest.raises(BadInput, match="more than 100,000 combinations"):
        swept(f"[sweep]\n{axes}\n")


def digest(text: str) -> str:
    return digest_of(parse_plan(tomllib.loads(text)))


def test_a_digest_is_of_the_resolved_plan() -> None:
    plain = digest(PLAN)
    assert plain == digest(
        '[model]\nname = "mlp"\nseed = 0\n[audit]\nseeds = [0]\nattacks = [{ name = "linear_layer" }]\n'
    )
    assert len({plain, digest(PLAN + "seed = 1\n"), digest(PLAN + "width = 3\n"), digest("")}) == 4
    assert digest(PLAN + "[policy]\nmax_psnr = 20\n") != plain  # it decides the verdict, which a row keeps


def test_a_digest_follows_the_files_that_a_plan_names(tmp_path: Path) -> None:
    rows, text = tmp_path / "rows.csv", f'[data]\nname = "csv"\nroot = "{tmp_path / "rows.csv"}"\n'
    rows.write_text("a,b\n1,2\n")
    before = digest(text)
    assert digest(text) == before
    rows.write_text("a,b\n1,3\n")
    assert digest(text) != before


def test_equal_plans_are_one_trial_and_a_combination_that_is_no_plan_is_one_with_its_reason() -> None:
    text = '[sweep]\nclient.protocol = ["fedsgd", "fedavg"]\nclient.epochs = [1, 2]\nmodel.seed = [0, 0]\n'
    trials = trials_of(swept(text))
    assert [t.number for t in trials] == [0, 1, 2, 3]
    assert [t.refused is None for t in trials] == [False, False, True, True]
    assert "use 'fedavg'" in (trials[0].refused or "")
    assert len({t.digest for t in trials}) == 4
    assert [t.digest for t in trials] == [t.digest for t in trials_of(swept(text))]
    assert (trials[2].attack, trials[2].defence) == ("linear_layer", "none")


def test_where_no_combination_is_a_plan_the_first_reason_is_told() -> None:
    with pytest.raises(BadInput, match="'client.nonsense' is unknown"):
        trials_of(swept("[sweep]\nclient.nonsense = [1, 2]\n"))
