"""The network that a plan's section `model` names, for the examples of a pool."""

import torch

from fedspill.audit.plan import ModelSection
from fedspill.core.model import Model
from fedspill.zoo.models import build, default_network
from fedspill.zoo.pool import DataPool

UNLABELLED_CLASSES = 10
"""Of a network built for data without labels."""


def network(
    section: ModelSection, pool: DataPool, root: str | None, device: torch.device, default: str | None = None
) -> Model:
    """Builds it with its weights.

    Args:
        section: of a plan.
        pool: whose examples it takes.
        root: folder of the data, where known checkpoints lie.
        device: where it goes.
        default: name of the network if the section names none; None takes the one for this kind of data.

    Raises:
        BadInput: see `zoo.models.build`.
    """
    return build(
        section.name or default or default_network(pool.spec),
        input_shape=pool.input_shape,
        num_classes=section.num_classes or (pool.num_classes if pool.num_classes > 1 else UNLABELLED_CLASSES),
        weights=section.weights,
        mode=section.mode,
        seed=section.seed,
        data_root=root,
        device=device,
        dtype=getattr(torch, section.dtype),
        options=section.options,
        mean=pool.mean,
        std=pool.std,
        spec=pool.spec,
    )
