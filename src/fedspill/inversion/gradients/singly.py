"""What each example of a batch gives to each row of each gradient, one example after the other.

Of a gradient only the norms of its rows are kept, and a sketch of each row: its products with a few fixed random
vectors. Memory is that of one gradient, however many examples there are. A sketch is linear, so a sum of rows that
holds one example alone has a sketch that holds it alone.
"""

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fedspill.core.errors import BadInput
from fedspill.core.model import Model
from fedspill.core.rng import randn, stream
from fedspill.core.roles import Incoming
from fedspill.core.types import Batch

EXAMPLES = 16
"""At most so many are looked at: the first ones."""
SKETCH = 3
"""Numbers for a row."""
LEAST = 1e-9
"""Share of the largest signal below which an example has none."""
ALONE = 0.95
"""Share of a row's gradient from which on it is one example's alone."""


@dataclass(frozen=True)
class Singles:
    """The examples of a batch, by what each gives to the batch's gradient.

    Attributes:
        logits: (n, ...) of the network.
        losses: of each example, in float64.
        signals: norms of each example's gradient by its logits.
        slopes: (n, c) of each example's gradient by its logits, of length 1 (0 where there is none).
        norms: by parameter (n, rows) in float64; a row of a vector is one number.
        sketches: by parameter (n, rows, SKETCH) in float64.
        sizes: by parameter, how many numbers it has.
        labels: (n, ...) as the loss takes them.
    """

    logits: Tensor
    losses: Float[Tensor, " n"]
    signals: Float[Tensor, " n"]
    slopes: Float[Tensor, "n c"]
    norms: Mapping[str, Float[Tensor, "n rows"]]
    sketches: Mapping[str, Float[Tensor, "n rows k"]]
    sizes: Mapping[str, int]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.losses)

    @property
    def weights(self) -> Float[Tensor, " n"]:
        """By which each example counts as much as any other, however well the network knows it already."""
        return 1 / self.signals.clamp_min(LEAST * float(self.signals.max()) + torch.finfo(torch.float64).tiny)

    def shares(self, name: str) -> Float[Tensor, "n rows"]:
        """Each example's share of a row's gradient, by norms over `signals`; 0 where there is no gradient."""
        norms = self.norms[name] * self.weights[:, None]
        return norms / norms.sum(0).clamp_min(torch.finfo(norms.dtype).tiny)

    def even(self, name: str) -> Float[Tensor, "n rows k"]:
        """The sketches over `signals`."""
        return self.sketches[name] * self.weights[:, None, None]

    def alone(self, name: str) -> Bool[Tensor, "n rows"]:
        """Which example is alone in which row."""
        return self.shares(name) >= ALONE


_known: dict[int, Singles] = {}


def singles(incoming: Incoming) -> Singles | None:
    """Of the client's own data; None where there are none. Computed once for a model that came.

    Raises:
        BadInput: an example's loss is not finite, or the network cannot be run on these examples.
    """
    if incoming.own_data is None:
        return None
    key = id(incoming)
    if key not in _known:
        _known[key] = singly(incoming.model, incoming.own_data)
        weakref.finalize(incoming, _known.pop, key, None).atexit = False
    return _known[key]


def singly(model: Model, batch: Batch, most: int = EXAMPLES) -> Singles:
    """Runs the network on at most so many examples; in train mode on all of these at once, as batch statistics want.

    Raises:
        BadInput: an example's loss is not finite, or no parameter takes a gradient.
    """
    batch = batch[: min(most, len(batch))].to(model.like)
    z = model.input.encode(batch.inputs)
    names = model.trained_names(None)
    drawn = {k: _directions(model.params[k]) for k in names}
    parts = list[tuple[Tensor, Tensor, Tensor, dict[str, Tensor], dict[str, Tensor]]]()
    for logits, loss, pull, gradients in _examples(model, names, z, batch.labels):
        if not bool(loss.isfinite()):
            raise BadInput(f"the loss of example {len(parts)} is {float(loss)}; a finite one is needed")
        rows = {k: _rows(gradients[k]).detach() for k in names}
        norms = {k: v.double().norm(dim=1) for k, v in rows.items()}
        parts.append((logits, loss, pull, norms, {k: (rows[k] @ drawn[k]).double() for k in names}))
    outs, losses, pulls, norms, sketches = zip(*parts, strict=True)
    slopes = torch.stack(pulls).flatten(1).double()
    return Singles(
        logits=torch.stack(outs),
        losses=torch.stack(losses).double(),
        signals=slopes.norm(dim=1),
        slopes=slopes / slopes.norm(dim=1, keepdim=True).clamp_min(torch.finfo(slopes.dtype).tiny),
        norms={k: torch.stack([n[k] for n in norms]) for k in names},
        sketches={k: torch.stack([s[k] for s in sketches]) for k in names},
        sizes={k: model.params[k].numel() for k in names},
        labels=batch.labels,
    )


def _examples(
    model: Model, names: list[str], z: Tensor, labels: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]]:
    """Logits, loss, its gradient by the logits, and by the parameters, of each example."""
    current = {k: model.params[k].detach().clone().requires_grad_() for k in names}
    every = {**model.params, **current}
    with torch.enable_grad():
        whole = model.logits(every, z) if model.training else None
        for i in range(len(z)):
            logits = model.logits(every, z[i : i + 1]) if whole is None else whole[i : i + 1]
            loss = model.loss_fn(logits, labels[i : i + 1])
            wanted = [logits, *current.values()]
            found = torch.autograd.grad(loss, wanted, retain_graph=whole is not None, allow_unused=True)
            dense = [_dense(g, like) for g, like in zip(found, wanted, strict=True)]
            yield logits[0].detach(), loss.detach(), dense[0][0], dict(zip(names, dense[1:], strict=True))


def _dense(gradient: Tensor | None, like: Tensor) -> Tensor:
    """Zeros where the loss does not reach."""
    if gradient is None:
        return torch.zeros_like(like)
    return gradient.to_dense() if gradient.is_sparse else gradient


def _rows(gradient: Tensor) -> Float[Tensor, "rows d"]:
    return gradient.flatten(1) if gradient.ndim > 1 else gradient.reshape(-1, 1)


def _directions(parameter: Tensor) -> Float[Tensor, "d k"]:
    """The same for every row, and for every parameter of one shape; of single numbers 1, which keeps them."""
    size = _rows(parameter).shape[1]
    if size == 1:
        return parameter.new_ones(1, SKETCH)
    return randn((size, SKETCH), stream(size, "sketch"), parameter) / size**0.5


def tables(model: Model) -> frozenset[str]:
    """Names of the weights of which an example uses rows of its own by what it is: embeddings."""
    homes = {id(m.weight) for m in model.module.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    return frozenset(name for name, p in model.module.named_parameters() if id(p) in homes)
