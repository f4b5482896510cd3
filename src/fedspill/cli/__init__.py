"""The `fedspill` command."""

from fedspill.cli.main import main

__all__ = ["main"]
