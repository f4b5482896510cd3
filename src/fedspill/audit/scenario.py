"""From a plan to the things that it speaks of: model, private updates, public data, device."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedspill.audit.plan import AuditPlan, PoolSection
from fedspill.core.errors import BadInput
from fedspill.core.knowledge import Knows
from fedspill.core.model import Model
from fedspill.core.types import Batch
from fedspill.zoo.cut import cut
from fedspill.zoo.data import DataPool, load
from fedspill.zoo.models import build


@dataclass(frozen=True)
class Scenario:
    """All that the trials of an audit share.

    Attributes:
        groups: for each update the positions of its examples in the pool.
    """

    plan: AuditPlan
    model: Model
    pool: DataPool
    groups: list[list[int]]
    public: DataPool | None

    def private(self, update: int) -> Batch:
        """The examples behind one update, on the model's device."""
        return self.pool.batch[self.groups[update]].to(self.model.like)

    @property
    def public_batch(self) -> Batch | None:
        """The public examples, on the model's device."""
        return None if self.public is None else self.public.batch.to(self.model.like)

    def key(self) -> str:
        """A digest of everything that decides the results, budget aside."""
        plan = self.plan.model_dump(mode="json", exclude={"audit": {"budget"}, "policy": True})
        digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode())
        digest.update(weights_sha256(self.model).encode())
        digest.update(self.pool.batch.inputs.numpy().tobytes())
        return digest.hexdigest()


def weights_sha256(model: Model) -> str:
    """A digest of names and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted([*model.params.items(), *model.buffers.items()]):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


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


def prepare(
    plan: AuditPlan, device: torch.device, *, model: Model | None = None, pool: DataPool | None = None
) -> Scenario:
    """Loads data and model.

    Args:
        model: used instead of the plan's; likewise `pool`.

    Raises:
        BadInput: something cannot be had, or does not fit together.
    """
    pool = pool or _pool(plan.data)
    public = _public(plan, pool)
    if model is None:
        model = build(
            plan.model.name,
            input_shape=_shape(pool.batch.inputs),
            num_classes=plan.model.num_classes or pool.num_classes,
            weights=plan.model.weights,
            mode=plan.model.mode,
            seed=plan.model.seed,
            data_root=plan.data.root,
            device=device,
            dtype=getattr(torch, plan.model.dtype),
            options=plan.model.options,
            mean=pool.mean,
            std=pool.std,
        )
    else:
        model = model.to(device, getattr(torch, plan.model.dtype))
    groups = cut(pool, plan.client.num_examples, plan.client.distinct_labels, plan.client.minibatch_size)
    if not groups:
        raise BadInput(
            f"the data pool has {len(pool.batch)} examples, too few for one update of"
            f" client.num_examples={plan.client.num_examples}"
        )
    return Scenario(plan, model, pool, groups, public)


def _shape(inputs: Tensor) -> tuple[int, int, int]:
    if inputs.ndim != 4:
        raise BadInput(f"inputs of shape {tuple(inputs.shape)} were got; images (n, c, h, w) are needed")
    return (inputs.shape[1], inputs.shape[2], inputs.shape[3])


def _pool(section: PoolSection, size: int | None = None) -> DataPool:
    root = None if section.root is None else Path(section.root)
    return load(section.name, root=root, split=section.split, indices=section.indices, size=section.size or size)


def _public(plan: AuditPlan, pool: DataPool) -> DataPool | None:
    section = plan.server.public
    if section is None:
        if Knows.PUBLIC_DATA not in plan.server.knows:
            return None
        raise BadInput("server.knows grants public_data, but server.public names none")
    public = _pool(section, size=pool.batch.inputs.shape[-1])
    if public.batch.inputs.shape[1:] != pool.batch.inputs.shape[1:]:
        raise BadInput(
            f"public examples have shape {tuple(public.batch.inputs.shape[1:])}, private ones"
            f" {tuple(pool.batch.inputs.shape[1:])}; they must agree"
        )
    shared = _digests(public.batch) & _digests(pool.batch)
    if shared:
        raise BadInput(f"{len(shared)} examples are both public and private; the two must be disjoint")
    return public


def _digests(batch: Batch) -> set[bytes]:
    return {hashlib.sha256(x.numpy().tobytes()).digest() for x in batch.inputs}
