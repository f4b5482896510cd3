"""Examples with what is known of them, from a source or from the caller."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import TableSpec, TokenSpec
from fedspill.core.types import Batch
from fedspill.zoo.indices import parse_indices
from fedspill.zoo.sources.source import check_pixels, pixels
from fedspill.zoo.statistics import PLAIN


@dataclass(frozen=True)
class DataPool:
    """Examples with what is known of them.

    Attributes:
        batch: float32 pixels (n, c, h, w) in [0, 1] and long labels (n,), on the CPU.
        class_names: () if the classes have none.
        num_classes: at least 1.
        name: as in the plan, with the split.
        source: where the examples come from.
        mean: of the data set per channel (or one value for all), for normalisation.
        std: likewise.
        indices: positions in the source, one per example; two pools of one `name` without a common index
            share no example.
        has_labels: False if the labels are zeros for want of any.
        spec: what the examples are, of sentences and tables; None for images, whose normalisation the model decides.
        show: examples (m, ...) as text for people, one line each; None for images.
    """

    batch: Batch
    class_names: tuple[str, ...]
    num_classes: int
    name: str
    source: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    indices: tuple[int, ...]
    has_labels: bool = True
    spec: TokenSpec | TableSpec | None = None
    show: Callable[[Tensor], list[str]] | None = None

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(c, h, w)."""
        channels, height, width = self.batch.inputs.shape[1:]
        return channels, height, width


def from_tensors(
    inputs: Tensor,
    labels: Tensor | None = None,
    *,
    class_names: tuple[str, ...] = (),
    mean: tuple[float, ...] = PLAIN.mean,
    std: tuple[float, ...] = PLAIN.std,
    name: str = "tensors",
) -> DataPool:
    """Examples that the caller holds.

    Args:
        inputs: floats (n, c, h, w) in [0, 1], not normalised.
        labels: whole numbers (n,) from 0; None if there are none.
        class_names: one per class; () counts the classes by the highest label.
        mean: per channel (or one value for all), for normalisation.
        std: likewise.
        name: for reports.

    Raises:
        BadInput: other shapes, types or ranges.
    """
    if inputs.ndim != 4 or not inputs.is_floating_point():
        raise BadInput(f"inputs of shape {tuple(inputs.shape)} and {inputs.dtype}; floats (n, c, h, w) are needed")
    classes = torch.zeros(len(inputs), dtype=torch.long) if labels is None else _checked(labels, len(inputs))
    count = len(class_names) or (int(classes.max()) + 1 if len(classes) else 1)
    if len(classes) and int(classes.max()) >= count:
        raise BadInput(f"labels run to {int(classes.max())}, but {count} classes are named")
    batch = Batch(inputs.detach().to("cpu", torch.float32), classes)
    check_pixels(batch.inputs, "inputs")
    positions = tuple(range(len(batch)))
    return DataPool(batch, class_names, count, name, "tensors of the caller", mean, std, positions, labels is not None)


def _checked(labels: Tensor, count: int) -> Tensor:
    if labels.shape != (count,) or labels.is_floating_point() or (count and int(labels.min()) < 0):
        raise BadInput(
            f"labels of shape {tuple(labels.shape)} and {labels.dtype};"
            f" one class number from 0 for each of {count} inputs is needed"
        )
    return labels.detach().cpu().long()


def from_dataset(
    dataset: object,
    *,
    indices: str | Sequence[int] | None = None,
    class_names: tuple[str, ...] = (),
    mean: tuple[float, ...] = PLAIN.mean,
    std: tuple[float, ...] = PLAIN.std,
    name: str = "dataset",
) -> DataPool:
    """Examples of a map-style torch Dataset that gives (image, label).

    Images are tensors (c, h, w) in [0, 1] or of bytes, arrays (h, w, c), or PIL pictures. The other arguments are
    those of `load` and `from_tensors`.

    Raises:
        BadInput: no length, other items, images of different shapes, or a range that `from_tensors` refuses.
    """
    items = cast(Any, dataset)
    try:
        chosen = parse_indices(indices, len(items))
        pairs = [(_tensor(image), int(label)) for image, label in (items[k] for k in chosen)]
        inputs = torch.stack([image for image, _ in pairs])
    except BadInput:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise BadInput(f"a dataset of equally large (image, label) pairs is needed: {error}") from error
    labels = torch.tensor([label for _, label in pairs])
    pool = from_tensors(inputs, labels, class_names=class_names, mean=mean, std=std, name=name)
    return replace(pool, source="dataset of the caller", indices=tuple(chosen))


def _tensor(image: object) -> Tensor:
    if isinstance(image, Tensor):
        return image.float() / 255 if image.dtype == torch.uint8 else image
    array = np.asarray(image.convert("L" if image.mode == "L" else "RGB") if isinstance(image, Image.Image) else image)
    array = array[..., None] if array.ndim == 2 else array
    return pixels(array).permute(2, 0, 1)


def shared_examples(private: DataPool, public: DataPool) -> list[int]:
    """Positions in `private` whose pixels, to 8 bits, also stand in `public`; what a plan must rule out."""
    if private.input_shape != public.input_shape:
        return []
    known = {_bytes(image) for image in public.batch.inputs}
    return [k for k, image in enumerate(private.batch.inputs) if _bytes(image) in known]


def _bytes(image: Tensor) -> bytes:
    return (image * 255).round().byte().numpy().tobytes()
