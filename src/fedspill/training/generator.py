"""Training of an image generator on public images, for attacks with a generator as their prior."""

from pathlib import Path

import torch
from pydantic import BaseModel
from torch import Tensor

from fedspill import __version__
from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.rng import stream
from fedspill.inversion.generators.files import generator_metadata
from fedspill.inversion.generators.training import Autoencoder, train_generator
from fedspill.scoring.metrics import PSNR, SSIM
from fedspill.scoring.metrics.images import SSIM_MIN_SIZE
from fedspill.training.plan import GeneratorPlan
from fedspill.training.state import FileWatch, Listener, Silent, StateFile, check_held_out, finished
from fedspill.zoo.data import load

PIECE = 250
"""Images at a time in measuring."""


class GeneratorReport(BaseModel):
    """What a training reached on the held-out images.

    Attributes:
        psnr: mean over images from the means of their own latents, dB: about what a search of latents can reach.
        ssim: likewise; None below 11 pixels a side.
        mean_image_psnr: of the mean image of the training images in the place of every one.
        latents_used: how many of the latents' numbers say something: their mean varies by more than a tenth.
    """

    psnr: float
    ssim: float | None
    mean_image_psnr: float
    latents_used: int
    latent: int
    examples: int
    parameters: int
    command: str
    versions: str
    device: str


def train_generator_file(
    plan: GeneratorPlan, out: Path, *, device: torch.device, listener: Listener | None = None, command: str = ""
) -> GeneratorReport:
    """Trains, writes the generator to `out` and the figures beside it (FILE.json).

    A killed run goes on where it last kept its state.

    Raises:
        BadInput: the data cannot be had, are no images, or are too few.
    """
    listener = listener or Silent()
    file = StateFile.beside(out, plan)
    public, held = _images(plan)
    settings, spec = plan.generator.training(), ImageSpec(_shape(public))
    like, watch = torch.zeros((), device=device), FileWatch(listener, file)
    made = train_generator(public, spec, settings, stream(plan.generator.seed, "generator"), like, watch)
    listener.message("measuring the generator on the held-out images")
    report = _report(made, public, held, command)
    words = {"psnr": f"{report.psnr:.2f} dB, held-out images", "command": command, "versions": report.versions}
    finished(out, made.generator.state_dict(), {**generator_metadata(made.generator), **words}, report, file)
    return report


def _images(plan: GeneratorPlan) -> tuple[Tensor, Tensor]:
    """The images to train on and those that are held out."""
    pool, section = load(**plan.data.model_dump()), plan.generator
    if pool.batch.inputs.ndim != 4:
        raise BadInput(f"data {plan.data.name!r} has no images; a generator makes nothing else")
    check_held_out(len(pool), section.held_out, section.minibatch_size)
    cut = len(pool) - section.held_out
    return pool.batch.inputs[:cut], pool.batch.inputs[cut:]


def _shape(images: Tensor) -> tuple[int, int, int]:
    return images.shape[1], images.shape[2], images.shape[3]


def _report(made: Autoencoder, public: Tensor, held: Tensor, command: str) -> GeneratorReport:
    like = next(made.generator.parameters())
    with torch.no_grad():
        rebuilt = torch.cat([made.rebuilt(images.to(like)).cpu() for images in held.split(PIECE)])
        means = torch.cat([made.encoder(images.to(like))[0].cpu() for images in held.split(PIECE)])
    blank = public.mean(0, keepdim=True).expand_as(held)
    measurable = min(held.shape[2:]) >= SSIM_MIN_SIZE and held.shape[1] in (1, 3)
    return GeneratorReport(
        psnr=float(PSNR()(rebuilt, held).mean()),
        ssim=float(SSIM()(rebuilt, held).mean()) if measurable else None,
        mean_image_psnr=float(PSNR()(blank, held).mean()),
        latents_used=int((means.std(0, correction=0) > 0.1).sum()),
        latent=made.generator.length,
        examples=len(held),
        parameters=sum(p.numel() for p in made.generator.parameters()),
        command=command,
        versions=f"fedspill {__version__}, torch {torch.__version__}",
        device=like.device.type,
    )
