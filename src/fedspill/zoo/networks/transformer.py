"""The transformer of the federated learning literature, for next-token prediction."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.errors import BadInput


@dataclass(frozen=True)
class TransformerOptions:
    """Options of `transformer`; the defaults are those of Wang et al. 2021, without dropout.

    Attributes:
        width: numbers per token; even, and a multiple of `heads`.
        heads: of each attention.
        hidden: width inside the feed-forward parts.
        layers: blocks.
        norm: "post" normalises sums (Vaswani et al. 2017), "pre" what enters a part, and once before the decoder.
    """

    width: int = 96
    heads: int = 8
    hidden: int = 1536
    layers: int = 3
    norm: Literal["post", "pre"] = "post"


class Transformer(nn.Module):
    """Embedding, positions, blocks, decoder; takes tokens (n, t), returns logits (n, t, vocabulary).

    `blocks.0` is the first that gets embeddings, one tensor (n, t, width).
    """

    def __init__(self, vocabulary: int, options: TransformerOptions) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, options.width)
        self.blocks = nn.Sequential(*(Block(options) for _ in range(options.layers)))
        self.norm = nn.LayerNorm(options.width) if options.norm == "pre" else nn.Identity()
        self.decoder = nn.Linear(options.width, vocabulary)

    def forward(self, tokens: Int[Tensor, "n t"]) -> Float[Tensor, "n t v"]:
        """Logits of the next token at every position."""
        x = self.embedding(tokens) * math.sqrt(self.embedding.embedding_dim)
        return self.decoder(self.norm(self.blocks(x + positions(x))))


def positions(like: Float[Tensor, "n t d"]) -> Float[Tensor, "t d"]:
    """Sines and cosines of geometrically falling frequencies, in turns (Vaswani et al. 2017, section 3.5)."""
    _, length, width = like.shape
    place = torch.arange(length, device=like.device, dtype=torch.float64)
    rate = torch.arange(0, width, 2, device=like.device, dtype=torch.float64).mul(-math.log(10_000) / width).exp()
    angle = place[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1).to(like)


class Block(nn.Module):
    """Causal self-attention and a feed-forward part with ReLU, each with a residual sum and a LayerNorm."""

    def __init__(self, options: TransformerOptions) -> None:
        super().__init__()
        self.pre = options.norm == "pre"
        self.norm1 = nn.LayerNorm(options.width)
        self.attention = CausalAttention(options.width, options.heads)
        self.norm2 = nn.LayerNorm(options.width)
        self.feed = nn.Sequential(
            nn.Linear(options.width, options.hidden), nn.ReLU(), nn.Linear(options.hidden, options.width)
        )

    def forward(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        """(n, t, width) to (n, t, width)."""
        if self.pre:
            x = x + self.attention(self.norm1(x))
            return x + self.feed(self.norm2(x))
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.feed(x))


class CausalAttention(nn.Module):
    """Every position looks at itself and those before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        """(n, t, width) to (n, t, width)."""
        q, k, v = (third.unflatten(2, (self.heads, -1)).transpose(1, 2) for third in self.qkv(x).chunk(3, 2))
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(attended.transpose(1, 2).flatten(2))


def transformer(shape: tuple[int, ...], num_classes: int, options: TransformerOptions) -> nn.Module:
    """The StackOverflow transformer of Wang et al. 2021 ("A Field Guide to Federated Optimization", arXiv 2107.06917).

    Embeddings times sqrt(width) plus fixed positions; decoder with a bias, not tied to the embedding. The blocks are
    those of `torch.nn.TransformerEncoderLayer` with a causal mask and without dropout.

    Args:
        shape: (t,); any length will do.
        num_classes: the vocabulary.
        options: see there.

    Raises:
        BadInput: the width is odd or no multiple of the heads.
    """
    if options.width % 2 or options.width % options.heads:
        raise BadInput(f"transformer: width={options.width} must be even and a multiple of heads={options.heads}")
    return Transformer(num_classes, options)
