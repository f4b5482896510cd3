"""Wrappers that change nothing of a network but the names of its parameters."""

from torch import nn

HELD_AS = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AbstractGradSampleModule": "_module",
    "GradSampleModule": "_module",
}
"""Where wrappers hold the network, by the name of their class: torch.compile, PyTorch, Opacus."""


def inside(module: nn.Module) -> nn.Module | None:
    """The network that a wrapper holds; None if the module is no wrapper."""
    kinds = [kind.__name__ for kind in type(module).__mro__ if kind.__module__.split(".")[0] in ("torch", "opacus")]
    held = next((HELD_AS[kind] for kind in kinds if kind in HELD_AS), None)
    return None if held is None else dict(module.named_children()).get(held)
