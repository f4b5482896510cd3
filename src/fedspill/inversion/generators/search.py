"""The search of GIAS: for latents, then for the generator's weights, then for pixels; each goes on from the one before.

Weights are tuned for each image by itself, so that the generator may leave what it was trained on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.inputs import ImageSpec
from fedspill.core.roles import Forecast, State, Watch
from fedspill.core.watching.clock import OutOfTime
from fedspill.core.watching.nested import JobsWatch
from fedspill.inversion.generators.generator import Generator
from fedspill.inversion.matching.forward_model import ForwardModel
from fedspill.inversion.priors.total_variation import each_vectorial_variation
from fedspill.inversion.search.problem import Found, Problem
from fedspill.inversion.search.sequential import Search
from fedspill.inversion.search.step_rules import Variables

StageName = Literal["latents", "weights", "pixels"]


@dataclass(frozen=True)
class Terms:
    """What is minimised beside the distance of updates.

    Attributes:
        likely: weight of the latents' mean square, which is 1 for drawn ones, in shares of the distance.
        tv: weight of the total variation of what the network is given, likewise, while weights or pixels are searched.
    """

    likely: float
    tv: float

    def of_latents(self, distance: Tensor, latents: Tensor) -> Float[Tensor, ""]:
        """The objective of latents."""
        return distance * (self.likely * latents.square().mean()).exp() if self.likely else distance

    def of_images(self, distance: Tensor, z: Tensor) -> Float[Tensor, ""]:
        """The objective of encoded images."""
        return distance * (self.tv * each_vectorial_variation(z[None])[0]).exp() if self.tv else distance


@dataclass(frozen=True)
class Stage:
    """One of the three searches: what it varies, for how long, in what steps."""

    name: StageName
    search: Search

    @property
    def iterations(self) -> int:
        """Of all runs of one hypothesis, at most."""
        return self.search.steps * self.search.restarts


@dataclass(frozen=True)
class Reached:
    """Where a search stands after a stage.

    Attributes:
        assumed: index of the hypothesis that is gone on with.
        found: of the stage.
        latents: of the first stage.
        z: images, encoded, in their range.
        stages: those that gave something.
        by_assumed: the lowest objective of every hypothesis in the search of latents.
    """

    assumed: int
    found: Found
    latents: Float[Tensor, "n ..."]
    z: Float[Tensor, "n c h w"]
    stages: tuple[StageName, ...]
    by_assumed: tuple[float, ...]


@dataclass(frozen=True)
class GenerativeSearch:
    """One job's search.

    Attributes:
        generator: as `checked` gives it.
        assumed: what may be; for latents all are searched, and the best is gone on with.
        terms: of the objectives.
    """

    generator: Generator
    assumed: Sequence[ForwardModel]
    terms: Terms

    def run(self, stages: Sequence[Stage], rng: torch.Generator, watch: Watch) -> Reached:
        """The images of the last stage that the budget allows; a broken run goes on in the stage that it was in.

        Args:
            stages: that of latents first.

        Raises:
            OutOfTime: the time was up before anything was evaluated.
        """
        parts, reached = JobsWatch(watch), None
        for number, stage in enumerate(stages):
            try:
                found = self._found(stage, _StageWatch.of(stages, number, watch, parts), reached, rng, parts)
            except OutOfTime:
                if reached is None:
                    raise
                return replace(reached, found=replace(reached.found, complete=False))
            reached = self._reached(stage.name, found, reached)
            if not found.complete:
                break
        assert reached is not None, "there is a stage"
        return reached

    def _found(
        self, stage: Stage, watch: Watch, before: Reached | None, rng: torch.Generator, parts: JobsWatch
    ) -> Found:
        if (kept := parts.kept(stage.name)) is not None:
            return Found(**kept)
        problems = self._problems(stage.name, before)
        found = stage.search.run(problems, rng, watch)
        for assumed in self.assumed:
            assumed.release()
        parts.keep(stage.name, {stage.name: dict(found.__dict__)}, complete=found.complete)
        return found

    def _problems(self, name: StageName, before: Reached | None) -> list[Problem]:
        if before is None:
            return [self._latents(a) for a in self.assumed]
        assumed = self.assumed[before.assumed]
        return [self._weights(assumed, before) if name == "weights" else self._pixels(assumed, before)]

    def _latents(self, assumed: ForwardModel) -> Problem:
        count, like = assumed.hypothesis.num_examples, assumed.matching.model.like
        distance = self._distance(assumed)

        def draw(rng: torch.Generator) -> Variables:
            return [self.generator.draw(count, rng, like)]

        def value(variables: Variables) -> Float[Tensor, ""]:
            return self.terms.of_latents(distance(self._encoded(self.generator.images(variables[0]))), variables[0])

        return Problem(draw, value, _anywhere)

    def _weights(self, assumed: ForwardModel, before: Reached) -> Problem:
        distance = self._distance(assumed)

        def draw(rng: torch.Generator) -> Variables:
            return self.generator.stacked_weights(len(before.latents))

        def value(variables: Variables) -> Float[Tensor, ""]:
            z = self._encoded(self.generator.images_by(variables, before.latents))
            return self.terms.of_images(distance(z), z)

        return Problem(draw, value, _anywhere)

    def _pixels(self, assumed: ForwardModel, before: Reached) -> Problem:
        distance = self._distance(assumed)

        def draw(rng: torch.Generator) -> Variables:
            return [before.z.clone()]

        def value(variables: Variables) -> Float[Tensor, ""]:
            return self.terms.of_images(distance(variables[0]), variables[0])

        def project(variables: Variables) -> None:
            variables[0].copy_(self._spec.project(variables[0]))

        return Problem(draw, value, project)

    def _reached(self, name: StageName, found: Found, before: Reached | None) -> Reached:
        variables = found.variables
        with torch.no_grad():
            if before is None:
                z = self._encoded(self.generator.images(variables[0]))
                return Reached(
                    found.problem, found, variables[0], self._spec.project(z), (name,), found.best_by_problem
                )
            weights = name == "weights"
            z = self._encoded(self.generator.images_by(variables, before.latents)) if weights else variables[0]
        return replace(before, found=found, z=self._spec.project(z), stages=(*before.stages, name))

    def _distance(self, assumed: ForwardModel) -> Callable[[Tensor], Tensor]:
        compared, labels = assumed.distance(), assumed.labels
        return lambda z: compared(z, labels)

    @property
    def _spec(self) -> ImageSpec:
        return cast("ImageSpec", self.assumed[0].matching.model.input)

    def _encoded(self, images: Tensor) -> Tensor:
        return self._spec.encode(images)


def _anywhere(variables: Variables) -> None:
    """Latents and weights have no bounds."""


@dataclass(frozen=True)
class _StageWatch:
    """The watch of one stage: progress, forecast and plans are those of all.

    Attributes:
        part: keeps its state.
        before, own, all: iterations.
    """

    whole: Watch
    part: Watch
    before: int
    own: int
    all: int

    @classmethod
    def of(cls, stages: Sequence[Stage], number: int, watch: Watch, parts: JobsWatch) -> "_StageWatch":
        each = [stage.iterations for stage in stages]
        part = parts.watch(stages[number].name, number, 1, len(stages))
        return cls(watch, part, sum(each[:number]), each[number], sum(each))

    def progress(self, done: int, total: int, objective: float) -> None:
        self.whole.progress(self.before + min(self.own, self.own * done // max(1, total)), self.all, objective)

    def save(self, state: Callable[[], State], *, last: bool = False) -> None:
        self.part.save(state, last=last)

    def load(self) -> State | None:
        return self.part.load()

    def out_of_time(self) -> bool:
        return self.whole.out_of_time()

    def forecast(self, forecast: Callable[[], Forecast]) -> None:
        if self.before == 0:
            self.whole.forecast(lambda: replace(forecast(), iterations=self.all))

    def quality(self) -> float | None:
        return self.whole.quality()

    def planned(self, steps: int, restarts: int, seconds: float) -> tuple[int, int]:
        return self.whole.planned(steps, restarts, seconds * (self.all - self.before) / self.own)
