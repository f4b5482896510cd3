"""GroupNorm for BatchNorm: no example's output depends on others, and no statistics of the batch are sent.

Wu and He, "Group Normalization", ECCV 2018, arXiv:1803.08494; in federated learning Hsieh et al., "The Non-IID Data
Quagmire of Decentralized Machine Learning", ICML 2020, arXiv:1910.00189. What leaks through the statistics: Huang et
al., "Evaluating Gradient Inversion Attacks and Defenses in Federated Learning", NeurIPS 2021, arXiv:2112.00059. With
the gradient it does nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.knowledge import KnownDefence
from fedspill.core.model import BATCH_NORMS, Model
from fedspill.core.module.twins import copied
from fedspill.core.probing.inputs import probe_inputs
from fedspill.core.roles import Card, Defence, PrivacyCost, Stages

ENOUGH = 8
"""Values of a group, where the layer has as many: two are normalised to +-1 whatever they are, one to 0."""
PROBED = 2
"""Examples by which is seen what enters a layer."""


@dataclass(frozen=True)
class GroupNorm:
    """Puts a GroupNorm in the place of every BatchNorm, with its scale and shift; a network without one stays as it is.

    A trained network needs more training afterwards, as GroupNorm does not use the statistics it was trained with.

    Attributes:
        groups: at most so many of each layer; fewer where they do not divide its channels, or where a group would hold
            fewer than 8 values of an example.

    Raises:
        BadInput: a number of groups below 1.
    """

    groups: int = 32

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise BadInput(f"groups={self.groups} must be at least 1")

    def stages(self) -> Stages:
        """Prepares the architecture."""
        return Stages(prepare=self._prepare)

    def cost(self) -> PrivacyCost | None:
        """Nothing is proven."""
        return None

    def known(self, model: Model) -> KnownDefence:
        """That it was there; the model that is sent shows it."""
        return KnownDefence(names=("group_norm",))

    def _prepare(self, model: Model) -> Model:
        old = {k: m for k, m in model.module.named_modules(remove_duplicate=False) if isinstance(m, BATCH_NORMS)}
        if not old:
            return model
        sizes, made, root = _places(model, old), dict[int, nn.Module](), copied(model.module)
        for name, layer in old.items():
            made.setdefault(id(layer), self._instead(name, layer, sizes.get(id(layer), 1)))
            root = _replaced(root, name, made[id(layer)])
        return _called(_with_module(model, root))

    def _instead(self, name: str, layer: nn.Module, places: int) -> nn.GroupNorm:
        """The layer that stands for a BatchNorm.

        Args:
            places: values of one channel of an example.
        """
        if not isinstance(layer, BATCH_NORMS) or type(layer) not in BATCH_NORMS:
            kind = type(layer).__name__
            raise BadInput(f"group_norm: {name!r} is a {kind}, which may do more than a BatchNorm of torch.nn")
        channels = layer.num_features
        if channels * places < 2:
            raise BadInput(f"group_norm: {name!r} normalises a single value of each example, which would become 0")
        possible = [g for g in range(1, min(self.groups, channels) + 1) if channels % g == 0]
        full = [g for g in possible if channels // g * places >= ENOUGH]
        made = nn.GroupNorm(max(full, default=1), channels, layer.eps, layer.affine)
        return made.train(layer.training).requires_grad_(all(p.requires_grad for p in layer.parameters()))


def _places(model: Model, layers: Mapping[str, nn.Module]) -> dict[int, int]:
    """Values of one channel of an example that enters each layer, by the layer's `id`; the fewest of several calls."""
    found = dict[int, int]()

    def keep(layer: nn.Module) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            places = inputs[0][0, 0].numel()
            found[id(layer)] = min(found.get(id(layer), places), places)

        return hook

    handles = [layer.register_forward_pre_hook(keep(layer)) for layer in {id(m): m for m in layers.values()}.values()]
    try:
        _logits(model.in_eval_mode())
    finally:
        for handle in handles:
            handle.remove()
    return found


def _logits(model: Model) -> Tensor:
    with torch.no_grad():
        return model.logits(model.params, probe_inputs(model.input, PROBED, model.like))


def _replaced(root: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """The network with another layer in this place; "" is the network itself."""
    if not name:
        return layer
    parent, _, own = name.rpartition(".")
    setattr(root.get_submodule(parent), own, layer)
    return root


def _with_module(model: Model, module: nn.Module) -> Model:
    """The model with another module, whose parameters have the same names."""
    kept = {k for k, _ in module.named_buffers()}
    return replace(model, module=module, buffers={k: v for k, v in model.buffers.items() if k in kept})


def _called(model: Model) -> Model:
    """The model, which can be called.

    Raises:
        BadInput: the network's own code uses what only a BatchNorm has.
    """
    try:
        _logits(model)
    except (AttributeError, RuntimeError) as error:
        raise BadInput(f"group_norm: the network does not run with GroupNorm for BatchNorm: {error}") from error
    return model


CARD: Card[Defence] = Card(
    title="GroupNorm for BatchNorm",
    paper="Wu and He, ECCV 2018, arXiv:1803.08494; Hsieh et al., ICML 2020, arXiv:1910.00189",
    summary="Replaces every BatchNorm by GroupNorm, so that no statistics of the batch are sent; no proven privacy.",
    presets={"paper": GroupNorm(), "quick": GroupNorm(), "weak": GroupNorm(groups=1)},
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
)
