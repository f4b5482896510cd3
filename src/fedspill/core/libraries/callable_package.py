"""Packages of components that are called to list them, so that `fedspill.attacks` is both: `fedspill.attacks()`."""

from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


class CallablePackage(ModuleType):
    """A package whose files hold one component each; called, it gives their cards by name.

    A sub-package of `fedspill` and a function of the same name share one attribute, whichever is imported first. Python
    lets a module take a class of its own for this ("Customizing module attribute access" in its reference).
    """

    def __call__(self) -> Mapping[str, Any]:
        """Name to card, from the catalogue: fedspill's own and those of installed packages."""
        listed: Mapping[str, Any] = getattr(import_module("fedspill.catalogue"), self.__name__.rpartition(".")[2])()
        return listed
