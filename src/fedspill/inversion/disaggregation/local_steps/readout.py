"""From the update of several local steps to the inputs, with their certificate.

First the equations of one gradient, at the weights in the middle of the way, where the mean gradient is taken up to the
square of the way's length; then the whole training is fitted; then the client's own code is run on what was found.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.conditions import Conditions
from fedspill.core.local_training.path import LocalPath, step_weights
from fedspill.core.local_training.protocol import FedAvg
from fedspill.core.local_training.steps import Turn, first_state, local_step
from fedspill.core.types import Params, Update
from fedspill.inversion.disaggregation.certificate.determined import FLOOR, MOST
from fedspill.inversion.disaggregation.errors import LogitErrors
from fedspill.inversion.disaggregation.fully_connected import descend
from fedspill.inversion.disaggregation.labels import likely_multisets
from fedspill.inversion.disaggregation.local_steps.fitting import ENOUGH, Fit, Target, solved
from fedspill.inversion.disaggregation.local_steps.orders import Freedom, Order
from fedspill.inversion.disaggregation.local_steps.replay import Clients, Space
from fedspill.inversion.disaggregation.readout import Effort, disaggregate
from fedspill.inversion.disaggregation.silent import precision_of
from fedspill.inversion.gradients.mean import client_path, mean_gradient
from fedspill.inversion.network.dense import Dense

ROUNDED, COMPUTED = 1.0, 8.0
"""Standard deviation of a parameter's rounding in one step, and of what is computed with an update, in the units of
their type's precision."""
PINNED = 1e-3
"""Relative standard deviation of an input up to which it is pinned down."""
STARTS = Effort(starts=12, guesses=1, rounds=0)
"""Of the equations of the first order, which nothing solves exactly."""


@dataclass(frozen=True)
class Head:
    """The head at the middle of the way, and its mean gradient.

    Attributes:
        rows: the gradient, a row for each class, with the bias's in the last column if that was trained.
        weight: in the middle.
        bias: in the middle; zeros where there is none.
        non_negative: features are 0 or more.
        errors: what the loss makes of probabilities.
    """

    rows: Float[Tensor, "classes k"]
    weight: Float[Tensor, "classes d"]
    bias: Float[Tensor, " classes"]
    non_negative: bool
    errors: LogitErrors


@dataclass(frozen=True)
class Trained:
    """The examples behind an update of several steps.

    Attributes:
        inputs: of the network, float64.
        labels: the class of each.
        certain: the clients' training on these examples gives the update up to rounding, which pins them down.
        residual: of the training, in units of rounding.
    """

    inputs: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    certain: Bool[Tensor, " n"]
    residual: float


@dataclass(frozen=True)
class _Local:
    """An update of several steps with all that is known of it, in float64."""

    layers: Sequence[Dense]
    update: Update
    knowledge: ServerKnowledge
    training: FedAvg
    path: LocalPath
    count: int
    gradient: Params
    head: Head
    noise: dict[str, float]

    @property
    def start(self) -> Params:
        """The parameters as they were sent."""
        return {k: v.double() for k, v in self.knowledge.model.params.items()}

    @property
    def moved(self) -> Params:
        """Start minus end."""
        return {k: v.double() for k, v in self.update.values.items()}

    @property
    def middle(self) -> Params:
        """The parameters in the middle of the way."""
        return {k: v - self.path.middle * self.moved[k] if k in self.moved else v for k, v in self.start.items()}


def read_local_steps(
    layers: Sequence[Dense],
    update: Update,
    knowledge: ServerKnowledge,
    head: Head,
    labels: Int[Tensor, " n"],
    rng: torch.Generator,
    is_up: Callable[[], bool],
    *,
    guesses: int = 1,
    attempts: int = 1,
) -> Trained:
    """The inputs of a fully connected network behind several local steps.

    Args:
        layers: of the network, the head last.
        update: start minus end of the clients' training, or its mean over clients.
        knowledge: with the protocol and the number of examples.
        head: what is known of it.
        labels: of all examples, in their order if they were granted.
        rng: for the starts.
        is_up: whether the time is over.
        guesses: multisets of labels that are tried at most, if they were not granted; then the order of `labels` means
            nothing.
        attempts: first guesses of the inputs that are gone on from at most.

    Raises:
        NotApplicable: see `check_followed`; or there are as many examples as classes, or some send nothing above
            rounding, or a layer cannot be passed.
    """
    local = _local(layers, update, knowledge, head, len(labels))
    best: Trained | None = None
    for tried in _guessed(local, labels, guesses):
        found = _read(local, tried, rng, is_up, attempts)
        best = found if best is None or found.residual < best.residual else best
        if bool(best.certain.any()) or is_up():
            break
    assert best is not None
    return best


