"""The tree is as its own words say: folders list their files, and stay small enough to look over."""

import re
from pathlib import Path

import pytest

import fedspill

ROOT = Path(fedspill.__file__).parent
FOLDERS = sorted(p.parent for p in ROOT.rglob("__init__.py"))
ALIKE = {"attacks", "tamperings", "defences", "guard", "zoo/networks", "zoo/data/sources"}
"""Folders of files of one kind, which the catalogue or a registry lists."""
MOST = 12


def files_of(folder: Path) -> set[str]:
    """Modules of a folder, and its folders of modules with a slash."""
    modules = {p.stem for p in folder.glob("*.py")} - {"__init__", "__main__"}
    return modules | {f"{p.name}/" for p in folder.iterdir() if (p / "__init__.py").is_file()}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_folder_lists_its_files(folder: Path) -> None:
    listed = set(re.findall(r"^- `([\w/]+)`", (folder / "__init__.py").read_text(encoding="utf-8"), re.M))
    name = folder.relative_to(ROOT).as_posix()
    if listed:
        assert listed == files_of(folder)
    else:
        assert name in ALIKE | {".", "inversion"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_folder_of_unlike_files_can_be_looked_over(folder: Path) -> None:
    name = folder.relative_to(ROOT).as_posix()
    if name not in ALIKE:
        assert len([f for f in files_of(folder) if not f.endswith("/")]) <= MOST
