"""Lets torchvision's CUDA build import beside PyTorch's CPU build; import this before anything that imports it.

That build's operators do not load, and its import then fails as two of them are undeclared. Declared, though empty,
they let models and transforms work. torchmetrics imports torchvision wherever it is installed.
"""

import contextlib
import sys

import torch


def _declared() -> torch.library.Library | None:
    """Holds the declarations, and must live as long as they shall; None if nothing was lacking."""
    with contextlib.suppress(ImportError):
        try:
            import torchvision  # noqa: F401
        except RuntimeError:
            return _declare()
    return None


def _declare() -> torch.library.Library:
    for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


DECLARED = _declared()
