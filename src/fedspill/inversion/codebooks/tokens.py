"""Sentences from what a network makes of them in front of its first block: the nearest token at every position.

Fowl et al. 2022, appendix A.4, look tokens up in the embedding; here every token is passed through the network's own
front, so that scales, position encodings and norms need not be known.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.inputs import TokenSpec
from fedspill.core.model import Model
from fedspill.inversion.network.layers import layer_inputs

CHUNK = 512
"""Tokens per forward pass through the front."""
PROBES = 16
"""Tokens by which is seen how features come about."""


@dataclass(frozen=True)
class TokenCodebook:
    """What sentences look like in front of the layer `at` of `model`; each position must depend on its token alone.

    Attributes:
        model: as it was before anything was planted.
        at: name of the layer in front of which features are read.
    """

    model: Model
    at: str

    @property
    def _spec(self) -> TokenSpec:
        assert isinstance(self.model.input, TokenSpec)
        return self.model.input

    @property
    def open(self) -> bool:
        """Tokens are whole."""
        return False

    def tokens(self, features: Float[Tensor, "m f"]) -> Int[Tensor, "m t"]:
        """The token at every position whose features are nearest."""
        length, size = self._spec.length, features.shape[1] // self._spec.length
        target = features.view(len(features), length, size).to(self.model.like)
        best = target.new_full((len(target), length), torch.inf)
        best_ids = torch.zeros_like(best, dtype=torch.long)
        if self._added is not None:
            first, offset = self._added
            target = (target - offset).view(-1, 1, size)
            best, best_ids = best.view(-1, 1), best_ids.view(-1, 1)
        else:
            first = None
        for ids in torch.arange(self._spec.vocabulary, device=target.device).split(CHUNK):
            table = self._front(ids) if first is None else first[ids, None]
            # |a - b|^2 up to |a|^2, which no token changes.
            gap = table.square().sum(2).T[None] - 2 * torch.einsum("mtd,vtd->mtv", target, table)
            value, index = gap.min(2)
            closer = value < best
            best, best_ids = torch.where(closer, value, best), torch.where(closer, ids[index], best_ids)
        return best_ids.view(len(features), length)

    def _front(self, ids: Int[Tensor, " v"]) -> Float[Tensor, "v t d"]:
        """Features of sentences of one token only."""
        return layer_inputs(self.model, self.at, ids[:, None].expand(-1, self._spec.length))

    @cached_property
    def _added(self) -> tuple[Float[Tensor, "v d"], Float[Tensor, "t d"]] | None:
        """Features as a part of the token plus one of the position, if they are that: a table of its own is large."""
        vocabulary, device = self._spec.vocabulary, self.model.like.device
        some = self._front(torch.linspace(0, vocabulary - 1, PROBES, device=device).long().unique())
        offset = (some[0] - some[0, :1]).detach()
        if not torch.allclose(some, some[:, :1] + offset, rtol=1e-4, atol=1e-5):
            return None
        parts = torch.arange(vocabulary, device=device).split(CHUNK)
        return torch.cat([self._front(ids)[:, 0] for ids in parts]), offset

    def nearest(self, features: Float[Tensor, "m f"]) -> Float[Tensor, "m f"]:
        """The features of the nearest sentence."""
        return layer_inputs(self.model, self.at, self.tokens(features)).flatten(1).to(features)

    def residual(self, features: Float[Tensor, "m f"]) -> Float[Tensor, " m"]:
        """Relative distance to the nearest sentence, scaled as the residual of a picture is."""
        nearest = self.nearest(features)
        return 0.25 * (features - nearest).norm(dim=1) / nearest.norm(dim=1).clamp_min(1e-12) / MIXED

    def out_of_range(self, features: Float[Tensor, "m f"]) -> Float[Tensor, " m"]:
        """Embeddings have no range."""
        return torch.zeros_like(features[:, 0])

    def scale(self, direction: Float[Tensor, " f"], low: float, high: float) -> float | None:
        """None: no factor is sought."""
        return None


MIXED = 0.2
"""Relative distance of a mixture of two sentences to the nearest one, which counts as 0.25."""
