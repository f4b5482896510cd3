"""One page that leads to several reports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fedspill.core.tensor_files import write_whole
from fedspill.rendering.folder import HTML_FILE, pairs_of
from fedspill.rendering.headline.words import WORDS
from fedspill.rendering.html import view
from fedspill.rendering.html.page import environment
from fedspill.report.schema import AuditReport

INDEX_FILE = "index.html"


@dataclass(frozen=True)
class Scene:
    """One report, and what to say of it.

    Attributes:
        name: of the folder, beside the page, that holds the report.
        title: with its number.
        lead: what was done.
        result: what came out, in plain words.
    """

    name: str
    title: str
    lead: str
    result: str
    report: AuditReport
    tensors: Mapping[str, Tensor]


def write_index(folder: Path, scenes: Sequence[Scene]) -> Path:
    """Writes index.html: for each scene its verdict, its pictures, and the way to its report."""
    shown = [
        {
            "scene": scene,
            "href": f"{scene.name}/{HTML_FILE}",
            "words": WORDS[scene.report.verdict.name],
            "cards": view.cards(scene.report, pairs_of(scene.report, scene.tensors)),
        }
        for scene in scenes
    ]
    page = environment().get_template("index.html.j2").render(scenes=shown)
    write_whole(folder / INDEX_FILE, page)
    return folder / INDEX_FILE
