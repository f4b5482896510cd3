"""The demonstration: what three settings leak of embedded photographs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedspill.auditing import AuditResult, parse_plan, run_audit
from fedspill.auditing.watch import Listener
from fedspill.rendering.folder import write_views
from fedspill.rendering.index import Scene, write_index


@dataclass(frozen=True)
class Setting:
    """One scene of the demonstration.

    Attributes:
        plan: as a plan's TOML would hold it.
    """

    name: str
    title: str
    lead: str
    plan: dict[str, Any]


SETTINGS = (
    Setting(
        "aggregate",
        "A malicious server, 64 photographs in one aggregated gradient",
        "The server plants a layer in front of ResNet-18 that sorts examples into bins (Robbing the Fed), with four"
        " linear functions and 256 rows. All that it gets is the mean gradient of 64 photographs, as it would be under"
        " secure aggregation of eight clients. No search: it reads copies, in seconds.",
        {
            "audit": {
                "attacks": ["robbing_the_fed:strong"],
                "metrics": ["psnr", "mse"],
                "leak_threshold": {"psnr": 40.0},
            },
            "model": {"name": "resnet18", "stem": "imagenet"},
            "data": {"name": "photos", "size": 96, "indices": "0:64"},
            "client": {"num_examples": 64, "clients": 8},
            "server": {
                "role": "malicious architecture",
                "knows": ["num_examples", "public_data"],
                "public": {"name": "photos", "split": "public"},
            },
        },
    ),
    Setting(
        "convolutional",
        "A convolutional network, one photograph per update",
        "The client sends one gradient of a small, untrained convolutional network (FedSGD). The server, which does"
        " nothing wrong, searches for a picture with the same gradient direction (Inverting Gradients).",
        {
            "audit": {
                "attacks": [{"name": "inverting_gradients", "preset": "paper", "steps": 800, "restarts": 4}],
            },
            "model": {"name": "lenet"},
            "data": {"name": "photos", "size": 32, "indices": "0:4"},
            "client": {"num_examples": 1},
            "server": {"public": {"name": "photos", "split": "public", "indices": "0:64"}},
        },
    ),
    Setting(
        "fully_connected",
        "A fully connected network, one photograph per update",
        "The first layer is fully connected, so one division of its gradient by that of its bias is the photograph"
        " itself: no search, no loss.",
        {
            "audit": {"attacks": ["linear_layer:paper"]},
            "model": {"name": "mlp"},
            "data": {"name": "photos", "size": 64, "indices": "0:4"},
            "client": {"num_examples": 1},
            "server": {"public": {"name": "photos", "split": "public", "indices": "0:64"}},
        },
    ),
)


def run_demo(out: Path, listener: Listener, device: str, fresh: bool) -> list[AuditResult]:
    """Audits every setting and writes one page that leads to the reports."""
    torch.set_num_threads(1)  # these networks are too small to gain from more, and lose much on a busy machine
    results = list[AuditResult]()
    scenes = list[Scene]()
    for setting in SETTINGS:
        listener.message(setting.title)
        folder = out / setting.name
        result = run_audit(
            parse_plan(setting.plan),
            out=folder,
            device=device,
            listener=listener,
            fresh=fresh,
            command="fedspill demo",
        )
        report = write_views(folder, result.report, result.tensors)
        results.append(result)
        scenes.append(Scene(setting.name, setting.title, setting.lead, report, result.tensors))
    write_index(out, scenes)
    return results
