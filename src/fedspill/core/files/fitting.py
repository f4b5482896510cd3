"""What a file holds, put into a model; or one line that says what does not fit, and the likely cause."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedspill.core.errors import BadInput, some
from fedspill.core.files.contents import BORDER
from fedspill.core.files.names import NESTS, Found, aliases, in_order, match, nest
from fedspill.core.files.numbers import Stored, stored, values
from fedspill.core.model import Model
from fedspill.core.types import Params

EXTRA = {
    *("num_batches_tracked", "position_ids", "total_ops", "total_params", "relative_position_index", "attn_mask"),
    *("inv_freq", "masked_bias", "relative_coords_table", "num_examples", "num_samples", "epoch", "step", "round"),
}
"""Last names of buffers that follow from the architecture, and of counts, which a model can do without."""


@dataclass(frozen=True)
class Fitted:
    """A file's tensors by the model's names, plain, and in the model's dtypes.

    Attributes:
        params: some or all of the model's parameters.
        buffers: likewise.
        notes: what was passed over or taken for something, one sentence each.
        rivals: prefixes under which the file holds as many of the model's names, and which were not taken.
    """

    params: Params
    buffers: Params
    notes: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()


def fitted(tensors: Mapping[str, Tensor], model: Model, what: str) -> Fitted:
    """Finds each of the model's tensors among those of a file.

    Args:
        tensors: as `read_tensors` gives them.
        what: what they are, for messages: "parameter", "update".

    Raises:
        BadInput: a name is not the model's, or a shape; two copies of tied weights disagree; or values are no finite
            real numbers. Names the first mismatch and its likely cause.
    """
    templates, known = {**model.params, **model.buffers}, aliases(model.module)
    known = {alias: name for alias, name in known.items() if name in templates} | {k: k for k in templates}
    entries = stored(tensors, known)
    listed = in_order(list(entries))
    found = match(list(entries), list(known))
    if not found.places and listed is not None:
        entries, found = _by_order([entries[n] for n in listed], model, known, what)
    if not found.places:
        raise BadInput(_no_name(list(entries), list(model.params), what))
    _check_rivals(found, entries, what)
    notes = _left_over(found, entries, model, known, what)
    taken = _taken(found, entries, templates, known, what)
    params = {k: taken[k] for k in model.params if k in taken}
    buffers = {k: taken[k] for k in model.buffers if k in taken}
    return Fitted(params, buffers, tuple(notes), found.rivals)


def _taken(
    found: Found, entries: Mapping[str, Stored], templates: Params, known: Mapping[str, str], what: str
) -> dict[str, Tensor]:
    """The values by the model's names; copies of tied weights count once, and must agree."""
    for name, place in found.places.items():
        _check_shape(name, entries[name], templates[known[place]], templates, what)
    taken, origin = dict[str, Tensor](), dict[str, str]()
    for name, place in found.places.items():
        main = known[place]
        value = values(entries[name], templates[main], f"{what} {name!r}")
        if main in taken and not torch.equal(value, taken[main]):
            raise BadInput(
                f"{what} {name!r} and {origin[main]!r} are one tied tensor of the model, and their values differ"
            )
        taken[main] = value
        origin.setdefault(main, name)
    return taken


def _check_shape(name: str, given: Stored, template: Tensor, templates: Params, what: str) -> None:
    needed = tuple(template.shape)
    if given.shape != needed:
        raise BadInput(
            f"{what} {name!r} has shape {given.shape}, the model needs {needed}{_cause(given.shape, needed, templates)}"
        )


def _cause(got: tuple[int, ...], needed: tuple[int, ...], templates: Params) -> str:
    if len(got) == len(needed) > 1 and got in (needed[::-1], (*needed[2:], needed[1], needed[0])):
        return " (transposed, as TensorFlow and Keras keep weights?)"
    last = next((tuple(t.shape) for t in reversed(list(templates.values())) if t.ndim > 1), ())
    if got and got[1:] == needed[1:] and (needed == last or needed == last[:1]):
        return f" (another num_classes: {got[0]} rather than {needed[0]}?)"
    if torch.Size(got).numel() == torch.Size(needed).numel():
        return " (the same numbers in another shape)"
    return " (another width, or another architecture?)"


def _no_name(given: Sequence[str], names: Sequence[str], what: str) -> str:
    said = f"the {what} holds none of the model's parameters {some(names)}; it holds {some(given)}"
    if any(n.endswith((":0", "/kernel", ".kernel")) for n in given):
        return f"{said} (named as TensorFlow, Keras or JAX do: write them by the names of state_dict())"
    return f"{said} (another architecture?)"


def _check_rivals(found: Found, entries: Mapping[str, Stored], what: str) -> None:
    """Where a file holds the model's weights twice, the likelier place counts; of two alike none does."""
    first = found.prefix.partition(".")[0]
    if found.rivals and first and first not in NESTS:
        raise BadInput(
            f"the {what} file holds the model's names under {some([found.prefix, *found.rivals])}; give one of them"
        )


