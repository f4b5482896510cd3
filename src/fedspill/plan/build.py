"""The network that a plan's section `model` names, for the examples of a pool."""

import torch

from fedspill.core.errors import BadInput
from fedspill.core.model import Model
from fedspill.plan.sections import ModelSection
from fedspill.zoo.data import DataPool
from fedspill.zoo.models import build, default_network

UNLABELLED_CLASSES = 10
"""Classes of a network that is built for data without labels."""


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


def pick_device(name: str) -> torch.device:
    """CUDA for "auto" where there is one.

    Raises:
        BadInput: CUDA is asked for and there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise BadInput(f"--device {name!r} is unknown; it is auto, cpu or cuda")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise BadInput("--device cuda: this PyTorch sees no CUDA device; use --device cpu or auto")
    return torch.device("cuda" if available and name != "cpu" else "cpu")
