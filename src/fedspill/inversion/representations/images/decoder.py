"""A feed-forward network from intermediate representations to images, trained on public ones.

Inverting representations by a trained network: Dosovitskiy, Brox: "Inverting Visual Representations with Convolutional
Networks", CVPR 2016, arXiv 1506.02753. It answers at once, and its answer is where matching may start.

It is kept as one safetensors file.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fedspill.core.errors import BadInput
from fedspill.core.inputs import image_spec
from fedspill.core.rng import rand, stream
from fedspill.inversion.network.extractor import Extractor

FINGERPRINT_TOLERANCE = 0.02
"""Relative distance of fingerprints up to which two extractors are the same one, in another precision."""


@dataclass(frozen=True)
class DecoderShape:
    """The layout of a decoder.

    Attributes:
        widths: channels at each size, from the smallest; between two sizes both sides double. Three doublings suit
            32x32 (from 4x4), five 224x224 (from 7x7).
        blocks: residual blocks of two 3x3 convolutions at each size.
    """

    widths: tuple[int, ...] = (256, 128, 64, 32)
    blocks: int = 0

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1 or self.blocks < 0:
            raise BadInput(f"widths={self.widths}, blocks={self.blocks}: at least one width, of 1 or more, is needed")


class IRDecoder(nn.Module):
    """Representations (m, d) to images (m, c, h, w) inside `bounds`.

    Attributes:
        layout: widths and blocks.
        image: (c, h, w).
        bounds: of pixels.
    """

    centre: Tensor
    spread: Tensor
    fingerprint: Tensor

    def __init__(
        self, layout: DecoderShape, length: int, image: tuple[int, int, int], bounds: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        super().__init__()
        self.layout, self.length, self.image, self.bounds = layout, length, image, bounds
        widths = layout.widths
        self.start = tuple(-(-side // 2 ** (len(widths) - 1)) for side in image[1:])
        self.first = nn.Linear(length, widths[0] * self.start[0] * self.start[1])
        layers = list[nn.Module]()
        for k, width in enumerate(widths):
            if k:
                # A third of the products of an enlargement and a 3x3 convolution.
                layers += [nn.ConvTranspose2d(widths[k - 1], width, 4, stride=2, padding=1, bias=False)]
            layers += [_Block(width) for _ in range(layout.blocks)] + [nn.BatchNorm2d(width), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.last = nn.Conv2d(widths[-1], image[0], 3, padding=1)
        self.register_buffer("centre", torch.zeros(length))
        self.register_buffer("spread", torch.ones(length))
        self.register_buffer("fingerprint", torch.zeros(length))

    def forward(self, representations: Float[Tensor, "m d"]) -> Float[Tensor, "m c h w"]:
        """The images."""
        x = self.first((representations - self.centre) / self.spread)
        x = self.last(self.body(x.view(len(x), self.layout.widths[0], *self.start)))
        low, high = self.bounds
        # The first doubling may have rounded the sides up.
        return low + (high - low) * x[..., : self.image[1], : self.image[2]].sigmoid()

    def check(self, extractor: Extractor) -> None:
        """That it was trained for this extractor.

        Raises:
            BadInput: it was not.
        """
        actual = fingerprint(extractor)
        if actual.shape != self.fingerprint.shape:
            raise BadInput(f"the decoder takes {self.length} values, the extractor gives {len(actual)}")
        apart = (actual - self.fingerprint.to(actual)).norm() / actual.norm().clamp_min(1e-12)
        if apart > FINGERPRINT_TOLERANCE:
            raise BadInput(
                f"the decoder was trained for another extractor: representations of one picture lie {float(apart):.2g}"
                " apart, relatively"
            )


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.path(x)


def fingerprint(extractor: Extractor) -> Float[Tensor, " d"]:
    """The representation of one picture of noise, by which an extractor is known again."""
    like = extractor.model.like
    picture = rand((1, *extractor.model.input.encoded_shape), stream(0, "fingerprint"), like)
    return extractor.of(picture)[0]


def fresh_decoder(
    layout: DecoderShape,
    length: int,
    image: tuple[int, int, int],
    bounds: tuple[float, float],
    rng: torch.Generator,
    like: Tensor,
) -> IRDecoder:
    """A decoder with weights as `fresh_weights` draws them; its statistics of representations are 0 and 1."""
    decoder = fresh_weights(lambda: IRDecoder(layout, length, image, bounds), rng, like)
    with torch.no_grad():
        decoder.centre.zero_()
        decoder.spread.fill_(1)
        decoder.fingerprint.zero_()
    return decoder


M = TypeVar("M", bound=nn.Module)


def fresh_weights(make: Callable[[], M], rng: torch.Generator, like: Tensor) -> M:
    """A network of convolutions, linear layers and BatchNorm with weights from U(-b, b), b = sqrt(3 / fan in).

    So that activations keep their variance. Other parameters and buffers are left as they come.
    """
    with torch.device("meta"):
        network = make()
    network = network.to_empty(device="cpu").to(like.dtype)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.reset_parameters()
            elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                bound = sqrt(3 / _fan_in(layer))
                layer.weight.copy_((2 * rand(tuple(layer.weight.shape), rng, layer.weight) - 1) * bound)
                if layer.bias is not None:
                    layer.bias.zero_()
    return network.to(like.device)


def _fan_in(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear) -> float:
    """Numbers that are added up for one output value."""
    if isinstance(layer, nn.ConvTranspose2d):
        return layer.weight[:, 0].numel() / (layer.stride[0] * layer.stride[1])
    return float(layer.weight[0].numel())


def decoder_metadata(decoder: IRDecoder) -> dict[str, str]:
    """What a file must say beside the tensors of `state_dict`, so that `read_decoder` can build the network."""
    layout = decoder.layout
    return {
        "widths": json.dumps(layout.widths),
        "blocks": json.dumps(layout.blocks),
        "length": json.dumps(decoder.length),
        "image": json.dumps(decoder.image),
        "bounds": json.dumps(decoder.bounds),
    }


def decoder_of(state: Mapping[str, Any], layout: DecoderShape, extractor: Extractor) -> IRDecoder:
    """The decoder of this layout and state, in eval mode on the extractor's device."""
    spec, like = image_spec(extractor.model.input), extractor.model.like
    with torch.device("meta"):
        decoder = IRDecoder(layout, len(state["centre"]), spec.shape, spec.bounds)
    decoder.load_state_dict(state, assign=True)
    return decoder.to(like.device, like.dtype).eval().requires_grad_(False)


