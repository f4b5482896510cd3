"""An audit's result in Python, and its pages."""

from dataclasses import dataclass
from pathlib import Path

from fedspill.auditing.run import AuditResult as RunResult
from fedspill.core.tensor_files import write_whole


@dataclass(frozen=True)
class AuditResult(RunResult):
    """The report, with what it speaks of.

    Attributes:
        tensors: "private/INDEX", "rebuilt/TRIAL" and, of what was read in bins, "unscored/TRIAL"; empty for a redacted
            audit.
        folder: where it was written, if it was.
        texts: the same as text, of sentences and tables.

    Example:
        >>> import fedspill, pathlib, tempfile
        >>> plan = {"audit": {"attacks": ["linear_layer"]}, "model": {"name": "mlp"},
        ...         "data": {"name": "photos", "indices": "0", "size": 8}}
        >>> result = fedspill.audit(plan)
        >>> result.report.verdict.exit_code
        1
        >>> page = result.html(pathlib.Path(tempfile.mkdtemp()) / "leakage.html")
        >>> page.read_text(encoding="utf-8").lower().startswith("<!doctype html>")
        True
    """

    def html(self, path: str | Path) -> Path:
        """Writes the report as one self-contained HTML file, with its pictures in it.

        Args:
            path: of the file; in a folder that exists it is called report.html.

        Returns:
            Where it was written.
        """
        from fedspill.rendering.folder import HTML_FILE, page_of

        place = Path(path) / HTML_FILE if Path(path).is_dir() else Path(path)
        write_whole(place, page_of(self.report, self.tensors, self.texts))
        return place


def with_views(result: RunResult, folder: Path | None) -> AuditResult:
    """The result, its pictures and pages written if there is a folder for them."""
    report = result.report
    if folder is not None:
        from fedspill.rendering.folder import write_views

        report = write_views(folder, report, result.tensors, result.texts)
    return AuditResult(report, result.tensors, result.folder, result.texts)
