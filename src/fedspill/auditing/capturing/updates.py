"""Named tensors of a file, or of a file per client, as an update to the model."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from fedspill.auditing.capturing.kinds import Kind, check_kind, rounding_note
from fedspill.auditing.capturing.modes import mode_note
from fedspill.auditing.capturing.signs import uphill
from fedspill.core.errors import BadInput, some
from fedspill.core.files.contents import named_tensors
from fedspill.core.files.fitting import Fitted, fitted
from fedspill.core.files.reading import read_folder, read_tensors
from fedspill.core.local_training.update import mean_update, weighted_mean
from fedspill.core.model import Model
from fedspill.core.types import Params, Update, UpdateKind


@dataclass(frozen=True)
class Sent:
    """What was captured.

    Attributes:
        clients: whose mean it is, if a folder of updates was read.
        notes: what was found out of it, and what was passed over.
        turned: the same as client minus server, if nothing in it told which of the two it is; else None.
    """

    update: Update
    clients: int | None = None
    notes: tuple[str, ...] = ()
    turned: "Callable[[], Sent] | None" = None


def read_update(given: object, kind: Kind, model: Model, num_examples: int | None = None) -> Sent:
    """An update from whatever holds one.

    Args:
        given: a path to a file, or to a folder with one file per client, whose mean is taken, with equal weights or by
            the `num_examples` that each of the files holds; or named tensors or arrays, a list of arrays in the order
            of the state dict, or Flower's `ArrayRecord`.
        kind: see `as_update`.
        num_examples: how many examples are behind it, over all clients, if known.

    Raises:
        BadInput: it cannot be read, or is no such update to this model.
    """
    if not isinstance(given, str | Path):
        return as_update(named_tensors(given, "the update"), kind, model, num_examples)
    try:
        folder = "\0" not in str(given) and Path(given).is_dir()
    except OSError:
        folder = False  # the reader tells what is wrong
    if not folder:
        return as_update(read_tensors(given), kind, model, num_examples)
    return _mean(Path(given), kind, model, num_examples)


def _mean(folder: Path, kind: Kind, model: Model, num_examples: int | None) -> Sent:
    files = read_folder(folder)
    counts = _counts(folder, files, num_examples)
    found = {name: _named(name, tensors, kind, model) for name, tensors in files.items()}
    _check_alike(folder, found)
    right = _sign(list(found.values()), kind, model, counts)
    return _sent(list(found.values()), kind, model, counts, right)


def _sent(found: list[Fitted], kind: Kind, model: Model, counts: Sequence[int | None], right: bool | None) -> Sent:
    mean = _averaged([_update(one, kind, model, right) for one in found], counts)
    passed_over = dict.fromkeys(note for one in found for note in one.notes)
    notes = (_mean_said(counts, kind), *_said(right, kind), *_mode_said(mean, model), *passed_over)
    turned = partial(_sent, found, kind, model, counts, False) if kind == "delta" and right is None else None
    return Sent(_trained(mean, kind), len(found), notes, turned)


def _check_alike(folder: Path, found: Mapping[str, Fitted]) -> None:
    names = {name: (one.params.keys(), one.buffers.keys()) for name, one in found.items()}
    first = next(iter(names))
    for name, held in names.items():
        if held != names[first]:
            raise BadInput(f"{str(folder)!r}: {name!r} holds other tensors than {first!r}")


def _averaged(updates: list[Update], counts: Sequence[int | None]) -> Update:
    if len(set(counts)) == 1:
        return mean_update(updates)
    return weighted_mean((count or 1, update) for count, update in zip(counts, updates, strict=True))


def _mean_said(counts: Sequence[int | None], kind: Kind) -> str:
    unequal = len(set(counts)) > 1
    weights = "weights by the numbers of examples in their files" if unequal else "equal weights"
    said = f"The update is the mean of {len(counts)} clients, with {weights}; to attack one of them, give its file."
    if unequal and kind != "gradient":
        said += " What they trained is simulated with equal shares, which theirs are not."
    return said


def _counts(
    folder: Path, files: Mapping[str, Mapping[str, Tensor]], num_examples: int | None
) -> list[int] | list[None]:
    """Examples of every client: as their files say, else equal shares of what is known; None if nothing is.

    Raises:
        BadInput: only some files say it, or it contradicts what is known.
    """
    told = [_count(tensors) for tensors in files.values()]
    stated = [count for count in told if count is not None]
    if not stated:
        if num_examples is not None and num_examples % len(files):
            raise BadInput(
                f"{num_examples} examples cannot be shared out equally to the {len(files)} clients of the folder"
            )
        return [None] * len(files) if num_examples is None else [num_examples // len(files)] * len(files)
    if len(stated) < len(told) or min(stated) < 1:
        raise BadInput(f"files of {str(folder)!r} say num_examples={told}; each must say 1 or more, or none")
    if num_examples not in (None, sum(stated)):
        raise BadInput(f"num_examples={num_examples} was given, and the files of {str(folder)!r} say {stated}")
    return stated


def _count(tensors: Mapping[str, Tensor]) -> int | None:
    """The number of examples that stands beside an update, if one does."""
    counts = [v for k, v in tensors.items() if re.split(r"[. ]", k)[-1] in ("num_examples", "num_samples")]
    return int(counts[0]) if len(counts) == 1 and counts[0].numel() == 1 and not counts[0].is_complex() else None


def _named(name: str, tensors: Mapping[str, Tensor], kind: Kind, model: Model) -> Fitted:
    try:
        return _found(tensors, kind, model)
    except BadInput as error:
        raise BadInput(f"{name}: {error}") from error


def as_update(tensors: Mapping[str, Tensor], kind: Kind, model: Model, num_examples: int | None = None) -> Sent:
    """Named tensors of a file as an update to this model.

    Args:
        kind: "gradient"; "delta", the change of the parameters, of which either sign is found out where it can be, and
            else server minus client is taken; or "weights", the client's parameters after training.
        num_examples: how many examples are behind the update, if known.

    Raises:
        BadInput: names or shapes that the model does not have, values that are not finite, or another kind.
    """
    found = _found(tensors, kind, model)
    return _alone(found, kind, model, _sign([found], kind, model, [num_examples]))


def _alone(found: Fitted, kind: Kind, model: Model, right: bool | None) -> Sent:
    update = _trained(_update(found, kind, model, right), kind)
    turned = partial(_alone, found, kind, model, False) if kind == "delta" and right is None else None
    return Sent(update, None, (*_said(right, kind), *_mode_said(update, model), *found.notes), turned)


def _found(tensors: Mapping[str, Tensor], kind: Kind, model: Model) -> Fitted:
    found = fitted(tensors, model, "update")
    if not found.params:
        raise BadInput(f"the update holds none of the model's parameters {some(model.params)}")
    check_kind(found.params, kind, model)
    rounded = rounding_note(found.params, model) if kind == "weights" else None
    return found if rounded is None else replace(found, notes=(*found.notes, rounded))


def _sign(found: Sequence[Fitted], kind: Kind, model: Model, counts: Sequence[int | None]) -> bool | None:
    """Whether what was sent points uphill, in the word of all clients together.

    Raises:
        BadInput: two clients' deltas have different signs, or a gradient points downhill.
    """
    if kind == "weights":
        return True
    each = zip(found, counts, strict=True)
    told = {uphill(one.params, _differences(one, kind, model), model, count) for one, count in each} - {None}
    if len(told) > 1:
        raise BadInput("some clients' updates point uphill and others downhill; give those of one sign")
    right = next(iter(told), None)
    if kind == "gradient" and right is False:
        raise BadInput(
            "kind='gradient' points downhill: at the head's bias the classes that no example has fall instead of"
            " rising; a change of the weights (kind 'delta') may have either sign; or num_examples or the loss is"
            " another"
        )
    return right


SIGNS = {
    True: "The delta is server minus client, as it was found to be.",
    False: "The delta is client minus server, it was found, and was turned round.",
    None: "The delta was taken as server minus client: nothing in it tells its sign.",
}


def _said(right: bool | None, kind: Kind) -> tuple[str, ...]:
    return (SIGNS[right],) if kind == "delta" else ()


def _mode_said(update: Update, model: Model) -> tuple[str, ...]:
    note = mode_note(update.buffers, model)
    return () if note is None else (note,)


def _update(found: Fitted, kind: Kind, model: Model, right: bool | None) -> Update:
    if kind == "gradient":
        own = found.buffers if _are_values(found.buffers, model) is not False else {}
        return Update(UpdateKind.GRADIENT, found.params, own or None)
    if kind == "weights":
        changed = {k: model.params[k] - v for k, v in found.params.items()}
        return Update(UpdateKind.DELTA, changed, found.buffers or None)
    sign, differences = -1.0 if right is False else 1.0, _differences(found, kind, model)
    values = {k: sign * v for k, v in found.params.items()}
    after = {k: _after(model.buffers[k], v, sign) for k, v in differences.items()}
    own = found.buffers if _are_values(found.buffers, model) else after
    return Update(UpdateKind.DELTA, values, own or None)


def _trained(update: Update, kind: Kind) -> Update:
    """Of weights without parameters that no client changed: these were not trained."""
    if kind != "weights":
        return update
    changed = {k: v for k, v in update.values.items() if bool(v.any())}
    if not changed:
        raise BadInput("the client's weights equal the model's: nothing was trained")
    return replace(update, values=changed)


def _differences(found: Fitted, kind: Kind, model: Model) -> Params:
    """The buffers, if these are differences too, as the parameters of a delta are."""
    return found.buffers if kind == "delta" and _are_values(found.buffers, model) is False else {}


def _are_values(buffers: Params, model: Model) -> bool | None:
    """Whether buffers beside a delta are the client's own, not differences; None without running variances.

    If they are, their running variances are closer to the model's than to 0.
    """
    names = [k for k in buffers if k.endswith("running_var")]
    if not names:
        return None
    apart = sum(float((buffers[k] - model.buffers[k]).double().pow(2).sum()) for k in names)
    return apart < sum(float(buffers[k].double().pow(2).sum()) for k in names)


def _after(before: Tensor, difference: Tensor, sign: float) -> Tensor:
    return (before.double() - sign * difference.double()).to(before.dtype)


def observed(update: Update | Any, kind: Kind, model: Model, num_examples: int | None = None) -> Sent:
    """`read_update`, or an `Update` as it is: it says itself what it is.

    Raises:
        BadInput: see `read_update`.
    """
    if isinstance(update, Update):
        return Sent(update, None, _mode_said(update, model))
    return read_update(update, kind, model, num_examples)


def clients_of(sent: Sent, clients: int) -> int:
    """How many clients' updates were averaged, by the caller's word or by the folder that was read.

    Raises:
        BadInput: the two differ.
    """
    if sent.clients is None or clients == sent.clients:
        return clients
    if clients != 1:
        raise BadInput(f"clients={clients} was given, and the folder holds updates of {sent.clients}")
    return sent.clients
