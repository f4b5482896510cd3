"""A trained encoder and decoder in one safetensors file."""

from pathlib import Path

from torch import Tensor

from fedspill.core.errors import BadInput, some
from fedspill.core.inputs import image_spec
from fedspill.core.model import Model
from fedspill.inversion.representations.autoencoder.encoder import encoder_names, latents_of, with_encoder
from fedspill.inversion.representations.autoencoder.training import Autoencoder
from fedspill.inversion.representations.images.decoder import kept_decoder, kept_file

ENCODER, DECODER = "encoder.", "decoder."


def autoencoder_tensors(made: Autoencoder) -> dict[str, Tensor]:
    """What a file holds, beside `decoder_metadata`."""
    decoder = {f"{DECODER}{k}": v for k, v in made.decoder.state_dict().items()}
    return {f"{ENCODER}{k}": v for k, v in made.encoder.items()} | decoder


def read_autoencoder(path: str | Path, model: Model, at: str) -> Autoencoder:
    """The autoencoder in a file that `fedspill train autoencoder` wrote, on the model's device and in its dtype.

    Raises:
        BadInput: there is no such file, it holds no autoencoder, or one for other layers than those before `at`.
    """
    tensors, metadata = kept_file(path, "autoencoder")
    encoder = _part(tensors, ENCODER)
    if unknown := sorted(set(encoder) - set(encoder_names(model, at))):
        raise BadInput(f"{str(path)!r} holds {some(unknown)}, which are no parameters of a layer before {at!r}")
    changed = with_encoder(model, encoder)
    latents = latents_of(changed, at)
    decoder = kept_decoder(path, _part(tensors, DECODER), metadata, latents)
    decoder.check(latents)
    spec = image_spec(model.input)
    if (tuple(decoder.image), tuple(decoder.bounds)) != (spec.shape, spec.bounds):
        raise BadInput(
            f"the decoder makes images of {decoder.image} inside {decoder.bounds}, the network takes {spec.shape}"
            f" inside {spec.bounds}"
        )
    return Autoencoder({k: changed.params[k] for k in encoder}, decoder)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
