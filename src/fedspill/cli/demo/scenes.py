"""What the demonstration sets up. The first scene has two audits beside each other, the others one each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fedspill.auditing import AuditPlan, AuditResult
from fedspill.cli.demo import words

ABOUT = (
    "In federated learning photographs stay with the client. What leaves is an update: numbers that say how a network"
    " should change. Here is what a server rebuilds from updates alone."
)
SIDE = 64
"""Pixels of the photographs of the federation."""


@dataclass(frozen=True)
class Setting:
    """One audit of the demonstration.

    Attributes:
        name: of its folder.
        title: its number and what it is, within 78 letters.
        lead: what is done, in plain words.
        plan: as a plan's TOML would hold it.
        tell: from the audit's result, its plan and the device to what came out, in plain words.
        shown: photographs of it in the picture of all scenes, at most.
    """

    name: str
    title: str
    lead: str
    plan: dict[str, Any]
    tell: Callable[[AuditResult, AuditPlan, str], str]
    shown: int = 4


def _few(attack: str, model: dict[str, Any], size: int, together: int, number: int = 4) -> dict[str, Any]:
    """Some photographs, so many to an update, an honest server."""
    return {
        "audit": {"attacks": [attack], "budget": "none"},
        "model": model,
        "data": {"name": "photos", "size": size, "indices": f"0:{number}"},
        "client": {"num_examples": together},
        "server": {"public": {"name": "photos", "split": "public", "indices": "0:64"}},
    }


def _federation() -> dict[str, Any]:
    """64 photographs of eight clients, a server that plants layers."""
    return {
        "audit": {
            "attacks": ["robbing_the_fed:strong"],
            "budget": "none",
            "metrics": ["psnr", "mse"],
            "leak_threshold": {"psnr": 40.0},
        },
        "model": {"name": "resnet18", "stem": "imagenet"},
        "data": {"name": "photos", "size": SIDE, "indices": "0:64"},
        "client": {"num_examples": 64, "clients": 8},
        "server": {
            "role": "malicious architecture",
            "knows": ["num_examples", "public_data"],
            "public": {"name": "photos", "split": "public"},
        },
    }


SETTINGS = (
    Setting(
        "one_photograph",
        "1a. An honest server, one photograph in each update",
        "The network is a small convolutional one (LeNet). The server keeps to the rules and solves equations, layer by"
        " layer, for the photograph that the update was computed from.",
        _few("inverting_gradients:strong", {"name": "lenet"}, 32, 1),
        words.copies,
    ),
    Setting(
        "four_photographs",
        "1b. Beside it: four photographs mixed in one update",
        "The network has six convolutions. The equations no longer separate the photographs, so the server searches for"
        " four pictures that would have caused the same update.",
        _few("inverting_gradients:quick", {"name": "cnn", "channels": 256}, 32, 4),
        words.copies_and_finds,
    ),
    Setting(
        "federation",
        "2. A malicious server, 64 photographs of eight clients",
        "The server puts two small layers of its own in front of the network, a ResNet-18 (the attack is called Robbing"
        " the Fed). It never sees one client's update, only the average of all eight, as with secure aggregation.",
        _federation(),
        words.copies,
    ),
    Setting(
        "federation_defended",
        "3. The same federation, vetted and defended",
        "Clients can inspect the network before they train on it (fedspill vet). Or they limit the length of what they"
        " send and add noise to it (local differential privacy, epsilon 8), and the same attack is run again.",
        {**_federation(), "defences": [{"name": "local_dp"}]},
        words.vetted_and_defended,
    ),
    Setting(
        "fully_connected",
        "4. An honest server, eight photographs mixed in one update",
        "Every layer of this network is fully connected, and it tells ten kinds of things apart. With fewer photographs"
        " than kinds the last layer's equations have one solution: what each photograph contributed. From there the"
        " server solves its way back, layer by layer.",
        _few("softmax_disaggregation:paper", {"name": "mlp"}, SIDE, 8, 8),
        words.copies,
        shown=8,
    ),
)
