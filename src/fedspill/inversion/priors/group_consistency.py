"""What searches from several seeds agree on: their images one on top of the other, registered (Yin et al. 2021).

Yin et al.: "See through Gradients: Image Batch Recovery via GradInversion", CVPR 2021, arXiv 2104.07586, equations 12
and 13. The authors register by RANSAC-flow, a trained network; here it is a dense optical flow without one.
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

Consensus = Literal["none", "mean", "registered"]
RADIUS = 7
"""Pixels about each pixel over which the flow is taken as constant."""


def aligned(z: Float[Tensor, "r n ..."], labels: Int[Tensor, " n"]) -> Int[Tensor, "r n"]:
    """For every seed and example of the first seed, which of the seed's examples is the same one.

    Examples are told apart by their labels; where several have one label, seeds may hold them in any order, and the
    cheapest assignment to the first seed's is taken.
    """
    order = torch.arange(z.shape[1]).repeat(len(z), 1)
    flat = z.detach().flatten(2).double().cpu()
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0].cpu()
        if len(members) < 2:
            continue
        for run in range(1, len(z)):
            cost = torch.cdist(flat[0, members], flat[run, members])
            order[run, members] = members[torch.from_numpy(linear_sum_assignment(cost.numpy())[1])]
    return order.to(z.device)


def consensus(z: Float[Tensor, "r n c h w"], labels: Int[Tensor, " n"], kind: Consensus) -> Float[Tensor, "r n c h w"]:
    """What every seed's images are pulled to: the mean over seeds, in each seed's own order.

    Args:
        kind: "mean" is the pixel-wise mean; "registered" moves every seed's image onto that mean first.
    """
    order = aligned(z, labels)
    own = torch.arange(len(z), device=z.device)[:, None]
    sorted_ = z.detach()[own, order]
    mean = sorted_.mean(0)
    if kind == "registered":
        mean = torch.stack(
            [
                torch.stack([_onto(image, target) for image in images]).mean(0)
                for images, target in _pairs(sorted_, mean)
            ]
        )
    back = torch.empty_like(order).scatter_(1, order, torch.arange(z.shape[1], device=z.device).repeat(len(z), 1))
    return mean[back]


def _pairs(z: Tensor, mean: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(z[:, i], mean[i]) for i in range(len(mean))]


def _onto(image: Float[Tensor, "c h w"], target: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
    """The image, moved so that it lies on the target."""
    from skimage.registration import optical_flow_ilk  # slow to import, and most runs never move anything
    from skimage.transform import warp

    still, moving = (x.mean(0).double().cpu().numpy() for x in (target, image))
    down, across = optical_flow_ilk(still, moving, radius=RADIUS)
    rows, columns = np.meshgrid(np.arange(still.shape[0]), np.arange(still.shape[1]), indexing="ij")
    places = np.array([rows + down, columns + across])
    warped = [warp(channel, places, mode="edge") for channel in image.double().cpu().numpy()]
    return torch.from_numpy(np.stack(warped)).to(image)
