"""What a caller may hand to the functions by mistake: told in one line, and nothing silently left out."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import fedspill
from fedspill.core.errors import BadInput
from fedspill.core.local_training.conditions import Conditions
from fedspill.core.local_training.protocol import FedAvg, FedSGD
from fedspill.core.local_training.update import local_update
from tests.support.worlds import batch, mlp


def gradient() -> dict[str, Tensor]:
    return dict(local_update(mlp(), batch(2), FedSGD()).values)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"labels": torch.tensor([77, 3])}, "classes are 0 to 9"),
        ({"labels": torch.tensor([3])}, "labels are 1, num_examples says 2"),
        ({"num_examples": 0}, "num_examples=0"),
        ({"num_examples": -2}, "num_examples=-2"),
        ({"clients": 0}, "clients=0"),
        ({"clients": 3}, "cannot be shared out equally"),
        ({"budget": -3}, "budget=-3"),
        ({"local_training": FedAvg()}, "a gradient is FedSGD's"),
    ],
)
def test_a_captured_update(given: dict[str, Any], words: str) -> None:
    asked: dict[str, Any] = {"num_examples": 2, "attack": "linear_layer", **given}
    model = asked.pop("model", mlp())
    with pytest.raises(BadInput, match=words):
        fedspill.attack(gradient(), model, **asked)


def test_the_protocol_of_a_gradient_is_not_left_out() -> None:
    """Of one that was clipped, the self-check has the length of what was sent only if that is said."""
    protocol, truth = FedSGD(conditions=Conditions(clip_norm=0.01)), batch(2)
    sent = dict(local_update(mlp(), truth, protocol).values)
    held = (truth.inputs, truth.labels)
    reports = [
        fedspill.attack(
            sent, mlp(), num_examples=2, attack="linear_layer", truth=held, local_training=known, device="cpu"
        ).report
        for known in (protocol, None)
    ]
    lengths = [report.trials[0].self_check_length for report in reports]
    assert lengths[0] == pytest.approx(1, rel=1e-5)
    assert lengths[1] is not None
    assert lengths[1] > 2
    assert ["scale" in [c.topic for c in report.caveats] for report in reports] == [False, True]


def test_other_arguments() -> None:
    net, data = nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), (batch(1).inputs, batch(1).labels)
    plan = {"audit": {"attacks": ["linear_layer"]}, "client": {"loss": "mean_squared_error"}}
    with pytest.raises(BadInput, match=r"the plan sets client\.loss"):
        fedspill.audit(plan, model=net, data=data, normalise=None, loss=functional.cross_entropy)
    with pytest.raises(BadInput, match="names one round twice"):
        fedspill.audit({"federation": {"rounds": 2, "observed": [1, 1]}})


TYPES = """
import fedspill, torch
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10))
sent = {k: torch.ones_like(v) for k, v in net.state_dict().items()}
asked = dict(num_examples=2, attack="linear_layer", shape=(3, 8, 8), normalise=None)
calls = [
    *(lambda v=v: fedspill.attack(sent, net, **{**asked, **v}) for v in (
        {"labels": [3, 4]}, {"num_examples": "8"}, {"kind": "gradients"}, {"mode": "test"},
        {"normalise": "imagnet"}, {"normalise": "none"}, {"normalise": ""}, {"normalise": True})),
    lambda: fedspill.attack(sent, None, **asked),
    lambda: fedspill.audit(None), lambda: fedspill.audit(3), lambda: fedspill.vet(None), lambda: fedspill.vet("x"),
]
for call in calls:
    try:
        call()
    except fedspill.BadInput as error:
        print(error)
"""


def test_arguments_of_another_type() -> None:
    """In a process of its own, where nothing but the code itself looks at types."""
    done = subprocess.run([sys.executable, "-c", TYPES], capture_output=True, text=True, check=True)
    starts = [line.split(";")[0].split(":")[0] for line in done.stdout.splitlines()]
    assert starts == [
        "labels is a list",
        "num_examples='8'",
        "kind='gradients' is unknown",
        "mode='test'",
        *(f"normalise={w!r} states no normalisation" for w in ("imagnet", "none", "")),
        "normalise=True",
        "model is a NoneType",
        "plan is a NoneType",
        "plan is a int",
        "model is a NoneType",
        "model is a str",
    ]
