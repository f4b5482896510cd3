"""A file that a server sent, put into the network that it is for; what does not fit is kept, not refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.files.fitting import EXTRA
from fedspill.core.files.names import aliases, match
from fedspill.core.files.numbers import Stored, stored, values
from fedspill.core.model import Model
from fedspill.core.roles import FITS, Misfit
from fedspill.core.tensor_files import with_weights


@dataclass(frozen=True)
class Received:
    """A network with the weights that a file has for it.

    Attributes:
        model: where the file does not fit, without the parameters and buffers that it lacks.
        misfit: what did not find its place.
    """

    model: Model
    misfit: Misfit = FITS


def received(model: Model, tensors: Mapping[str, Tensor], source: str) -> Received:
    """Puts a file's tensors into a network as far as they fit; NaN and infinity are kept.

    Args:
        model: the network; its own weights are not looked at.
        tensors: as `core.tensor_files.read_tensors` gives them.
        source: the file, for messages.
    """
    try:
        return Received(with_weights(model, tensors, source))
    except BadInput as error:
        return _Sorting(model).of(tensors, str(error))


@dataclass
class _Sorting:
    """The tensors of a file that does not fit, each to where it belongs."""

    model: Model
    taken: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    foreign: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    reshaped: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    unreadable: dict[str, str] = field(default_factory=dict[str, str])

    def of(self, tensors: Mapping[str, Tensor], why: str) -> Received:
        templates, known = {**self.model.params, **self.model.buffers}, aliases(self.model.module)
        known = {alias: name for alias, name in known.items() if name in templates} | {k: k for k in templates}
        entries = stored(tensors, known)
        places = match(list(entries), list(known)).places
        for name, entry in entries.items():
            place = known[places[name]] if name in places else None
            if place is None:
                self._foreign(name, entry)
            elif entry.shape != tuple(templates[place].shape):
                self._keep(self.reshaped, name, entry)
            else:
                self._take(name, place, entry, templates[place])
        return self._result(why)

    def _foreign(self, name: str, entry: Stored) -> None:
        if name.rpartition(".")[2] not in EXTRA:
            self._keep(self.foreign, name, entry)

    def _keep(self, kept: dict[str, Tensor], name: str, entry: Stored) -> None:
        try:
            kept[name] = _raw(name, entry, self.model.like)
        except BadInput as error:
            self.unreadable[name] = str(error)

    def _take(self, name: str, place: str, entry: Stored, like: Tensor) -> None:
        try:
            value = _raw(name, entry, like)
        except BadInput as error:
            self.unreadable[name] = str(error)
            return
        other = self.taken.setdefault(place, value)
        if other is not value and not torch.equal(other, value):
            self.unreadable[name] = f"{name!r} is a second copy of {place!r}, and its values differ"

    def _result(self, why: str) -> Received:
        model, state = self.model, self.model.module.state_dict()
        # What a state dict need not hold keeps the network's own values.
        spare = {k: v for k, v in model.buffers.items() if k not in state or k.endswith("num_batches_tracked")}
        buffers = {k: self.taken.get(k, spare.get(k)) for k in model.buffers}
        params = {k: self.taken[k] for k in model.params if k in self.taken}
        held = {k: v for k, v in buffers.items() if v is not None}
        missing = (*(k for k in model.params if k not in params), *(k for k in buffers if k not in held))
        misfit = Misfit(missing, self.foreign, self.reshaped, self.unreadable)
        if not misfit and all(bool(v.isfinite().all()) for v in (*params.values(), *held.values())):
            misfit = Misfit(unreadable={"file": why})  # refused for a reason that was not foreseen here
        return Received(replace(model, params=params, buffers=held), misfit)


def _raw(name: str, entry: Stored, like: Tensor) -> Tensor:
    """The plain values, NaN and infinity among them.

    Raises:
        BadInput: they are no real numbers, or cannot be computed with.
    """
    tensor = entry.tensor
    plain = entry.scale is None and tensor.layout == torch.strided and not tensor.is_nested
    if plain and tensor.is_floating_point() and tensor.device.type != "meta" and not tensor.is_quantized:
        return tensor.detach().to(like.device, like.dtype if like.is_floating_point() else tensor.dtype)
    return values(entry, like, f"tensor {name!r}")
