"""The `fedspill` command.

- `main`: the commands; what one needs is imported when it runs.
- `exits`: how a command ends: one line and an exit code.
- `audit`: `fedspill audit` and `fedspill report`.
- `early`: what is refused before anything heavy is imported.
- `attack`: `fedspill attack`, on a captured update.
- `captured`: its options read, its results shown.
- `vet`: `fedspill vet`.
- `filters/`: `fedspill filters`.
- `rank`: `fedspill rank`.
- `train`: `fedspill train`.
- `bounds/`: `fedspill bounds`.
- `demo/`: `fedspill demo`.
- `advise/`: `fedspill advise`.
- `sweep/`: `fedspill sweep`.
- `doctor`: `fedspill doctor`.
- `listing`: `fedspill list`, from `listing.json`.
- `progress`: progress with an estimate of the time that is left.
"""

from fedspill.cli.main import main

__all__ = ["main"]
