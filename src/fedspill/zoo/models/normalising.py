"""What a network's images are normalised by: as somebody says, and for trained weights never by a guess.

Asked are, in this order: the caller; the file of the weights; the library that the weights are from. Of an untrained
network nothing depends on it, so it takes the data's constants, or round numbers.
"""

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from torch import nn

from fedspill.core.errors import BadInput
from fedspill.zoo.models.trained import Trained
from fedspill.zoo.statistics import (
    IDENTITY,
    PLAIN,
    Normalisation,
    Statistics,
    check_channels,
    known,
    named,
    stated,
    words,
)

SAY_IT: Final = "give model.mean and model.std (and model.range), or model.normalise"


class UnsaidNormalisation(BadInput):
    """Nobody says what a network's images are normalised by."""


@dataclass(frozen=True)
class Network:
    """What a library may be asked about.

    Attributes:
        name: without the library's prefix.
        options: of the plan, for the library.
        weights: as the plan names them.
        num_classes: of the head.
    """

    name: str
    module: nn.Module
    options: Mapping[str, Any]
    weights: str
    num_classes: int


def by_word(normalise: object) -> Normalisation | None:
    """The normalisation that an option `normalise` names; None if it leaves the choice.

    Raises:
        BadInput: another value.
    """
    if normalise is True or normalise is None:
        return None
    if normalise is False:
        return Normalisation(IDENTITY, "none, as the plan says")
    found = named(normalise, "the plan") if isinstance(normalise, str) else None
    if found is None:
        raise BadInput(f"option normalise={normalise!r} must be true, false, or one of {words()}")
    return found


def chosen(
    name: str,
    network: Network,
    *,
    said: Normalisation | None,
    trained: Trained | None,
    data: Statistics | None,
    channels: int,
    assume: bool,
) -> Normalisation:
    """The normalisation of a bare network of images.

    Args:
        name: of the model, as the plan has it.
        network: what its library may be asked about.
        said: by the caller.
        trained: its weights, if they are not random.
        data: constants of the data set, if any are known.
        channels: of the images.
        assume: whether constants of the data, or round numbers, may stand in for what nobody says.

    Raises:
        UnsaidNormalisation: nobody says.
        BadInput: values do not fit the channels.
    """
    found = said or _of_weights(name, network, trained)
    if found is None and (assume or surely_untrained(name, network.weights, network.options)):
        found = _assumed(data)
    if found is None:
        raise UnsaidNormalisation(f"what the images of model {name!r} are normalised by is said by nobody: {SAY_IT}")
    check_channels(found.statistics, channels)
    return found


def _of_weights(name: str, network: Network, trained: Trained | None) -> Normalisation | None:
    if trained is not None and trained.statistics is not None:
        return Normalisation(trained.statistics, f"as {trained.source} says")
    ask = LIBRARIES.get(name.partition(":")[0])
    return None if ask is None else ask(network)


def surely_untrained(name: str, weights: str, options: Mapping[str, Any]) -> bool:
    """Random weights for certain; the caller's own factory may have loaded some, and a library's option too."""
    prefix, colon, _ = name.partition(":")
    loads = any(options.get(key) for key in ("pretrained", "checkpoint_path"))
    return weights == "untrained" and (not colon or (prefix in LIBRARIES and not loads))


def _assumed(data: Statistics | None) -> Normalisation:
    if data is None:
        return Normalisation(PLAIN, "assumed, as nothing is known of the data")
    return Normalisation(data, "constants of the data set")


def _of_timm(network: Network) -> Normalisation | None:
    """What timm's configuration says, if these are its weights: it loads them, or the file has its head."""
    told = getattr(network.module, "pretrained_cfg", None) or getattr(network.module, "default_cfg", None)
    if not isinstance(told, Mapping):
        return None
    config = cast("Mapping[str, Any]", told)
    is_its_own = bool(network.options.get("pretrained")) or (
        network.weights != "untrained" and config.get("num_classes") == network.num_classes
    )
    if not is_its_own or not config.get("mean") or not config.get("std"):
        return None
    return Normalisation(stated(tuple(config["mean"]), tuple(config["std"])), "as timm's default_cfg says")


def _of_torchvision(network: Network) -> Normalisation | None:
    """What the transforms of torchvision's weights say, if the file has their head."""
    if network.weights == "untrained":
        return None
    try:
        models = importlib.import_module("torchvision.models")
        entry = models.get_model_weights(network.name)["DEFAULT"]
        transforms = entry.transforms()
        if len(entry.meta["categories"]) != network.num_classes:
            return None
        return Normalisation(
            stated(tuple(transforms.mean), tuple(transforms.std)), "as the transforms of torchvision's weights say"
        )
    except (ImportError, AttributeError, KeyError, ValueError, TypeError):
        return None  # networks without weights, weights without such transforms


def _of_hf(network: Network) -> Normalisation | None:
    """What preprocessor_config.json says, beside the weights in the model's folder."""
    folder = Path(network.name)
    path = folder / "preprocessor_config.json"
    if network.weights == "untrained" or Path(network.weights).parent != folder or not path.is_file():
        return None
    try:
        return Normalisation(_preprocessor(json.loads(path.read_text(encoding="utf-8"))), f"as {path} says")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(f"{str(path)!r} does not say how images are normalised ({error}); {SAY_IT}") from error


def _preprocessor(config: Mapping[str, Any]) -> Statistics:
    top = 255 * float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 255.0
    low = -1.0 if config.get("rescale_offset") or config.get("offset") else 0.0
    if not config.get("do_normalize", True):
        return stated(None, None, (low, top + low))
    return stated(tuple(config["image_mean"]), tuple(config["image_std"]), (low, top + low))


LIBRARIES: dict[str, Callable[[Network], Normalisation | None]] = {
    "timm": _of_timm,
    "torchvision": _of_torchvision,
    "hf": _of_hf,
}


def constants(mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> Statistics | None:
    """Constants of a data set, where one of the two may be left out; None if none are known."""
    if mean is None and std is None:
        return None
    return known(tuple(mean or PLAIN.mean), tuple(std or PLAIN.std))
