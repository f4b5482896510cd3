"""Searches of many jobs under one watch: those that are alike in stacks, the others one after the other."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.local_training.update import FedSGD
from fedspill.core.model import Model
from fedspill.core.roles import Watch
from fedspill.core.watching.nested import JobsWatch
from fedspill.inversion.matching.forward_model import ForwardModel
from fedspill.inversion.matching.recursive_reading import Reading
from fedspill.inversion.objective.distances import cosine_distance
from fedspill.inversion.objective.stacked import MatchingMany
from fedspill.inversion.search.batched import BatchedSearch
from fedspill.inversion.search.problem import Found, Problem
from fedspill.inversion.search.sequential import Search

Objective = Callable[[Float[Tensor, " r"], Float[Tensor, "r n ..."]], Float[Tensor, " r"]]
"""Distances and candidates to what is minimised."""


@dataclass(frozen=True)
class Pending:
    """One job's search, ready to start.

    Attributes:
        assumed, problems: what may be, each with its objective.
        read: what was told exactly.
        rng: from which the starts are drawn.
    """

    assumed: list[ForwardModel]
    problems: list[Problem]
    read: Reading
    rng: torch.Generator


@dataclass(frozen=True)
class Searching:
    """How an attack searches.

    Attributes:
        alone: one job.
        together: jobs in a stack; None if the attack cannot.
        objective: of a model's candidates.
    """

    alone: Callable[[Watch], Search | BatchedSearch]
    together: BatchedSearch | None
    objective: Callable[[Model], Objective]

    def run(self, pending: Mapping[int, Pending], parts: JobsWatch) -> dict[int, Found]:
        """What was found for each job, by its number; a broken run goes on in the stack that it was in.

        Raises:
            BadInput: a search needs more memory than there is.
        """
        results = {i: Found(**state) for i in pending if (state := parts.kept(f"found {i}")) is not None}
        for numbers in self._stacks(pending):
            remaining = [i for i in numbers if i not in results]
            if remaining:
                name = f"search {remaining}"
                watch = parts.watch(name, len(results), len(remaining), len(pending))
                results |= dict(zip(remaining, self._search([pending[i] for i in remaining], watch), strict=True))
                states = {f"found {i}": dict(results[i].__dict__) for i in remaining}
                parts.keep(name, states, complete=all(results[i].complete for i in remaining))
        return results

    def _search(self, jobs: list[Pending], watch: Watch) -> list[Found]:
        """The results of one job, or of several in a stack."""
        if len(jobs) == 1 or self.together is None:
            return [self._one(job, watch) for job in jobs]
        many = _many(jobs, self.together.restarts)
        results = self.together.run_many(self._joint(many, jobs), [job.rng for job in jobs], watch)
        many.release()
        return results

    def _one(self, job: Pending, watch: Watch) -> Found:
        result = self.alone(watch).run(job.problems, job.rng, watch)
        for assumed in job.assumed:
            assumed.release()
        return result

    def _stacks(self, pending: Mapping[int, Pending]) -> Iterator[list[int]]:
        """Numbers of jobs that are searched together; those that were found count, so that groups stay as they were."""
        if self.together is None:
            yield from ([i] for i in pending)
            return
        for group in _alike(pending):
            many = _many([pending[i] for i in group], self.together.restarts) if len(group) > 1 else None
            fit = 1 if many is None or not many.stacks else max(1, many.fit)
            size = ceil(len(group) / ceil(len(group) / fit))  # none much smaller than the others
            yield from (group[i : i + size] for i in range(0, len(group), size))

    def _joint(self, many: MatchingMany, jobs: list[Pending]) -> Problem:
        """All jobs' problems as one, whose values are those of all runs."""
        one, objective = jobs[0].problems[0], self.objective(many.model)
        known = [job.read.known for job in jobs for _ in range(many.runs)]

        def values(variables: list[Tensor]) -> Float[Tensor, " r"]:
            z, distances = variables[0], many.each(variables[0])
            if any(k is not None for k in known):
                none = distances.new_zeros(())
                terms = [none if k is None else k.distance(candidate) for k, candidate in zip(known, z, strict=True)]
                distances = distances + torch.stack(terms)
            return objective(distances, z)

        return Problem(one.draw, one.value, one.project, values)


def _many(jobs: list[Pending], runs: int) -> MatchingMany:
    first = [job.assumed[0] for job in jobs]
    observed = tuple(one.single_gradient.observed.values for one in first)
    return MatchingMany(first[0].single_gradient.model, observed, torch.stack([one.labels for one in first]), runs)


def _alike(pending: Mapping[int, Pending]) -> list[list[int]]:
    """Numbers of the jobs that may share a stack: one gradient of the same model in eval mode, of as many examples."""
    groups = dict[object, list[int]]()
    for i, job in pending.items():
        groups.setdefault(_kind(job) or i, []).append(i)
    return list(groups.values())


def _kind(job: Pending) -> object:
    """Equal for jobs that are alike; None of one that has to be alone."""
    matching, tried = job.assumed[0].single_gradient, job.assumed[0].hypothesis
    training = matching.training
    one_gradient = isinstance(training, FedSGD) and training.is_plain and not matching.model.training
    if len(job.assumed) > 1 or not one_gradient or matching.distance is not cosine_distance:
        return None
    return id(matching.model), matching.training, tried.num_examples
