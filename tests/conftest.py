"""Shapes and types of every annotated function are checked while the tests run."""

import pkgutil

import torch
from jaxtyping import install_import_hook

import fedspill

# The command line is left out: typer reads the annotations of its commands, which the hook would wrap.
_checked = [f"fedspill.{m.name}" for m in pkgutil.iter_modules(fedspill.__path__) if m.name != "cli"]
_hook = install_import_hook(_checked, "beartype.beartype")

# Tests are small and run two at a time; more threads would only wait for each other.
torch.set_num_threads(1)

# A fixture of several files; imported after the hook, so that what it imports is checked too.
from tests.support.readouts import planted  # noqa: E402, F401
