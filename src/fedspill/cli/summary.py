"""Where the headline goes that a CI job shows beside a change."""

from dataclasses import dataclass
from pathlib import Path

from fedspill.core.errors import BadInput

STDOUT = "md"
HELP = "The headline as Markdown: md prints it and nothing else; FILE.md writes it there."


@dataclass(frozen=True)
class Headline:
    """What `--summary` asks for.

    Attributes:
        file: to write it to; None prints it in the place of the summary for a terminal.
    """

    file: Path | None


def headline_of(text: str | None, *, as_json: bool = False) -> Headline | None:
    """What `--summary` says; None if it is not given. The folder of its file is made at once, not after an audit.

    Args:
        as_json: report.json is printed already.

    Raises:
        BadInput: it is neither `md` nor a file of that ending that can be written, or two things would be printed.
    """
    if text is None:
        return None
    if text == STDOUT:
        if as_json:
            raise BadInput("--summary md and --json both print to the terminal; give --summary FILE.md beside --json")
        return Headline(None)
    file = Path(text)
    if file.suffix != f".{STDOUT}" or file.is_dir():
        raise BadInput(f"--summary {text[:80]!r}: md, or the name of a file that ends in .md, is needed")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--summary {text[:80]!r}: nothing can be written in {str(file.parent)!r}: {error}") from None
    return Headline(file)
