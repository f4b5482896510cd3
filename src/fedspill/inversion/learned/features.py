"""An update as some thousand numbers: what a learned inversion is given.

Large updates are hashed (Weinberger et al.: "Feature Hashing for Large Scale Multitask Learning", ICML 2009, arXiv
0902.2206), as in arXiv 2210.10880: every value is added, with a random sign, to one of so many sums. The inputs of
linear layers as closed forms read them, dW^T db / (db^T db), can be put beside, as no hash of modest length holds them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.rng import stream
from fedspill.core.types import Update
from fedspill.inversion.network.weights import bias_name

WIDEST = 4096
"""Inputs of a linear layer beyond which it is hashed with the rest, and not read."""
BEYOND = 5.0
"""Standard deviations at which a standardised feature is cut: what lies further out, nothing was learned of."""
TINY = 1e-12


@dataclass(frozen=True)
class Features:
    """How updates of one kind become rows of numbers: what is read first, then the hash, then each tensor's size.

    A multiple of an update has the same row, so that a gradient which was scaled on its way is read as itself.

    Attributes:
        names: the tensors of an update, in order.
        layers: weight and bias of linear layers whose inputs are read.
        bins: of each value, the sum that it is added to; None: values are taken as they are.
        signs: with which it is.
        length: of the hash, or of all values.
        read: numbers that are read of layers, at the front of a row.
    """

    names: tuple[str, ...]
    layers: tuple[tuple[str, str], ...]
    bins: Int[Tensor, " v"] | None
    signs: Float[Tensor, " v"] | None
    length: int
    read: int

    @classmethod
    def of(cls, update: Update, most: int, seed: int, *, reads: bool) -> "Features":
        """For updates like this one.

        Args:
            update: gives names and shapes; of its values nothing is looked at.
            most: length of the hash; smaller updates are taken as they are.
            seed: of the hash.
            reads: with the inputs of linear layers.
        """
        names, values = tuple(update.values), update.values
        size, device = sum(v.numel() for v in values.values()), next(iter(values.values())).device
        layers = tuple(_linear(update)) if reads else ()
        read = sum(values[w].shape[1] for w, _ in layers)
        if size <= most:
            return cls(names, layers, None, None, size, read)
        rng = stream(seed, "hash")
        bins = torch.randint(most, (size,), generator=rng).to(device)
        signs = (2 * torch.randint(2, (size,), generator=rng) - 1).float().to(device)
        return cls(names, layers, bins, signs, most, read)

    def __call__(self, update: Update) -> Float[Tensor, " f"]:
        """The row of one update, float32.

        Raises:
            NotApplicable: it lacks a tensor that the others have.
        """
        if missing := [name for name in self.names if name not in update.values]:
            raise NotApplicable(f"the update lacks {missing[0]}, which those of simulated clients hold")
        tensors = [update.values[name].detach() for name in self.names]
        sizes = torch.stack([t.double().square().mean().sqrt() for t in tensors])
        # Of their own size, or that of the example's loss would drown what tells the example.
        scaled = [(t / s.to(t)).flatten() if float(s) > 0 else t.flatten() for t, s in zip(tensors, sizes, strict=True)]
        read = [_read(update.values[w], update.values[b]) for w, b in self.layers]
        return torch.cat([*read, self._hashed(torch.cat(scaled).float()), _relative(sizes)])

    def _hashed(self, values: Float[Tensor, " v"]) -> Float[Tensor, " f"]:
        if self.bins is None or self.signs is None:
            return values
        return values.new_zeros(self.length).index_add_(0, self.bins, values * self.signs)


def _relative(sizes: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """Logarithms of sizes, less their mean; 0 for a tensor that is 0."""
    there = sizes > 0
    logs = torch.where(there, sizes, 1.0).log()
    return torch.where(there, logs - logs.sum() / there.sum().clamp_min(1), 0.0).float()


def _linear(update: Update) -> list[tuple[str, str]]:
    """Names of weights and biases that are those of linear layers by their shapes."""
    found = list[tuple[str, str]]()
    for name, weight in update.values.items():
        bias = update.values.get(bias_name(name))
        if weight.ndim == 2 and bias is not None and bias.shape == weight.shape[:1] and weight.shape[1] <= WIDEST:
            found.append((name, bias_name(name)))
    return found


def _read(weight: Float[Tensor, "out in"], bias: Float[Tensor, " out"]) -> Float[Tensor, " in"]:
    """The least-squares input of a layer that saw one example (arXiv 2003.14053, D.1); 0 if its bias tells none."""
    delta = bias.detach().double()
    energy = delta.square().sum()
    return ((weight.detach().double().T @ delta) / energy if float(energy) > 0 else weight[0].detach() * 0).float()


@dataclass(frozen=True)
class Standardiser:
    """Features less their mean over public updates, over their standard deviation, cut at `BEYOND`."""

    mean: Float[Tensor, " f"]
    std: Float[Tensor, " f"]

    @classmethod
    def of(cls, rows: Float[Tensor, "m f"]) -> "Standardiser":
        """Of these rows; what hardly varies among them is taken for constant."""
        mean, std = rows.mean(0), rows.std(0, correction=0)
        return cls(mean, std.clamp_min(TINY).where(std > 1e-6 * mean.abs(), torch.inf))

    def __call__(self, rows: Float[Tensor, "m f"]) -> Float[Tensor, "m f"]:
        """Rows of about unit variance, finite."""
        return ((rows - self.mean) / self.std).nan_to_num(0.0).clamp(-BEYOND, BEYOND)


Prepare = Callable[[Float[Tensor, "m f"]], Float[Tensor, "m f"]]
"""Features to what the network is given."""
