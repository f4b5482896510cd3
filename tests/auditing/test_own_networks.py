"""Whole audits of networks as people write them."""

import pytest
import torch
from torch import Tensor, nn

from fedspill.core.errors import BadInput
from fedspill.core.model import Model
from fedspill.inversion.matching.hypotheses import THROUGH
from tests.support.audits import audit
from tests.support.worlds import SPEC

LABELLED = {"knows": ["labels", "num_examples", "local_training"]}


class Own(nn.Module):
    """Two layers and an unused head; with `cut` the head alone is trained."""

    def __init__(self, cut: bool = False, norm: bool = False) -> None:
        super().__init__()
        self.cut = cut
        self.base = nn.Linear(SPEC.encode(torch.zeros(1, *SPEC.encoded_shape)).numel(), 24)
        self.norm = nn.BatchNorm1d(24) if norm else nn.Identity()
        self.fc, self.auxiliary = nn.Linear(24, 10), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = torch.sigmoid(self.norm(self.base(x.flatten(1))))
        return {"logits": self.fc(y.detach() if self.cut else y), "features": y}


def searched(steps: int = 3, **more: object) -> dict:
    return {"attacks": [{"name": "inverting_gradients", "steps": steps, "restarts": 2}], "metrics": ["psnr"], **more}


@pytest.mark.parametrize("settings", [{}, {"at_once": 2}, {"quality": 60.0}], ids=["plain", "at once", "quality"])
def test_a_cut_off_backbone_is_searched_through_and_the_report_says_so(settings) -> None:
    plan = {"audit": searched(**settings), "client": {"num_examples": 1}, "server": LABELLED}
    report = audit(plan, n=2, model=Model.of(Own(cut=True), SPEC)).report
    assert [t.skipped for t in report.trials] == [None, None]
    assert all(THROUGH in t.notes for t in report.trials)
    assert all(t.self_check is not None and t.self_check < 1e-6 for t in report.trials)


def test_labels_are_read_where_the_logits_are_made() -> None:
    plan = {"audit": searched(), "client": {"num_examples": 1}, "server": {"knows": ["num_examples"]}}
    report = audit(plan, n=3, model=Model.of(nn.DataParallel(Own()), SPEC)).report
    assert [t.labels.overlap for t in report.trials] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "client", [{"num_examples": 1}, {"num_examples": 3, "protocol": "fedavg", "minibatch_size": 2, "lr": 0.1}]
)
def test_a_client_whose_network_takes_no_single_example_is_told_in_one_line(client) -> None:
    with pytest.raises(BadInput, match="^the client cannot compute an update.*more than 1 value per channel") as told:
        audit({"audit": searched(), "client": client}, model=Model.of(Own(norm=True), SPEC, training=True))
    assert "\n" not in str(told.value)


def test_an_unknown_number_of_examples_leaves_out_those_that_the_network_does_not_take() -> None:
    plan = {"audit": searched(), "client": {"num_examples": 2}, "server": {"knows": []}}
    report = audit(plan, n=2, model=Model.of(Own(norm=True), SPEC, training=True)).report
    assert report.trials[0].skipped is None
    assert any(note.startswith("Left out: 1 examples") for note in report.trials[0].notes)


def test_a_network_that_remembers_is_refused() -> None:
    class Counting(Own):
        calls = 0

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            self.calls += 1
            return super().forward(x * self.calls)

    with pytest.raises(BadInput, match="^Counting answers differently when it is asked again"):
        audit({"audit": searched(), "client": {"num_examples": 1}}, model=Model.of(Counting(), SPEC))
