"""How images are searched whose representations match: settings, and those that did best."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.inversion.priors.deep_image_prior import UNet

Start = Callable[[Float[Tensor, "m d"]], Float[Tensor, "m c h w"]]
"""Representations to images as people see them: a decoder."""


@dataclass(frozen=True)
class IRMatching:
    """How images are searched whose representations match.

    Attributes:
        prior: what is searched: the weights of a U-Net for each image; the pixels, from grey; or the pixels, from
            what a decoder says.
        iterations: steps of AdamW.
        lr: first step size, of weights or of pixels.
        phases: equal parts of the run, after each of which the step size is multiplied by `decay`.
        decay: see `phases`.
        weight_decay: of AdamW, for the weights of a U-Net.
        signed: pixels follow the sign of their gradient, as in Inverting Gradients.
        kl: weight of the divergence of softmax-normalised representations.
        mse: weight of the mean squared error over the variance of the representation.
        tv: weight of the total variation of pixels in [0, 1].
        anchor: weight of the squared distance from the decoder's image, mean over pixels in [0, 1]; above 0 a decoder
            is needed, whatever is searched.
        jitter: standard deviation of fresh noise on the U-Net's seed in every step, but for the last phase.
        kick: standard deviation of noise that is added to the seed for good every `kick_period` steps, too.
        kick_period: steps.
        unet: the generator.
        together: images in one pass; changes time and memory, not what is found.

    Raises:
        BadInput: a number is out of range.
    """

    prior: Literal["unet", "pixels", "decoder"] = "unet"
    iterations: int = 1000
    lr: float = 0.03
    phases: int = 4
    decay: float = 0.5
    weight_decay: float = 0.0
    signed: bool = False
    kl: float = 1.0
    mse: float = 1.0
    tv: float = 0.1
    anchor: float = 0.0
    jitter: float = 0.0
    kick: float = 0.0
    kick_period: int = 200
    unet: UNet = UNet()
    together: int = 16

    def __post_init__(self) -> None:
        if min(self.iterations, self.phases, self.kick_period, self.together) < 1:
            raise BadInput(
                f"iterations={self.iterations}, phases={self.phases}, kick_period={self.kick_period},"
                f" together={self.together}: each must be 1 or more"
            )
        if min(self.kl, self.mse, self.tv, self.anchor, self.jitter, self.kick) < 0 or self.kl + self.mse == 0:
            raise BadInput("weights and noise of a matching must be 0 or more, and one of kl and mse above 0")

    def phase(self, step: int) -> int:
        """Which part of the run a step belongs to, from 0."""
        return step * self.phases // self.iterations

    def rate(self, step: int) -> float:
        """Step size."""
        return self.lr * self.decay ** self.phase(step)

    def noisy(self, step: int) -> bool:
        """Whether the seed is disturbed: not in the last phase, where the search comes to rest."""
        return self.phase(step) < self.phases - 1


PRESETS: dict[str, IRMatching] = {
    "unet": IRMatching(),
    "pixels": IRMatching(prior="pixels", signed=True, lr=0.1, tv=0.3, iterations=300),
    "decoder": IRMatching(prior="decoder", signed=True, lr=0.03, anchor=1.0, iterations=300),
}
"""What did best of each prior on images that trained nothing (benchmarks/representations/inversion.py)."""
