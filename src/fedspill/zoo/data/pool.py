"""Examples with what is known of them, from a source or from the caller."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import CategoricalColumn, Column, TableSpec, TokenSpec
from fedspill.core.types import Batch
from fedspill.zoo.data.indices import parse_indices
from fedspill.zoo.data.sources.columns import shown_rows
from fedspill.zoo.data.sources.source import MOST_CLASSES, check_pixels
from fedspill.zoo.data.sources.text import shown_by
from fedspill.zoo.statistics import PLAIN


@dataclass(frozen=True)
class DataPool:
    """Examples with what is known of them.

    Attributes:
        batch: float32 pixels (n, c, h, w) in [0, 1], long tokens (n, t) or float32 rows (n, columns), and long labels,
            classes (n,) or next tokens (n, t), on the CPU.
        class_names: () if the classes have none.
        num_classes: at least 1; of next tokens the vocabulary.
        name: as in the plan, with the split.
        source: where the examples come from.
        mean: of images, of the data set per channel (or one value for all), for normalisation.
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
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example as a network takes it: (c, h, w), (t,) or (features,).

        Raises:
            BadInput: the examples are no images, and `spec` does not say what else.
        """
        if self.spec is not None:
            return self.spec.encoded_shape
        if self.batch.inputs.ndim != 4:
            raise BadInput(f"inputs of shape {tuple(self.batch.inputs.shape)} were got; images (n, c, h, w) are needed")
        return tuple(self.batch.inputs.shape[1:])


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
        labels: whole numbers (n,) from 0, or of several labels at once (n, k) 0 and 1; None if there are none.
        class_names: one per class; () counts the classes by the highest label.
        mean: per channel (or one value for all), for normalisation.
        std: likewise.
        name: for reports.

    Raises:
        BadInput: other shapes, types or ranges.
    """
    if inputs.ndim != 4 or not inputs.is_floating_point():
        raise BadInput(f"inputs of shape {tuple(inputs.shape)} and {inputs.dtype}; floats (n, c, h, w) are needed")
    classes, count = _classes(labels, len(inputs), class_names)
    batch = Batch(inputs.detach().to("cpu", torch.float32), classes)
    check_pixels(batch.inputs, "inputs")
    positions = tuple(range(len(batch)))
    return DataPool(batch, class_names, count, name, "tensors of the caller", mean, std, positions, labels is not None)


def _classes(labels: Tensor | None, total: int, class_names: tuple[str, ...]) -> tuple[Tensor, int]:
    """Class numbers, zeros for want of any, and how many classes there are."""
    classes = torch.zeros(total, dtype=torch.long) if labels is None else _checked(labels, total)
    if classes.ndim == 2:
        return classes, classes.shape[1]
    count = len(class_names) or (int(classes.max()) + 1 if len(classes) else 1)
    if len(classes) and int(classes.max()) >= count:
        raise BadInput(f"labels run to {int(classes.max())}, but {count} classes are named")
    return classes, count


def from_tokens(
    tokens: Tensor,
    labels: Tensor | None = None,
    *,
    vocabulary: int,
    class_names: tuple[str, ...] = (),
    decode: Callable[[list[int]], str] | None = None,
    name: str = "tokens",
) -> DataPool:
    """Sentences that the caller holds.

    Args:
        tokens: whole numbers (n, t) below `vocabulary`; without labels (n, t + 1).
        labels: next tokens (n, t), or one class (n,) per sentence; None: the next tokens are those in `tokens`, whose
            last column is then no input.
        vocabulary: how many tokens there are.
        class_names: of labels (n,), see `from_tensors`.
        decode: token numbers to text, for reports; None shows the numbers.
        name: for reports.

    Raises:
        BadInput: other shapes, types or ranges.
    """
    _check_tokens(tokens, vocabulary, "tokens")
    if labels is None:
        tokens, labels = tokens[:, :-1], tokens[:, 1:]
    if not tokens.numel():
        raise BadInput(f"tokens of shape {tuple(tokens.shape)} leave no sentence; at least 1 token is needed")
    if labels.ndim == 2:
        _check_tokens(labels, vocabulary, "labels")
        targets, count = labels.detach().cpu().long(), vocabulary
    else:
        targets, count = _classes(labels, len(tokens), class_names)
    batch = Batch(tokens.detach().cpu().long(), targets)
    if targets.ndim == 2 and targets.shape != batch.inputs.shape:
        raise BadInput(
            f"labels of shape {tuple(targets.shape)} for tokens of {tuple(batch.inputs.shape)}; both must agree"
        )
    spec, show = TokenSpec(tokens.shape[1], vocabulary), shown_by(decode or _numbers)
    return _given(batch, class_names, count, name, spec, show, True)


