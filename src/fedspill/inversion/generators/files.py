"""A generator as one safetensors file, with what it says of itself."""

from pathlib import Path

from fedspill.core.errors import BadInput
from fedspill.inversion.generators.generator import Generator
from fedspill.inversion.representations.images.decoder import IRDecoder, built_from, decoder_metadata, kept_file

KIND = "image generator"
"""By which a file is told from that of a decoder, which is built alike."""


def generator_metadata(generator: IRDecoder) -> dict[str, str]:
    """What a file must say beside the tensors of `state_dict`, so that `read_generator` can build the network."""
    return {"kind": KIND, **decoder_metadata(generator)}


def read_generator(path: str | Path) -> Generator:
    """The generator in a file that `fedspill train generator` wrote.

    Raises:
        BadInput: there is no such file, or it holds no generator.
    """
    path, (tensors, metadata) = Path(path), kept_file(path, "generator")
    if metadata.get("kind") != KIND:
        raise BadInput(f"{str(path)!r} holds no generator that `fedspill train generator` wrote")
    try:
        network = built_from(metadata)
        network.load_state_dict(tensors, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"{str(path)!r} holds a broken generator: {type(error).__name__}") from error
    if not all(bool(v.isfinite().all()) for v in tensors.values()):
        raise BadInput(f"{str(path)!r} holds a generator with NaN or infinite weights; finite numbers are needed")
    return Generator.of(network, (network.length,), network.image, repr(path.name))
