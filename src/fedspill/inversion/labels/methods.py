"""Label inference from the gradient of the classification head, one function per method.

With softmax, cross-entropy and head input f_i the gradient of row c is mean_i (p_ic - [y_i = c]) f_i, and of
bias c it is pbar_c - n_c / n. Every method reads n_c, the number of examples of class c, out of these. Of another loss
some of this holds, which is found by asking it (`NEEDS`).
Notation: s_c sum of row c, b_c bias gradient, n examples, K classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import TokenSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.probing.head import last_linear
from fedspill.core.rng import stream
from fedspill.core.types import Update
from fedspill.inversion.gradients.head import ClassifierGradient, head_gradient, read_behind_noise
from fedspill.inversion.gradients.losses import Evidence, evidence
from fedspill.inversion.gradients.mean import is_proportional, one_step
from fedspill.inversion.labels.fitted import fitted
from fedspill.inversion.labels.probe import Probe, greedy, nearest_counts, probe, probe_path, rescaled
from fedspill.inversion.labels.scale import head_multiple
from fedspill.inversion.labels.self_consistent import self_consistent
from fedspill.inversion.network.trace import probe_inputs

LabelMethod = Literal[
    "idlg",
    "bias_sign",
    "column_minimum",
    "llg",
    "llg_plus",
    "bias_corrected",
    "counts",
    "bias_counts",
    "self_consistent",
    "fitted",
]
GetProbe = Callable[[], Probe]
NEEDS: Mapping[LabelMethod, tuple[str, Callable[[Evidence], bool]]] = {
    **dict.fromkeys(
        ("idlg", "bias_sign", "column_minimum"),
        ("whose derivative by the logits is negative for the example's class alone", lambda loss: loss.opposed),
    ),
    **dict.fromkeys(
        ("llg", "bias_corrected"),
        (
            "that is a mean over examples with a derivative that is negative for the example's class alone",
            lambda loss: loss.opposed and loss.even,
        ),
    ),
    **dict.fromkeys(
        ("llg_plus", "counts", "bias_counts", "self_consistent"),
        ("that is plain cross-entropy", lambda loss: loss.exact),
    ),
    "fitted": ("that adds up over examples", lambda loss: loss.separable),
}
"""The loss that each method needs, in words and as a test."""
OF_SIGNS: tuple[LabelMethod, ...] = ("bias_sign", "idlg")
"""Methods that hold where an update tells no more of a gradient than its entries' signs, as of Adam.

Signs of the rows of one example are multiples of its features' signs, of which the label's is the negative one.
"""
ROUNDED = 1e-3
FAMILIAR = 0.5
"""Share of an ignorant network's error below which a network counts as right about most examples."""


def infer(
    method: LabelMethod,
    update: Update,
    knowledge: ServerKnowledge,
    num_examples: int,
    rng: torch.Generator,
) -> Int[Tensor, " n"]:
    """The labels behind an update, sorted; reads the head's gradient, and for white-box methods the model.

    FedAvg deltas are turned into the mean gradient of the local steps. If the protocol is unknown, sign-based
    methods (idlg, bias_sign, column_minimum, llg, bias_corrected) are unaffected; llg_plus, counts,
    bias_counts and self_consistent estimate the scale from the classes whose gradient is positive.

    Raises:
        NotApplicable: the head was not found or not trained, the method needs something it lacks, such as another
            loss, or the network predicts next tokens.
        BadInput: an unknown method, or no example.
    """
    if method not in METHODS:
        raise BadInput(f"label method {method!r} is unknown; there are {', '.join(METHODS)}")
    if num_examples < 1:
        raise BadInput(f"num_examples={num_examples}: at least 1 is needed")
    _check_classes(knowledge)
    loss = evidence(knowledge.model)
    if method not in OF_SIGNS and not is_proportional(update, knowledge):
        raise NotApplicable(
            f"label method {method!r} reads sizes, and the clients' optimiser leaves signs: {' or '.join(OF_SIGNS)}"
            " may do, or grant labels"
        )
    needed, fits = NEEDS[method]
    if not fits(loss):
        raise NotApplicable(f"label method {method!r} needs a loss {needed}; the model's is another")
    gradient = _in_scale(update, knowledge, num_examples)
    labels = METHODS[method](gradient, lambda: probe_path(update, knowledge, rng), loss)
    return labels.sort().values.to(knowledge.model.like.device)