def _check_tokens(tokens: Tensor, vocabulary: int, what: str) -> None:
    whole = not tokens.is_floating_point() and not tokens.is_complex() and tokens.dtype != torch.bool
    inside = whole and (not tokens.numel() or (int(tokens.min()) >= 0 and int(tokens.max()) < vocabulary))
    if tokens.ndim != 2 or not inside:
        raise BadInput(
            f"{what} of shape {tuple(tokens.shape)} and {tokens.dtype}; whole numbers (n, t) from 0 below"
            f" vocabulary={vocabulary} are needed"
        )


def _numbers(sentence: list[int]) -> str:
    return " ".join(map(str, sentence))


def from_rows(
    rows: Tensor,
    labels: Tensor | None,
    spec: TableSpec,
    *,
    class_names: tuple[str, ...] = (),
    name: str = "rows",
) -> DataPool:
    """Rows of a table that the caller holds.

    Args:
        rows: floats (n, columns), not scaled; a categorical column holds positions of categories.
        labels: whole numbers (n,) from 0; None if there are none.
        spec: what the columns are.
        class_names: see `from_tensors`.
        name: for reports.

    Raises:
        BadInput: other shapes or types, or a value that its column does not allow.
    """
    if rows.ndim != 2 or not rows.is_floating_point() or rows.shape[1] != len(spec.columns):
        raise BadInput(
            f"rows of shape {tuple(rows.shape)} and {rows.dtype}; floats (n, {len(spec.columns)}) are needed"
        )
    cells = rows.detach().to("cpu", torch.float32)
    for column, values in zip(spec.columns, cells.T, strict=True):
        _check_column(column, values)
    classes, count = _classes(labels, len(cells), class_names)
    return _given(Batch(cells, classes), class_names, count, name, spec, shown_rows(spec), labels is not None)


def _check_column(column: Column, values: Tensor) -> None:
    if isinstance(column, CategoricalColumn):
        low, high, fits = 0.0, len(column.categories) - 1.0, values == values.round()
    else:
        low, high = (float(torch.tensor(bound, dtype=torch.float32)) for bound in (column.low, column.high))
        fits = values.isfinite()
    wrong = ~(fits & (values >= low) & (values <= high))
    if bool(wrong.any()):
        kind = "positions of categories" if isinstance(column, CategoricalColumn) else "numbers"
        raise BadInput(
            f"column {column.name!r} holds {float(values[wrong][0])}; {kind} from {low:g} to {high:g} are needed"
        )


def _given(
    batch: Batch,
    class_names: tuple[str, ...],
    count: int,
    name: str,
    spec: TokenSpec | TableSpec,
    show: Callable[[Tensor], list[str]],
    labelled: bool,
) -> DataPool:
    what, none = f"{name} of the caller", PLAIN
    positions = tuple(range(len(batch)))
    return DataPool(batch, class_names, count, name, what, none.mean, none.std, positions, labelled, spec, show)


def _checked(labels: Tensor, count: int) -> Tensor:
    """Class numbers (n,), or several labels at once (n, k), of 0 and 1."""
    whole = not labels.is_floating_point() and not labels.is_complex()
    if whole and labels.ndim == 2 and len(labels) == count and bool(((labels == 0) | (labels == 1)).all()):
        return labels.detach().cpu().long()
    fits = labels.shape == (count,) and not labels.is_floating_point() and not labels.is_complex()
    if not fits or (count and not 0 <= int(labels.min()) <= int(labels.max()) < MOST_CLASSES):
        raise BadInput(
            f"labels of shape {tuple(labels.shape)} and {labels.dtype};"
            f" one class number from 0 for each of {count} inputs, below {MOST_CLASSES}, or a row of 0 and 1, is needed"
        )
    return labels.detach().cpu().long()


def chosen_from(pool: DataPool, indices: str | Sequence[int] | None) -> DataPool:
    """The pool's examples at some positions, see `load`; None keeps all.

    Raises:
        BadInput: see `parse_indices`.
    """
    if indices is None:
        return pool
    places = parse_indices(indices, len(pool))
    return replace(pool, batch=pool.batch[places], indices=tuple(pool.indices[k] for k in places))


def shared_examples(private: DataPool, public: DataPool) -> list[int]:
    """Positions in `private` whose inputs (pixels to 8 bits) also stand in `public`; what a plan must rule out."""
    if private.spec != public.spec or private.input_shape != public.input_shape:
        return []
    known = {_bytes(public, x) for x in public.batch.inputs}
    return [k for k, x in enumerate(private.batch.inputs) if _bytes(private, x) in known]


def _bytes(pool: DataPool, x: Tensor) -> bytes:
    return ((x * 255).round().byte() if pool.spec is None else x).numpy().tobytes()