def read_decoder(path: str | Path, extractor: Extractor) -> IRDecoder:
    """The decoder in a file that `fedspill train decoder` wrote: in eval mode, on the extractor's device and dtype.

    Raises:
        BadInput: there is no such file, it holds no decoder, or one that was trained for another extractor.
    """
    tensors, metadata = kept_file(path)
    decoder = kept_decoder(path, tensors, metadata, extractor)
    decoder.check(extractor)
    return decoder


def kept_file(path: str | Path, what: str = "decoder") -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, and what it says of itself.

    Args:
        path: of the file.
        what: it holds, as `fedspill train` names it.

    Raises:
        BadInput: there is no such file, or it is not whole.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{what} file {str(path)!r} does not exist; `fedspill train {what}` writes one")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(f"{str(path)!r} is no whole safetensors file: {str(error)[:160]}") from error
    return tensors, metadata


def kept_decoder(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], extractor: Extractor
) -> IRDecoder:
    """The decoder of these tensors, in eval mode; whether it is this extractor's is not checked.

    Args:
        path: of the file, for the error.
        tensors: of `state_dict`.
        metadata: see `decoder_metadata`.
        extractor: whose device and dtype it gets.

    Raises:
        BadInput: they are no decoder's.
    """
    try:
        decoder = built_from(metadata)
        decoder.load_state_dict(tensors, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"{str(path)!r} holds no decoder that `fedspill train` wrote") from error
    return decoder.to(extractor.model.like.device, extractor.model.like.dtype).eval().requires_grad_(False)


def built_from(metadata: Mapping[str, str]) -> IRDecoder:
    """The network that `decoder_metadata` describes, without weights.

    Raises:
        KeyError, TypeError, ValueError: it describes none.
    """
    values = {name: json.loads(metadata[name]) for name in ("widths", "blocks", "length", "image", "bounds")}
    layout = DecoderShape(tuple(values["widths"]), values["blocks"])
    channels, height, width = values["image"]
    low, high = values["bounds"]
    with torch.device("meta"):
        return IRDecoder(layout, values["length"], (channels, height, width), (low, high))
