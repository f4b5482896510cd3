"""The rank analysis in a report: where it costs little, and never at the price of the audit."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fedspill
from fedspill.auditing.ranks import MOST, SHARE, ranks
from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model
from fedspill.inversion.recursion import rank_analysis as analysis
from fedspill.rendering.html.page import render
from fedspill.rendering.ranks import rank_table
from fedspill.report.schema import AuditReport
from fedspill.testing.worlds import batch, conv_bn, mlp
from fedspill.zoo.models import of_module
from tests.support.reports import Strict

PATIENT = 600.0
"""Seconds; a busy machine changes no test."""


def plain(model: Model) -> list[tuple[tuple[str, ...], int, int, bool]]:
    return [(r.layers, r.values, r.rank, r.reached) for r in analysis.rank_analysis(model.in_eval_mode())]


@pytest.mark.parametrize("training", [False, True])
def test_the_record_is_the_analysis_of_the_network_in_eval_mode(
    training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedspill.auditing.ranks.MOST", PATIENT)
    found = ranks(conv_bn(training=training), PATIENT / SHARE)
    assert found is not None
    assert found.untold is None
    assert [(tuple(r.layers), r.values, r.rank, r.reached) for r in found.layers] == plain(conv_bn())
    assert len(found.layers) == 3


def test_a_network_without_convolutions_has_none() -> None:
    assert ranks(mlp(), 600.0) is None


def test_a_short_budget_is_left_to_the_attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(model: Model) -> None:
        raise AssertionError(model)

    monkeypatch.setattr("fedspill.auditing.ranks.rank_analysis", never)
    found = ranks(conv_bn(), 20.0)
    assert found is not None
    assert found.untold == "the budget leaves 0.4 s for it, and less than 0.5 s is not tried"


def test_an_analysis_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedspill.auditing.ranks.MOST", 0.0)
    monkeypatch.setattr("fedspill.auditing.ranks.LEAST", 0.0)
    found = ranks(conv_bn(), 600.0)
    assert found is not None
    assert found.layers == []
    assert found.untold == "it did not end in the 0.0 s that the report gives it"
    assert SHARE * 600 > MOST


class Branching(nn.Module):
    """Not traced by torch.fx."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if bool(x.sum() > 0) else -x).mean((2, 3))


class Endless(nn.Module):
    """Ends in a linear layer that turns every number into none."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).mean((2, 3))) * torch.nan


@pytest.mark.parametrize("make", [Branching, Endless])
def test_a_network_that_cannot_be_analysed_is_told(make: Callable[[], nn.Module]) -> None:
    found = ranks(of_module(make(), ImageSpec((3, 8, 8)), training=False), 600.0)
    assert found is not None
    assert found.layers == []
    assert found.untold


def test_a_fault_in_the_analysis_does_not_end_the_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: Model) -> None:
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr("fedspill.auditing.ranks.rank_analysis", broken)
    found = ranks(conv_bn(), 600.0)
    assert found is not None
    assert found.untold == "the network could not be analysed (LinAlgError)"


def test_large_pictures_are_left_to_the_command() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 62 * 62, 2))
    found = ranks(of_module(net, ImageSpec((3, 64, 64)), training=False), 600.0)
    assert found is not None
    assert found.untold == "computed in a report for pictures of at most 1,024 pixels"


@pytest.fixture(scope="module")
def audited() -> AuditReport:
    private = batch(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedspill.auditing.ranks.MOST", PATIENT)
        patch.setattr("fedspill.auditing.ranks.SHARE", 1.0)
        plan = {"audit": {"attacks": [{"name": "dlg", "preset": "quick", "steps": 2}]}}
        return fedspill.audit(plan, model=conv_bn(), data=(private.inputs, private.labels)).report


def test_an_audit_reports_it_behind_the_first_page(audited: AuditReport) -> None:
    assert audited.ranks is not None
    assert [r.layers for r in audited.ranks.layers] == [["0"], ["3"], ["6"]]
    again = AuditReport.model_validate_json(audited.model_dump_json())
    assert again.ranks == audited.ranks
    page = render(audited, [])
    Strict(page)
    table = rank_table(audited)
    assert table is not None
    assert page.index('id="details"') < page.index('id="ranks"') < page.index(table.lead)
    assert page.count('<th scope="row">3</th>') == 1


def test_a_page_says_why_it_was_not_computed_and_an_old_report_has_no_such_section(audited: AuditReport) -> None:
    assert audited.ranks is not None
    untold = audited.ranks.model_copy(update={"layers": [], "untold": "the budget <ended>"})
    page = render(audited.model_copy(update={"ranks": untold}), [])
    assert "Not computed: the budget &lt;ended&gt;. `fedspill rank` takes" in page
    old = {k: v for k, v in audited.model_dump(mode="json").items() if k != "ranks"}
    assert 'id="ranks"' not in render(AuditReport.model_validate(old), [])
