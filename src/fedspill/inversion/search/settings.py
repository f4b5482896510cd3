"""The settings of a search by first-order steps, and the loop that they ask for."""

from dataclasses import dataclass
from typing import Literal

from fedspill.core.errors import BadInput
from fedspill.core.roles import Watch
from fedspill.core.settings import Group
from fedspill.inversion.search.batched import BatchedSearch
from fedspill.inversion.search.sequential import Search
from fedspill.inversion.search.step_rules import LBFGS, Schedule, SignedAdam, StepRule


@dataclass(frozen=True)
class SearchSettings(Group):
    """How an objective is minimised. The defaults are those of Inverting Gradients (arXiv:2003.14053, appendix C).

    Attributes:
        steps: iterations of one run (the paper: 4,800 for its tables, up to 24,000).
        lr: Adam's step in normalised space, in [0.01, 1].
        schedule: how the step size falls: "drops" to a tenth after 3/8, 5/8 and 7/8 of the run (paper), or "cosine".
        signed: give Adam the sign of the gradient.
        boxed: keep the candidate inside the range of valid images.
        optimiser: "adam", or "lbfgs" as an ablation.
        restarts: runs from different starts; the lowest objective is kept.
        batched: all restarts at once (Adam only), which needs the memory of all of them; the result is the same up to
            rounding. On a GPU it saves most of the time; on a CPU little.
        graph: batched runs on a CUDA device are captured as a CUDA graph.

    Raises:
        BadInput: a number is out of range, or L-BFGS, whose step depends on all variables, is to run batched.
    """

    steps: int = 4800
    lr: float = 0.1
    schedule: Schedule = "drops"
    signed: bool = True
    boxed: bool = True
    optimiser: Literal["adam", "lbfgs"] = "adam"
    restarts: int = 1
    batched: bool = False
    graph: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise BadInput(f"steps={self.steps}, restarts={self.restarts}: both must be at least 1")
        if not self.lr > 0:
            raise BadInput(f"lr={self.lr} must be above 0")
        if self.batched and self.optimiser == "lbfgs":
            raise BadInput(
                "batched=true was got with optimiser='lbfgs', whose step depends on all variables; use 'adam'"
            )

    def rule(self) -> StepRule:
        """How a step is made."""
        return SignedAdam(self.lr, self.signed, self.schedule) if self.optimiser == "adam" else LBFGS(self.lr)

    def loop(self, watch: Watch) -> Search | BatchedSearch:
        """The search of one job. A watch that asks for a quality compares runs while they go on: two at least."""
        rule = self.rule()
        asked = watch.quality() is not None
        if isinstance(rule, SignedAdam) and (asked or self.batched):
            return BatchedSearch(rule, self.steps, max(2, self.restarts) if asked else self.restarts, graph=self.graph)
        return Search(rule, self.steps, self.restarts)

    def stacked(self, watch: Watch) -> BatchedSearch | None:
        """The search of many jobs in one stack, if they may share it: a quality is estimated for one job at a time."""
        rule = self.rule()
        if watch.quality() is not None or not isinstance(rule, SignedAdam):
            return None
        return BatchedSearch(rule, self.steps, self.restarts, graph=self.graph)
