"""Statistics at BatchNorm layers as a prior: those of a candidate batch beside expected ones (Yin et al. 2021).

Yin et al.: "See through Gradients: Image Batch Recovery via GradInversion", CVPR 2021, arXiv 2104.07586, equation 11.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedspill.core.errors import NotApplicable
from fedspill.core.model import BATCH_NORMS, Model
from fedspill.core.types import Params

SMALLEST = 1e-12
"""Added under the root, which has no derivative at 0."""


@dataclass(frozen=True)
class BatchStatistics:
    """How far a batch is from expected means and variances, summed over the layers.

    Attributes:
        model: whose BatchNorm layers are looked at, in its own mode.
        expected: mean and variance (channels,) by layer, in the order of the layers.
        first: what the first layer's part is multiplied by; later codes take 10.
        relative: every layer's distances over what is expected there, so that layers of large activations do not
            outweigh the others. Not in the paper.
    """

    model: Model
    expected: dict[str, tuple[Float[Tensor, " c"], Float[Tensor, " c"]]]
    first: float = 10.0
    relative: bool = False

    @classmethod
    def of_client(cls, model: Model, statistics: Params | None) -> "BatchStatistics":
        """Against those of the clients' batch, as the server was granted them: "NAME.mean" and "NAME.var".

        Raises:
            NotApplicable: there is no BatchNorm layer, or nothing was granted.
        """
        names = _layers(model)
        if statistics is None:
            raise NotApplicable(
                "the statistics of the clients' batch were not granted (server.knows = ['bn_statistics'])"
            )
        # A layer that the network never calls has none.
        names = [k for k in names if f"{k}.mean" in statistics and f"{k}.var" in statistics]
        if not names:
            raise NotApplicable("the statistics of the clients' batch are of none of the network's BatchNorm layers")
        return cls(model, {k: (statistics[f"{k}.mean"], statistics[f"{k}.var"]) for k in names})

    @classmethod
    def running(cls, model: Model) -> "BatchStatistics":
        """Against the running statistics of the model that was sent.

        Raises:
            NotApplicable: there is no BatchNorm layer that keeps some.
        """
        names = [k for k in _layers(model) if f"{k}.running_mean" in model.buffers]
        if not names:
            raise NotApplicable("the network's BatchNorm layers keep no running statistics")
        held = model.buffers
        return cls(model, {k: (held[f"{k}.running_mean"], held[f"{k}.running_var"]) for k in names})

    def __call__(self, z: Float[Tensor, "n ..."]) -> Float[Tensor, ""]:
        """The sum over layers of the distances of means and of variances, differentiable in z.

        Layers that the network does not call are left out.

        Raises:
            NotApplicable: it calls none of them.
        """
        with _seen(self.model, list(self.expected)) as seen:
            self.model.forward(self.model.params, self.model.buffers, z)
        parts = [self._apart(seen[name], *expected) for name, expected in self.expected.items() if name in seen]
        if not parts:
            raise NotApplicable("the network calls none of its BatchNorm layers")
        return torch.stack([self.first * parts[0], *parts[1:]]).sum()

    def _apart(self, entering: Tensor, mean: Float[Tensor, " c"], var: Float[Tensor, " c"]) -> Float[Tensor, ""]:
        x = entering.transpose(0, 1).flatten(1)
        deviation, size = var.sum().sqrt(), var.norm()
        if not self.relative or not bool(size > 0):
            deviation = size = var.new_ones(())
        return _length(x.mean(1) - mean) / deviation + _length(x.var(1, unbiased=False) - var) / size

    def each(self, z: Float[Tensor, "r n ..."]) -> Float[Tensor, " r"]:
        """Of every batch in a stack by itself."""
        return torch.stack([self(one) for one in z])


def _layers(model: Model) -> list[str]:
    names = [name for name, module in model.module.named_modules() if isinstance(module, BATCH_NORMS)]
    if not names:
        raise NotApplicable("the network has no BatchNorm layer")
    return names


def _length(difference: Float[Tensor, " c"]) -> Float[Tensor, ""]:
    return (difference.square().sum() + SMALLEST).sqrt()


@contextmanager
def _seen(model: Model, names: list[str]) -> Generator[dict[str, Tensor]]:
    """What enters these layers while the network runs, with its graph."""
    seen = dict[str, Tensor]()

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[name] = inputs[0]

        return hook

    handles = [model.module.get_submodule(name).register_forward_pre_hook(keep(name)) for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
