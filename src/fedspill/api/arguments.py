"""What callers say of a bare network: its inputs' shape, how they are normalised, its loss."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from fedspill.core.errors import BadInput
from fedspill.core.local_training.losses import loss_of
from fedspill.core.model import LossFn, Model
from fedspill.zoo.data import DataPool
from fedspill.zoo.statistics import Normalisation, check_channels, named, stated, words


class Unsaid:
    """The value of a keyword that was not given, where None means something."""

    def __repr__(self) -> str:
        return "not given"


UNSAID: Final = Unsaid()
PerChannel = Sequence[float | int] | NDArray[Any] | Tensor | float | int
Range = tuple[float | int, float | int] | list[float | int]
"""What black and white are, before mean and std."""
Word = Literal["data", "imagenet", "cifar10", "cifar100"]
Normalise = tuple[PerChannel, PerChannel] | Word | Literal[False] | None
"""Mean and standard deviation, per channel or one for all, of the numbers of `range`.

None or False: these are fed as they are. The name of a data set takes its constants, of pixels in [0, 1]; "data" the
data's statistics: its constants, where the data set has some, else what public images give."""
Loss = LossFn | str
"""Of logits (n, classes) and labels (n,) to their mean loss; or "package.module:function", which names one."""
Data = DataPool | tuple[Any, Any] | object
"""A pool; images in [0, 1] or of bytes with labels: a pair of tensors or arrays, a list of (image, label), a Dataset of
torch or Hugging Face, a DataLoader; see `fedspill.zoo.data.pool_of`; or
"package.module:factory", which gives one of these."""


def check_network(model: object, name: str) -> None:
    """A network is what was given under this name.

    Raises:
        BadInput: it is something else.
    """
    if not isinstance(model, Model | nn.Module):
        raise BadInput(f"{name} is a {type(model).__name__}; a torch.nn.Module or a fedspill.Model is needed")


def check_unsaid(normalise: Normalise | Unsaid, ends: Range | None, why: str) -> None:
    """Nothing is said of the normalisation of what brings its own.

    Raises:
        BadInput: something is said.
    """
    # Before these were refused, None was ignored here.
    if ends is not None or not (normalise is None or isinstance(normalise, Unsaid)):
        raise BadInput(f"normalise={normalise} and range={ends} are of bare networks of images; {why}")


def said_of(
    normalise: Normalise | Unsaid,
    ends: Range | None,
    channels: int,
    data: Callable[[], Normalisation],
) -> Normalisation:
    """What the caller says of the numbers that a bare network is fed.

    Args:
        ends: what black and white are before mean and std.
        channels: of the images.
        data: asked for the data's statistics.

    Raises:
        BadInput: nothing is said, or the values fit no image.
    """
    if isinstance(normalise, Unsaid) and ends is None:
        raise BadInput(
            "a bare nn.Module needs normalise=(mean, std), per channel of pixels in [0, 1] (or of range=...);"
            ' normalise="data" for the data\'s statistics, "imagenet" and the like for others; or normalise=None if it'
            " takes such pixels as they are"
        )
    if isinstance(normalise, str):
        return _by_word(normalise, ends, channels, data)
    nothing = normalise is None or normalise is False or isinstance(normalise, Unsaid)
    mean, std = (None, None) if nothing else _pair(normalise, channels)
    return Normalisation(check_channels(stated(mean, std, _ends(ends)), channels), "as the caller says")


def _by_word(word: str, ends: Range | None, channels: int, data: Callable[[], Normalisation]) -> Normalisation:
    found = named(word, "the caller")
    if found is None and word != "data":
        raise BadInput(
            f"normalise={word!r} states no normalisation; {words('data')} do, or (mean, std), or None for pixels as"
            " they are"
        )
    if ends is not None:
        raise BadInput(f'normalise="{word}" is of pixels in [0, 1]; leave range out, or give (mean, std)')
    return data() if found is None else Normalisation(check_channels(found.statistics, channels), found.origin)


def _ends(ends: Range | None) -> tuple[float, float] | None:
    if ends is None:
        return None
    if len(ends) != 2:
        raise BadInput(f"range={ends}: two numbers are needed, what black and white are")
    return float(ends[0]), float(ends[1])


def _pair(normalise: object, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    try:
        mean, std = (_values(part) for part in cast("Sequence[Any]", normalise))
        fits = {len(mean), len(std)} <= {1, channels} and all(v > 0 for v in std)
    except (TypeError, ValueError):
        fits, mean, std = False, (), ()
    if not fits:
        raise BadInput(
            f"normalise={normalise}: mean and positive std, one or for each of {channels} channels, are needed"
        )
    return mean, std


def _values(part: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in np.atleast_1d(np.asarray(part, dtype=float)).ravel())


def shape_of(shape: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """The shape (channels, height, width) of one image.

    Raises:
        BadInput: it is none.
    """
    if shape is None or len(shape) != 3 or min(shape) < 1:
        raise BadInput(f"shape={shape}: a bare nn.Module needs shape=(channels, height, width) of one image")
    return shape


def with_loss(model: Model, loss: Loss | None) -> Model:
    """The model with the loss that the caller states, if any.

    Raises:
        BadInput: it is no function, and names none.
    """
    if loss is None:
        return model
    function = loss_of(loss) if isinstance(loss, str | Mapping | list | tuple) else loss
    if not callable(function):
        raise BadInput(f"loss {loss!r} is a {type(function).__name__}; a function of logits and labels is needed")
    return model.with_loss(function)
