"""Filters of NVFlare, mods of Flower and clients of Opacus, where these are installed."""

import json
import warnings
from pathlib import Path

import pytest
import torch

from fedspill.filtering.chains.loading import load_chain
from fedspill.filtering.known import usual_batch, usual_model
from fedspill.filtering.verdict import filtered
from fedspill.report.filtering import Filtering
from fedspill.testing.worlds import batch, mlp

FLOWER = """
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
mods = [LocalDpMod(1.0, 1.0, 8.0, 1e-5)]
fixed = [fixedclipping_mod]
"""
OPACUS = """
import torch
from opacus import PrivacyEngine
from torch.utils.data import DataLoader, TensorDataset

def private(network):
    data = DataLoader(TensorDataset(torch.rand(64, 3, 8, 8), torch.zeros(64, dtype=torch.long)), batch_size=4)
    step = torch.optim.SGD(network.parameters(), lr=0.1)
    return PrivacyEngine().make_private(
        module=network, optimizer=step, data_loader=data, noise_multiplier=1.0, max_grad_norm=1.0
    )

def forgot(network):
    made = private(network)
    made[1].add_noise = lambda: [setattr(p, "grad", p.summed_grad.clone()) for p in made[1].params]
    return made
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "flower_of_tests.py").write_text(FLOWER, encoding="utf-8")
    (tmp_path / "opacus_of_tests.py").write_text(OPACUS, encoding="utf-8")
    return tmp_path


def outcome(name: str) -> Filtering:
    model = usual_model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return filtered(load_chain(name, model), name, model, usual_batch(model, 1), seconds=0.0)


def test_flowers_local_mod_is_caught_at_whole_numbers_and_at_nan(here: Path) -> None:
    pytest.importorskip("flwr")
    done = outcome("flower:flower_of_tests:mods")
    assert {f.rule for f in done.alarms} == {"integers.unnoised", "clip.unclipped_by_odd"}
    assert done.law == "Gaussian"
    assert done.privacy.noise == 0.0
    noise = [f.noise for f in done.fates if f.name == "1.weight"]
    assert noise == [pytest.approx(0.6056, rel=0.02)]


def test_flowers_clipping_mod_clips_and_leaves_the_noise_to_the_server(here: Path) -> None:
    pytest.importorskip("flwr")
    done = outcome("flower_of_tests:fixed")
    assert done.privacy.clip == pytest.approx(1.0, rel=1e-3)
    assert done.privacy.reasons == (
        "no noise (said to be added by Flower's server, where its strategy is wrapped for it)",
    )


@pytest.mark.parametrize(("name", "alarms"), [("private", set()), ("forgot", {"noise.none"})])
def test_an_opacus_client_has_noise_or_is_caught(here: Path, name: str, alarms: set[str]) -> None:
    pytest.importorskip("opacus")
    model = mlp()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chain = load_chain(f"opacus:opacus_of_tests:{name}", model)
        done = filtered(chain, name, model, batch(4), seconds=0.0)
    assert {f.rule for f in done.alarms} == alarms
    if not alarms:
        assert done.privacy.noise == pytest.approx(0.25, rel=0.03)
        assert done.privacy.epsilon == pytest.approx(4.38, rel=0.05)


def policy(here: Path, *filters: dict[str, object]) -> str:
    content = {"scopes": [{"name": "a", "task_result_filters": list(filters)}]}
    (here / "privacy.json").write_text(json.dumps(content), encoding="utf-8")
    return "privacy.json"


def test_nvflares_percentile_filter_has_no_privacy(here: Path) -> None:
    pytest.importorskip("nvflare")
    done = outcome(policy(here, {"name": "PercentilePrivacy", "args": {"percentile": 10, "gamma": 0.01}}))
    assert done.privacy.text.startswith("no differential privacy: PercentilePrivacy is a heuristic")
    fates = {f.name: f.became for f in done.fates}
    assert fates["1.weight"][0].startswith("values cut off at 0.01")
    assert torch.tensor(done.cosine) < 0.9


def test_nvflares_excluded_variables_are_dropped(here: Path) -> None:
    pytest.importorskip("nvflare")
    done = outcome(policy(here, {"name": "ExcludeVars", "args": {"exclude_vars": "^1\\."}}))
    assert {f.name for f in done.fates if f.became == ("dropped",)} == {"1.weight", "1.bias"}
