"""Training of a decoder on public images, so that a broken training goes on as if it had not been."""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, image_spec
from fedspill.core.roles import UNWATCHED, State, Watch
from fedspill.inversion.network.extractor import Extractor
from fedspill.inversion.representations.images.decoder import DecoderShape, IRDecoder, fingerprint, fresh_decoder
from fedspill.inversion.representations.images.distance import scaled_mse
from fedspill.inversion.representations.images.epochs import Epochs, check_enough

WARM_UP = 0.1
"""Share of the steps in which the rate rises."""
STATISTICS = 5000
"""Public images by which features are standardised."""
FLOOR = 0.1
"""Share of the mean deviation below which that of a feature is not taken: it seldom says anything."""


@dataclass(frozen=True)
class DecoderTraining:
    """How a decoder is trained: AdamW, the rate rising for a tenth of the steps and falling by half a cosine.

    Attributes:
        layout: of the decoder.
        epochs: passes over the public images, each one mirrored or not.
        minibatch: images of a step.
        lr: the highest rate.
        weight_decay: of AdamW.
        consistency: weight of the mean squared error of the representation of what was decoded, over its variance.
        edges: weight of the mean absolute error of differences between neighbouring pixels.

    Raises:
        BadInput: a number is out of range.
    """

    layout: DecoderShape = DecoderShape()
    epochs: int = 6
    minibatch: int = 128
    lr: float = 3e-3
    weight_decay: float = 1e-3
    consistency: float = 0.0
    edges: float = 0.0

    def __post_init__(self) -> None:
        if min(self.epochs, self.minibatch) < 1 or self.lr <= 0 or min(self.consistency, self.edges) < 0:
            raise BadInput(
                f"epochs={self.epochs}, minibatch={self.minibatch}, lr={self.lr}, consistency={self.consistency},"
                f" edges={self.edges}: the first two must be 1 or more, the rate above 0, weights 0 or more"
            )

    def rate(self, done: float) -> float:
        """Step size when this share of the steps is done."""
        return self.lr * (done / WARM_UP if done < WARM_UP else (1 + cos(pi * (done - WARM_UP) / (1 - WARM_UP))) / 2)


def train_decoder(
    extractor: Extractor,
    public_inputs: Float[Tensor, "n c h w"],
    settings: DecoderTraining,
    rng: torch.Generator,
    watch: Watch = UNWATCHED,
) -> IRDecoder:
    """A decoder in eval mode, on the extractor's device; what the budget allows of it, if that ends first.

    Args:
        extractor: whose representations are to be decoded.
        public_inputs: images as people see them; they may stay on the CPU.
        settings: how.
        rng: on the CPU; of weights, order and mirroring.
        watch: hears of the progress (the mean squared error), keeps the state, ends the training.

    Raises:
        BadInput: there are fewer images than one mini-batch.
        NotApplicable: the model takes no images.
    """
    spec = image_spec(extractor.model.input)
    check_enough(public_inputs, settings.minibatch)
    run = _Run(extractor, spec, public_inputs, settings, rng)
    run.resume(watch.load())
    run.all_steps(watch)
    return run.decoder.eval().requires_grad_(False)


class _Run:
    def __init__(
        self, extractor: Extractor, spec: ImageSpec, images: Tensor, settings: DecoderTraining, rng: torch.Generator
    ) -> None:
        self.represent: Callable[[Tensor], Tensor] = extractor.function()
        self.spec, self.images, self.settings, self.like = spec, images, settings, extractor.model.like
        mark = fingerprint(extractor)
        self.decoder = fresh_decoder(settings.layout, len(mark), spec.shape, spec.bounds, rng, self.like)
        self._standardise(extractor, mark)
        self.decoder.train()
        self.optimiser = torch.optim.AdamW(self.decoder.parameters(), settings.lr, weight_decay=settings.weight_decay)
        seed = int(torch.randint(2**31, (), generator=rng))
        self.epochs = Epochs(images, settings.minibatch, settings.epochs, seed, self.like)

    def _standardise(self, extractor: Extractor, mark: Tensor) -> None:
        """Each feature by its mean and deviation over public images."""
        representations = extractor.of(self.images[:STATISTICS])
        spread = representations.std(0, correction=0)
        with torch.no_grad():
            self.decoder.centre.copy_(representations.mean(0))
            self.decoder.spread.copy_(spread.clamp_min(max(FLOOR * float(spread.mean()), 1e-12)))
            self.decoder.fingerprint.copy_(mark)

    def all_steps(self, watch: Watch) -> None:
        self.epochs.run(self._step, self.state, watch)

    def _step(self, done: float) -> float:
        images = self.epochs.mini_batch()
        with torch.no_grad():
            target = self.represent(self.spec.encode(images))
        made = self.decoder(target)
        error = (made - images).square().mean()
        self.optimiser.zero_grad()
        (error + self._further(made, images, target)).backward()
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.rate(done)
        self.optimiser.step()
        return float(error.detach())

    def _further(self, made: Tensor, images: Tensor, target: Tensor) -> Tensor:
        settings, value = self.settings, made.new_zeros(())
        if settings.consistency:
            value = value + settings.consistency * scaled_mse(self.represent(self.spec.encode(made)), target).mean()
        if settings.edges:
            wrong = made - images
            value = value + settings.edges * (wrong.diff(dim=-1).abs().mean() + wrong.diff(dim=-2).abs().mean())
        return value

    def state(self) -> State:
        return {
            "done": self.epochs.done,
            "decoder": self.decoder.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def resume(self, state: Any) -> None:
        if state is None:
            return
        self.decoder.load_state_dict(state["decoder"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epochs.done = state["done"]
