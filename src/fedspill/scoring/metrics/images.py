"""Closeness of matched images, one float64 number per pair; nothing is pooled over a batch. Also the list of metrics.

What checks shapes itself, with a message for people, is annotated as taking any tensor.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.inputs import Kind
from fedspill.core.libraries.vision import import_torchmetrics
from fedspill.scoring.pairs import IMAGES, NotComputed, in_pieces

SSIM_MIN_SIZE = 11
"""One window."""

MS_SSIM_MIN_SIZE = 176
"""Five scales of an 11x11 window, as torchmetrics requires: size // 16 > 10."""


@dataclass(frozen=True)
class MSE:
    """Mean squared error of images clamped to [0, 1]; in [0, 1], 0 for equal images."""

    name: str = "mse"
    unit: str = ""
    higher_is_closer: bool = False
    accepts: frozenset[Kind] = IMAGES

    def __call__(self, rebuilt: Tensor, private: Tensor) -> Float[Tensor, " n"]:
        """One value per pair of images (n, 1 or 3, h, w) in [0, 1].

        Raises:
            BadInput: shapes differ, or these are no images.
        """
        return in_pieces(_mean_squared_errors, rebuilt, private)


@dataclass(frozen=True)
class PSNR:
    """10 log10(1 / MSE) of images clamped to [0, 1], in dB, for each image; at most `cap`.

    A pooled PSNR, or an infinite one, would let a single exact image speak for its whole batch.

    Attributes:
        cap: what an exact image gets; 100 dB is an error of 1e-5, below what 8-bit (or 16-bit) images hold.
    """

    cap: float = 100.0
    name: str = "psnr"
    unit: str = "dB"
    higher_is_closer: bool = True
    accepts: frozenset[Kind] = IMAGES

    def __call__(self, rebuilt: Tensor, private: Tensor) -> Float[Tensor, " n"]:
        """One value per pair of images (n, 1 or 3, h, w) in [0, 1]; from 0 to `cap`.

        Raises:
            BadInput: shapes differ, or these are no images.
        """
        return (-10 * in_pieces(_mean_squared_errors, rebuilt, private).log10()).clamp(max=self.cap)


@dataclass(frozen=True)
class SSIM:
    """Structural similarity (Wang et al. 2004, eq. 13) of images clamped to [0, 1]; in [-1, 1], 1 when equal.

    Gaussian 11x11 window with sigma 1.5, K = (0.01, 0.03), biased variances, mean over channels and over the
    pixels whose window lies inside the image, as in the paper (scikit-image, in float64). torchmetrics' own mean
    also takes in the mirrored border.
    """

    name: str = "ssim"
    unit: str = ""
    higher_is_closer: bool = True
    accepts: frozenset[Kind] = IMAGES

    def __call__(self, rebuilt: Tensor, private: Tensor) -> Float[Tensor, " n"]:
        """One value per pair of images (n, 1 or 3, h, w) in [0, 1].

        Raises:
            BadInput: shapes differ, or these are no images.
            NotComputed: images below 11 pixels.
        """
        _at_least(SSIM_MIN_SIZE, private, "an 11x11 window")
        return in_pieces(_ssim, rebuilt, private)


@dataclass(frozen=True)
class MSSSIM:
    """Multi-scale structural similarity (Wang et al. 2003, eq. 7) of images clamped to [0, 1]; in [0, 1].

    Five scales with the paper's weights (torchmetrics; its coarsest scale takes in the mirrored border). Negative
    terms are set to 0, since their fractional powers do not exist. float64 inputs are computed as such, others
    in float32, which costs a twentieth and moves values by less than 1e-5.
    """

    name: str = "ms_ssim"
    unit: str = ""
    higher_is_closer: bool = True
    accepts: frozenset[Kind] = IMAGES

    def __call__(self, rebuilt: Tensor, private: Tensor) -> Float[Tensor, " n"]:
        """One value per pair of images (n, 1 or 3, h, w) in [0, 1].

        Raises:
            BadInput: shapes differ, or these are no images.
            NotComputed: images below 176 pixels.
        """
        _at_least(MS_SSIM_MIN_SIZE, private, "five scales of an 11x11 window")
        dtype = torch.float64 if private.dtype == torch.float64 else torch.float32
        return in_pieces(lambda a, b: _ms_ssim(a.to(dtype), b.to(dtype)), rebuilt, private)


"""Metrics by the name that a plan uses."""


def capped(values: Float[Tensor, " n"], cap: float) -> int:
    """How many values stand at the cap, and so pull a mean by an amount that the cap decides."""
    return int((values >= cap).sum())


def _mean_squared_errors(rebuilt: Tensor, private: Tensor) -> Tensor:
    return (rebuilt - private).square().flatten(1).mean(1)


def _ssim(rebuilt: Tensor, private: Tensor) -> Tensor:
    from skimage.metrics import structural_similarity

    # SciPy's separable float64 filters cost a thirtieth of torchmetrics' two-dimensional float64 convolution;
    # in float32 that one is as quick, but an exact copy then misses 1 by up to 1e-5.
    pairs = zip(rebuilt.cpu().numpy(), private.cpu().numpy(), strict=True)
    values = [
        structural_similarity(
            truth,
            image,
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for image, truth in pairs
    ]
    return private.new_tensor(values)


def _ms_ssim(rebuilt: Tensor, private: Tensor) -> Tensor:
    functional = import_torchmetrics("torchmetrics.functional.image")
    values: Tensor = functional.multiscale_structural_similarity_index_measure(
        rebuilt, private, sigma=1.5, kernel_size=11, data_range=1.0, reduction="none", normalize="relu"
    )
    return values.double().clamp(max=1)


def _at_least(size: int, images: Tensor, what: str) -> None:
    if images.ndim == 4 and min(images.shape[-2:]) < size:
        got = "x".join(map(str, images.shape[-2:]))
        raise NotComputed(f"{what} need at least {size} pixels a side; the images have {got}")
