"""A small generator of images from public ones: the decoder of a variational autoencoder, trained in minutes.

Kingma, Welling: "Auto-Encoding Variational Bayes", ICLR 2014, arXiv 1312.6114; the pixels' variance is the one of
highest likelihood (Rybkin, Daniilidis, Levine: "Simple and Effective VAE Training with Calibrated Decoders", ICML 2021,
arXiv 2006.13202), so that no weight between the two terms has to be chosen. It is one minimisation, which ends well at
any size; its latents are standard normal, so that a search may start from a draw and knows what is likely; and what it
is trained for, squared error, is what a reconstruction is judged by. A GAN's pictures are sharper, and its training
neither short nor certain to end well.
"""

from dataclasses import dataclass
from math import cos, pi
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.rng import randn, stream
from fedspill.core.roles import UNWATCHED, State, Watch
from fedspill.inversion.representations.images.decoder import DecoderShape, IRDecoder, fresh_decoder, fresh_weights
from fedspill.inversion.representations.images.epochs import Epochs, check_enough

WARM_UP = 0.05
"""Share of the steps in which the rate rises."""
SMALLEST = 1e-8
"""Mean squared error below which its logarithm is not followed."""


@dataclass(frozen=True)
class GeneratorTraining:
    """How a generator is trained: Adam, the rate rising for a twentieth of the steps and falling by half a cosine.

    Attributes:
        layout: of the generator; the encoder mirrors it.
        latent: numbers that an image is made of; those that are not needed stay unused.
        epochs: passes over the public images, each one mirrored or not.
        minibatch: images of a step.
        lr: the highest rate.
        mixed: multiply in bfloat16; weights stay as they are.

    Raises:
        BadInput: a number is out of range.
    """

    layout: DecoderShape = DecoderShape((128, 64, 48, 32))
    latent: int = 256
    epochs: int = 10
    minibatch: int = 128
    lr: float = 2e-3
    mixed: bool = False

    def __post_init__(self) -> None:
        if min(self.latent, self.epochs) < 1 or self.minibatch < 2 or not self.lr > 0:
            raise BadInput(
                f"latent={self.latent}, epochs={self.epochs}, minibatch={self.minibatch}, lr={self.lr}: the first two"
                " must be 1 or more, a mini-batch 2 or more, the rate above 0"
            )

    def rate(self, done: float) -> float:
        """Step size when this share of the steps is done."""
        return self.lr * (done / WARM_UP if done < WARM_UP else (1 + cos(pi * (done - WARM_UP) / (1 - WARM_UP))) / 2)


class Encoder(nn.Module):
    """Images (m, c, h, w), values in `bounds`, to mean and logarithm of the variance of their latents, (m, d) each."""

    def __init__(self, decoder: IRDecoder) -> None:
        super().__init__()
        self.bounds, inside, layers = decoder.bounds, decoder.image[0], list[nn.Module]()
        for k, width in enumerate(reversed(decoder.layout.widths)):
            layers += [nn.Conv2d(inside, width, 3, 2 if k else 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            inside = width
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.last = nn.Linear(inside * decoder.start[0] * decoder.start[1], 2 * decoder.length)

    def forward(self, images: Float[Tensor, "m c h w"]) -> tuple[Float[Tensor, "m d"], Float[Tensor, "m d"]]:
        """Mean and logarithm of the variance."""
        low, high = self.bounds
        mean, spread = self.last(self.body(2 * (images - low) / (high - low) - 1)).chunk(2, 1)
        return mean, spread


@dataclass(frozen=True)
class Autoencoder:
    """What a training gives.

    Attributes:
        generator: latents (m, d) to images.
        encoder: images to their latents; an attack has no use for it.
    """

    generator: IRDecoder
    encoder: Encoder

    def rebuilt(self, images: Float[Tensor, "m c h w"]) -> Float[Tensor, "m c h w"]:
        """Images from the means of their latents: about what a search can reach that leaves the weights as they are."""
        with torch.no_grad():
            return self.generator(self.encoder(images)[0])


def train_generator(
    public_inputs: Float[Tensor, "n c h w"],
    spec: ImageSpec,
    settings: GeneratorTraining,
    rng: torch.Generator,
    like: Tensor,
    watch: Watch = UNWATCHED,
) -> Autoencoder:
    """A generator and its encoder in eval mode; what the budget allows of them, if that ends first.

    Args:
        public_inputs: images as people see them; they may stay on the CPU.
        spec: of these images.
        settings: how.
        rng: on the CPU; of weights, order, mirroring and noise.
        like: gives device and dtype.
        watch: hears of the progress (the mean squared error), keeps the state, ends the training.

    Raises:
        BadInput: there are fewer images than one mini-batch, or they are of another shape.
    """
    if tuple(public_inputs.shape[1:]) != spec.shape:
        raise BadInput(f"images of {tuple(public_inputs.shape[1:])} were got; {spec.shape} are needed")
    check_enough(public_inputs, settings.minibatch)
    run = _Run(public_inputs, spec, settings, rng, like)
    run.resume(watch.load())
    run.all_steps(watch)
    both = run.both.eval().requires_grad_(False)
    return Autoencoder(run.generator, both[1])  # pyright: ignore[reportArgumentType]


class _Run:
    def __init__(
        self, images: Tensor, spec: ImageSpec, settings: GeneratorTraining, rng: torch.Generator, like: Tensor
    ) -> None:
        self.images, self.settings, self.like = images, settings, like
        self.generator = fresh_decoder(settings.layout, settings.latent, spec.shape, spec.bounds, rng, like)
        self.encoder = fresh_weights(lambda: Encoder(self.generator), rng, like)
        self.both = nn.ModuleList([self.generator, self.encoder]).train()
        self.optimiser = torch.optim.Adam(self.both.parameters(), settings.lr)
        seed = int(torch.randint(2**31, (), generator=rng))
        self.epochs = Epochs(images, settings.minibatch, settings.epochs, seed, like)

    def all_steps(self, watch: Watch) -> None:
        self.epochs.run(self._step, self.state, watch)

    def _step(self, done: float) -> float:
        images = self.epochs.mini_batch()
        with torch.autocast(self.like.device.type, torch.bfloat16, enabled=self.settings.mixed):
            mean, spread = (v.to(self.like.dtype) for v in self.encoder(images))
            noise = randn(tuple(mean.shape), stream(self.epochs.seed, "noise", self.epochs.done), self.like)
            made = self.generator(mean + (spread / 2).exp() * noise).to(self.like.dtype)
        error = (made - images).square().mean()
        told = (mean.square() + spread.exp() - spread - 1).sum(1).mean() / 2
        loss = error.clamp_min(SMALLEST).log() / 2 + told / images[0].numel()
        self.optimiser.zero_grad()
        loss.backward()
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.rate(done)
        self.optimiser.step()
        return float(error.detach())

    def state(self) -> State:
        return {"done": self.epochs.done, "both": self.both.state_dict(), "optimiser": self.optimiser.state_dict()}

    def resume(self, state: Any) -> None:
        if state is None:
            return
        self.both.load_state_dict(state["both"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epochs.done = state["done"]
