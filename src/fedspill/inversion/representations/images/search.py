"""The search for images behind intermediate representations: Maui (Dabholkar et al. 2025, arXiv 2509.11451), Alg. 1.

Stated: AdamW with a step schedule on the weights of a U-Net, KL and MSE on the representation, total variation,
Gaussian noise on the seed every so often. The paper's numbers are not at hand, so the defaults were measured
(benchmarks/representations/inversion.py). Neither noise nor weight decay helped there, so the defaults of
`IRMatching` and its `PRESETS` have neither. The malicious server `maui` asks for both in its search of a U-Net
(`UNET` in tamperings/maui.py), as the paper has noise on the seed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.rng import randn
from fedspill.core.roles import UNWATCHED, State, Watch
from fedspill.core.watching.clock import OutOfTime, Pace
from fedspill.inversion.network.extractor import Extractor
from fedspill.inversion.priors.total_variation import each_total_variation
from fedspill.inversion.representations.images.candidates import Candidates, Generated, Pixels
from fedspill.inversion.representations.images.distance import divergence, relative_distance, scaled_mse
from fedspill.inversion.representations.images.settings import IRMatching, Start


@dataclass
class Group:
    """Images that pass the networks together."""

    targets: Float[Tensor, "m d"]
    anchor: Float[Tensor, "m c h w"] | None
    candidates: Candidates
    optimiser: torch.optim.Optimizer
    best: Float[Tensor, "m c h w"]
    lowest: Float[Tensor, " m"]

    def note(self, images: Tensor, values: Tensor) -> None:
        """Keeps each image whose objective is its lowest so far."""
        better = values < self.lowest
        self.best = torch.where(better.view(-1, 1, 1, 1), images, self.best)
        self.lowest = torch.where(better, values, self.lowest)

    def state(self) -> dict[str, Any]:
        """What `resume` takes."""
        return {
            "candidates": [v.detach() for v in self.candidates.tensors],
            "optimiser": self.optimiser.state_dict(),
            "best": self.best,
            "lowest": self.lowest,
        }

    def resume(self, state: State) -> None:
        """Goes on from a state."""
        with torch.no_grad():
            for tensor, kept in zip(self.candidates.tensors, state["candidates"], strict=True):
                tensor.copy_(kept)
        self.optimiser.load_state_dict(state["optimiser"])
        self.best, self.lowest = state["best"].to(self.best), state["lowest"].to(self.lowest)


class IRSearch:
    """One search; `history` holds the mean objective of every step."""

    def __init__(
        self,
        represent: Callable[[Tensor], Tensor],
        spec: ImageSpec,
        settings: IRMatching,
        rng: torch.Generator,
        decoder: Start | None,
    ) -> None:
        self.represent, self.spec, self.settings, self.rng, self.decoder = represent, spec, settings, rng, decoder
        self.history = list[float]()
        self.step = 0
        self.first = rng.get_state()

    def group(self, targets: Tensor) -> Group:
        """Fresh candidates; every group draws the same numbers."""
        self.rng.set_state(self.first)
        settings, anchor = self.settings, self._anchor(targets)
        candidates: Candidates = (
            Generated.drawn(settings.unet, self.spec, len(targets), self.rng, targets)
            if settings.prior == "unet"
            else Pixels.at(self.spec, anchor if settings.prior == "decoder" else None, len(targets), targets)
        )
        decay = settings.weight_decay if settings.prior == "unet" else 0.0
        optimiser = torch.optim.AdamW(candidates.variables, settings.schedule.lr, weight_decay=decay)
        best = targets.new_zeros(len(targets), *self.spec.shape)
        return Group(targets, anchor, candidates, optimiser, best, targets.new_full((len(targets),), torch.inf))

    def _anchor(self, targets: Tensor) -> Float[Tensor, "m c h w"] | None:
        """What the decoder says, where that is asked for."""
        if self.settings.prior != "decoder" and not self.settings.terms.anchor:
            return None
        if self.decoder is None:
            raise BadInput('prior="decoder" and an anchor need a decoder, and none was got')
        with torch.no_grad():
            return self.decoder(targets).detach().to(targets)

    def run(self, groups: list[Group], watch: Watch) -> bool:
        """All steps, or those that the budget allows; False if it ended the search.

        Raises:
            OutOfTime: the time was up before every image had a first candidate.
        """
        self._resume(groups, watch.load())
        total, pace = self.settings.schedule.iterations, Pace(watch.out_of_time)
        while self.step < total:
            jitter = self._disturb(groups)
            try:
                values = torch.cat([self._advance(g, jitter, pace) for g in groups])
            except OutOfTime:
                if any(g.lowest.isinf().any() for g in groups):
                    raise
                return False
            self.history.append(float(values.mean()))
            self.step += 1
            watch.progress(self.step, total, float(torch.cat([g.lowest for g in groups]).mean()))
            ended = watch.out_of_time()
            watch.save(lambda: self._state(groups), last=ended)
            if ended:
                return self.step == total
        return True

    def _disturb(self, groups: list[Group]) -> Tensor | None:
        """The noise of this step, the same for every image."""
        settings = self.settings
        if settings.prior != "unet" or not settings.noisy(self.step):
            return None
        like = groups[0].best
        if settings.noise.kick and self.step and self.step % settings.noise.kick_period == 0:
            kick = settings.noise.kick * randn(self.spec.shape, self.rng, like)
            for group in groups:
                group.candidates.kick(kick)
        return settings.noise.jitter * randn(self.spec.shape, self.rng, like) if settings.noise.jitter else None

    def _advance(self, group: Group, jitter: Tensor | None, pace: Pace) -> Float[Tensor, " m"]:
        """One step; gives the objective of each image before it."""
        variables = group.candidates.variables
        with pace.evaluation():
            images = group.candidates.images(jitter)
            values = self._objective(group, images)
            # Images share no variable, so the sum's gradient is each one's own.
            gradients = torch.autograd.grad(values.sum(), variables)
        group.note(images.detach(), values.detach())
        for variable, gradient in zip(variables, gradients, strict=True):
            variable.grad = gradient.sign() if self.settings.signed else gradient
        for options in group.optimiser.param_groups:
            options["lr"] = self.settings.schedule.rate(self.step)
        group.optimiser.step()
        group.candidates.project()
        return values.detach()

    def _objective(self, group: Group, images: Tensor) -> Float[Tensor, " m"]:
        settings, got = self.settings, self.represent(self.spec.encode(images))
        low, high = self.spec.bounds
        value = settings.terms.tv * each_total_variation(images) / (high - low)
        if settings.terms.kl:
            value = value + settings.terms.kl * divergence(got, group.targets)
        if settings.terms.mse:
            value = value + settings.terms.mse * scaled_mse(got, group.targets)
        if settings.terms.anchor and group.anchor is not None:
            value = value + settings.terms.anchor * ((images - group.anchor) / (high - low)).square().flatten(1).mean(1)
        return value

    def _state(self, groups: list[Group]) -> State:
        return {
            "step": self.step,
            "rng": self.rng.get_state(),
            "history": self.history,
            "groups": [g.state() for g in groups],
        }

    def _resume(self, groups: list[Group], state: State | None) -> None:
        if state is None:
            return
        self.step, self.history = state["step"], list(state["history"])
        self.rng.set_state(state["rng"])
        for group, kept in zip(groups, state["groups"], strict=True):
            group.resume(kept)


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
    groups = [search.group(chunk) for chunk in targets.split(settings.together)]
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
