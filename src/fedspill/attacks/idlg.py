"""Improved Deep Leakage from Gradients: read the label off the head's gradient, then search for the image.

Zhao, Mopuri, Bilen: "iDLG: Improved Deep Leakage from Gradients", 2020, arXiv:2001.02610.
"""

from dataclasses import dataclass, replace

import torch

from fedspill.core.errors import BadInput
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.roles import UNWATCHED, Attack, Card, Watch
from fedspill.core.types import Reconstruction, Update
from fedspill.inversion.matching.deep_leakage import DeepLeakage
from fedspill.inversion.matching.hypotheses import Unknowns
from fedspill.inversion.search.step_rules import LBFGS


@dataclass(frozen=True)
class IDLG:
    """Labels inferred analytically (never the granted ones), then DLG over the images alone.

    Attributes:
        steps: outer iterations of one run.
        lr: step of L-BFGS (no line search), 20 evaluations in one iteration, history 100.
        restarts: runs at most; they end as soon as one falls below `tolerance`, and one that diverged is given
            up after 50 iterations.
        tolerance: the squared distance at which the gradients count as equal.
        unknowns: how to guess what the server was not granted, labels among it.
        converged_below: share of a blank image's cosine distance of updates below which the search calls itself
            converged.
    """

    steps: int = 300
    lr: float = 1.0
    restarts: int = 16
    tolerance: float = 1e-6
    unknowns: Unknowns = Unknowns()
    converged_below: float = 1e-3

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise BadInput(f"steps={self.steps}, restarts={self.restarts}: both must be at least 1")

    def evaluations(self) -> int:
        """How often one run evaluates its objective, at most."""
        return self.steps * LBFGS(self.lr).evaluations

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """Infers the labels, then searches for the images."""
        count = knowledge.num_examples if knowledge.labels is None else len(knowledge.labels)
        search = DeepLeakage(
            rule=LBFGS(self.lr),
            steps=self.steps,
            restarts=self.restarts,
            tolerance=self.tolerance,
            give_up=(50, 1e-1),
            unknowns=self.unknowns,
            converged_below=self.converged_below,
        )
        blind = replace(knowledge, labels=None, num_examples=count)
        return search.reconstruct(update, blind, rng, watch, joint_labels=False)


CARD: Card[Attack] = Card(
    title="Improved Deep Leakage from Gradients",
    paper="Zhao, Mopuri & Bilen, 2020, arXiv:2001.02610",
    summary="Reads the labels off the head's gradient, then L-BFGS on the squared distance over the images alone.",
    iterative=True,
    presets={"paper": IDLG(), "quick": IDLG(steps=100, restarts=4)},
)
