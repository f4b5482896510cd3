"""Values at scattered places of a picture, interpolated to all of its pixels."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import Delaunay, KDTree
from torch import Tensor


@dataclass(frozen=True)
class Interpolation:
    """Each pixel as a weighted mean of the values at three places; the places alone decide, so it is made once.

    Attributes:
        index: of the places, for each pixel in row order.
        weight: likewise; the sum over the three is 1.
        size: rows and columns.
    """

    index: Int[Tensor, "pixels 3"]
    weight: Float[Tensor, "pixels 3"]
    size: tuple[int, int]

    def __call__(self, values: Float[Tensor, "m places"]) -> Float[Tensor, "m h w"]:
        """The pictures."""
        parts = (values[:, self.index[:, k]] * self.weight[:, k] for k in range(3))
        return sum(parts, start=values.new_zeros(1)).view(len(values), *self.size)


def interpolation(places: Float[Tensor, "places 2"], size: tuple[int, int]) -> Interpolation:
    """Linear on the triangles between the places (rows, columns); outside of them the nearest one counts."""
    known = places.cpu().double().numpy()
    pixels = np.stack(np.meshgrid(*(np.arange(s, dtype=np.float64) for s in size), indexing="ij"), -1).reshape(-1, 2)
    nearest = np.asarray(cast(Any, KDTree)(known).query(pixels)[1])
    index, weight = np.repeat(nearest[:, None], 3, 1), np.tile([1.0, 0.0, 0.0], (len(pixels), 1))
    if min(len(np.unique(known[:, 0])), len(np.unique(known[:, 1]))) > 1:
        mesh = cast(Any, Delaunay)(known)
        simplex = np.asarray(mesh.find_simplex(pixels))
        inside = simplex >= 0
        index[inside] = np.asarray(mesh.simplices)[simplex[inside]]
        weight[inside] = _barycentric(np.asarray(mesh.transform)[simplex[inside]], pixels[inside])
    made = torch.from_numpy(index).to(places.device), torch.from_numpy(weight).to(places.device)
    return Interpolation(made[0].long(), made[1], size)


def _barycentric(transform: Any, points: Any) -> Any:
    two = np.einsum("nij,nj->ni", transform[:, :2], points - transform[:, 2])
    return np.concatenate([two, 1 - two.sum(1, keepdims=True)], 1)
