"""torchvision beside a build of torch that it was not made for, and torchmetrics, which imports it where it finds it.

Nothing in fedspill imports either of the two by itself.
"""

import importlib
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

from fedspill.core.errors import BadInput

VISION = "torchvision"
MISSING = f"operator {VISION}::nms does not exist"
_kept: list[torch.library.Library] = []
"""Operator schemas live as long as their library object."""


def import_torchvision() -> ModuleType:
    """torchvision, also where a CUDA build lies beside a CPU build of torch.

    There its import fails with "operator torchvision::nms does not exist", since its compiled part is not
    loaded. Two schemas without an implementation make models and transforms work; only the operators stay
    unusable.

    Raises:
        BadInput: not installed, or broken in another way.
    """
    try:
        return _imported()
    except BadInput as error:
        if MISSING not in str(error):
            raise
    _define_operators()
    return _imported()


def _imported() -> ModuleType:
    try:
        return importlib.import_module(VISION)
    except ImportError as error:
        _forget()
        raise BadInput(
            f"{VISION} cannot be imported ({_line(error)}); install it: pip install 'fedspill[vision]'"
        ) from error
    except Exception as error:  # a build for another torch fails in any way
        _forget()
        raise BadInput(f"{VISION} is installed but cannot be imported: {_line(error)}") from error


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def lacks_operators() -> bool:
    """Whether the torchvision that was imported is a build for another torch, whose operators cannot be used."""
    return bool(_kept)


def _define_operators() -> None:
    if _kept:
        return
    library = torch.library.Library(VISION, "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)


def _forget() -> None:
    """Drops the halves of an import that failed, which would be found by the next one."""
    for name in [n for n in sys.modules if n.split(".")[0] == VISION]:
        del sys.modules[name]


def import_torchmetrics(module: str) -> Any:
    """A module of torchmetrics, which imports torchvision if its metadata are found, whether or not that works.

    Where torchvision is broken, an empty one stands in for it while torchmetrics is imported: what fedspill takes from
    torchmetrics needs none.

    Args:
        module: such as "torchmetrics.functional.image".

    Raises:
        BadInput: torchmetrics cannot be imported.
    """
    try:
        if "torchmetrics" in sys.modules or not _found() or _works():
            return importlib.import_module(module)
        with _stand_in():
            return importlib.import_module(module)
    except Exception as error:  # as above
        raise BadInput(f"torchmetrics cannot be imported: {_line(error)}") from error


def _found() -> bool:
    try:
        return find_spec(VISION) is not None
    except (ImportError, ValueError):
        return True


def _works() -> bool:
    try:
        import_torchvision()
    except BadInput:
        return False
    return True


class _Empty(ModuleType):
    """A module in which every name is a class without contents."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _EmptyFinder(MetaPathFinder, Loader):
    """Finds an empty module for every name of torchvision."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        """A package for torchvision and everything in it."""
        return ModuleSpec(fullname, self, is_package=True) if fullname.split(".")[0] == VISION else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An empty module."""
        return _Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is to be run."""


@contextmanager
def _stand_in() -> Generator[None]:
    """While it lasts, every module of torchvision can be imported and is empty; afterwards as before."""
    finder = _EmptyFinder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        _forget()
