"""What `fedspill vet` prints and writes."""

from pathlib import Path

from rich.console import Console

from fedspill import catalogue
from fedspill.cli.early import Headline
from fedspill.core.tensor_files import write_whole
from fedspill.rendering.vetting.cases import junit
from fedspill.rendering.vetting.sarif import sarif
from fedspill.rendering.vetting.summary import markdown
from fedspill.rendering.vetting.table import show
from fedspill.report.vetting import Vetting


def write_views(
    vetting: Vetting, console: Console, headline: Headline | None, sarif_file: Path | None, junit_file: Path | None
) -> None:
    """Prints the table, or the Markdown in its place, and writes the files that were asked for."""
    if sarif_file is not None:
        write_whole(sarif_file, sarif(vetting, catalogue.checks()))
    if junit_file is not None:
        write_whole(junit_file, junit(vetting))
    if headline is not None and headline.file is None:
        print(markdown(vetting), end="")
        return
    if headline is not None and headline.file is not None:
        write_whole(headline.file, markdown(vetting))
    show(vetting, console)
