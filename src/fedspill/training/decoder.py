"""Training of a decoder: the fast way from representations back to images."""

from pathlib import Path

import torch
from pydantic import BaseModel
from torch import Tensor

from fedspill import __version__
from fedspill.core.errors import BadInput
from fedspill.core.inputs import image_spec
from fedspill.core.probing.head import head_module
from fedspill.core.rng import stream
from fedspill.inversion.network.extractor import Extractor
from fedspill.inversion.representations.images.decoder import IRDecoder, decoder_metadata
from fedspill.inversion.representations.images.decoder_training import train_decoder
from fedspill.plan.build import network
from fedspill.scoring.metrics import PSNR, SSIM
from fedspill.scoring.metrics.images import SSIM_MIN_SIZE
from fedspill.training.plan import DecoderPlan
from fedspill.training.state import FileWatch, Listener, Silent, StateFile, check_held_out, finished
from fedspill.zoo.data import load

PIECE = 250
"""Images at a time in measuring."""


class DecoderReport(BaseModel):
    """What a training reached on the held-out examples, from their exact representations.

    Attributes:
        psnr: mean over images, dB.
        ssim: mean over images; None below 11 pixels a side.
        mean_image_psnr: of the mean image of the training examples in the place of every answer.
    """

    psnr: float
    ssim: float | None
    mean_image_psnr: float
    examples: int
    parameters: int
    at: str
    command: str
    versions: str
    device: str


def train_decoder_file(
    plan: DecoderPlan, out: Path, *, device: torch.device, listener: Listener | None = None, command: str = ""
) -> DecoderReport:
    """Trains, writes the decoder to `out` and the figures beside it (FILE.json).

    A killed run goes on where it last kept its state.

    Raises:
        BadInput: data or model cannot be had, or do not fit together.
        NotApplicable: the network has no head behind a feature extractor.
    """
    listener = listener or Silent()
    file = StateFile.beside(out, plan)
    extractor, public, held = _world(plan, device)
    settings = plan.decoder.training()
    watch = FileWatch(listener, file)
    decoder = train_decoder(extractor, public, settings, stream(plan.decoder.seed, "decoder"), watch)
    listener.message("measuring the decoder on the held-out examples")
    report = _report(decoder, extractor, public, held, command)
    facts = {**decoder_metadata(decoder), "network": plan.model.name or "cnn", "at": extractor.at}
    words = {"psnr": f"{report.psnr:.2f} dB, held-out examples", "command": command, "versions": report.versions}
    finished(out, decoder.state_dict(), {**facts, **words}, report, file)
    return report


def _world(plan: DecoderPlan, device: torch.device) -> tuple[Extractor, Tensor, Tensor]:
    """The extractor, the images to train on and those that are held out."""
    pool = load(**plan.data.model_dump())
    section, size = plan.model, plan.decoder.minibatch_size
    check_held_out(len(pool), plan.decoder.held_out, size)
    model = network(section, pool, plan.data.root, device, "cnn", pool)
    image_spec(model.input, f"model {section.name!r}", BadInput)
    cut = len(pool) - plan.decoder.held_out
    inputs = pool.batch.inputs
    return Extractor(model, plan.decoder.at or head_module(model)), inputs[:cut], inputs[cut:]


def _report(decoder: IRDecoder, extractor: Extractor, public: Tensor, held: Tensor, command: str) -> DecoderReport:
    with torch.no_grad():
        made = torch.cat([decoder(extractor.of(images)).cpu() for images in held.split(PIECE)])
    blank = public.mean(0, keepdim=True).expand_as(held)
    measurable = min(held.shape[2:]) >= SSIM_MIN_SIZE and held.shape[1] in (1, 3)
    return DecoderReport(
        psnr=float(PSNR()(made, held).mean()),
        ssim=float(SSIM()(made, held).mean()) if measurable else None,
        mean_image_psnr=float(PSNR()(blank, held).mean()),
        examples=len(held),
        parameters=sum(p.numel() for p in decoder.parameters()),
        at=extractor.at,
        command=command,
        versions=f"fedspill {__version__}, torch {torch.__version__}",
        device=extractor.model.like.device.type,
    )
