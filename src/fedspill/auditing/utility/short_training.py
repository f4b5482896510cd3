"""Accuracy after a short federated training by the plan's protocol and defences; nothing of it is attacked.

A defence that stops a leak may stop learning, too. Both have to be measured on the same protocol. The server's learning
rate is chosen for each setting by itself, as clipping and signs change the size of what is sent, on examples that are
counted neither as training nor as test.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fedspill.auditing.feeding.answers import answers
from fedspill.auditing.resolving.pools import private_pool
from fedspill.auditing.resolving.scenario import Scenario
from fedspill.core.errors import BadInput
from fedspill.core.local_training.update import FedSGD
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.types import Batch
from fedspill.federation.rounds import Federation, ServerStep
from fedspill.plan.sections import UtilitySection
from fedspill.report.schema import Utility
from fedspill.zoo.data import DataPool

RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""The server's learning rates for mean gradients; of mean deltas, a step of 1 is the one that clients took."""
STEPS = (0.3, 1.0)
"""Server's learning rates for deltas."""


@dataclass(frozen=True)
class Examples:
    """Three disjoint parts of the examples.

    Attributes:
        clients: of each client that may be asked, as many as the plan says that one holds.
        chosen_by: by which the learning rate is chosen.
        counted: by which accuracy is counted.
        source: where they are from, in words.
    """

    clients: tuple[Batch, ...]
    chosen_by: Batch
    counted: Batch
    source: str


def utility(scenario: Scenario, section: UtilitySection) -> Utility:
    """The accuracy before and after the rounds.

    Args:
        scenario: whose model, protocol, defences and number of examples per client are taken.
        section: how long the training is, and on what.

    Raises:
        BadInput: labels are wanting or are no classes, or there are too few examples; says how many are needed.
    """
    began, parts = time.monotonic(), examples(scenario, section)
    before = _accuracy(scenario.model, parts.counted)
    tried = [(rate, _trained(scenario, section, parts, rate)) for rate in _rates(scenario, section)]
    scored = [(_accuracy(model, parts.chosen_by), -i) for i, (_, model) in enumerate(tried)]
    rate, after = tried[-max(scored)[1]]
    counts = torch.bincount(parts.counted.labels.flatten().cpu())
    return Utility(
        accuracy=_accuracy(after, parts.counted),
        before=before,
        guess=float(counts.max() / counts.sum()),
        rounds=section.rounds,
        clients=min(section.clients, len(parts.clients)),
        examples=sum(map(len, parts.clients)),
        held_out=len(parts.counted),
        server_lr=rate,
        source=parts.source,
        seconds=time.monotonic() - began,
    )


def examples(scenario: Scenario, section: UtilitySection) -> Examples:
    """The parts; some of the clients' examples may be those that are attacked.

    Raises:
        BadInput: there are too few, or they have no labels.
    """
    pool = _pool(scenario, section)
    if not pool.has_labels:
        raise BadInput("utility: accuracy needs labels, and these examples have none")
    each = len(scenario.groups[0]) // (1 if scenario.rounds is not None else scenario.clients.count)
    needed = section.clients * each + 2 * section.held_out
    if len(pool) < needed:
        raise BadInput(
            f"utility: {section.clients} clients of {each} examples and 2 x {section.held_out} held out need {needed}"
            f" examples, {len(pool)} were got from {pool.source}; name more in utility.data, or lower held_out"
        )
    order = torch.randperm(len(pool), generator=stream(section.seed, "utility", "order"))
    held, rest = order[: 2 * section.held_out], order[2 * section.held_out :]
    batch = pool.batch.to(scenario.model.like)
    clients = tuple(batch[part.tolist()] for part in rest.split(each) if len(part) == each)
    chosen_by, counted = (batch[part.tolist()] for part in held.split(section.held_out))
    return Examples(clients, chosen_by, counted, pool.source)


def _pool(scenario: Scenario, section: UtilitySection) -> DataPool:
    """What the plan names, else the clients' own examples: accuracy is the auditor's affair, no attacker sees it."""
    return scenario.pool if section.data is None else private_pool(section.data)


def _rates(scenario: Scenario, section: UtilitySection) -> Sequence[float]:
    if section.server_lr is not None:
        return (section.server_lr,)
    return RATES if isinstance(scenario.clients.training, FedSGD) else STEPS


def _trained(scenario: Scenario, section: UtilitySection, parts: Examples, rate: float) -> Model:
    """The server's model after the rounds, or as far as its numbers stay finite."""
    clients = scenario.clients
    federation = Federation(
        parts.clients,
        clients.training,
        ServerStep(rate, section.server_momentum),
        min(1.0, section.clients / len(parts.clients)),
        clients.defences,
        clients.draws,
        section.seed,
    )
    model = scenario.model
    try:
        for done in federation.rounds(model, section.rounds, section.seed):
            model = done.after
    except BadInput:  # it diverged: the last finite model is what there is
        return model
    return model


def _accuracy(model: Model, batch: Batch) -> float:
    """Share of the labels that are the likeliest class; 0 where the network's numbers are not finite.

    Raises:
        BadInput: labels are no classes.
    """
    found = answers(model, batch)
    if found is None:
        raise BadInput("utility: accuracy needs labels that are classes of the network's logits")
    return found.accuracy
