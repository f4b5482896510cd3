"""Which check that looks at the client's own examples finds which tampering of the catalogue, and which none finds.

A tampering that is added must be put down here with what finds it, or as a miss.
"""

from collections.abc import Mapping

import pytest
import torch
from torch import nn

from fedspill import catalogue
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import Incoming
from fedspill.core.types import Batch
from fedspill.vetting.inspection import inspected
from fedspill.vetting.policy import Policy
from tests.support.worlds import CLASSES, SPEC, batch, draw_weights

CHECKS = ("isolated_gradients", "lone_examples", "dominated_gradients", "training_dynamics")
FOUND: Mapping[str, set[str]] = {
    "class_fishing:paper": {"dominated_gradients.silenced"},
    "feature_fishing:paper": {"training_dynamics.loss"},
    "feature_fishing:strong": {"training_dynamics.loss"},
    "input_to_head:strong": {"dominated_gradients.silenced"},
    "loki:paper": {"lone_examples"},
    "loki:strong": {"lone_examples"},
    "one_shot:strong": {"dominated_gradients.planted"},
    "robbing_linear_layer:paper": {"isolated_gradients"},
    "robbing_linear_layer:strong": {"isolated_gradients"},
    "robbing_the_fed:paper": {"isolated_gradients"},
    "robbing_the_fed:strong": {"isolated_gradients"},
    "trap_weights:paper": {"lone_examples"},
}
"""What finds it at the least."""


def network() -> Model:
    with torch.random.fork_rng():
        net = nn.Sequential(
            nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, CLASSES)
        )
    return Model.of(draw_weights(net, scale=0.1), SPEC)


def private(n: int) -> Batch:
    """Brightnesses spread as those of pictures are, which noise has not."""
    levels = (torch.arange(n) + 0.5) / n
    drawn = batch(n, seed=5)
    return Batch((0.5 * drawn.inputs + 0.5 * levels[:, None, None, None]).clamp(0, 1), drawn.labels)


def public() -> Batch:
    levels = torch.rand(64, generator=stream(3, "levels"))
    drawn = batch(64, seed=6)
    return Batch((0.5 * drawn.inputs + 0.5 * levels[:, None, None, None]).clamp(0, 1), drawn.labels)


def rules(model: Model) -> set[str]:
    """Of alarms."""
    found = inspected(Incoming(model, own_data=private(8)), Policy(checks=CHECKS)).findings
    return {f.rule_id for f in found if f.severity >= 0.5}


@pytest.mark.parametrize("entry", FOUND)
def test_it_is_found_by_what_it_does(entry: str) -> None:
    name, _, preset = entry.partition(":")
    tampering = catalogue.tamperings()[name].presets[preset]
    sent = tampering.tamper(network(), public(), 0, stream(0, "server")).sent_to(0)
    assert rules(sent) >= FOUND[entry]


def test_the_honest_network_raises_nothing() -> None:
    assert rules(network()) == set()
