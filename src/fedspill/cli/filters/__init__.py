"""`fedspill filters`.

- `command`: its options, and what it shows.
"""

from fedspill.cli.filters.command import EPILOG, filters_command

__all__ = ["EPILOG", "filters_command"]
