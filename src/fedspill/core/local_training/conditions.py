"""How a client takes its gradients: in which precision, of which views of its examples, and clipped to what."""

import math
from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, InputSpec
from fedspill.core.types import Encoded
from fedspill.core.words import Precision

DTYPES: dict[str, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Augmentation:
    """Random views of images, anew in every step, as torchvision's RandomHorizontalFlip and RandomCrop make them.

    Attributes:
        flip: probability of a mirror image.
        crop: pixels of black padding on every side, of which a window of the image's own size is cut.

    Raises:
        BadInput: a value is out of range.

    Example:
        >>> import fedspill
        >>> fedspill.Conditions(augmentation=fedspill.Augmentation(flip=0.5, crop=4)).augmentation.crop
        4
    """

    flip: float = 0.0
    crop: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1 or self.crop < 0:
            raise BadInput(f"augmentation: flip={self.flip} must lie in [0, 1], crop={self.crop} be 0 or more")

    def __bool__(self) -> bool:
        return bool(self.flip or self.crop)

    def __call__(self, z: Encoded, spec: InputSpec, rng: torch.Generator) -> Encoded:
        """Views of encoded images (n, c, h, w), differentiable; drawn on the CPU.

        Raises:
            BadInput: these are no images.
        """
        if not isinstance(spec, ImageSpec):
            raise BadInput("client.augmentation flips and crops images; these inputs are none")
        if self.crop:
            z = _cropped(z, self.crop, _black(spec, z), rng)
        mirrored = torch.rand(len(z), generator=rng) < self.flip
        return torch.where(mirrored.to(z.device)[:, None, None, None], z.flip(3), z) if self.flip else z


def _black(spec: ImageSpec, like: Tensor) -> Float[Tensor, "1 c 1 1"]:
    return spec.encode(torch.zeros(1, *spec.shape).to(like))[:, :, :1, :1]


def _cropped(z: Float[Tensor, "n c h w"], pad: int, black: Tensor, rng: torch.Generator) -> Float[Tensor, "n c h w"]:
    places = torch.randint(2 * pad + 1, (len(z), 2), generator=rng).tolist()
    padded = functional.pad(z - black, (pad, pad, pad, pad)) + black
    height, width = z.shape[2:]
    return torch.stack([p[:, y : y + height, x : x + width] for p, (y, x) in zip(padded, places, strict=True)])


@dataclass(frozen=True)
class Conditions:
    """What stands between a client's examples and the gradient that its optimiser is given.

    Attributes:
        clip_norm: the gradient's Euclidean norm is brought down to this, as `clip_grad_norm_` does; None never.
        precision: of the forward pass: "float32" is the model's own dtype; the others are autocast.
        loss_scale: the loss is multiplied by this, the gradient divided; a step whose gradient overflows is skipped.
        augmentation: of the examples, in every step.

    Raises:
        BadInput: a value is out of range.

    Example:
        >>> import fedspill
        >>> fedspill.FedSGD(conditions=fedspill.Conditions(clip_norm=1.0)).conditions.clip_norm
        1.0
    """

    clip_norm: float | None = None
    precision: Precision = "float32"
    loss_scale: float = 1.0
    augmentation: Augmentation = Augmentation()

    def __post_init__(self) -> None:
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise BadInput(f"clip_norm={self.clip_norm} must be above 0")
        if self.precision not in get_args(Precision):
            raise BadInput(f"precision={self.precision!r} must be one of {', '.join(get_args(Precision))}")
        if not (self.loss_scale > 0 and math.isfinite(self.loss_scale)):
            raise BadInput(f"loss_scale={self.loss_scale} must be above 0")


def clipped(gradients: dict[str, Tensor], limit: float | None) -> dict[str, Tensor]:
    """Gradients brought to a Euclidean norm of at most `limit`, as `torch.nn.utils.clip_grad_norm_` does."""
    if limit is None or not gradients:
        return gradients
    squares = torch.stack([g.square().sum() for g in gradients.values()]).sum()
    # The root of 0 has no derivative; what is 0 is not clipped.
    norm = torch.where(squares > 0, torch.where(squares > 0, squares, 1).sqrt(), 0)
    share = (limit / (norm + 1e-6)).clamp(max=1.0)
    return {k: g * share.to(g) for k, g in gradients.items()}
