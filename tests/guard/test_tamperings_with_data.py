"""Which check that looks at the client's own examples finds which tampering of the catalogue; see docs/own_data.md."""

from collections.abc import Mapping

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from fedspill import catalogue
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import Incoming
from fedspill.core.types import Batch
from fedspill.vetting.inspection import inspected
from fedspill.vetting.policy import Policy
from tests.support.worlds import CLASSES, SPEC, draw_weights

CHECKS = ("isolated_gradients", "lone_examples", "dominated_gradients", "training_dynamics")
FOUND: Mapping[str, set[str]] = {
    "class_fishing:paper": {"dominated_gradients.silenced"},
    "feature_fishing:paper": {"training_dynamics.loss"},
    "feature_fishing:strong": {"training_dynamics.loss"},
    "input_to_head:strong": {"isolated_gradients"},
    "loki:paper": {"lone_examples"},
    "loki:strong": {"lone_examples"},
    "one_shot:paper": {"dominated_gradients.planted"},
    "robbing_linear_layer:paper": {"isolated_gradients"},
    "robbing_linear_layer:strong": {"isolated_gradients"},
    "robbing_the_fed:paper": {"isolated_gradients"},
    "robbing_the_fed:strong": {"isolated_gradients"},
}
"""What finds it at the least."""


def network() -> Model:
    with torch.random.fork_rng():
        net = nn.Sequential(
            nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, CLASSES)
        )
    return Model.of(draw_weights(net, scale=0.1), SPEC)


def digits(first: int, count: int) -> Batch:
    """Small pictures of digits, in three equal channels."""
    found = load_digits()
    images = torch.as_tensor(found.images[first : first + count] / 16, dtype=torch.float32)
    labels = torch.as_tensor(found.target[first : first + count], dtype=torch.long)
    return Batch(images[:, None].expand(-1, 3, -1, -1).contiguous(), labels)


def rules(model: Model) -> set[str]:
    """Of alarms."""
    found = inspected(Incoming(model, own_data=digits(0, 8)), Policy(checks=CHECKS)).findings
    return {f.rule_id for f in found if f.severity >= 0.5}


@pytest.mark.parametrize("entry", FOUND)
def test_it_is_found_by_what_it_does(entry: str) -> None:
    name, _, preset = entry.partition(":")
    tampering = catalogue.tamperings()[name].presets[preset]
    sent = tampering.tamper(network(), digits(500, 200), 0, stream(0, "server")).sent_to(0)
    assert rules(sent) >= FOUND[entry]


def test_the_honest_network_raises_nothing() -> None:
    assert rules(network()) == set()
