"""Transformers as people write them, small and in float64, and sentences for them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.inputs import TokenSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model, next_token_loss
from fedspill.core.rng import randn, stream
from fedspill.core.types import Batch, Update

VOCABULARY, LENGTH, WIDTH, HEADS, CLASSES = 80, 8, 48, 4, 3


def _heads(x: Tensor) -> Tensor:
    return x.unflatten(2, (HEADS, -1)).transpose(1, 2)


class Bert(nn.Module):
    """Embedding, positions, LayerNorm, post-norm blocks with separate q, k and v, a class off the first token."""

    def __init__(self, layers: int = 2, width: int = WIDTH, padding: int | None = None) -> None:
        super().__init__()
        self.word = nn.Embedding(VOCABULARY, width, padding_idx=padding)
        self.place, self.norm = nn.Embedding(LENGTH, width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(BertBlock(width) for _ in range(layers))
        self.pooler, self.head = nn.Linear(width, width), nn.Linear(width, CLASSES)
        self.padding = padding

    def forward(self, tokens: Tensor) -> Tensor:
        mask = None if self.padding is None else (tokens != self.padding)[:, None, None, :]
        x = self.norm(self.word(tokens) + self.place(torch.arange(tokens.shape[1])))
        for block in self.blocks:
            x = block(x, mask)
        return self.head(torch.tanh(self.pooler(x[:, 0])))


class BertBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        parts = _heads(self.query(x)), _heads(self.key(x)), _heads(self.value(x))
        seen = functional.scaled_dot_product_attention(*parts, attn_mask=mask).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.out(seen))
        return self.norm2(x + self.outer(functional.gelu(self.inner(x))))


class Encoder(nn.Module):
    """PyTorch's own layers behind a parameter of positions."""

    def __init__(self, *, batch_first: bool = True, pre: bool = False, causal: bool = False, layers: int = 2) -> None:
        super().__init__()
        self.word, self.place = nn.Embedding(VOCABULARY, WIDTH), nn.Parameter(torch.zeros(LENGTH, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 64, 0.1, batch_first=batch_first, norm_first=pre)
        self.blocks = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCABULARY if causal else CLASSES)
        self.batch_first, self.causal = batch_first, causal

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.word(tokens) + self.place
        x = x if self.batch_first else x.transpose(0, 1)
        mask = nn.Transformer.generate_square_subsequent_mask(LENGTH, dtype=x.dtype) if self.causal else None
        x = self.blocks(x, mask=mask, is_causal=self.causal)
        x = x if self.batch_first else x.transpose(0, 1)
        return self.head(x if self.causal else x.mean(1))


class Across(nn.Module):
    """A linear layer with its weight the other way about, as GPT-2's own code has it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(inputs, outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)


class GPT2(nn.Module):
    """GPT-2 as its authors' code has it: packed projections, the decoder is the embedding, a tuple comes out."""

    def __init__(self, layers: int = 2, *, rotary: bool = False) -> None:
        super().__init__()
        self.wte, self.wpe, self.drop = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(32, WIDTH), nn.Dropout(0.1)
        self.h, self.ln_f, self.rotary = nn.ModuleList(GPT2Block() for _ in range(layers)), nn.LayerNorm(WIDTH), rotary

    def forward(self, tokens: Tensor) -> tuple[Tensor]:
        x = self.wte(tokens)
        x = self.drop(x if self.rotary else x + self.wpe(torch.arange(tokens.shape[1])))
        for block in self.h:
            x = block(x, rotary=self.rotary)
        return (self.ln_f(x) @ self.wte.weight.T,)


class GPT2Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.c_attn, self.c_proj = Across(WIDTH, 3 * WIDTH), Across(WIDTH, WIDTH)
        self.c_fc, self.c_out = Across(WIDTH, 4 * WIDTH), Across(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor, *, rotary: bool) -> Tensor:
        q, k, v = (_heads(part) for part in self.c_attn(self.ln_1(x)).split(WIDTH, 2))
        q, k = (turned(q), turned(k)) if rotary else (q, k)
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.c_proj(seen)
        return x + self.c_out(functional.gelu(self.c_fc(self.ln_2(x))))


def turned(x: Tensor) -> Tensor:
    """Rotary positions."""
    size = x.shape[-1]
    rate = 100.0 ** (-torch.arange(0, size, 2, dtype=x.dtype) / size)
    angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * rate
    a, b = x[..., ::2], x[..., 1::2]
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)


def shifting_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Of a network that is handed the sentences as labels and compares each logit with the token after its own."""
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def drawn(
    make: Callable[[], nn.Module],
    loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy,
    dtype: torch.dtype = torch.float64,
) -> Model:
    """A network with weights from a named stream; norms stay as they are."""
    with torch.random.fork_rng():
        net = make().to(dtype)
    rng = stream(0, "test", "weights")
    with torch.no_grad():
        for name, value in net.named_parameters():
            if value.ndim > 1 or "bias" in name:
                value.copy_(0.2 * randn(tuple(value.shape), rng, value))
    return Model.of(net, TokenSpec(LENGTH, VOCABULARY), loss)


def language_model(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float64) -> Model:
    """One that predicts next tokens."""
    return drawn(make, next_token_loss, dtype)


def sentences(n: int, seed: int = 0) -> Batch:
    """Random ones with their next tokens, of which all begin alike."""
    tokens = torch.randint(2, VOCABULARY, (n, LENGTH + 1), generator=stream(seed, "test", "tokens"))
    tokens[:, :2] = tokens[:1, :2]
    return Batch(tokens[:, :-1], tokens[:, 1:])


def classified(n: int, seed: int = 0) -> Batch:
    """Random ones with a class each."""
    return Batch(sentences(n, seed).inputs, torch.arange(n) % CLASSES)


def observed(model: Model, batch: Batch, *, told: bool = True) -> tuple[Update, ServerKnowledge]:
    """The gradient, and a server that knows the number of sentences, or nothing."""
    return local_update(model, batch, FedSGD()), ServerKnowledge(model, num_examples=len(batch) if told else None)


def same(a: Tensor, b: Tensor) -> bool:
    """The same sentences, in any order, each as often."""
    return sorted(map(tuple, a.tolist())) == sorted(map(tuple, b.tolist()))
