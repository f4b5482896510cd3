"""LPIPS (Zhang et al. 2018, eq. 1; net "alex", version 0.1) without torchvision.

The linear heads ship inside torchmetrics; AlexNet's convolutional weights (torchvision's names, ImageNet)
come from a file, and without it the metric says "not computed".
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.inputs import Kind
from fedspill.core.libraries.vision import import_torchmetrics
from fedspill.scoring.pairs import IMAGES, NotComputed, in_pieces

MIN_SIZE = 64
"""Pixels on the shorter side below which images are enlarged: five stages leave 1 to 3 pixels of less."""

WEIGHTS_FILE = "imagenet_alexnet_features.pt"
TORCHVISION_FILE = "alexnet-owt-7be5be79.pth"


@dataclass(frozen=True)
class LPIPS:
    """Learned perceptual image patch similarity; 0 for equal images, about 1 for unlike ones.

    Images are clamped to [0, 1], grey ones repeated to three channels, mapped to [-1, 1], and enlarged
    bilinearly to 64 pixels on the shorter side if they are smaller. Computed in float32.

    Attributes:
        weights: file with `features.0.weight`, ... (torchvision's AlexNet); more keys do no harm.
    """

    weights: Path | None = None
    name: str = "lpips"
    unit: str = "alex, 64 px or more"
    higher_is_closer: bool = False
    accepts: frozenset[Kind] = IMAGES

    def __call__(self, rebuilt: Tensor, private: Tensor) -> Float[Tensor, " n"]:
        """One value per pair of images (n, 1 or 3, h, w) in [0, 1].

        Raises:
            BadInput: shapes differ, or these are no images.
            NotComputed: the weights cannot be had; says why.
        """
        network = alexnet(self.weights, private.device)
        return in_pieces(lambda a, b: (network(a) - network(b)).double().square().sum(1), rebuilt, private)


class PerceptualFeatures(nn.Module):
    """Images to vectors whose squared distance is LPIPS: unit-normalised features times sqrt(head / pixels).

    This is equation 1 with the weighted mean over pixels pulled inside the square; the heads are
    non-negative. As vectors, images can be compared with a whole reference set without a network pass for
    each pair.
    """

    def __init__(self, convolutions: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.scaling: nn.Module = import_torchmetrics("torchmetrics.functional.image.lpips").ScalingLayer()
        self.features = _alexnet_features()
        self.features.load_state_dict(dict(convolutions))
        self.roots = [heads[f"lin{k}.model.1.weight"].flatten().sqrt() for k in range(5)]
        self.requires_grad_(False)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Images in [0, 1] to vectors."""
        x = _enlarged(self.scaling(2 * images.float().expand(-1, 3, -1, -1) - 1))
        levels: list[Tensor] = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                levels.append(x)
        return torch.cat([_weighted(x, r.to(x)) for x, r in zip(levels, self.roots, strict=True)], 1)


def default_weights() -> Path | None:
    """AlexNet's weights under FEDSPILL_DATA, else in torch.hub's cache, if there. Downloads nothing."""
    data = os.environ.get("FEDSPILL_DATA")
    places = [Path(data) / "weights" / WEIGHTS_FILE] if data else []
    places.append(Path(torch.hub.get_dir()) / "checkpoints" / TORCHVISION_FILE)
    return next((place for place in places if place.is_file()), None)


def alexnet(weights: Path | None, device: torch.device) -> PerceptualFeatures:
    """The network of LPIPS on a device; read once per file.

    Raises:
        NotComputed: no file is named, or it cannot be read, or it is not AlexNet's.
    """
    if weights is None:
        raise NotComputed(
            f"no AlexNet weights: put {WEIGHTS_FILE} (torchvision's alexnet, features.*) into"
            " $FEDSPILL_DATA/weights, or name the file"
        )
    return _read(weights, device)


@lru_cache(maxsize=2)
def _read(weights: Path, device: torch.device) -> PerceptualFeatures:
    heads = (
        Path(import_torchmetrics("torchmetrics").__file__).parent / "functional" / "image" / "lpips_models" / "alex.pth"
    )
    try:
        states = [torch.load(path, map_location="cpu", weights_only=True) for path in (weights, heads)]
        prefix = "features."
        convolutions = {k.removeprefix(prefix): v for k, v in states[0].items() if k.startswith(prefix)}
        return PerceptualFeatures(convolutions, states[1]).to(device).eval()
    except Exception as error:  # whatever is wrong with a file, the other metrics go on
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NotComputed(f"AlexNet weights in {weights.name} cannot be used: {first}") from error


def _alexnet_features() -> nn.Sequential:
    """The convolutional part of AlexNet (Krizhevsky 2014), numbered as torchvision numbers it."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
    )  # fmt: skip


def _enlarged(x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    factor = MIN_SIZE / min(height, width)
    if factor <= 1:
        return x
    size = (round(height * factor), round(width * factor))
    return functional.interpolate(x, size, mode="bilinear", align_corners=False)


def _weighted(x: Tensor, root: Tensor) -> Tensor:
    # torchmetrics' floor (1e-8 under the root) keeps a pixel without any active feature at 0.
    unit = x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt()
    pixels = x.shape[-1] * x.shape[-2]
    return unit.mul_(root[:, None, None] / pixels**0.5).flatten(1)
