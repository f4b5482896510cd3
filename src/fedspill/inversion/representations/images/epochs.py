"""Mini-batches of public images, epoch after epoch, in a training that a watch may keep and end."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.rng import stream
from fedspill.core.roles import State, Watch


@dataclass
class Epochs:
    """The steps of a training, each with a mini-batch of which half is mirrored.

    Every draw goes by the seed and the number of the step, so that a broken training goes on as an unbroken one.

    Attributes:
        images: as people see them; they may stay on the CPU.
        minibatch: images of one step; what is left of an epoch is dropped.
        epochs: through all images.
        seed: of order and mirroring.
        like: gives device and dtype of the mini-batches.
        done: steps so far.

    Raises:
        BadInput: there are fewer images than one mini-batch.
    """

    images: Float[Tensor, "n c h w"]
    minibatch: int
    epochs: int
    seed: int
    like: Tensor
    done: int = 0
    _order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    def __post_init__(self) -> None:
        check_enough(self.images, self.minibatch)

    def run(self, step: Callable[[float], float], state: Callable[[], State], watch: Watch) -> None:
        """All steps that are left, or those that the watch allows.

        Args:
            step: one of them; of the share of all steps that is done, gives what the watch hears.
            state: what is kept to go on from.
            watch: hears of the progress, keeps the state, ends the training.
        """
        total = self.epochs * self._steps
        while self.done < total:
            value = step(self.done / total)
            self.done += 1
            watch.progress(self.done, total, value)
            ended = watch.out_of_time()
            watch.save(state, last=ended)
            if ended:
                return

    def mini_batch(self) -> Float[Tensor, "b c h w"]:
        """That of the step that is next."""
        epoch, step = divmod(self.done, self._steps)
        if step == 0 or len(self._order) == 0:
            self._order = torch.randperm(len(self.images), generator=stream(self.seed, "order", epoch))
        size = self.minibatch
        images = self.images[self._order[step * size : (step + 1) * size]].to(self.like)
        mirrored = torch.rand((size, 1, 1, 1), generator=stream(self.seed, "mirror", self.done)) < 0.5
        return torch.where(mirrored.to(images.device), images.flip(3), images)

    @property
    def _steps(self) -> int:
        return len(self.images) // self.minibatch


def check_enough(images: Tensor, minibatch: int) -> None:
    """Raises BadInput where there are fewer images than one mini-batch."""
    if len(images) < minibatch:
        raise BadInput(f"{len(images)} images were got; one mini-batch of {minibatch} is needed")
