"""Searches of many jobs under one watch: those that are alike in stacks, the others one after the other."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.local_update import FedSGD
from fedspill.core.roles import Watch
from fedspill.inversion.batched_search import BatchedSearch
from fedspill.inversion.distances import cosine_distance
from fedspill.inversion.hypotheses import Hypothesis
from fedspill.inversion.known_activations import KnownActivations
from fedspill.inversion.many import MatchingMany
from fedspill.inversion.matching import Matching
from fedspill.inversion.parts import Parts
from fedspill.inversion.search import Found, Problem, Search

Objective = Callable[[Float[Tensor, " r"], Float[Tensor, "r n ..."]], Float[Tensor, " r"]]
"""Distances and candidates to what is minimised."""


@dataclass(frozen=True)
class Pending:
    """One job's search, ready to start.

    Attributes:
        tried, matchings, problems: the hypotheses, each with its distance and its objective.
        known: what a candidate must agree with beside the update.
        note: for the report, on what is known.
        rng: from which the starts are drawn.
    """

    tried: list[Hypothesis]
    matchings: list[Matching]
    problems: list[Problem]
    known: KnownActivations | None
    note: str
    rng: torch.Generator

    @property
    def labels(self) -> Tensor:
        """Of the first hypothesis, beside the model."""
        labels, matching = self.tried[0].labels, self.matchings[0]
        assert labels is not None, "an attack that takes many jobs infers the labels that were not granted"
        return labels.to(matching.model.like.device)


@dataclass(frozen=True)
class Searching:
    """How an attack searches.

    Attributes:
        alone: one job.
        together: jobs in a stack; None if the attack cannot.
        objective: from distances.
    """

    alone: Callable[[Watch], Search | BatchedSearch]
    together: BatchedSearch | None
    objective: Objective

    def run(self, pending: Mapping[int, Pending], parts: Parts) -> dict[int, Found]:
        """What was found for each job, by its number; a broken run goes on in the stack that it was in.

        Raises:
            BadInput: a search needs more memory than there is.
        """
        found = {i: Found(**state) for i in pending if (state := parts.kept(f"found {i}")) is not None}
        for numbers, many in self._taken_together({i: p for i, p in pending.items() if i not in found}):
            jobs, name = [pending[i] for i in numbers], f"search {numbers}"
            watch = parts.watch(name, len(found), len(numbers), len(pending))
            if many is None or self.together is None:
                results = [self.alone(watch).run(jobs[0].problems, jobs[0].rng, watch)]
            else:
                results = self.together.run_many(self._joint(many, jobs), [job.rng for job in jobs], watch)
            found |= dict(zip(numbers, results, strict=True))
            parts.keep(name, {f"found {i}": dict(found[i].__dict__) for i in numbers})
            if many is not None:
                many.release()
        return found

    def _taken_together(self, pending: dict[int, Pending]) -> Iterator[tuple[list[int], MatchingMany | None]]:
        """Numbers of jobs, with their stack; a job that shares none comes by itself."""
        for group in _alike(pending) if self.together is not None else [[i] for i in pending]:
            runs = 1 if self.together is None else self.together.restarts
            many = _many([pending[i] for i in group], runs) if len(group) > 1 else None
            # Parts of equal size: the last one takes no less time for being smaller.
            size = 1 if many is None or not many.stacks else max(1, many.fit)
            size = ceil(len(group) / ceil(len(group) / size))
            for first in range(0, len(group), size):
                numbers = group[first : first + size]
                yield numbers, _many([pending[i] for i in numbers], runs) if len(numbers) > 1 else None

    def _joint(self, many: MatchingMany, jobs: list[Pending]) -> Problem:
        """All jobs' problems as one, whose values are those of all runs."""
        one = jobs[0].problems[0]
        known = [job.known for job in jobs for _ in range(many.runs)]

        def values(variables: list[Tensor]) -> Float[Tensor, " r"]:
            z, distances = variables[0], many.each(variables[0])
            if any(k is not None for k in known):
                none = distances.new_zeros(())
                terms = [none if k is None else k.distance(own) for k, own in zip(known, z, strict=True)]
                distances = distances + torch.stack(terms)
            return self.objective(distances, z)

        return Problem(one.draw, one.value, one.project, values, lambda _, __: many.need())


def _many(jobs: list[Pending], runs: int) -> MatchingMany:
    observed = tuple(job.matchings[0].observed.values for job in jobs)
    return MatchingMany(jobs[0].matchings[0].model, observed, torch.stack([job.labels for job in jobs]), runs)


def _alike(pending: Mapping[int, Pending]) -> list[list[int]]:
    """Numbers of the jobs that may share a stack: one gradient of the same model in eval mode, of as many examples."""
    groups = dict[object, list[int]]()
    for i, job in pending.items():
        groups.setdefault(_kind(job) or i, []).append(i)
    return list(groups.values())


def _kind(job: Pending) -> object:
    """Equal for jobs that are alike; None of one that has to be alone."""
    matching, tried = job.matchings[0], job.tried[0]
    one_gradient = isinstance(tried.training, FedSGD) and not matching.model.training
    if len(job.tried) > 1 or not one_gradient or matching.distance is not cosine_distance:
        return None
    return id(matching.model), tried.training, tried.num_examples
