"""Which examples go into which update."""

from collections.abc import Sequence

from fedspill.core.errors import BadInput
from fedspill.zoo.data.by_name import DataPool


def cut(
    pool: DataPool, num_examples: int, distinct_labels: bool = False, minibatch: int | None = None
) -> list[list[int]]:
    """The pool's positions, cut into consecutive updates of `num_examples`; what is left over is not used.

    Args:
        pool: where the examples and their labels lie.
        num_examples: n of one update, at least 1.
        distinct_labels: pass over an image whose label is already in the same mini-batch (in the same update
            if `minibatch` is None) and take the next one, as Geiping et al. 2020 (arXiv 2003.14053, appendix
            C.2); images passed over are not used later.
        minibatch: the clients' mini-batch size.

    Returns:
        Positions in `pool.batch`, one list of `num_examples` per update, at least one list.

    Raises:
        BadInput: the pool is too small, or distinct labels cannot be had.
    """
    size = minibatch or num_examples
    if num_examples < 1 or size < 1:
        raise BadInput(f"num_examples={num_examples}, minibatch={minibatch}: both must be at least 1")
    if distinct_labels:
        _check(pool, min(size, num_examples))
        groups = _distinct(pool.batch.labels.tolist(), num_examples, size)
    else:
        groups = _consecutive(len(pool), num_examples)
    if not groups:
        extra = " with distinct labels" if distinct_labels else ""
        raise BadInput(f"{len(pool)} examples of {pool.name} make no update of num_examples={num_examples}{extra}")
    return groups


def _check(pool: DataPool, size: int) -> None:
    if not pool.has_labels:
        raise BadInput(f"distinct_labels needs labels; {pool.name} has none")
    if pool.batch.labels.ndim != 1:
        raise BadInput(f"distinct_labels needs one class per example; those of {pool.name} are next tokens")
    if size > pool.num_classes:
        raise BadInput(f"distinct_labels: {size} examples cannot all differ among {pool.num_classes} classes")


def _consecutive(total: int, num_examples: int) -> list[list[int]]:
    return [list(range(k, k + num_examples)) for k in range(0, total - num_examples + 1, num_examples)]


def _distinct(labels: Sequence[int], num_examples: int, size: int) -> list[list[int]]:
    groups: list[list[int]] = []
    current: list[int] = []
    seen: set[int] = set()
    for position, label in enumerate(labels):
        if label in seen:
            continue
        current.append(position)
        seen.add(label)
        if len(current) % size == 0:
            seen = set()
        if len(current) == num_examples:
            groups.append(current)
            current, seen = [], set()
    return groups
