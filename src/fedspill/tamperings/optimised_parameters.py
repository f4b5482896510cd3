"""Parameters searched for leakage: the architecture stays, and its gradients tell more of an image than before.

Geiping, Bauermeister, Dröge, Moeller: "Inverting Gradients", NeurIPS 2020, arXiv:2003.14053, appendix A.2 (dishonest
parameter vectors), which names the idea ("at least possible in theory") and gives neither an objective nor figures.
"""

from dataclasses import dataclass, replace

import torch

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import image_spec
from fedspill.core.knowledge import Knows
from fedspill.core.model import Model
from fedspill.core.roles import UNWATCHED, Card, Tampered, Tampering, Watch
from fedspill.core.types import Batch, ServerRole
from fedspill.inversion.bilevel.rebuilding import Rebuilding
from fedspill.inversion.bilevel.search import OuterSearch, leaking_params


@dataclass(frozen=True)
class OptimisedParameters:
    """Searches parameters by whose gradients public images are rebuilt best; brings no readout.

    The plan's attacks run on what it made. Inside, an image is rebuilt by a few steps of descent on the cosine
    distance of gradients; what is left of the error is differentiated by the parameters. The search begins at the
    model's own parameters, which stay if nothing is better on held-out public images. Networks in train mode are
    searched in eval mode.

    Attributes:
        search: of the parameters.
        inner_steps: of the descent inside.
        inner_lr: its first step in normalised pixels (root mean square).
    """

    search: OuterSearch = OuterSearch()
    inner_steps: int = 12
    inner_lr: float = 0.3

    def __post_init__(self) -> None:
        if self.inner_steps < 1 or not self.inner_lr > 0:
            raise BadInput(
                f"inner_steps={self.inner_steps}, inner_lr={self.inner_lr}: at least 1 step, and a length above 0"
            )

    def tamper(
        self, model: Model, public_data: Batch | None, round: int, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Tampered:
        """The model with other parameters, as good as the budget allowed.

        Raises:
            NotApplicable: the model takes no images, or there are fewer than 2 public ones.
        """
        image_spec(model.input)
        if public_data is None or len(public_data) < 2:
            got = 0 if public_data is None else len(public_data)
            raise NotApplicable(f"{got} public images were got; at least 2 are needed, to search on and to judge by")
        inner = Rebuilding(self.inner_steps, self.inner_lr)
        found = leaking_params(model, public_data, inner, self.search, rng, watch)
        return Tampered(model.with_params(found))


_PAPER = OptimisedParameters()
_STRONG = OptimisedParameters(
    OuterSearch(images=8, held_out=16, judge_every=10, noise=1.0), inner_steps=4, inner_lr=0.6
)

CARD: Card[Tampering] = Card(
    title="Optimised parameters",
    paper="Geiping et al., NeurIPS 2020, arXiv:2003.14053, appendix A.2",
    summary="Searches parameters, on public images, by whose gradients images are rebuilt best.",
    presets={
        "paper": _PAPER,
        "quick": replace(_STRONG, search=replace(_STRONG.search, steps=40, images=2, held_out=4)),
        "strong": _STRONG,
    },
    role=ServerRole.MALICIOUS_PARAMETERS,
    needs=frozenset({Knows.PUBLIC_DATA}),
    iterative=True,
)