def _in_scale(update: Update, knowledge: ServerKnowledge, num_examples: int) -> ClassifierGradient:
    """The head's gradient in the scale of the mean gradient, whatever multiple of it was sent."""
    gradient = read_behind_noise(head_gradient(update, knowledge, num_examples), update, knowledge)
    told = head_multiple(update, knowledge, num_examples) if gradient.scaled else None
    if told is not None and not told.allows(1.0):
        return replace(gradient, values={k: v / told.factor for k, v in gradient.values.items()})
    lost = told is None and (_too_large(gradient) or _clips(knowledge))
    return replace(gradient, scaled=False) if lost else gradient


def _clips(knowledge: ServerKnowledge) -> bool:
    """The clients are known to clip what they send, by a factor that nobody knows."""
    return knowledge.local_training is not None and knowledge.local_training.conditions.clip_norm is not None


def _too_large(gradient: ClassifierGradient) -> bool:
    """No mean of softmax less one-hot can be that large."""
    sent = gradient.head.bias is not None and gradient.head.bias in gradient.values
    return sent and float(gradient.bias().abs().sum()) > 2 + ROUNDED


def default_method(update: Update, knowledge: ServerKnowledge, num_examples: int) -> LabelMethod:
    """The method to use where nothing is known, chosen from the table of benchmarks/label_inference.py.

    One example: the sign of the bias gradient is exact; without one, iDLG. Several: column_minimum where the
    network is already right about most examples, which then hardly count in any sum; else self_consistent on a
    single gradient, where it is nearly perfect for untrained networks, and bias_corrected after several local
    steps. Without a bias llg, if features are non-negative, else column_minimum. All of this is measured for plain
    cross-entropy; of any other loss `fitted`, which asks the loss. Where the clients' optimiser leaves signs alone
    (Adam and its kin), bias_sign, or of one example without a bias iDLG.

    Raises:
        NotApplicable: no method fits the loss, or what the optimiser leaves.
    """
    _check_classes(knowledge)
    loss = evidence(knowledge.model)
    if _leaves_signs(update, knowledge):
        return _of_signs(update, knowledge, num_examples, loss)
    if not loss.exact:
        if not loss.separable:
            raise NotApplicable("labels cannot be read of this loss, which does not add up over examples; grant them")
        return "fitted"
    head = last_linear(knowledge.model)
    if head.bias is not None and head.bias in update.values:
        return "bias_sign" if num_examples == 1 else _with_bias(update, knowledge, num_examples)
    if num_examples == 1:
        return "idlg"
    seen = probe(knowledge, head, knowledge.model.params, stream(0, "label_features"))
    return "llg" if seen.smallest >= 0 else "column_minimum"


def _leaves_signs(update: Update, knowledge: ServerKnowledge) -> bool:
    """What is known of the clients' optimiser, or of their defence, leaves no more of a gradient than its signs."""
    known = knowledge.defence
    sent_as_signs = known is not None and known.signs and knowledge.num_clients == 1
    return sent_as_signs or not is_proportional(update, knowledge)


def _of_signs(update: Update, knowledge: ServerKnowledge, num_examples: int, loss: Evidence) -> LabelMethod:
    head = last_linear(knowledge.model)
    if loss.opposed and head.bias is not None and head.bias in update.values:
        return "bias_sign"
    if loss.opposed and num_examples == 1:
        return "idlg"
    raise NotApplicable(
        "labels cannot be read of signs, which is what the clients' optimiser leaves,"
        f" {'without a bias of the last layer' if loss.opposed else 'under this loss'}; grant them"
    )


