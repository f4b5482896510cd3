"""Draws docs/demo.png from the folder that `make demo` wrote.

`python -m benchmarks.documents.demo_picture fedspill-demo`
"""

import sys
from pathlib import Path

from PIL import Image

from benchmarks.common.places import DOCS
from fedspill.rendering.drawing.pictures import beside, tiles
from fedspill.rendering.folder import pairs_of
from fedspill.report.store import read_report

TARGET = DOCS / "demo.png"
SCENES = ("aggregate", "convolutional", "fully_connected")
SIDE, GAP = 128, 16


def row(folder: Path) -> Image.Image:
    """Private, rebuilt and difference of the scene's first examples, in their order."""
    report, tensors = read_report(folder)
    return beside([beside(list(tiles(pair, SIDE))) for pair in pairs_of(report, tensors)[:4]], GAP)


def main() -> None:
    """One row per scene."""
    rows = [row(Path(sys.argv[1]) / scene) for scene in SCENES]
    whole = Image.new("RGB", (max(r.width for r in rows), sum(r.height + GAP for r in rows) - GAP), "white")
    top = 0
    for picture in rows:
        whole.paste(picture, (0, top))
        top += picture.height + GAP
    whole.save(TARGET, optimize=True)


if __name__ == "__main__":
    main()