def _left_over(
    found: Found, entries: Mapping[str, Stored], model: Model, known: Mapping[str, str], what: str
) -> Iterator[str]:
    """Notes on what is passed over.

    Raises:
        BadInput: a tensor beside those that were found is none of the model's, and may matter.
    """
    home, left = nest(list(found.places)), [n for n in entries if n not in found.places]
    unknown = [n for n in left if n.startswith(home) and not _may_lack(n, entries[n])]
    if unknown:
        held = {known[place] for place in found.places.values()}
        missing = [n for n in model.params if n not in held]
        raise BadInput(_names(f"{what} names", missing, unknown, list(model.params)))
    if left:
        yield f"Of the {what} file {some(left)} were not used: they are none of the model's."
    if found.prefix.strip("."):
        yield f"The names in the {what} file begin with {found.prefix!r}."


def _may_lack(name: str, given: Stored) -> bool:
    whole = not given.tensor.dtype.is_floating_point and not given.tensor.dtype.is_complex
    last = name.split(BORDER)[-1].rpartition(".")[2]
    return (
        last in EXTRA
        or given.tensor.dtype == torch.bool
        or (whole and given.scale is None and given.shape in ((), (1,)))
    )


def check_complete(params: Params, model: Model, given: Sequence[str], what: str) -> None:
    """Checks that none of the model's parameters is missing.

    Raises:
        BadInput: one is; names the first, and the likely cause.
    """
    lacking = [n for n in model.params if n not in params]
    if lacking:
        raise BadInput(_names(f"{what} names", lacking, [], list(model.params), given))


def _names(
    what: str, missing: Sequence[str], unknown: Sequence[str], names: Sequence[str], given: Sequence[str] = ()
) -> str:
    said = f"{what} do not fit the model: missing {some(missing)}, unknown {some(unknown)}"
    if any("lora_" in n for n in unknown):
        return f"{said} (adapters that the model does not have?)"
    close = difflib.get_close_matches(missing[0], unknown, 1, 0.6) if missing and unknown else []
    if close:
        return f"{said} (is {close[0]!r} the model's {missing[0]!r}?)"
    if len(missing) > len(names) // 2:
        return f"{said}; the model has {some(names)} (another architecture?)"
    return f"{said}; the model has {some(names)}"


def _by_order(
    arrays: Sequence[Stored], model: Model, known: Mapping[str, str], what: str
) -> tuple[dict[str, Stored], Found]:
    """A list's arrays under the names of the order that fits them, or one vector cut up in the parameters' order.

    Raises:
        BadInput: no order has so many, or the first array that does not fit the one that has.
    """
    templates = {**model.params, **model.buffers}
    orders = list(_orders(model, known))
    if len(arrays) == 1 and len(arrays[0].shape) == 1:
        cut = _cut(arrays[0], model)
        if cut is not None:
            return cut, Found({n: n for n in cut})
    alike = [order for order in orders if len(order) == len(arrays)]
    for order in alike:
        if all(a.shape == tuple(templates[known[n]].shape) for a, n in zip(arrays, order, strict=True)):
            return dict(zip(order, arrays, strict=True)), Found({n: n for n in order})
    if not alike:
        raise BadInput(
            f"the {what} is a list of {len(arrays)} arrays; the model's state_dict() has {len(orders[0])} and its"
            f" parameters() {len(model.params)} (another architecture?)"
        )
    raise BadInput(_out_of_order(arrays, alike[0], [tuple(templates[known[n]].shape) for n in alike[0]], what))


def _orders(model: Model, known: Mapping[str, str]) -> Iterator[list[str]]:
    """The orders in which tools list a model's tensors: of the state dict, of parameters, of what is trained."""
    state = [n for n in model.module.state_dict() if n in known]
    trained = [n for n, p in model.module.named_parameters() if p.requires_grad and n in model.params]
    yield state
    yield list(model.params)
    yield trained
    yield [n for n in state if not n.endswith("num_batches_tracked")]


def _out_of_order(arrays: Sequence[Stored], order: Sequence[str], shapes: list[tuple[int, ...]], what: str) -> str:
    at = next(k for k, (a, shape) in enumerate(zip(arrays, shapes, strict=True)) if a.shape != shape)
    said = f"array {at} of the {what} has shape {arrays[at].shape}, and {order[at]!r} of the model needs {shapes[at]}"
    if sorted(a.shape for a in arrays) == sorted(shapes):
        return f"{said}; the shapes are the model's in another order than that of state_dict()"
    if arrays[at].shape == shapes[at][::-1] and len(shapes[at]) > 1:
        return f"{said} (transposed, as TensorFlow and Keras keep weights?)"
    return f"{said} (another architecture or num_classes?)"


def _cut(vector: Stored, model: Model) -> dict[str, Stored] | None:
    """One vector as the parameters in a row (`parameters_to_vector`); None if it has another length."""
    sizes = {n: p.numel() for n, p in model.params.items()}
    if vector.scale is not None or vector.tensor.layout != torch.strided or vector.shape != (sum(sizes.values()),):
        return None
    parts = vector.tensor.split(list(sizes.values()))
    return {n: Stored(part.reshape(model.params[n].shape)) for n, part in zip(sizes, parts, strict=True)}
