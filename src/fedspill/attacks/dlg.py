"""Deep Leakage from Gradients: search for images and labels whose gradient equals the observed one.

Zhu, Liu, Han: "Deep Leakage from Gradients", NeurIPS 2019, arXiv:1906.08935. With known labels this is the
"Euclidean loss + L-BFGS" baseline of Inverting Gradients (eq. 3).
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.roles import UNWATCHED, Attack, Card, Watch
from fedspill.core.types import Reconstruction, Update
from fedspill.inversion.matching.deep_leakage import DeepLeakage
from fedspill.inversion.matching.hypotheses import Unknowns
from fedspill.inversion.search.step_rules import LBFGS


@dataclass(frozen=True)
class DLG:
    """L-BFGS on the squared distance of gradients; works for smooth, shallow networks and few images.

    Attributes:
        labels: "joint" searches for class probabilities together with the images (the paper), "granted" takes
            those that the server was granted.
        steps: outer iterations of one run.
        lr: step of L-BFGS (no line search), 20 evaluations in one iteration, history 100.
        restarts: runs at most; they end as soon as one falls below `tolerance`, and one that diverged is given
            up after 50 iterations.
        tolerance: the squared distance at which the gradients count as equal.
        unknowns: how to guess what the server was not granted.
        converged_below: share of a blank image's cosine distance of updates below which the search calls itself
            converged.
    """

    labels: Literal["joint", "granted"] = "joint"
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
        """Searches for images, and for labels unless they are to be granted."""
        joint = self.labels == "joint"
        if not joint and knowledge.labels is None:
            raise NotApplicable("dlg with labels='granted' needs the grant 'labels', which the server lacks")
        search = DeepLeakage(
            rule=LBFGS(self.lr),
            steps=self.steps,
            restarts=self.restarts,
            tolerance=self.tolerance,
            give_up=(50, 1e-1),
            unknowns=self.unknowns,
            converged_below=self.converged_below,
        )
        known = replace(knowledge, labels=None, num_examples=_count(knowledge)) if joint else knowledge
        return search.reconstruct(update, known, rng, watch, joint_labels=joint)


def _count(knowledge: ServerKnowledge) -> int | None:
    return knowledge.num_examples if knowledge.labels is None else len(knowledge.labels)


CARD: Card[Attack] = Card(
    title="Deep Leakage from Gradients",
    paper="Zhu, Liu & Han, NeurIPS 2019, arXiv:1906.08935",
    summary="L-BFGS on the squared distance of gradients, images and labels together; for smooth, shallow networks.",
    iterative=True,
    presets={
        "paper": DLG(),
        "granted_labels": DLG(labels="granted"),
        "quick": DLG(steps=100, restarts=4),
    },
)
