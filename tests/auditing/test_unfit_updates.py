"""An attack that the plan names and that does not fit one update is skipped there, and refused where it fits none."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fedspill
from fedspill.core.errors import NotApplicable

SIDE = 4


def dark_is_dead() -> nn.Module:
    """A black image fires no unit of the first layer, so that its bias has no gradient."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 6), nn.ReLU(), nn.Linear(6, 10))
    with torch.no_grad():
        rng = torch.Generator().manual_seed(0)
        net[1].weight.copy_(torch.rand(net[1].weight.shape, generator=rng) + 0.1)
        net[1].bias.fill_(-0.5)
        net[3].weight.copy_(torch.randn(net[3].weight.shape, generator=rng))
        net[3].bias.zero_()
    return net


def images(*bright: bool) -> tuple[Tensor, Tensor]:
    shown = torch.rand(len(bright), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 0.8 + 0.2
    return shown * torch.tensor(bright).float()[:, None, None, None], torch.arange(len(bright))


def audited(*bright: bool, out: Path | None = None, attacks: tuple[str, ...] = ("linear_layer",), **audit: object):
    plan = {"audit": {"attacks": list(attacks), "metrics": ["psnr"], **audit}, "client": {"num_examples": 1}}
    return fedspill.audit(plan, model=dark_is_dead(), data=images(*bright), normalise=None, out=out)


@pytest.mark.parametrize("bright", [(False, True, True), (True, False, True), (True, True, False)])
def test_one_update_that_an_attack_does_not_fit_is_skipped(bright: tuple[bool, ...]) -> None:
    report = audited(*bright).report
    skipped = [trial.skipped is not None for trial in report.trials]
    assert skipped == [not b for b in bright]
    assert "gradient of '1.bias' is zero" in next(t.skipped for t in report.trials if t.skipped)
    assert report.leakage_rate.hits == 2
    assert report.verdict.exit_code == 1


def test_an_attack_that_fits_no_update_is_refused() -> None:
    with pytest.raises(NotApplicable, match="attack 'linear_layer:paper' does not apply: the gradient of '1.bias'"):
        audited(False, False)


def test_what_a_defence_may_hide_is_no_fault_of_the_plan() -> None:
    plan = {
        "audit": {"attacks": ["linear_layer"], "metrics": ["psnr"]},
        "client": {"num_examples": 1},
        "defences": ["clipping"],
    }
    report = fedspill.audit(plan, model=dark_is_dead(), data=images(False, False), normalise=None).report
    assert ["gradient of '1.bias' is zero" in (t.skipped or "") for t in report.trials] == [True, True]
    assert (report.verdict.name.value, report.verdict.exit_code) == ("not tested", 3)


def test_it_is_refused_whatever_other_attacks_do() -> None:
    with pytest.raises(NotApplicable, match="attack 'linear_layer:paper' does not apply"):
        audited(False, False, attacks=("dlg:quick", "linear_layer"), budget="5s")


def test_what_goes_on_in_a_folder_says_the_same(tmp_path: Path) -> None:
    first, again = (audited(False, True, out=tmp_path / "out").report.trials for _ in range(2))
    assert [t.skipped for t in first] == [t.skipped for t in again]
    for _ in range(2):
        with pytest.raises(NotApplicable):
            audited(False, False, out=tmp_path / "none")
