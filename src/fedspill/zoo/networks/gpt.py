"""GPT-2's architecture at any width and depth, in plain PyTorch."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.errors import BadInput
from fedspill.zoo.networks.transformer import CausalAttention


@dataclass(frozen=True)
class GPTOptions:
    """Options of `gpt`; the defaults are those of GPT-2 small, without dropout.

    Attributes:
        width: numbers per token, a multiple of `heads`.
        heads: of each attention.
        hidden: width inside the feed-forward parts; 0 is four times `width`.
        layers: blocks.
        positions: length of the longest sentence.
        tied: the decoder is the embedding, as in GPT-2; else a weight of its own.
    """

    width: int = 768
    heads: int = 12
    hidden: int = 0
    layers: int = 12
    positions: int = 1024
    tied: bool = False


class GPT(nn.Module):
    """Embedding plus learned positions, pre-norm blocks, a norm, a decoder without bias.

    Takes tokens (n, t), returns logits (n, t, vocabulary).
    """

    def __init__(self, vocabulary: int, options: GPTOptions) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, options.width)
        self.position = nn.Embedding(options.positions, options.width)
        self.blocks = nn.Sequential(*(Block(options) for _ in range(options.layers)))
        self.norm = nn.LayerNorm(options.width)
        self.decoder = None if options.tied else nn.Linear(options.width, vocabulary, bias=False)

    def forward(self, tokens: Int[Tensor, "n t"]) -> Float[Tensor, "n t v"]:
        """Logits of the next token at every position."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.norm(self.blocks(self.embedding(tokens) + self.position(places)))
        return x @ self.embedding.weight.T if self.decoder is None else self.decoder(x)


class Block(nn.Module):
    """Causal self-attention and a feed-forward part with GELU, each normalised first and added to what entered."""

    def __init__(self, options: GPTOptions) -> None:
        super().__init__()
        hidden = options.hidden or 4 * options.width
        self.norm1 = nn.LayerNorm(options.width)
        self.attention = CausalAttention(options.width, options.heads)
        self.norm2 = nn.LayerNorm(options.width)
        self.inner, self.outer = nn.Linear(options.width, hidden), nn.Linear(hidden, options.width)

    def forward(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        """(n, t, width) to (n, t, width)."""
        x = x + self.attention(self.norm1(x))
        return x + self.outer(functional.gelu(self.inner(self.norm2(x)), approximate="tanh"))


def gpt(shape: tuple[int, ...], num_classes: int, options: GPTOptions) -> nn.Module:
    """GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners").

    Args:
        shape: (t,).
        num_classes: the vocabulary.
        options: see there.

    Raises:
        BadInput: the width is no multiple of the heads, or a sentence is longer than there are positions.
    """
    if options.width % options.heads:
        raise BadInput(f"gpt: width={options.width} must be a multiple of heads={options.heads}")
    if shape[0] > options.positions:
        raise BadInput(f"gpt: sentences of {shape[0]} tokens were got, positions={options.positions}")
    return GPT(num_classes, options)
