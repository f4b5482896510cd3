"""Is this machine fit to run an audit, and what is missing for more? Whatever is broken, every line is answered."""

import importlib.util
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import fedspill

Level = Literal["ok", "optional", "problem"]


@dataclass(frozen=True)
class Line:
    """One thing that was looked at."""

    level: Level
    what: str
    found: str


OPTIONAL = {
    "torchvision": "models torchvision:NAME",
    "timm": "models timm:NAME",
    "transformers": "models hf:NAME",
    "tokenizers": "tokenizers other than bytes",
}


def examine() -> list[Line]:
    """Looks at versions, device, optional packages, data, and computes one update; what fails is a problem."""
    return [
        Line("ok", "fedspill", fedspill.__version__),
        Line("ok", "Python", platform.python_version()),
        _guarded("PyTorch", _torch),
        _guarded("device", _device),
        *(_guarded(name, lambda name=name: _optional(name)) for name in OPTIONAL),
        _guarded("torchmetrics", _torchmetrics),
        _guarded("FEDSPILL_DATA", _data),
        _guarded("LPIPS", _lpips),
        _guarded("one update", _update),
    ]


def _guarded(what: str, look: Callable[[], Line]) -> Line:
    try:
        return look()
    except Exception as error:  # a broken installation fails in any way
        reason = (str(error).strip().splitlines() or [""])[0]
        return Line("problem", what, f"{type(error).__name__}: {reason}")


def _torch() -> Line:
    import torch

    return Line("ok", "PyTorch", f"{torch.__version__}, {torch.get_num_threads()} threads")


def _device() -> Line:
    import torch

    if torch.cuda.is_available():
        return Line("ok", "device", torch.cuda.get_device_name())
    return Line("ok", "device", "CPU only; searches on large networks want a GPU")


def _optional(name: str) -> Line:
    if importlib.util.find_spec(name) is None:
        return Line("optional", name, f"not installed; wanted for {OPTIONAL[name]}")
    found = version(name)
    return _torchvision(found) if name == "torchvision" else Line("ok", name, found)


def _torchvision(found: str) -> Line:
    from fedspill.core.errors import BadInput
    from fedspill.core.libraries.vision import import_torchvision, lacks_operators

    try:
        import_torchvision()
    except BadInput as error:
        return Line("problem", "torchvision", f"{error}; only models torchvision:NAME and timm:NAME need it")
    other = "; built for another PyTorch: its models work, its operators do not" if lacks_operators() else ""
    return Line("ok", "torchvision", found + other)


def _torchmetrics() -> Line:
    from fedspill.core.libraries.vision import import_torchmetrics

    return Line("ok", "torchmetrics", import_torchmetrics("torchmetrics").__version__)


def _data() -> Line:
    root = os.environ.get("FEDSPILL_DATA")
    if not root:
        return Line("optional", "FEDSPILL_DATA", "not set; cifar10, cifar100 and adult then need data.root in the plan")
    if not Path(root).is_dir():
        return Line("problem", "FEDSPILL_DATA", f"{root!r} is no folder")
    return Line("ok", "FEDSPILL_DATA", root)


def _lpips() -> Line:
    from fedspill.scoring.metrics.lpips import default_weights

    weights = default_weights()
    if weights is None:
        return Line("optional", "LPIPS", "no AlexNet weights; give audit.lpips_weights to compute it")
    return Line("ok", "LPIPS", str(weights))


def _update() -> Line:
    import torch

    from fedspill.core.local_training.update import FedSGD, local_update
    from fedspill.core.rng import rand, stream
    from fedspill.core.types import Batch
    from fedspill.zoo.models import build

    model = build("lenet", input_shape=(3, 32, 32), num_classes=10)
    batch = Batch(rand((1, 3, 32, 32), stream(0, "doctor"), model.like), torch.zeros(1, dtype=torch.long))
    norm = local_update(model, batch, FedSGD()).norm()
    return Line("ok" if norm > 0 else "problem", "one update", f"computed, norm {norm:.3g}")