def _check_classes(knowledge: ServerKnowledge) -> None:
    model = knowledge.model
    if not isinstance(model.input, TokenSpec):
        return
    with torch.no_grad():
        logits = model.logits(model.params, probe_inputs(model.input, 2, model.like))
    if logits.ndim != 2:
        raise NotApplicable("label inference reads one class per example; this network predicts next tokens")


def _with_bias(update: Update, knowledge: ServerKnowledge, num_examples: int) -> LabelMethod:
    gradient = _in_scale(update, knowledge, num_examples)
    # Negative entries add up to the probability that the m present classes lack: 1 - m/K if it is spread evenly.
    bias = gradient.bias()
    lacking, even = -float(bias.clamp_max(0).sum()), 1 - float((bias < 0).sum()) / len(bias)
    if gradient.scaled and lacking < FAMILIAR * even:
        return "column_minimum"
    return "self_consistent" if one_step(update, knowledge) else "bias_corrected"


def idlg(gradient: ClassifierGradient, _: GetProbe) -> Int[Tensor, " n"]:
    """One example: the row that opposes all others (Zhao et al. 2020, arXiv 2001.02610, eq. 4).

    For one example the rows are multiples of its features, and the label's is the only negative multiple, so
    its inner products with the others are negative whatever the features' sign. Ties (K = 2) go to the
    smaller row sum, which is right for non-negative features.
    """
    if gradient.num_examples != 1:
        raise NotApplicable(f"idlg infers the label of 1 example, the update holds {gradient.num_examples}")
    rows = gradient.rows()
    product = rows @ rows.T
    agreeing = (product.fill_diagonal_(-1.0) > 0).sum(1)
    sums = torch.where(agreeing == agreeing.min(), gradient.row_sums(), torch.inf)
    return sums.argmin().view(1)


def bias_sign(gradient: ClassifierGradient, _: GetProbe) -> Int[Tensor, " n"]:
    """Classes with b_c < 0 are present; complete for unique labels if all mean p_c < 1/n (Wei et al. 2020).

    The sign does not count: if fewer classes are negative than there are examples, they repeat in order.
    """
    order = gradient.bias().argsort()
    certain = int((gradient.bias() < 0).sum())
    return _repeated(order[: max(1, certain)], gradient.num_examples)


def column_minimum(gradient: ClassifierGradient, _: GetProbe) -> Int[Tensor, " n"]:
    """The n classes with the smallest entry in their row (Yin et al. 2021, GradInversion, arXiv 2104.07586).

    Made for unique labels and non-negative features; repeats only if n > K.
    """
    return _repeated(gradient.rows().min(1).values.argsort(), gradient.num_examples)


def llg(gradient: ClassifierGradient, _: GetProbe) -> Int[Tensor, " n"]:
    """Greedy on the row sums (Wainakh et al. 2021, arXiv 2105.09369, LLG with shared gradients only).

    The impact of one example is m = (1 + 1/K) / n * sum of the negative s_c.
    """
    sums = gradient.row_sums()
    impact = sums.clamp_max(0).sum() / gradient.num_examples * (1 + 1 / len(sums))
    return _certain_then_greedy(sums, impact, gradient.num_examples)


def llg_plus(gradient: ClassifierGradient, get_probe: GetProbe) -> Int[Tensor, " n"]:
    """LLG with impact and offsets measured on the model (Wainakh et al. 2021, LLG+; LLG* with noise).

    Single-class batches of auxiliary inputs give class c the sum mean (p_c - 1) o in its own batch (impact, o
    the feature sum) and mean p_c o in the others' (offset). One forward pass gives both for every class.
    """
    seen = get_probe()
    weighted = seen.probabilities * seen.feature_sums[:, None]
    offset = weighted.mean(0)
    impact = _own_class(seen, weighted - seen.feature_sums[:, None]) / gradient.num_examples
    sums = rescaled(gradient.row_sums(), offset, gradient.scaled)
    return _certain_then_greedy(sums, impact, gradient.num_examples, offset)


