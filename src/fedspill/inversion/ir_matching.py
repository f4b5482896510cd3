"""From intermediate representations back to images: Maui (Dabholkar et al. 2025, arXiv 2509.11451), Algorithm 1.

Stated: AdamW with a step schedule on the weights of a U-Net, KL and MSE on the representation, total variation,
Gaussian noise on the seed every so often. The paper's numbers are not at hand, so the defaults were measured
(benchmarks/ir_matching.py). Neither noise nor weight decay helped, so both are off unless asked for.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.roles import UNWATCHED, Watch
from fedspill.inversion.ir_distance import relative_distance
from fedspill.inversion.ir_search import IRSearch
from fedspill.inversion.ir_settings import IRMatching, Start
from fedspill.inversion.transfer import Extractor


@dataclass(frozen=True)
class Matched:
    """What was found; images stand in the order of their representations.

    Attributes:
        inputs: of the lowest objective, inside the bounds.
        objective: mean over images, for each step.
        distance: of each image's representation from the wanted one, over the length of the wanted one.
        complete: False if the budget ended first.
    """

    inputs: Float[Tensor, "m c h w"]
    objective: tuple[float, ...]
    distance: Float[Tensor, " m"]
    complete: bool


def match_representations(
    extractor: Extractor,
    spec: ImageSpec,
    targets: Float[Tensor, "m d"],
    settings: IRMatching,
    rng: torch.Generator,
    watch: Watch = UNWATCHED,
    decoder: Start | None = None,
) -> Matched:
    """Images whose representations are `targets`, searched for side by side and independently.

    All images start alike and get the same noise, so an image's result does not depend on what else is in the batch,
    but for the rounding of batched arithmetic.

    Args:
        extractor: inputs in encoded form to representations.
        spec: what images are.
        targets: the representations; moved to the extractor's device and dtype.
        settings: how.
        rng: on the CPU; of seeds, weights and noise.
        watch: hears of the progress, keeps the state, ends the search.
        decoder: gives a first guess, at which `prior="decoder"` starts and to which an anchor ties the search.

    Raises:
        BadInput: there is no representation, one is not finite or of another length than the extractor's, or a decoder
            is needed.
    """
    targets = _checked(extractor, spec, targets)
    search = IRSearch(extractor.function(), spec, settings, rng, decoder)
    groups = [search.group(part) for part in targets.split(settings.together)]
    complete = search.run(groups, watch)
    inputs = torch.cat([g.best for g in groups])
    with torch.no_grad():
        got = [search.represent(spec.encode(g.best)) for g in groups]
    return Matched(inputs, tuple(search.history), relative_distance(torch.cat(got), targets), complete)


def _checked(extractor: Extractor, spec: ImageSpec, targets: Tensor) -> Tensor:
    like = extractor.model.like
    with torch.no_grad():
        length = extractor(like.new_zeros(1, *spec.shape)).shape[1]
    if len(targets) == 0 or targets.shape[1] != length or not bool(targets.isfinite().all()):
        raise BadInput(
            f"representations of shape {tuple(targets.shape)} were got;"
            f" at least one, of {length} finite numbers, is needed"
        )
    return targets.detach().to(like)
