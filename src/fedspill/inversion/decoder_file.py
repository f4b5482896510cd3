"""A trained decoder as one safetensors file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.inversion.ir_decoder import DecoderShape, IRDecoder
from fedspill.inversion.transfer import Extractor


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
    spec, like = extractor.model.input, extractor.model.like
    assert isinstance(spec, ImageSpec), "decoders are trained for images only"
    with torch.device("meta"):
        decoder = IRDecoder(layout, len(state["centre"]), spec.shape, spec.bounds)
    decoder.load_state_dict(state, assign=True)
    return decoder.to(like.device, like.dtype).eval().requires_grad_(False)


def read_decoder(path: str | Path, extractor: Extractor) -> IRDecoder:
    """The decoder in a file that `fedspill train decoder` wrote: in eval mode, on the extractor's device and dtype.

    Raises:
        BadInput: there is no such file, it holds no decoder, or one that was trained for another extractor.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"decoder file {str(path)!r} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            told = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(f"{str(path)!r} is no whole safetensors file: {str(error)[:160]}") from error
    try:
        decoder = _built(told)
        decoder.load_state_dict(tensors, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"{str(path)!r} holds no decoder that `fedspill train decoder` wrote") from error
    decoder = decoder.to(extractor.model.like.device, extractor.model.like.dtype)
    decoder.check(extractor)
    return decoder.eval().requires_grad_(False)


def _built(told: Mapping[str, str]) -> IRDecoder:
    values = {name: json.loads(told[name]) for name in ("widths", "blocks", "length", "image", "bounds")}
    layout = DecoderShape(tuple(values["widths"]), values["blocks"])
    channels, height, width = values["image"]
    low, high = values["bounds"]
    with torch.device("meta"):
        return IRDecoder(layout, values["length"], (channels, height, width), (low, high))