def bias_corrected(gradient: ClassifierGradient, _: GetProbe) -> Int[Tensor, " n"]:
    """LLG on the bias gradient, without the factor 1 + 1/K (the default of the `breaching` framework)."""
    bias = gradient.bias()
    return _certain_then_greedy(bias, bias.clamp_max(0).sum() / gradient.num_examples, gradient.num_examples)


def counts(gradient: ClassifierGradient, get_probe: GetProbe) -> Int[Tensor, " n"]:
    """n_c = n pbar_c - n s_c / O (Geng et al. 2021, arXiv 2110.09074); pbar, O from the server's inputs."""
    seen = get_probe()
    level = seen.feature_sums.mean()
    if not float(level.abs()) > 0:
        raise NotApplicable("counts divides by the mean sum of the head's features, which is 0 here")
    probability = seen.probabilities.mean(0)
    shown = rescaled(gradient.row_sums() / level, probability, gradient.scaled)
    return nearest_counts(gradient.num_examples * (probability - shown), gradient.num_examples)


def bias_counts(gradient: ClassifierGradient, get_probe: GetProbe) -> Int[Tensor, " n"]:
    """n_c = n (pbar_c - b_c): the count formula on the bias, where no feature level has to be guessed."""
    probability = get_probe().probabilities.mean(0)
    shown = rescaled(gradient.bias(), probability, gradient.scaled)
    return nearest_counts(gradient.num_examples * (probability - shown), gradient.num_examples)


def by_loss(gradient: ClassifierGradient, get_probe: GetProbe, loss: Evidence) -> Int[Tensor, " n"]:
    """Labels whose derivatives, as the loss gives them, add up to the head's gradient; see `fitted`."""
    seen = get_probe()
    return fitted(gradient, loss, seen.logits.mean(0), float(seen.feature_sums.mean()))


METHODS: Mapping[LabelMethod, Callable[[ClassifierGradient, GetProbe, Evidence], Int[Tensor, " n"]]] = {
    "idlg": lambda gradient, get_probe, _: idlg(gradient, get_probe),
    "bias_sign": lambda gradient, get_probe, _: bias_sign(gradient, get_probe),
    "column_minimum": lambda gradient, get_probe, _: column_minimum(gradient, get_probe),
    "llg": lambda gradient, get_probe, _: llg(gradient, get_probe),
    "llg_plus": lambda gradient, get_probe, _: llg_plus(gradient, get_probe),
    "bias_corrected": lambda gradient, get_probe, _: bias_corrected(gradient, get_probe),
    "counts": lambda gradient, get_probe, _: counts(gradient, get_probe),
    "bias_counts": lambda gradient, get_probe, _: bias_counts(gradient, get_probe),
    "self_consistent": lambda gradient, get_probe, _: self_consistent(gradient, bias_corrected(gradient, get_probe)),
    "fitted": by_loss,
}


def _certain_then_greedy(scores: Tensor, impact: Tensor, number: int, offset: Tensor | float = 0.0) -> Tensor:
    certain = scores.argsort()[: min(number, int((scores < 0).sum()))]
    remaining = scores - offset
    remaining[certain] -= impact.expand_as(remaining)[certain]
    return torch.cat([certain, greedy(remaining, impact, number - len(certain))])


def _own_class(seen: Probe, values: Float[Tensor, "m k"]) -> Float[Tensor, " k"]:
    # Per class the mean over its own inputs; noise inputs, and classes without public data, take all inputs.
    mean = values.mean(0)
    if seen.labels is None:
        return mean
    one_hot = torch.nn.functional.one_hot(seen.labels, values.shape[1]).to(values)
    number = one_hot.sum(0)
    return torch.where(number > 0, (values * one_hot).sum(0) / number.clamp_min(1), mean)


def _repeated(order: Tensor, number: int) -> Tensor:
    return order[torch.arange(number, device=order.device) % len(order)]
