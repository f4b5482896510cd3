"""Image files in a folder, with class subfolders or without."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.zoo.data.sources.source import Source, is_grey, picture, square

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())


def _listed(folder: Path) -> tuple[list[Path], list[int], tuple[str, ...]]:
    """Files, their classes, class names; no names if the images lie in the folder itself."""
    if files := _images(folder):
        return files, [0] * len(files), ()
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    files = [(file, number) for number, place in enumerate(classes) for file in _images(place)]
    return [f for f, _ in files], [n for _, n in files], tuple(place.name for place in classes)


def _is_grey(path: Path) -> bool:
    with _opened(path) as image:
        return is_grey(image)


def _decode(path: Path, grey: bool) -> Float[Tensor, "c h w"]:
    with _opened(path) as image:
        return picture(image, grey, f"image {str(path)!r}")


@contextmanager
def _opened(path: Path) -> Generator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except BadInput:
        raise
    except Exception as error:  # a broken picture fails in any way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(f"image {str(path)!r} cannot be read: {reason}") from error


def _all_grey(paths: list[Path]) -> bool:
    return all(_is_grey(path) for path in paths)


def folder(path: Path, split: str, size: int | None) -> Source:
    """Images in the order of their names, cropped to the central square and resized to `size`.

    Subfolders are classes, in the order of their names. Grey pictures stay grey (one channel) if all that are
    read are grey, else all become RGB.

    Args:
        path: holds the images or the class folders.
        split: "all", or the name of a subfolder to enter first.
        size: side in pixels; None keeps the pictures' own size, which then must be one and the same.

    Raises:
        BadInput: no such folder, no images, unreadable ones, or different sizes without `size`.
    """
    if not path.is_dir():
        raise BadInput(f"image folder {str(path)!r} does not exist")
    if split != "all" and not (path / split).is_dir():
        raise BadInput(f'image folder {str(path)!r} has no subfolder {split!r} for the split; "all" takes everything')
    files, classes, names = _listed(path if split == "all" else path / split)
    if not files:
        raise BadInput(f"no images in {str(path)!r} or its class folders; known are {', '.join(sorted(SUFFIXES))}")

    def read(positions: list[int]) -> Tensor:
        chosen = [files[k] for k in positions]
        grey = _all_grey(chosen)
        if size is not None:
            return torch.cat([square(_decode(p, grey)[None], size) for p in chosen])
        images = [_decode(p, grey) for p in chosen]
        shapes = sorted({tuple(i.shape[1:]) for i in images})
        if len(shapes) > 1:
            raise BadInput(f"images in {str(path)!r} differ in size ({shapes[0]}, {shapes[-1]}, ...); give `size`")
        return torch.stack(images)

    labels = torch.tensor(classes)
    return Source(f"folder:{path}", f"image files in {path}", names, max(len(names), 1), labels, bool(names), read)
