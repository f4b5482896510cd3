"""Learned inversion: a network trained on updates of public examples, computed with the clients' defence, inverts one.

Wu, Chen, Guo, Weinberger: "Learning To Invert: Simple Adaptive Attacks for Gradient Inversion in Federated Learning",
UAI 2023, arXiv:2210.10880. Where the server knows of the defence its simulated clients apply it, so that whatever a
defence does to an update is learned: signs, pruning, noise, or several of them. What it takes is public examples.
"""

from dataclasses import dataclass

import torch

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec
from fedspill.core.knowledge import Knows, ServerKnowledge
from fedspill.core.roles import UNWATCHED, Attack, Card, Watch
from fedspill.core.settings import with_fields
from fedspill.core.types import Reconstruction, Update
from fedspill.inversion.learned.readout import Simulation, concluded, learn
from fedspill.inversion.learned.training import Learning


@dataclass(frozen=True)
class LearnedInversion:
    """A network from updates to examples, trained for one update, its model and its protocol.

    Attributes:
        simulation: what it is trained on; a plan names its fields as its own.
        learning: how; likewise.
        converged_below: share of the public mean's squared error on held-out public examples below which the training
            calls itself converged.

    Raises:
        BadInput: a share out of range.
    """

    simulation: Simulation = Simulation()
    learning: Learning = Learning()
    converged_below: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.converged_below <= 1:
            raise BadInput(f"converged_below={self.converged_below} must be from 0 to 1")

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """Simulates updates of public examples, learns to invert them, and reads the observed one.

        Raises:
            NotApplicable: the clients cannot be simulated, or there are too few public examples.
            OutOfTime: the time was up before there was anything to read with.
        """
        inversion = learn(update, knowledge, self.simulation, self.learning, rng, watch)
        return concluded(inversion, update, knowledge, self.converged_below)


_PAPER = LearnedInversion()
# Chosen on public photographs, and on private ones that are in no table (docs/defences.md).
_STRONG = with_fields(
    _PAPER,
    pairs=3000,
    features=2048,
    reads=True,
    labels="private",
    hidden=512,
    epochs=10,
    minibatch=128,
    lr=3e-4,
    patience=4,
    linear=True,
)

CARD: Card[Attack] = Card(
    title="Learned inversion",
    paper="Wu et al., UAI 2023, arXiv:2210.10880",
    summary="Trains a network on simulated updates of public examples, defences included, to invert updates.",
    iterative=True,
    presets={"paper": _PAPER, "quick": with_fields(_STRONG, pairs=500, features=1024, epochs=0), "strong": _STRONG},
    needs=frozenset({Knows.PUBLIC_DATA, Knows.NUM_EXAMPLES, Knows.LOCAL_TRAINING}),
    accepts=frozenset({ImageSpec, TableSpec}),
    standard=False,  # it takes a training for every update
)
