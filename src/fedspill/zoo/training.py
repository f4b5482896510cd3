"""One training run as an object: epochs, accuracy, and a state from which it can go on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.rng import stream
from fedspill.core.types import Batch


@dataclass(frozen=True)
class Recipe:
    """How one network is trained: one cycle of the learning rate over all epochs.

    Attributes:
        adam: Adam, else SGD with Nesterov momentum 0.9.
        lr: the highest learning rate.
        weight_decay: as the optimiser takes it.
        shift: random translation in pixels, each way.
    """

    epochs: int
    lr: float
    adam: bool = False
    weight_decay: float = 0.0
    minibatch: int = 128
    shift: int = 2


def _augmented(images: Tensor, shift: int, rng: torch.Generator) -> Tensor:
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


@dataclass
class Trainer:
    """A network in training; everything that a resumed run needs is in `state`.

    Attributes:
        train: normalised images (n, c, h, w) and labels, at least one mini-batch.
        bfloat16: multiply in bfloat16; weights and their updates stay float32.
        seed: of order and augmentation.
    """

    module: nn.Module
    recipe: Recipe
    epochs: int
    train: Batch
    bfloat16: bool = False
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
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, recipe.lr, total_steps=self.epochs * self.steps, cycle_momentum=False
        )
        self.done = 0

    def epoch(self) -> Iterator[float]:
        """One pass over the training images; gives the loss of every step."""
        rng = stream(self.seed, "train", self.done)
        order = torch.randperm(len(self.train), generator=rng)
        self.module.train()
        for step in range(self.steps):
            part = order[step * self.recipe.minibatch : (step + 1) * self.recipe.minibatch]
            images = _augmented(self.train.inputs[part], self.recipe.shift, rng)
            loss = functional.cross_entropy(self.logits(images), self.train.labels[part])
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            self.schedule.step()
            yield float(loss.detach())
        self.done += 1

    def logits(self, images: Tensor) -> Tensor:
        """Of normalised images; float32, also where the products were taken in bfloat16."""
        images = images.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            return self.module(images).float()

    def accuracy(self, test: Batch) -> float:
        """Share of right answers in eval mode and float32, as an audit will run the network."""
        self.module.eval()
        with torch.no_grad():
            answers = torch.cat([self.module(part).argmax(1) for part in test.inputs.split(500)])
        return float((answers == test.labels).float().mean())

    def state(self) -> dict[str, Any]:
        """What `resume` takes."""
        parts = {"module": self.module, "optimiser": self.optimiser, "schedule": self.schedule}
        return {"done": self.done, **{name: part.state_dict() for name, part in parts.items()}}

    def resume(self, state: dict[str, Any]) -> None:
        """Goes on after the epoch at which `state` was taken."""
        self.module.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.done = state["done"]
