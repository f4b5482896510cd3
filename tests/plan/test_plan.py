"""Plans: what is allowed, and the one clear line for what is not."""

from pathlib import Path

import pytest

from fedspill.auditing.resolving.components import choose, configure
from fedspill.catalogue import attacks
from fedspill.core.errors import BadInput
from fedspill.core.local_training.update import FedAvg, FedSGD
from fedspill.core.settings import with_fields
from fedspill.plan.file import parse_plan, read_plan
from fedspill.plan.sections import AttackEntry, parse_seconds
from fedspill.plan.training import training_of
from tests.support.places import PLANS


def test_every_key_has_a_default() -> None:
    plan = parse_plan({})
    assert training_of(plan.client) == FedSGD()
    assert plan.audit.attacks[0].name == "standard"


def test_settings_are_laid_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text('[client]\nprotocol = "fedavg"\nepochs = 2\n')
    plan = read_plan(
        path, ["client.num_examples=8", "data.name=photos", "audit.budget=5m", "client.trainable=['fc.*']"]
    )
    assert training_of(plan.client) == FedAvg(epochs=2, lr=0.01, trainable=("fc.*",))
    assert (plan.client.num_examples, plan.audit.budget) == (8, 300.0)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"client": {"num_exmaples": 2}}, r"plan key 'client.num_exmaples' is unknown; allowed here: .*num_examples"),
        ({"clinet": {}}, "plan key 'clinet' is unknown; allowed here: audit, model, data, client"),
        ({"client": {"num_examples": 0}}, r"'client.num_examples': .*greater than or equal to 1 \(got 0\)"),
        ({"client": {"protocol": "sgd"}}, r"'client.protocol': .*'fedsgd' or 'fedavg' \(got 'sgd'\)"),
        ({"client": {"epochs": 2}}, "epochs given with protocol='fedsgd'"),
        ({"client": {"num_examples": 3, "clients": 2}}, "num_examples=3 cannot be shared out equally to clients=2"),
        ({"server": {"knows": ["label"]}}, r"'server.knows.0': .*'labels'.*\(got 'label'\)"),
        ({"audit": {"budget": "soon"}}, "'soon' is no duration"),
        ({"audit": {"leak_threshold": {"lpips": 0.1}}}, "leak_threshold names .'lpips'., which metrics="),
        ({"policy": {"max_leakage_rate": 1.5}}, "'policy.max_leakage_rate'"),
        ({"audit": {"seeds": []}}, "'audit.seeds'"),
    ],
)
def test_bad_plans(table: dict, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        parse_plan(table)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("dgl", "unknown attack 'dgl'; there are"),
        ("dlg:strongest", "attack 'dlg' has no preset 'strongest'; it has paper"),
        ({"name": "dlg", "step": 3}, "attack 'dlg' has no field 'step'; it has .*steps"),
        ({"name": "dlg", "steps": "many"}, r"attack 'dlg', field 'steps': .*\(got 'many'\)"),
        (
            {"name": "inverting_gradients", "search": {}},
            "has no field 'search'; it has steps, lr,",
        ),
        ({"name": "inverting_gradients", "lr": "high"}, r"'inverting_gradients', field 'lr': .*\(got 'high'\)"),
        (
            {"name": "inverting_gradients", "batched": True, "optimiser": "lbfgs"},
            "attack 'inverting_gradients': batched=true was got with optimiser='lbfgs'",
        ),
        ({"name": "dlg", "steps": 0}, "attack 'dlg': steps=0, restarts=16: both must be at least 1"),
        ({"name": "idlg", "restarts": 0}, "attack 'idlg': steps=300, restarts=0: both must be at least 1"),
        ({"name": "nex", "matching": {"prior": "decoder"}}, "attack 'nex': matching has prior='decoder', anchor=0.0:"),
        ({"name": "nex", "matching": {"anchor": 1.0}}, "attack 'nex': matching has prior='unet', anchor=1.0:"),
        ({"name": "nex", "matching": {"kl": -1.0}}, "'nex', field 'matching': .*one of kl and mse above 0"),
        ("label_flip", "brings no readout of its own; name it in server.tampering"),
    ],
)
def test_bad_attacks(entry: object, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        choose(parse_plan({"audit": {"attacks": [entry]}}))


def test_fields_of_an_attack_can_be_changed_also_nested_ones() -> None:
    entry = AttackEntry.model_validate({"name": "dlg", "steps": 7, "unknowns": {"examples": [2, 3]}})
    made = configure(attacks()["dlg"], entry, "attack")
    assert (made.steps, made.unknowns.examples, made.unknowns.assumed_lr) == (7, (2, 3), 1e-2)
    assert attacks()["dlg"].presets["paper"].steps == 300


def test_fields_of_groups_are_named_as_the_attacks_own() -> None:
    table = {"name": "inverting_gradients", "preset": "strong", "tv": 0.1, "lr": 0.1, "unknowns": {"examples": [2]}}
    made, strong = (
        configure(attacks()["inverting_gradients"], AttackEntry.model_validate(entry), "attack")
        for entry in (table, {"name": "inverting_gradients", "preset": "strong"})
    )
    assert (made.prior.tv, made.search.lr, made.unknowns.examples) == (0.1, 0.1, (2,))
    assert with_fields(made, tv=0.7, lr=0.3, unknowns=strong.unknowns) == strong


def test_standard_is_what_the_server_can_and_would_run() -> None:
    def names(server: dict) -> set[str]:
        return {c.name for c in choose(parse_plan({"server": server}))}

    honest = names({})
    assert honest == {name for name, card in attacks().items() if card.in_standard}
    assert "learned_inversion" not in honest
    assert "input_to_head" not in names({"role": "malicious parameters"})
    assert {"input_to_head", "linear_first", "identity_convolutions"} <= names({"role": "malicious architecture"})


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), (" 1h ", 3600)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "5 minutes", "-3s", "0"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(BadInput, match="no duration"):
        parse_seconds(text)


def test_a_file_that_is_missing_or_no_toml(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        read_plan(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[audit\n")
    with pytest.raises(BadInput, match="is not valid TOML"):
        read_plan(broken)
    with pytest.raises(BadInput, match="write SECTION.KEY=VALUE"):
        read_plan(PLANS / "quick.toml", ["budget=3"])


def test_a_server_knows_the_defences_unless_the_plan_says_otherwise_and_older_plans_read_the_same() -> None:
    server = parse_plan({"server": {"knows": ["labels"]}}).server
    assert {k.value for k in server.granted} == {"labels", "defence"}
    assert "knows_defence" not in server.model_dump(), "an older folder is known again"
    unknowing = parse_plan({"server": {"knows_defence": False}}).server
    assert set(unknowing.granted) == set(unknowing.knows)
    with pytest.raises(BadInput, match="say one of them"):
        parse_plan({"server": {"knows": ["defence"], "knows_defence": False}})
