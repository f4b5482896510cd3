"""The private and the public examples that a plan names, which must be of one kind and disjoint."""

from dataclasses import replace

from fedspill.core.errors import BadInput
from fedspill.core.inputs import TableSpec, TokenSpec
from fedspill.core.knowledge import Knows
from fedspill.core.tensor_files import sha256
from fedspill.core.types import Batch
from fedspill.plan.sections import AuditPlan, PoolSection
from fedspill.zoo.data import DataPool, load, takes


def public_pool(plan: AuditPlan, pool: DataPool) -> DataPool | None:
    """The public examples that a plan names, disjoint from the private ones; None if it names none.

    Raises:
        BadInput: they are not to be had, are of another kind, or private ones are among them.
    """
    section = plan.server.public
    if section is None:
        if Knows.PUBLIC_DATA not in plan.server.knows:
            return None
        raise BadInput("server.knows grants public_data, but server.public names none")
    public = private_pool(_completed(section, plan.data, pool))
    if public.spec != pool.spec or public.batch.inputs.shape[1:] != pool.batch.inputs.shape[1:]:
        raise BadInput(f"public examples are {_describe(public)}, private ones {_describe(pool)}; they must agree")
    shared = _shared(pool, public)
    if shared and (pool.spec is None or _same_source(pool, public)):
        raise BadInput(f"{len(shared)} examples are both public and private; the two must be disjoint")
    return _without(public, shared) if shared else public


def private_pool(section: PoolSection) -> DataPool:
    """The examples that a section names.

    Raises:
        BadInput: they are not to be had.
    """
    return load(
        section.name,
        root=section.root,
        split=section.split,
        indices=section.indices,
        size=section.size,
        length=section.length,
        tokenizer=section.tokenizer,
        label=section.label,
    )


def _completed(section: PoolSection, private: PoolSection, pool: DataPool) -> PoolSection:
    """What the public section leaves out and its source takes is as in the private one."""
    side = pool.batch.inputs.shape[-1] if pool.spec is None else None
    length = pool.spec.length if isinstance(pool.spec, TokenSpec) else None
    known = {"size": side, "length": length, "tokenizer": private.tokenizer, "label": private.label}
    missing = {k: known[k] for k in takes(section.name) if getattr(section, k) is None}
    return section.model_copy(update=missing)


def _describe(pool: DataPool) -> str:
    match pool.spec:
        case TokenSpec(length, vocabulary):
            return f"sentences of {length} tokens out of {vocabulary}"
        case TableSpec(columns):
            return f"rows of {len(columns)} columns with their own encoding ({columns[0].name}, ...)"
        case None:
            return f"images of shape {tuple(pool.batch.inputs.shape[1:])}"


def _same_source(pool: DataPool, public: DataPool) -> bool:
    """The very same examples were taken: one source, and positions in common."""
    return pool.name == public.name and not set(pool.indices).isdisjoint(public.indices)


def _shared(pool: DataPool, public: DataPool) -> list[int]:
    """Positions in `public` of examples that are private too."""
    known = _digests(pool.batch)
    return [k for k, x in enumerate(public.batch.inputs) if sha256(x) in known]


def _without(public: DataPool, shared: list[int]) -> DataPool:
    """Two people may share a row and two texts a sentence: public data keep none that equals a private one.

    Raises:
        BadInput: nothing is left.
    """
    kept = [k for k in range(len(public)) if k not in set(shared)]
    if not kept:
        raise BadInput(f"all {len(shared)} public examples equal private ones; the two must be disjoint")
    return replace(
        public,
        batch=public.batch[kept],
        indices=tuple(public.indices[k] for k in kept),
        source=f"{public.source}, without {len(shared)} that equal private ones",
    )


def _digests(batch: Batch) -> set[str]:
    return {sha256(x) for x in batch.inputs}
