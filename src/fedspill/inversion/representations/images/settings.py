"""How images are searched whose representations match: settings, and those that did best."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.settings import Group
from fedspill.inversion.priors.deep_image_prior import UNet

Start = Callable[[Float[Tensor, "m d"]], Float[Tensor, "m c h w"]]
"""Representations to images as people see them: a decoder."""


@dataclass(frozen=True)
class MatchingSchedule(Group):
    """Steps of AdamW, and how their size falls.

    Attributes:
        iterations: steps.
        lr: first step size, of weights or of pixels.
        phases: equal parts of the run, after each of which the step size is multiplied by `decay`.
        decay: see `phases`.
    """

    iterations: int = 1000
    lr: float = 0.03
    phases: int = 4
    decay: float = 0.5

    def __post_init__(self) -> None:
        if min(self.iterations, self.phases) < 1:
            raise BadInput(f"iterations={self.iterations}, phases={self.phases}: each must be 1 or more")
        if not (self.lr > 0 and self.decay > 0):
            raise BadInput(f"lr={self.lr}, decay={self.decay} must be above 0")

    def phase(self, step: int) -> int:
        """Which part of the run a step belongs to, from 0."""
        return step * self.phases // self.iterations

    def rate(self, step: int) -> float:
        """Step size."""
        return self.lr * self.decay ** self.phase(step)


@dataclass(frozen=True)
class MatchingTerms(Group):
    """What the loss is the sum of.

    Attributes:
        kl: weight of the divergence of softmax-normalised representations.
        mse: weight of the mean squared error over the variance of the representation.
        tv: weight of the total variation of pixels in [0, 1].
        anchor: weight of the squared distance from the decoder's image, mean over pixels in [0, 1]; above 0 a decoder
            is needed, whatever is searched.
    """

    kl: float = 1.0
    mse: float = 1.0
    tv: float = 0.1
    anchor: float = 0.0

    def __post_init__(self) -> None:
        if not min(self.kl, self.mse, self.tv, self.anchor) >= 0 or not self.kl + self.mse > 0:
            raise BadInput(
                f"kl={self.kl}, mse={self.mse}, tv={self.tv}, anchor={self.anchor} must be 0 or more, and one of kl"
                " and mse above 0"
            )


@dataclass(frozen=True)
class SeedNoise(Group):
    """Noise on the seed of a U-Net, which helps the search out of local minima.

    Attributes:
        jitter: standard deviation of fresh noise in every step, but for the last phase.
        kick: standard deviation of noise that is added for good every `kick_period` steps, too.
        kick_period: steps.
    """

    jitter: float = 0.0
    kick: float = 0.0
    kick_period: int = 200

    def __post_init__(self) -> None:
        if not (self.jitter >= 0 and self.kick >= 0) or self.kick_period < 1:
            raise BadInput(
                f"jitter={self.jitter}, kick={self.kick} must be 0 or more, kick_period={self.kick_period} 1 or more"
            )


@dataclass(frozen=True)
class IRMatching:
    """How images are searched whose representations match.

    Attributes:
        prior: what is searched: the weights of a U-Net for each image; the pixels, from grey; or the pixels, from
            what a decoder says.
        schedule: steps and their size.
        weight_decay: of AdamW, for the weights of a U-Net.
        signed: pixels follow the sign of their gradient, as in Inverting Gradients.
        terms: of the loss.
        noise: on the U-Net's seed.
        unet: the generator.
        together: images in one pass; changes time and memory, not what is found.

    Raises:
        BadInput: a number is out of range, or is given to a prior that has no use for it.
    """

    prior: Literal["unet", "pixels", "decoder"] = "unet"
    schedule: MatchingSchedule = MatchingSchedule()
    weight_decay: float = 0.0
    signed: bool = False
    terms: MatchingTerms = MatchingTerms()
    noise: SeedNoise = SeedNoise()
    unet: UNet = UNet()
    together: int = 16

    def __post_init__(self) -> None:
        if self.together < 1 or not self.weight_decay >= 0:
            raise BadInput(f"together={self.together} must be 1 or more, weight_decay={self.weight_decay} 0 or more")
        if self.prior != "unet" and (self.weight_decay or self.noise.jitter or self.noise.kick):
            raise BadInput(f"weight_decay, jitter and kick are a U-Net's; prior={self.prior!r} searches pixels")
        if self.prior == "unet" and self.signed:
            raise BadInput("signed is for pixels; prior='unet' searches weights")

    def noisy(self, step: int) -> bool:
        """Whether the seed is disturbed: not in the last phase, where the search comes to rest."""
        return self.schedule.phase(step) < self.schedule.phases - 1


PRESETS: dict[str, IRMatching] = {
    "unet": IRMatching(),
    "pixels": IRMatching("pixels", MatchingSchedule(iterations=300, lr=0.1), signed=True, terms=MatchingTerms(tv=0.3)),
    "decoder": IRMatching("decoder", MatchingSchedule(iterations=300), signed=True, terms=MatchingTerms(anchor=1.0)),
}
"""What did best of each prior on images that trained nothing (benchmarks/representations/inversion.py)."""
