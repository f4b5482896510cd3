"""Is this machine fit to run an audit, and what is missing for more?"""

import importlib.util
import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import torch

import fedspill
from fedspill.core.errors import BadInput
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.rng import rand, stream
from fedspill.core.types import Batch
from fedspill.scoring.metrics.lpips import default_weights
from fedspill.zoo.models import build

Level = Literal["ok", "optional", "problem"]


@dataclass(frozen=True)
class Line:
    """One thing that was looked at."""

    level: Level
    what: str
    found: str


def examine() -> list[Line]:
    """Looks at versions, device, optional packages, data, and computes one update."""
    return [
        Line("ok", "fedspill", fedspill.__version__),
        Line("ok", "Python", platform.python_version()),
        Line("ok", "PyTorch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        _device(),
        *(
            _optional(name, use)
            for name, use in (
                ("torchvision", "models torchvision:NAME"),
                ("timm", "models timm:NAME"),
                ("transformers", "models hf:NAME"),
                ("tokenizers", "tokenizers other than bytes"),
            )
        ),
        _data(),
        _lpips(),
        _update(),
    ]


def _device() -> Line:
    if torch.cuda.is_available():
        return Line("ok", "device", torch.cuda.get_device_name())
    return Line("ok", "device", "CPU only; searches on large networks want a GPU")


def _optional(name: str, use: str) -> Line:
    if importlib.util.find_spec(name) is None:
        return Line("optional", name, f"not installed; wanted for {use}")
    try:
        found = version(name)
        if name == "torchvision":
            from fedspill.zoo.models.adapters import import_torchvision

            import_torchvision()
    except (PackageNotFoundError, BadInput, ImportError, RuntimeError) as error:
        return Line("problem", name, str(error).splitlines()[0])
    return Line("ok", name, found)


def _data() -> Line:
    root = os.environ.get("FEDSPILL_DATA")
    if not root:
        return Line("optional", "FEDSPILL_DATA", "not set; cifar10, cifar100 and adult then need data.root in the plan")
    if not Path(root).is_dir():
        return Line("problem", "FEDSPILL_DATA", f"{root!r} is no folder")
    return Line("ok", "FEDSPILL_DATA", root)


def _lpips() -> Line:
    weights = default_weights()
    if weights is None:
        return Line("optional", "LPIPS", "no AlexNet weights; give audit.lpips_weights to compute it")
    return Line("ok", "LPIPS", str(weights))


def _update() -> Line:
    model = build("lenet", input_shape=(3, 32, 32), num_classes=10)
    batch = Batch(rand((1, 3, 32, 32), stream(0, "doctor"), model.like), torch.zeros(1, dtype=torch.long))
    norm = local_update(model, batch, FedSGD()).norm()
    return Line("ok" if norm > 0 else "problem", "one update", f"computed, norm {norm:.3g}")
