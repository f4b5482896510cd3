"""One training run as an object: epochs, accuracy, and a state from which it can go on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.inputs import ImageSpec
from fedspill.core.rng import stream
from fedspill.core.types import Batch
from fedspill.training.adversary import Adversary

EVALUATED = 500
"""Images at a time."""


@dataclass(frozen=True)
class Recipe:
    """How one network is trained.

    Attributes:
        lr: the highest learning rate.
        adam: Adam, else SGD with Nesterov momentum 0.9.
        weight_decay: as the optimiser takes it.
        shift: random translation in pixels, each way.
        schedule: one cycle of the learning rate over all epochs, or steps: times `decay` every `period` epochs.
        cutout: side of a random square in the mean colour (DeVries and Taylor 2017, arXiv 1708.04552); 0 for none.
        adversary: of adversarial training; None trains on the images themselves.
    """

    epochs: int
    lr: float
    adam: bool = False
    weight_decay: float = 0.0
    minibatch: int = 128
    shift: int = 2
    schedule: Literal["one cycle", "steps"] = "one cycle"
    decay: float = 0.1
    period: int = 50
    cutout: int = 0
    adversary: Adversary | None = None


def augmented(images: Tensor, shift: int, rng: torch.Generator) -> Tensor:
    """Each image moved by up to `shift` pixels each way (mirrored at the edge), half of them flipped."""
    count, _, height, width = images.shape
    padded = functional.pad(images, (shift,) * 4, mode="reflect")
    top = torch.randint(2 * shift + 1, (count, 1, 1), generator=rng)
    left = torch.randint(2 * shift + 1, (count, 1, 1), generator=rng)
    columns = left + torch.arange(width)
    flipped = torch.rand((count, 1, 1), generator=rng) < 0.5
    columns = torch.where(flipped, columns.flip(2), columns)
    rows = top + torch.arange(height).view(1, -1, 1)
    return padded.permute(0, 2, 3, 1)[torch.arange(count).view(-1, 1, 1), rows, columns].permute(0, 3, 1, 2)


def cut_out(images: Tensor, side: int, colour: Float[Tensor, "c 1 1"], rng: torch.Generator) -> Tensor:
    """A square of each image in one colour, its middle anywhere in the image."""
    count, _, height, width = images.shape
    rows = torch.randint(height, (count, 1), generator=rng) - side // 2
    columns = torch.randint(width, (count, 1), generator=rng) - side // 2
    down, along = torch.arange(height), torch.arange(width)
    inside = ((down >= rows) & (down < rows + side))[:, :, None] & ((along >= columns) & (along < columns + side))[
        :, None
    ]
    return torch.where(inside[:, None], colour, images)


@dataclass
class Trainer:
    """A network in training; everything that a resumed run needs is in `state`.

    Attributes:
        train: pixels (n, c, h, w) in [0, 1] and labels on the CPU, at least one mini-batch.
        spec: how pixels are normalised.
        mixed: multiply in bfloat16 (CPU), or in float16 with scaled gradients (CUDA); weights stay float32.
        seed: of order, augmentation and adversary.
    """

    module: nn.Module
    recipe: Recipe
    epochs: int
    train: Batch
    spec: ImageSpec
    mixed: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        values = self.module.parameters()
        recipe = self.recipe
        self.optimiser: torch.optim.Optimizer = (
            torch.optim.Adam(values, recipe.lr, weight_decay=recipe.weight_decay)
            if recipe.adam
            else torch.optim.SGD(values, recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay)
        )
        self.steps = len(self.train) // recipe.minibatch
        self.schedule: torch.optim.lr_scheduler.LRScheduler = (
            torch.optim.lr_scheduler.OneCycleLR(
                self.optimiser, recipe.lr, total_steps=self.epochs * self.steps, cycle_momentum=False
            )
            if recipe.schedule == "one cycle"
            else torch.optim.lr_scheduler.StepLR(self.optimiser, recipe.period * self.steps, recipe.decay)
        )
        self.device = next(self.module.parameters()).device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.mixed and self.device.type == "cuda")
        self.done = 0

    def epoch(self) -> Iterator[float]:
        """One pass over the training images; gives the loss of every step."""
        rng = stream(self.seed, "train", self.done)
        order = torch.randperm(len(self.train), generator=rng)
        for step in range(self.steps):
            indices = order[step * self.recipe.minibatch : (step + 1) * self.recipe.minibatch]
            images, labels = self._images(indices, rng).to(self.device), self.train.labels[indices].to(self.device)
            images = self._disturbed(images, labels, rng)
            self.module.train()
            loss = functional.cross_entropy(self.logits(images), labels)
            self.optimiser.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimiser)
            self.scaler.update()
            self.schedule.step()
            yield float(loss.detach())
        self.done += 1

    def _images(self, indices: Tensor, rng: torch.Generator) -> Tensor:
        images = augmented(self.train.inputs[indices], self.recipe.shift, rng)
        if self.recipe.cutout:
            colour = self.spec.decode(images.new_zeros(images.shape[1], 1, 1))
            images = cut_out(images, self.recipe.cutout, colour, rng)
        return images

    def _disturbed(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        if self.recipe.adversary is None:
            return images
        # In eval mode, so that perturbed halves of a step do not enter BatchNorm's statistics twice.
        self.module.eval()
        return self.recipe.adversary.worst(self.logits, images, labels, rng)

    def logits(self, images: Tensor) -> Tensor:
        """Logits of pixels (n, c, h, w), in float32 also where the products were taken in half precision."""
        z = self.spec.encode(images).contiguous(memory_format=torch.channels_last)
        half = torch.float16 if self.device.type == "cuda" else torch.bfloat16
        with torch.autocast(self.device.type, half, enabled=self.mixed):
            return self.module(z).float()

    def accuracy(self, test: Batch, adversary: Adversary | None = None) -> float:
        """Share of right answers in eval mode and float32, as an audit will run the network.

        Args:
            adversary: moves every image first: robust accuracy.
        """
        self.module.eval()
        rng, right = stream(self.seed, "accuracy"), 0

        def logits(images: Tensor) -> Tensor:
            return self.module(self.spec.encode(images))

        for images, labels in zip(test.inputs.split(EVALUATED), test.labels.split(EVALUATED), strict=True):
            images, labels = images.to(self.device), labels.to(self.device)
            if adversary is not None:
                images = adversary.worst(logits, images, labels, rng)
            with torch.no_grad():
                right += int((logits(images).argmax(1) == labels).sum())
        return right / len(test)

    def state(self) -> dict[str, Any]:
        """What `resume` takes."""
        return {"done": self.done, **{name: piece.state_dict() for name, piece in self._parts().items()}}

    def _parts(self) -> dict[str, Any]:
        return {
            "module": self.module,
            "optimiser": self.optimiser,
            "schedule": self.schedule,
            "scaler": self.scaler,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Goes on after the epoch at which `state` was taken."""
        for name, piece in self._parts().items():
            piece.load_state_dict(state[name])
        self.done = state["done"]
