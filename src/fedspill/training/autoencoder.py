"""Training of an encoder that clients are sent, and of the decoder that the server keeps."""

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel
from torch import Tensor

from fedspill import __version__
from fedspill.core.errors import BadInput
from fedspill.core.inputs import image_spec
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.inversion.imprint.linear_pair import linear_pair
from fedspill.inversion.representations.autoencoder.encoder import latents_of, with_encoder
from fedspill.inversion.representations.autoencoder.files import autoencoder_tensors
from fedspill.inversion.representations.autoencoder.training import Autoencoder, train_autoencoder
from fedspill.inversion.representations.images.decoder import decoder_metadata
from fedspill.plan.build import network
from fedspill.scoring.metrics import PSNR
from fedspill.training.plan import AutoencoderPlan
from fedspill.training.state import FileWatch, Listener, Silent, StateFile, check_held_out, finished
from fedspill.zoo.data import load

PIECE = 250
"""Images at a time in measuring."""


class AutoencoderReport(BaseModel):
    """What a training reached on the held-out examples, from their exact latents.

    Attributes:
        psnr: mean over images, dB.
        recognised: share of images above 18 dB, which Scale-MIA counts as success.
        mean_image_psnr: of the mean image of the training examples in the place of every answer.
        public: images that were trained on.
    """

    psnr: float
    recognised: float
    mean_image_psnr: float
    public: int
    examples: int
    parameters: int
    at: str
    command: str
    versions: str
    device: str


@dataclass(frozen=True)
class World:
    """The network, the layer that gets latents, the images to train on and those that are held out."""

    model: Model
    at: str
    public: Tensor
    held: Tensor


def train_autoencoder_file(
    plan: AutoencoderPlan, out: Path, *, device: torch.device, listener: Listener | None = None, command: str = ""
) -> AutoencoderReport:
    """Trains, writes encoder and decoder to `out` and the figures beside it (FILE.json).

    A killed run goes on where it last kept its state.

    Raises:
        BadInput: data or model cannot be had, or do not fit together.
        NotApplicable: the network has no linear layer that a ReLU and another one follow, or none to train before it.
    """
    listener = listener or Silent()
    file = StateFile.beside(out, plan)
    world, settings = _world(plan, device), plan.autoencoder.training()
    rng = stream(plan.autoencoder.seed, "autoencoder")
    made = train_autoencoder(world.model, world.at, world.public, settings, rng, FileWatch(listener, file))
    listener.message("measuring the autoencoder on the held-out examples")
    report = _report(world, made, command)
    facts = {**decoder_metadata(made.decoder), "network": plan.model.name or "strided_cnn", "at": world.at}
    words = {"psnr": f"{report.psnr:.2f} dB, held-out examples", "command": command, "versions": report.versions}
    finished(out, autoencoder_tensors(made), {**facts, **words}, report, file)
    return report


def _world(plan: AutoencoderPlan, device: torch.device) -> World:
    pool, section = load(**plan.data.model_dump()), plan.autoencoder
    check_held_out(len(pool), section.held_out, section.minibatch_size)
    model = network(plan.model, pool, plan.data.root, device, "strided_cnn", pool)
    image_spec(model.input, f"model {plan.model.name!r}", BadInput)
    cut, inputs = len(pool) - section.held_out, pool.batch.inputs
    return World(model, linear_pair(model, section.at).first.name, inputs[:cut], inputs[cut:])


def _report(world: World, made: Autoencoder, command: str) -> AutoencoderReport:
    latents = latents_of(with_encoder(world.model, made.encoder), world.at)
    with torch.no_grad():
        answers = torch.cat([made.decoder(latents.of(images)).cpu() for images in world.held.split(PIECE)])
    values, blank = PSNR()(answers, world.held), world.public.mean(0, keepdim=True).expand_as(world.held)
    return AutoencoderReport(
        psnr=float(values.mean()),
        recognised=float((values > 18).double().mean()),
        mean_image_psnr=float(PSNR()(blank, world.held).mean()),
        public=len(world.public),
        examples=len(world.held),
        parameters=sum(v.numel() for v in (*made.encoder.values(), *made.decoder.parameters())),
        at=world.at,
        command=command,
        versions=f"fedspill {__version__}, torch {torch.__version__}",
        device=world.model.like.device.type,
    )
