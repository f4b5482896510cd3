"""What a server that knows too little must guess before it can match gradients: how many examples, which labels,
how many local steps.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from fedspill.core.errors import BadInput, NotApplicable, some
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining
from fedspill.core.model import Model
from fedspill.core.probing.inputs import probe_inputs
from fedspill.core.probing.reach import differentiable, reached_names, reaches_input
from fedspill.core.types import Update, UpdateKind
from fedspill.inversion.gradients.drawn import with_draws_read
from fedspill.inversion.labels import methods as inference
from fedspill.inversion.objective.ignoring import ignored


def check_observed(update: Update, model: Model) -> Update:
    """The update on the model's device, in the model's dtype.

    Raises:
        BadInput: it holds names or shapes that the model lacks, values that are not finite, or nothing.
        NotApplicable: every value is 0, so there is nothing to match.
    """
    if not update.values:
        raise BadInput("the update holds no parameter; at least one is needed")
    for name, value in update.values.items():
        if name not in model.params:
            raise BadInput(f"the update holds {name!r}, which the model does not have")
        if value.shape != model.params[name].shape:
            raise BadInput(
                f"the update's {name!r} has shape {tuple(value.shape)}, the model's {tuple(model.params[name].shape)}"
            )
        if not value.isfinite().all():
            raise BadInput(f"the update's {name!r} holds NaN or infinite values; finite numbers are needed")
    if update.norm() == 0:
        raise NotApplicable("the update is exactly 0: there is nothing to invert")
    return update.to(model.like)


def protocols(
    update: Update, knowledge: ServerKnowledge, epochs: tuple[int, ...], assumed_lr: float
) -> list[LocalTraining]:
    """The local training to assume: the granted one, or for an unknown number of local steps one per candidate.

    A gradient needs no grant: it was computed by FedSGD. The parameters that were trained are those that the
    update holds.

    Args:
        epochs: candidates for the number of full-batch local steps (Inverting Gradients, appendix B.1, footnote).
        assumed_lr: the local step size to assume where it was not granted; the cosine hardly depends on it.
    """
    trained = tuple(update.values)
    known = knowledge.local_training
    if update.kind is UpdateKind.GRADIENT:
        return [replace(known, trainable=trained) if isinstance(known, FedSGD) else FedSGD(trainable=trained)]
    if isinstance(known, FedAvg):
        return [replace(known, trainable=trained)]
    if known is not None:
        raise BadInput("the update is a delta, but the local training was said to be FedSGD, which sends gradients")
    return [FedAvg(epochs=e, lr=assumed_lr, trainable=trained) for e in epochs]


THROUGH = (
    "No gradient reaches the input in the clients' network (no_grad or detach), so that they send nothing of the layers"
    " before; the search differentiates through these all the same."
)


DRAWN = "What the clients' random layers drew was read off the gradients of the layers around them."
SPOILED = "Not matched, as the clients' defences spoil it: {}."


@dataclass(frozen=True)
class Observed:
    """What is to be matched.

    Attributes:
        update: as checked, of the parameters that the network's logits depend on.
        knowledge: with a network through which the search has a gradient.
        notes: where these are not what came.
    """

    update: Update
    knowledge: ServerKnowledge
    notes: tuple[str, ...] = ()


def observed_by(update: Update, knowledge: ServerKnowledge) -> Observed:
    """What can be matched of an update.

    Raises:
        BadInput: the update does not fit the model.
        NotApplicable: there is nothing to match, or a defence spoils all there is, or no gradient reaches the input,
            nor can be made to without changing what a client sends.
    """
    checked = check_observed(update, knowledge.model)
    known = _draws_read(checked, knowledge)
    read, knowledge = (DRAWN,) if known is not knowledge else (), known
    model, spoiled = knowledge.model, ignored(knowledge.defence, knowledge.model)
    reached = frozenset(reached_names(model))
    idle = [k for k in checked.values if k not in reached]
    kept = replace(checked, values={k: v for k, v in checked.values.items() if k in reached})
    if not kept.values or kept.norm() == 0:
        raise NotApplicable(f"the update holds nothing but {idle[0]!r} and the like, on which the logits do not depend")
    notes = (*_on_idle([k for k in idle if bool(checked.values[k].any())]), *read)
    if left_out := [k for k in kept.values if k in spoiled]:
        knowledge = _without(kept, knowledge, frozenset(left_out))
        notes = (*notes, SPOILED.format(some(left_out)))
    if reaches_input(model):
        return Observed(kept, knowledge, notes)
    through = differentiable(model)
    if through is None or not _sends_the_same(model, through, tuple(kept.values)):
        raise NotApplicable(
            "no gradient of the network reaches its input (it rounds, compares, or cuts the gradient off), so nothing"
            " can be searched for"
        )
    return Observed(kept, replace(knowledge, model=through), (*notes, THROUGH))


def _without(update: Update, knowledge: ServerKnowledge, spoiled: frozenset[str]) -> ServerKnowledge:
    """What makes the distance skip what is spoiled; it stays in the update, as labels are still told by it.

    Raises:
        NotApplicable: nothing else is left.
    """
    if not any(bool(v.any()) for k, v in update.values.items() if k not in spoiled):
        raise NotApplicable(f"the clients' defences spoil all that the update holds: {some(sorted(spoiled))}")
    assert knowledge.defence is not None, "nothing is spoiled without"
    return replace(knowledge, defence=replace(knowledge.defence, left_out=spoiled, random_layers=frozenset[str]()))


def _draws_read(update: Update, knowledge: ServerKnowledge) -> ServerKnowledge:
    """With a network whose random layers draw what they drew, if it was one example, whose gradient tells it."""
    defence = knowledge.defence
    if defence is None or not defence.random_layers or knowledge.num_examples not in (None, 1):
        return knowledge
    if update.kind is not UpdateKind.GRADIENT or knowledge.num_clients > 1:
        return knowledge
    known = with_draws_read(knowledge.model, update.values, defence.random_layers)
    if known is None:
        return knowledge
    return replace(knowledge, model=known, defence=replace(defence, random_layers=frozenset[str]()))


def _on_idle(names: list[str]) -> tuple[str, ...]:
    if not names:
        return ()
    return (
        f"Left out: {len(names)} tensors of the update ({names[0]}, ...) that are not 0, though the network's logits do"
        " not depend on these parameters; is it the clients' network?",
    )


def _sends_the_same(model: Model, other: Model, names: tuple[str, ...]) -> bool:
    """Whether the logits of both networks have the same derivatives by the parameters that are sent."""
    z = probe_inputs(model.input, 2, model.like)
    derivatives = [_by_params(m, z, names) for m in (model.in_eval_mode(), other.in_eval_mode())]
    return all(
        torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(a.abs().max())) for a, b in zip(*derivatives, strict=True)
    )


def _by_params(model: Model, z: Tensor, names: tuple[str, ...]) -> list[Tensor]:
    leaves = {k: model.params[k].detach().requires_grad_() for k in names}
    with torch.enable_grad():
        total = model.logits({**model.params, **leaves}, z).pow(2).sum()
    return list(torch.autograd.grad(total, list(leaves.values())))


@dataclass(frozen=True)
class Unknowns:
    """How to guess what was not granted.

    Attributes:
        examples: candidates for an unknown number of examples.
        epochs: candidates for an unknown number of full-batch local steps.
        assumed_lr: local step size to assume where the protocol was not granted.
        label_method: how to infer labels that were not granted; None chooses by the number of examples.
    """

    examples: tuple[int, ...] = (1, 2, 3, 4)
    epochs: tuple[int, ...] = (1, 2, 3, 5)
    assumed_lr: float = 1e-2
    label_method: inference.LabelMethod | None = None

    def __post_init__(self) -> None:
        if min((*self.examples, *self.epochs), default=0) < 1 or not self.examples or not self.epochs:
            raise BadInput(
                f"candidates examples={self.examples}, epochs={self.epochs}: numbers of at least 1 are needed"
            )


@dataclass(frozen=True)
class Hypothesis:
    """One guess of what the clients held; `labels` of None leaves them to the search.

    Attributes:
        num_examples: n, over all clients.
        notes: on all guesses, for the report.
    """

    num_examples: int
    labels: Int[Tensor, " n ..."] | Float[Tensor, " n ..."] | None
    training: LocalTraining
    label_method: str
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """A few words for a note."""
        return f"n={self.num_examples}, {self.training}"


def hypotheses(
    update: Update,
    knowledge: ServerKnowledge,
    unknowns: Unknowns,
    rng: torch.Generator,
    *,
    infer: bool = True,
    notes: tuple[str, ...] = (),
) -> list[Hypothesis]:
    """Every combination of what may be; a single one where all was granted.

    Args:
        infer: infer labels that were not granted; otherwise leave them to the search.
        notes: to go with them.

    Raises:
        NotApplicable: no number of examples is a multiple of the clients, or the network takes none of them.
    """
    trainings = protocols(update, knowledge, unknowns.epochs, unknowns.assumed_lr)
    if knowledge.client_sizes is not None and not _one_gradient(trainings, knowledge):
        sizes = ", ".join(map(str, knowledge.client_sizes))
        raise NotApplicable(f"the update is a mean over clients with {sizes} examples; only equally many are searched")
    counts = _counts(knowledge, unknowns)
    if not counts:
        raise NotApplicable(
            f"none of the candidate numbers of examples {unknowns.examples} is a multiple of the"
            f" {knowledge.num_clients} clients"
        )
    refused = {n: reason for n in counts if (reason := _refusal(knowledge, n, trainings[0])) is not None}
    if len(refused) == len(counts):
        raise NotApplicable(f"the clients' network takes no batch of {_or(counts)}: {refused[counts[0]]}")
    if refused:
        notes += (f"Left out: {_or(list(refused))} examples, which the clients' network does not take.",)
    return [
        Hypothesis(n, labels, training, method, notes)
        for n in counts
        if n not in refused
        for labels, method in [_labels(update, knowledge, unknowns, n, rng, infer)]
        for training in trainings
    ]


def _refusal(knowledge: ServerKnowledge, n: int, training: LocalTraining) -> str | None:
    """What the network says where it takes no batch as small as a client's smallest (BatchNorm in train mode)."""
    model, share = knowledge.model, n // knowledge.num_clients
    size = training.minibatch_size or share if isinstance(training, FedAvg) else share
    z = probe_inputs(model.input, share % size or size, model.like)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.logits(model.params, z)
    except (RuntimeError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None


def _or(numbers: list[int]) -> str:
    return " or ".join(map(str, numbers))


def _one_gradient(trainings: list[LocalTraining], knowledge: ServerKnowledge) -> bool:
    """The mean over clients is one gradient, however the examples are shared out."""
    return not knowledge.model.training and all(isinstance(t, FedSGD) and t.is_plain for t in trainings)


def _counts(knowledge: ServerKnowledge, unknowns: Unknowns) -> list[int]:
    if knowledge.labels is not None:
        return [len(knowledge.labels)]
    if knowledge.num_examples is not None:
        return [knowledge.num_examples]
    return [n for n in unknowns.examples if n % knowledge.num_clients == 0]


def _labels(
    update: Update,
    knowledge: ServerKnowledge,
    unknowns: Unknowns,
    n: int,
    rng: torch.Generator,
    infer: bool,
) -> tuple[Tensor | None, str]:
    if knowledge.labels is not None and _mixed(knowledge) and not knowledge.labels.is_floating_point():
        return expected_of_mixtures(knowledge), "expected of mixtures"
    if knowledge.labels is not None:
        return knowledge.labels, "granted"
    if not infer:
        return None, "joint"
    method = unknowns.label_method or inference.default_method(update, knowledge, n)
    return inference.infer(method, update, knowledge, n, rng), method


def _mixed(knowledge: ServerKnowledge) -> int:
    """Of how many examples each input is a mixture; 0 for none."""
    return 0 if knowledge.defence is None else knowledge.defence.mixed or 0


def expected_of_mixtures(knowledge: ServerKnowledge) -> Float[Tensor, "n k"]:
    """Class probabilities of mixtures whose coefficients are not known: the mean over what may be drawn.

    The i-th is 1 / k of its own label, and the rest of all others.
    """
    labels, k, model = knowledge.labels, _mixed(knowledge), knowledge.model.in_eval_mode()
    assert labels is not None, "asked only where they are granted"
    with torch.no_grad():
        classes = model.logits(model.params, probe_inputs(model.input, 1, model.like)).shape[-1]
    each = functional.one_hot(labels.to(model.like.device), classes).to(model.like.dtype)
    if len(each) < 2:
        return each
    others = (each.sum(0) - each) / (len(each) - 1)
    return each / k + others * (1 - 1 / k)


def notes_on(tried: list[Hypothesis], objectives: tuple[float, ...], kept: int) -> tuple[str, ...]:
    """What a reader must know about the guesses that were made."""
    if len(tried) == 1:
        return tried[0].notes
    listed = "; ".join(f"{h.describe()}: {v:.4g}" for h, v in zip(tried, objectives, strict=True))
    return (
        *tried[0].notes,
        f"{len(tried)} hypotheses about what was not granted were searched and the one with the lowest"
        f" objective kept ({tried[kept].describe()}). Lowest objectives: {listed}.",
    )
