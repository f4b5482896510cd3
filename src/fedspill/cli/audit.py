"""`fedspill audit` and `fedspill report`: a run, its views, and a summary in the terminal."""

import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import typer
from rich.console import Console
from torch import Tensor

from fedspill.auditing import run_audit
from fedspill.cli.early import Headline
from fedspill.cli.progress import TerminalListener
from fedspill.core.errors import BadInput, FedspillError
from fedspill.core.tensor_files import write_whole
from fedspill.plan.sections import DEFAULT_BUDGET, AuditPlan
from fedspill.rendering.folder import HTML_FILE, write_views
from fedspill.rendering.markdown import markdown
from fedspill.rendering.terminal import summary
from fedspill.report.schema import AuditReport
from fedspill.report.schema import redact as redacted
from fedspill.report.store import Texts, read_report, read_texts


def audit_plan(
    plan: AuditPlan,
    folder: Path,
    device: str,
    *,
    as_json: bool,
    redact: bool,
    fresh: bool,
    headline: Headline | None = None,
    began: float | None = None,
) -> int:
    """Runs a plan and shows what came out; the exit code of its verdict.

    Args:
        began: `time.monotonic()` from which on the budget counts.
    """
    budget = DEFAULT_BUDGET if plan.audit.budget is None else plan.audit.budget
    end = None if budget == math.inf else (time.monotonic() if began is None else began) + budget
    with TerminalListener(Console(stderr=True), end) as listener:
        result = run_audit(
            plan,
            out=folder,
            device=device,
            listener=listener,
            fresh=fresh,
            redact=redact,
            command=" ".join(["fedspill", *sys.argv[1:]]),
            began=began,
        )
    report = write_views(folder, result.report, result.tensors, result.texts)
    if as_json:
        typer.echo(report.model_dump_json(indent=1))
    _tell(report, folder, result.texts, headline, quiet=as_json)
    return report.verdict.exit_code


def _tell(report: AuditReport, folder: Path, texts: Texts, headline: Headline | None, *, quiet: bool = False) -> None:
    """The summary for a terminal and the headline as Markdown, where each is wanted.

    Args:
        quiet: something else was printed already.
    """
    if headline is not None and headline.file is not None:
        write_whole(headline.file, markdown(report))
    if headline is not None and headline.file is None:
        typer.echo(markdown(report), nl=False)
    elif not quiet:
        console = Console()
        summary(report, console, texts)
        console.print(f"Report: {folder / HTML_FILE}", markup=False, style="bold")


def show_again(folder: Path, redact: bool, headline: Headline | None = None) -> None:
    """Writes the views of a finished audit again, without private examples if wanted, and shows its summary.

    Raises:
        BadInput: its files are broken, or hold what no view can show.
    """
    report, tensors = read_report(folder)
    texts = read_texts(folder)
    try:
        _show(folder, redact, report, tensors, texts, headline)
    except (FedspillError, OSError):
        raise
    except Exception as error:  # the files may come from anywhere, and say anything
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        raise BadInput(f"the report in {str(folder)!r} cannot be shown; was it changed by hand? ({reason})") from error


def _show(
    folder: Path,
    redact: bool,
    report: AuditReport,
    tensors: Mapping[str, Tensor],
    texts: Texts,
    headline: Headline | None,
) -> None:
    if redact:
        views = folder / "redacted"
        views.mkdir(exist_ok=True)
        report, texts = write_views(views, redacted(report), {}), {}
    else:
        views = folder
        report = write_views(folder, report, tensors, texts)
    _tell(report, views, texts, headline)
