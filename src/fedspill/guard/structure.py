"""The architecture as it was agreed on: modules, parameters, shapes, and what the network computes with them.

Dabholkar et al. (Maui), arXiv:2509.11451, section 3.2, count a changed structure among four primitives of leaking; the
planted layers of Robbing the Fed and LOKI, and both of Geiping et al.'s dishonest architectures, are such changes. An
activation, a gain or a shortcut that is no module shows in what the two networks make of the same parameters.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedspill.core.errors import few
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.model import Model
from fedspill.core.probing.inputs import probe_inputs, random_like
from fedspill.core.rng import seeded_globals, stream
from fedspill.core.roles import Card, Check, Finding, Incoming, Misfit
from fedspill.core.tensor_files import sha256

NAME = "structure"
READS = (
    "A layer that nobody agreed on can record a client's examples outright: of every client that trains on the model,"
    " at any size of a batch, the server reads them off that layer's gradient."
)
ADVICE = "Do not train on it; build the network from the agreed code, and load nothing but the weights that it names."
PROBES = 3
"""Inputs on which two networks are compared."""
LISTED = 8
"""Modules that are named one by one."""


@dataclass(frozen=True)
class Structure:
    """Compares what came with the agreed architecture, and its weights with a checksum.

    Without a reference it finds what a file held beside the network that it was to be loaded into.

    Attributes:
        tolerance: relative difference of answers and gradients that is taken for rounding.
    """

    tolerance: float = 1e-3

    def inspect(self, incoming: Incoming) -> list[Finding]:
        """Findings on the file, then on the checksum, then on the network against the reference."""
        found = [*_misfits(incoming.misfit, incoming.model), *_checksum(incoming)]
        if incoming.reference is None:
            return found
        unlike = list(_parameters(incoming.model, incoming.reference))
        found += [*unlike, *_modules(incoming.model, incoming.reference), *_frozen(incoming.model, incoming.reference)]
        if not unlike and not incoming.misfit.missing:
            found += self._computes(incoming.model, incoming.reference)
        return found

    def _computes(self, sent: Model, agreed: Model) -> Iterator[Finding]:
        for training in (False, True):
            try:
                one, two = (_answers(sent, m, training=training) for m in (sent.module, agreed.module))
            except Exception as error:  # a network of anyone's
                yield _not_run(error)
                return
            for what, a, b in (("answers", one[0], two[0]), ("gradients", one[1], two[1])):
                apart = _apart(a, b)
                if not apart <= self.tolerance:
                    yield _differs(what, apart, training=training)
                    return


def _misfits(misfit: Misfit, model: Model) -> Iterator[Finding]:
    fitting = float(len({**model.params, **model.buffers}))
    for rule, names, said in (
        ("foreign", tuple(misfit.foreign), "the agreed architecture has no place for {}"),
        ("reshaped", tuple(misfit.reshaped), "of another shape than the agreed architecture's is {}"),
        ("missing", misfit.missing, "of the agreed architecture the file lacks {}"),
        ("unreadable", tuple(misfit.unreadable), "the numbers cannot be taken of {}"),
    ):
        if names:
            first, *others = sorted(names, key=lambda name: not name.endswith("weight"))
            seen = f"What was sent does not fit: {said.format(few([first, *others]))}."
            if rule == "unreadable":
                seen += f" ({misfit.unreadable[first].rstrip('.')}.)"
            evidence = {"tensors": float(len(names)), "fitting": fitting}
            yield replace(_finding(first, rule, 1.0, evidence, seen), also=tuple(others))


def _checksum(incoming: Incoming) -> Iterator[Finding]:
    if incoming.checksum is None:
        return
    digest = sha256(incoming.tensors)
    if not digest.startswith(incoming.checksum.lower()) or len(incoming.checksum) < 8:
        yield Finding(
            check=NAME,
            where="checksum",
            severity=1.0,
            evidence={"agrees": 0.0},
            explanation=f"The weights' checksum is {digest[:16]}..., not {incoming.checksum[:16]}: others received"
            " another model.",
            rule="checksum",
            reads="A server that sends clients different models can take the others' part out of a sum, however"
            " securely it was aggregated, and is left with one client's update.",
            advice="Do not train on it; compare checksums with the other clients, not through the server.",
        )


def _parameters(sent: Model, agreed: Model) -> Iterator[Finding]:
    for kind, got, needed in (("parameter", sent.params, agreed.params), ("buffer", sent.buffers, agreed.buffers)):
        extra, missing = [n for n in got if n not in needed], [n for n in needed if n not in got]
        reshaped = [n for n in got if n in needed and got[n].shape != needed[n].shape]
        if extra or missing or reshaped:
            planted = (
                [n for n in extra if not any(n.endswith(f".{m}") for m in missing)] or extra or reshaped or missing
            )
            evidence = {"extra": float(len(extra)), "missing": float(len(missing)), "reshaped": float(len(reshaped))}
            said = (
                f"Its {kind}s are not the agreed architecture's: {few(planted)} should not be there or not so;"
                f" {len(extra)} more, {len(missing)} fewer, {len(reshaped)} of another shape."
            )
            named = tuple(n for n in dict.fromkeys([*planted, *extra, *reshaped, *missing]) if n != planted[0])
            yield replace(_finding(planted[0], f"{kind}s", 1.0, evidence, said), also=named)


def _modules(sent: Model, agreed: Model) -> Iterator[Finding]:
    one, two = _leaves(sent.module), _leaves(agreed.module)
    changed = [n for n in dict.fromkeys([*one, *two]) if one.get(n) != two.get(n)]
    for name in changed if len(changed) <= LISTED else changed[:1]:
        said = f"{name or 'the network'!r} is {one.get(name, 'not there')}; agreed on was {two.get(name, 'nothing')}."
        more = len(changed) - 1 if len(changed) > LISTED else 0
        said = f"{said} So are {more} others not as agreed." if more else said
        found = _finding(name or "network", "modules", 0.9, {"modules_changed": float(len(changed))}, said)
        yield replace(found, also=tuple(changed[1:])) if more else found


def _leaves(module: nn.Module) -> Mapping[str, str]:
    """What every innermost module is, in words; dropout's and identities' names included."""
    innermost = {n: m for n, m in module.named_modules() if not any(True for _ in m.children())}
    return {n: f"{type(m).__name__}({m.extra_repr()})" for n, m in innermost.items()}


def _frozen(sent: Model, agreed: Model) -> Iterator[Finding]:
    changed = sorted(sent.frozen ^ agreed.frozen)
    if changed and set(changed) <= set(sent.params) & set(agreed.params):
        said = f"Of {few(changed)} it is not as agreed whether a client trains them."
        yield _finding(changed[0], "frozen", 0.7, {"parameters": float(len(changed))}, said)


def _answers(sent: Model, module: nn.Module, *, training: bool) -> tuple[Tensor, Tensor]:
    """Logits of arbitrary inputs by the sent parameters, and the gradient of a random sum of these, in one vector."""
    model = Model(module, sent.params, sent.buffers, sent.loss_fn, sent.input, training=training, masks=False)
    leaves = {k: v.detach().requires_grad_() for k, v in model.params.items()}
    with torch.enable_grad(), seeded_globals(stream(0, "structure")):
        logits = model.logits(leaves, probe_inputs(model.input, PROBES, model.like))
    gradients = _gradients(logits, list(leaves.values()))
    flat = [torch.zeros_like(p) if g is None else g for p, g in zip(leaves.values(), gradients, strict=True)]
    return logits.detach().flatten(), torch.cat([g.flatten() for g in flat])


def _gradients(logits: Tensor, leaves: list[Tensor]) -> Sequence[Tensor | None]:
    """None for parameters that the logits do not depend on."""
    return torch.autograd.grad(logits, leaves, random_like(logits, "structure"), allow_unused=True)


def _apart(one: Tensor, two: Tensor) -> float:
    if one.shape != two.shape:
        return float("inf")
    return float((one - two).norm() / two.norm().clamp_min(torch.finfo(two.dtype).tiny))


def _differs(what: str, apart: float, *, training: bool) -> Finding:
    mode = "train" if training else "eval"
    said = (
        f"With the same parameters it gives other {what} than the agreed architecture in {mode} mode (relative"
        f" difference {apart:.2g}): its activations, its wiring or its code are not the agreed ones."
    )
    return _finding("network", "computes", 1.0, {"difference": apart, "training": float(training)}, said)


def _not_run(error: Exception) -> Finding:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    said = (
        "The network and the agreed architecture could not be run beside each other, so wiring was not"
        f" compared: {reason}"
    )
    return _finding("network", "not_run", 0.5, {"ran": 0.0}, f"{said.rstrip('.')}.")


def _finding(where: str, rule: str, severity: float, evidence: dict[str, float], seen: str) -> Finding:
    return Finding(NAME, where, severity, evidence, seen, rule=rule, reads=READS, advice=ADVICE)


CARD: Card[Check] = Card(
    title="Structure against the agreed architecture",
    paper="Dabholkar et al. 2025, arXiv:2509.11451, section 3.2",
    summary="Reports tensors, modules, shapes and wiring that are not the agreed architecture's, and a wrong checksum.",
    presets={"paper": Structure(), "quick": Structure()},
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
)
