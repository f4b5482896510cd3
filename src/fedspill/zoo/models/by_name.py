"""From a name in a plan to a Model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, InputSpec, TableSpec, TokenSpec, kind
from fedspill.core.model import Model, next_token_loss
from fedspill.core.rng import seeded_globals, stream
from fedspill.core.tensor_files import with_weights
from fedspill.zoo.models import normalising
from fedspill.zoo.models.adapters import LIBRARIES, from_user
from fedspill.zoo.models.options import describe, with_options
from fedspill.zoo.models.trained import Trained, from_file, known
from fedspill.zoo.networks.initialise import materialise
from fedspill.zoo.networks.registry import DEFAULTS, NETWORKS
from fedspill.zoo.statistics import Normalisation, Statistics


@dataclass(frozen=True)
class Entry:
    """One line of a listing."""

    name: str
    summary: str
    options: str


@dataclass(frozen=True)
class Built:
    """A model, and who says what its images are normalised by.

    Attributes:
        normalisation: in words; None if the model brings its own input, or takes no images.
    """

    model: Model
    normalisation: str | None


def listing() -> list[Entry]:
    """Every model name that a plan may use."""
    networks = [Entry(name, n.summary, describe(n.options)) for name, n in NETWORKS.items()]
    return [
        *networks,
        Entry("torchvision:NAME", "A torchvision classifier", "those of its constructor"),
        Entry("timm:NAME", "A timm classifier", "those of timm.create_model"),
        Entry(
            "hf:NAME",
            "A transformers image classifier, from a local configuration",
            "those of its configuration",
        ),
        Entry(
            "package.module:factory",
            "Your own: returns an nn.Module or a fedspill Model",
            "the factory's arguments",
        ),
    ]


def default_network(spec: TokenSpec | TableSpec | None) -> str:
    """The network for data of this kind where the plan names none."""
    return DEFAULTS[ImageSpec if spec is None else type(spec)]


def build(
    name: str,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    spec: TokenSpec | TableSpec | None = None,
    weights: str | Path = "untrained",
    mode: str = "eval",
    seed: int = 0,
    data_root: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    options: Mapping[str, Any] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    normalisation: Normalisation | None = None,
    assume: bool = True,
    classes_said: bool = False,
) -> Model:
    """The model that a plan names; the same seed gives the same weights, and no global generator is touched.

    Args:
        name: a network of the zoo (see `listing`), "torchvision:NAME", "timm:NAME", "hf:NAME", or the user's
            own "package.module:factory".
        input_shape: of one encoded example of the data: (c, h, w), (t,) or (features,).
        num_classes: of the data; of next tokens the vocabulary.
        spec: of sentences and tables, which bring their own encoding; None for images.
        weights: "untrained"; "trained" or (by adversarial training) "robust", sets that the zoo knows; or a path to
            safetensors or a checkpoint.
        mode: "eval" or "train", which makes BatchNorm use batch statistics.
        seed: of the initial weights.
        data_root: where known checkpoints lie (`weights/`); the variable FEDSPILL_DATA stands in for it.
        device: where parameters live; weights are drawn on the CPU, so that every device gets the same ones.
        dtype: of parameters and floating buffers.
        options: the network's own, and for images `normalise`: true (default: by the statistics that trained weights
            bring, else by the data's), false (none, as in DLG) or "imagenet".
        mean: of the data per channel, pixels in [0, 1]; None takes 0.5.
        std: likewise; None takes 0.25.
        normalisation: what the caller says that images are normalised by, whatever the weights and the data say.
        assume: False refuses trained weights and the caller's own networks where nobody says what their images are
            normalised by; True takes the data's statistics then.
        classes_said: somebody asks for `num_classes`: the caller's own factory is called with it, if it takes it, and
            a network with another number of logits is refused. False: more logits than classes are taken.

    Raises:
        BadInput: any of these cannot be used.
    """
    return built(
        name,
        input_shape=input_shape,
        num_classes=num_classes,
        spec=spec,
        weights=weights,
        mode=mode,
        seed=seed,
        data_root=data_root,
        device=device,
        dtype=dtype,
        options=options,
        data=normalising.constants(mean, std),
        normalisation=normalisation,
        assume=assume,
        classes_said=classes_said,
    ).model


def built(
    name: str,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    spec: TokenSpec | TableSpec | None,
    weights: str | Path,
    mode: str,
    seed: int,
    data_root: str | Path | None,
    device: torch.device | str,
    dtype: torch.dtype,
    options: Mapping[str, Any] | None,
    data: Statistics | None,
    normalisation: Normalisation | None,
    assume: bool,
    classes_said: bool = False,
) -> Built:
    """As `build`, with who says what its images are normalised by.

    Args:
        data: constants of the data set; None if none are known.

    Raises:
        BadInput: as `build`.
    """
    if mode not in ("eval", "train"):
        raise BadInput(f'mode={mode!r}: "eval" or "train" is needed')
    _check_device(device, dtype)
    remaining = dict(options or {})
    said = normalisation or normalising.by_word(remaining.pop("normalise", True))
    if spec is not None and said is not None:
        raise BadInput(f"option normalise is of images; {kind(type(spec))} bring their own encoding")
    _check_kind(name, input_shape, num_classes, spec)
    made = _make(name, input_shape, num_classes, seed, remaining, classes_said=classes_said)
    trained = _weights(name, weights, data_root)
    origin = None
    if isinstance(made, Model):
        if said is not None:
            raise BadInput(f"option normalise: {name!r} gives a fedspill Model, which brings its own input")
        if spec is not None and made.input != spec:
            raise BadInput(f"model {name!r} takes {kind(type(made.input))} of another encoding than the data's")
        model = replace(made, training=mode == "train")
    else:
        own_input: InputSpec | None = spec
        if own_input is None:
            asked = normalising.Network(name.partition(":")[2], made, options or {}, str(weights), num_classes)
            found = normalising.chosen(
                name,
                asked,
                said=said,
                trained=trained,
                data=data,
                channels=input_shape[0],
                assume=assume,
            )
            own_input, origin = _image_spec(input_shape, found.statistics), found.origin
        model = of_module(made, own_input, training=mode == "train")
    if trained is not None:
        model = with_weights(model, trained.tensors, trained.source)
    _check_logits(name, model, input_shape, num_classes, said=classes_said)
    return Built(model.to(device, dtype), origin)


def of_module(module: nn.Module, spec: InputSpec, *, training: bool) -> Model:
    """A network on inputs of this kind; one that answers at every token of a sentence is trained on next tokens."""
    model = Model.of(module, spec, training=training)
    return replace(model, loss_fn=next_token_loss) if _predicts_tokens(model) else model


def _predicts_tokens(model: Model) -> bool:
    if not isinstance(model.input, TokenSpec):
        return False
    try:
        answer = _answers(model)
    except Exception:  # a network of anyone's; whoever runs it next tells what is wrong
        return False
    return isinstance(answer, Tensor) and answer.ndim == 3


def _check_kind(name: str, shape: tuple[int, ...], num_classes: int, spec: TokenSpec | TableSpec | None) -> None:
    accepted = NETWORKS[name].accepts if name in NETWORKS else DEFAULTS.keys()
    if name.partition(":")[0] in LIBRARIES:
        accepted = {ImageSpec}
    given = ImageSpec if spec is None else type(spec)
    if given not in accepted:
        fits = f"; {', '.join(n for n, e in NETWORKS.items() if given in e.accepts)} would"
        raise BadInput(f"model {name!r} takes {' and '.join(sorted(map(kind, accepted)))}, not {kind(given)}{fits}")
    if spec is not None and shape != spec.encoded_shape:
        raise BadInput(f"input_shape={shape}, but the data's spec encodes to {spec.encoded_shape}")
    if name in NETWORKS and isinstance(spec, TokenSpec) and num_classes != spec.vocabulary:
        raise BadInput(
            f"model {name!r} predicts next tokens of a vocabulary of {spec.vocabulary}; {num_classes} classes were got"
        )


def _image_spec(shape: tuple[int, ...], statistics: Statistics) -> ImageSpec:
    channels, height, width = shape
    return ImageSpec((channels, height, width), mean=statistics.mean, std=statistics.std)


def _answers(model: Model) -> Any:
    """What the network returns for one blank input in eval mode."""
    calm, spec = model.in_eval_mode(), model.input
    kept = torch.long if isinstance(spec, TokenSpec) else None
    with torch.no_grad(), seeded_globals(stream(0, "probe")):
        zeros = torch.zeros(1, *spec.encoded_shape, dtype=kept).to(calm.like.device, kept or calm.like.dtype)
        return calm.logits(calm.params, zeros)


def _make(
    name: str, shape: tuple[int, ...], num_classes: int, seed: int, options: dict[str, Any], *, classes_said: bool
) -> nn.Module | Model:
    rng = stream(seed, "model", name, "weights")
    if name in NETWORKS:
        network = NETWORKS[name]
        settings = with_options(network.options, options, name)
        try:
            return materialise(lambda: network.make(shape, num_classes, settings), network.scheme, rng)
        except (
            RuntimeError,
            MemoryError,
            OverflowError,
            TypeError,
            BadInput,
        ) as error:  # sizes that no tensor can have
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BadInput(f"model {name!r} cannot be built for inputs of shape {shape}: {reason[:200]}") from error
    prefix, colon, rest = name.partition(":")
    if not colon or not rest:
        raise BadInput(f"unknown model {name!r}; there are {', '.join(e.name for e in listing())}")
    with seeded_globals(rng):
        if prefix in LIBRARIES:
            channels, height, width = shape
            return LIBRARIES[prefix](rest, (channels, height, width), num_classes, options)
        return from_user(name, options, num_classes if classes_said else None)


def _weights(name: str, weights: str | Path, root: str | Path | None) -> Trained | None:
    if weights == "untrained":
        return None
    if weights in ("trained", "robust"):
        return known(name, root, robust=weights == "robust")
    return from_file(weights)


def _check_device(device: torch.device | str, dtype: torch.dtype) -> None:
    if not dtype.is_floating_point:
        raise BadInput(f"dtype={dtype}: a floating dtype is needed")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInput(f"device {str(device)!r} cannot be used: {reason}") from error


def _check_logits(name: str, model: Model, shape: tuple[int, ...], num_classes: int, *, said: bool) -> None:
    """One forward pass in eval mode: shapes that do not fit are told here, not in the midst of an audit."""
    if model.input.encoded_shape != shape:
        raise BadInput(f"model {name!r} takes inputs of {model.input.encoded_shape}, the data has {shape}")
    what = kind(type(model.input))
    try:
        logits = _answers(model)
    except Exception as error:  # a network of anyone's
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(f"model {name!r} cannot take {what} of {shape}: {reason}") from error
    allowed = [(1,), (1, *shape)] if isinstance(model.input, TokenSpec) else [(1,)]
    if not isinstance(logits, Tensor) or tuple(logits.shape[:-1]) not in allowed:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        needed = " or ".join(f"({', '.join(map(str, a))}, classes)" for a in allowed)
        raise BadInput(
            f"model {name!r} returns {got} for one {what.removesuffix('s')}; logits of shape {needed} are needed"
        )
    if said and logits.shape[-1] != num_classes:
        raise BadInput(
            f"model {name!r} knows {logits.shape[-1]} classes, num_classes = {num_classes} was asked for, which an own"
            " factory is called with if it takes it; leave num_classes out, or let the factory heed it"
        )
    if logits.shape[-1] < num_classes:
        raise BadInput(f"model {name!r} knows {logits.shape[-1]} classes, the data has {num_classes}")