def check_followed(layers: Sequence[Dense], update: Update, knowledge: ServerKnowledge) -> None:
    """Raises NotApplicable unless several local steps of these clients can be followed."""
    training, count, clients = knowledge.local_training, knowledge.num_examples, knowledge.num_clients
    if not isinstance(training, FedAvg) or count is None or knowledge.client_sizes is not None or count % clients:
        raise NotApplicable(
            "several local steps are followed where the protocol and the number of examples are known, and all clients"
            " hold equally many"
        )
    if not training.rule.is_linear or training.conditions != Conditions():
        raise NotApplicable(
            "several local steps are followed where clients train by SGD without clipping, augmentation or another"
            " precision"
        )
    if count > MOST:
        raise NotApplicable(f"several local steps are followed of {MOST} examples at most, and there are {count}")
    if len(Order.of(training, count, clients).used()) < count:
        raise NotApplicable(f"drop_last leaves some of the clients' {count} examples out")
    names = [n for layer in layers for n in (layer.weight, layer.bias) if n is not None]
    if len(set(names)) < len(names):
        raise NotApplicable("two layers of the network share a parameter")
    if layers[0].weight not in update.values:
        raise NotApplicable(f"the update does not hold {layers[0].weight!r}, which reads the inputs")


def _local(layers: Sequence[Dense], update: Update, knowledge: ServerKnowledge, head: Head, count: int) -> _Local:
    check_followed(layers, update, knowledge)
    training, path = knowledge.local_training, client_path(knowledge, count)
    assert isinstance(training, FedAvg)
    assert path is not None
    names = [n for layer in layers for n in (layer.weight, layer.bias) if n is not None]
    gradient = mean_gradient(update, knowledge, [n for n in names if n in update.values], count).values
    steps = training.local_steps(count // knowledge.num_clients)
    noise = {k: _noise(update, knowledge, k, steps) for k in gradient}
    return _Local(layers, update, knowledge, training, path, count, gradient, head, noise)


def _noise(update: Update, knowledge: ServerKnowledge, name: str, steps: int) -> float:
    """The standard deviation of what an entry of a tensor is off, by rounding."""
    moved, start = update.values[name], knowledge.model.params[name]
    made = max(torch.finfo(start.dtype).eps, torch.finfo(moved.dtype).eps)
    sent = torch.finfo(precision_of([moved])).eps
    return (ROUNDED * made * _size(start) * steps**0.5) + max(COMPUTED * made, sent) * _size(moved)


def _size(value: Tensor) -> float:
    return float(value.double().square().mean().sqrt())


def _guessed(local: _Local, labels: Tensor, guesses: int) -> Iterator[Tensor]:
    if local.knowledge.labels is not None or guesses == 1:
        return iter([labels])
    classes = len(local.head.weight)
    expected = torch.bincount(labels, minlength=classes).double()
    return islice(likely_multisets(expected, len(labels), labels), guesses)


def _read(local: _Local, labels: Tensor, rng: torch.Generator, is_up: Callable[[], bool], attempts: int) -> Trained:
    space = Space.of(local.layers[0], local.gradient, local.count)
    target = _target(local, space, labels)
    fit = _tried(local, target, rng, is_up)
    for _ in range(attempts - 1):
        if fit.residual <= ENOUGH or is_up():
            break
        again = _tried(local, target, rng, is_up)
        fit = again if again.cost < fit.cost else fit
    inputs, residual = space.inputs(fit.mixing), fit.residual
    residual = max(residual, _replayed(local, inputs, labels, fit.order)) if residual <= ENOUGH else residual
    certain = (_deviations(local, target, fit) < PINNED) & (residual <= ENOUGH)
    return Trained(inputs, labels, certain, residual)


def _tried(local: _Local, target: Target, rng: torch.Generator, is_up: Callable[[], bool]) -> Fit:
    """What a first guess leads to."""
    order = Order.of(local.training, local.count, local.knowledge.num_clients)
    first = _first_order(local, target.clients.labels, order, rng, is_up)
    last, granted = local.layers[-1], local.knowledge.labels is not None
    head = [n for n in (last.weight, last.bias) if n is not None]
    free = Freedom(not granted, local.training.shuffle and local.training.draws is None)
    return solved(target, head, target.space.mixing(first), order, free, is_up)


def _first_order(
    local: _Local, labels: Tensor, order: Order, rng: torch.Generator, is_up: Callable[[], bool]
) -> Float[Tensor, "n d"]:
    """Inputs by the equations of one gradient in the middle of the way."""
    head = local.head
    left, sizes, right = torch.linalg.svd(head.rows.double(), full_matrices=False)
    kept = slice(local.count)  # what several epochs add to the rank is of second order
    told = disaggregate(
        (left[:, kept] * sizes[kept]) @ right[kept],
        head.weight,
        head.bias,
        labels,
        non_negative=head.non_negative,
        rng=rng,
        errors=head.errors,
        effort=STARTS,
        is_up=is_up,
        shares=_shares(local, labels, order),
    )
    if len(told.labels) < local.count:
        raise NotApplicable(
            f"{local.count - len(told.labels)} of {local.count} examples send nothing above rounding, and several local"
            " steps are followed where all do"
        )
    down = descend(local.layers, local.middle, local.gradient, told)
    if down.left:
        raise NotApplicable(f"{down.left} layers before the head were not passed: {down.ended}")
    return down.inputs


def _shares(local: _Local, labels: Tensor, order: Order) -> Float[Tensor, " n"]:
    """Each example's share in the mean gradient."""
    shares = local.head.rows.new_zeros(len(labels), dtype=torch.float64)
    weights = step_weights(local.training, local.count // len(order.clients))
    for steps in order.clients:
        for weight, step in zip(weights.tolist(), steps, strict=True):
            for part in step:
                rows = list(part)
                shares[rows] += weight / len(step) * local.head.errors.shares(labels[rows])
    return shares / len(order.clients)


def _target(local: _Local, space: Space, labels: Tensor) -> Target:
    """The whole training, in the coordinates of the first layer's row space."""
    seen, first = space.within(local.layers[0], {k: local.moved[k] for k in local.gradient}), local.layers[0]
    layers = [replace(first, bias=None if space.affine else first.bias), *local.layers[1:]]
    params = space.within(first, local.start)
    clients = Clients(layers, params, tuple(seen), local.training, local.head.errors, labels)
    return Target(clients, space, seen, {k: local.noise[k] for k in seen})


def _replayed(local: _Local, inputs: Float[Tensor, "n d"], labels: Tensor, order: Order) -> float:
    """What the clients' own code makes of the inputs: the worst tensor's root mean square error, over its noise."""
    model = local.knowledge.model
    z = inputs.reshape(len(inputs), *model.input.encoded_shape).to(model.like)
    ends = list[Params]()
    for steps in order.clients:
        state = first_state(model, local.training)
        for number, step in enumerate(steps):
            turn = Turn(number, len(steps), list(step))
            state = local_step(model, state, z, labels, local.training, turn)
        ends.append({k: v.detach().double() for k, v in state.params.items()})
    off = {k: local.start[k] - torch.stack([e[k] for e in ends]).mean(0) - local.moved[k] for k in local.moved}
    return max(_size(v) / local.noise[k] if k in local.noise else torch.inf for k, v in off.items())


def _deviations(local: _Local, target: Target, fit: Fit) -> Float[Tensor, " n"]:
    """The standard deviation of each input over its distance from the others' mean, by rounding.

    The row space of the first layer's update is off by rounding, too, most in its weakest directions.
    """
    slopes, n = target.slopes(fit.mixing, fit.order), len(fit.mixing)
    values, vectors = torch.linalg.eigh(slopes @ slopes.T)
    root = (vectors / values.clamp_min(FLOOR * values[-1]).sqrt()).reshape(n, n, -1)  # [a, b, direction]
    within = torch.einsum("abu,bc,acu->a", root, fit.mixing @ fit.mixing.T, root)
    space, first = target.space, local.layers[0].weight
    tilt = local.noise[first] / abs(local.path.gradient) * space.basis.shape[1] ** 0.5 / space.sizes
    outside = (fit.mixing * tilt).square().sum(1)
    apart = fit.mixing - fit.mixing.mean(0) if n > 1 else fit.mixing
    return (within + outside).clamp_min(0).sqrt() / apart.norm(dim=1).clamp_min(1e-300)
