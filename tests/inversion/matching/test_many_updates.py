"""Many updates at once give what they give one by one."""

from dataclasses import replace

import pytest
import torch

from fedspill.attacks.inverting_gradients import InvertingGradients, TotalVariation
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import UNWATCHED, Attack, Job, ReconstructsMany, Unwatched, Watch
from fedspill.core.settings import with_fields
from fedspill.core.types import Reconstruction
from fedspill.inversion.matching import many_updates
from fedspill.inversion.objective import memory, stacked
from fedspill.inversion.objective.stacked import MatchingMany
from fedspill.inversion.search.batched import BatchedSearch
from fedspill.inversion.search.sequential import Search
from fedspill.inversion.search.settings import SearchSettings
from tests.support.networks import network, of_zoo, private_of
from tests.support.searches import RULE, rough, same
from tests.support.watches import BreakingWatch, Broken, Impatient
from tests.support.worlds import conv_bn, relu_mlp

DOUBLE = torch.float64


def test_a_search_of_many_finds_what_each_search_finds() -> None:
    problem = rough(0.5, 10.0)
    one = [Search(RULE, 60, 4).run([problem], stream(j, "s"), UNWATCHED) for j in range(5)]
    search = BatchedSearch(RULE, 60, 4)
    for found, wanted in zip(search.run_many(problem, [stream(j, "s") for j in range(5)], UNWATCHED), one, strict=True):
        same(found, wanted)


def jobs_of(model: Model, count: int, n: int = 2, protocol: FedSGD | FedAvg = FedSGD()) -> list[Job]:
    """Jobs with streams of their own, which are new at every call."""
    private = [private_of(j, n, model.like.dtype) for j in range(count)]
    return [
        Job(
            local_update(model, p, protocol),
            ServerKnowledge(model, labels=p.labels, local_training=protocol),
            stream(j, "a"),
        )
        for j, p in enumerate(private)
    ]


def one_by_one(attack: InvertingGradients, jobs: list[Job]) -> list[Reconstruction]:
    return [attack.reconstruct(j.update, j.knowledge, j.rng) for j in jobs]


def alike(found: list[Reconstruction], wanted: list[Reconstruction], tolerance: float = 1e-6) -> None:
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.inputs, two.inputs, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(one.labels, two.labels)
        torch.testing.assert_close(one.confidence, two.confidence, rtol=tolerance, atol=tolerance)
        assert one.objective == pytest.approx(two.objective, rel=tolerance)
        assert (one.notes, one.converged, one.label_method) == (two.notes, two.converged, two.label_method)


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Jobs in every stack that is searched."""
    sizes = list[int]()

    def counted(self: BatchedSearch, problem: object, rngs: list[torch.Generator], watch: Watch) -> object:
        sizes.append(len(rngs))
        return run_many(self, problem, rngs, watch)

    run_many = BatchedSearch.run_many
    monkeypatch.setattr(many_updates.BatchedSearch, "run_many", counted)
    return sizes


BRIEF = InvertingGradients(
    search=SearchSettings(steps=8, lr=0.3, schedule="cosine", restarts=2),
    prior=TotalVariation(tv=0.7, variation="vectorial", relative=True),
)


@pytest.mark.parametrize("analytic", [False, True])
def test_many_reconstructions_are_those_of_each(analytic: bool, stacks: list[int]) -> None:
    model, attack = conv_bn(dtype=DOUBLE), with_fields(BRIEF, analytic=analytic)
    assert isinstance(attack, ReconstructsMany)
    assert isinstance(attack, Attack)
    jobs = [*jobs_of(model, 3), *jobs_of(model, 2, n=1), *jobs_of(conv_bn(dtype=DOUBLE), 1)]
    again = [*jobs_of(model, 3), *jobs_of(model, 2, n=1), *jobs_of(conv_bn(dtype=DOUBLE), 1)]
    alike(attack.reconstruct_many(jobs), one_by_one(attack, again))
    # Single examples are read exactly where that is tried, and the last job has a model of its own.
    assert stacks == ([3] if analytic else [3, 2])


def test_labels_that_are_not_known_are_inferred_from_each_own_stream(stacks: list[int]) -> None:
    model = conv_bn(dtype=DOUBLE)
    unknown = [[replace(j, knowledge=ServerKnowledge(model, num_examples=2)) for j in jobs_of(model, 3)] for _ in "ab"]
    alike(BRIEF.reconstruct_many(unknown[0]), one_by_one(BRIEF, unknown[1]))
    assert stacks == [3]


def test_what_is_read_exactly_leaves_the_stack(stacks: list[int]) -> None:
    model, attack = relu_mlp(dtype=DOUBLE), with_fields(BRIEF, analytic=True)
    jobs, again = ([*jobs_of(model, 2, n=1), *jobs_of(model, 2)] for _ in "ab")
    found = attack.reconstruct_many(jobs)
    alike(found, one_by_one(attack, again))
    assert [len(r.objective) for r in found] == [1, 1, 9, 9]
    assert stacks == [2]


OTHERS = [
    (with_fields(BRIEF, optimiser="lbfgs", lr=0.1, steps=2), conv_bn, FedSGD()),
    (with_fields(BRIEF, distance="squared"), conv_bn, FedSGD()),
    (BRIEF, conv_bn, FedAvg(epochs=2, lr=0.1)),
    (BRIEF, lambda dtype: conv_bn(training=True, dtype=dtype), FedSGD()),
    (BRIEF, lambda dtype: network("scaled"), FedSGD()),
]


@pytest.mark.parametrize(("attack", "make", "protocol"), OTHERS)
def test_what_takes_no_stack_goes_one_by_one(attack, make, protocol, stacks: list[int]) -> None:
    model = make(dtype=DOUBLE)
    jobs, again = (jobs_of(model, 2, protocol=protocol) for _ in "ab")
    alike(attack.reconstruct_many(jobs), one_by_one(attack, again))
    assert stacks == []


def test_as_many_at_a_time_as_fit(monkeypatch: pytest.MonkeyPatch, stacks: list[int]) -> None:
    model = conv_bn(dtype=DOUBLE)
    wanted = one_by_one(BRIEF, jobs_of(model, 5))
    monkeypatch.setattr(stacked, "NEGLIGIBLE", 0)
    monkeypatch.setattr(memory, "COPIES", 0)
    jobs = jobs_of(model, 5)
    labels = torch.stack([j.knowledge.labels for j in jobs if j.knowledge.labels is not None])
    joint = MatchingMany(model, tuple(j.update.values for j in jobs), labels, 2)
    for share, sizes in ((2.0, [5]), (0.7, [3, 2]), (0.35, [])):
        free = int(share * joint.need() / memory.USABLE)
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        stacks.clear()
        alike(BRIEF.reconstruct_many(jobs_of(model, 5)), wanted)
        assert stacks == sizes


@pytest.mark.parametrize("break_after", [1, 2, 3, 9, 11, 15])
def test_a_killed_run_of_many_goes_on_to_the_same_result(break_after: int) -> None:
    model, attack = relu_mlp(dtype=DOUBLE), with_fields(BRIEF, analytic=True, restarts=1)

    def jobs() -> list[Job]:
        return [*jobs_of(model, 2), *jobs_of(model, 2, n=1), *jobs_of(model, 1, n=3)]

    watch = BreakingWatch(break_after)
    with pytest.raises(Broken):
        attack.reconstruct_many(jobs(), watch)
    alike(attack.reconstruct_many(jobs(), BreakingWatch(kept=watch.kept)), attack.reconstruct_many(jobs()), 1e-12)


def test_a_killed_run_goes_on_in_the_stack_that_it_was_in(monkeypatch: pytest.MonkeyPatch, stacks: list[int]) -> None:
    model, attack = conv_bn(dtype=DOUBLE), with_fields(BRIEF, restarts=1)
    monkeypatch.setattr(MatchingMany, "fit", 2)
    whole = attack.reconstruct_many(jobs_of(model, 5))
    assert stacks == [2, 2]
    watch = BreakingWatch(9 + 4)  # eight steps and what they gave, then four of the second stack
    with pytest.raises(Broken):
        attack.reconstruct_many(jobs_of(model, 5), watch)
    stacks.clear()
    resumed = BreakingWatch(kept=watch.kept)
    alike(attack.reconstruct_many(jobs_of(model, 5), resumed), whole, 1e-12)
    assert stacks == [2]
    assert resumed.saves == 4 + 1 + 9


class Choosy(Unwatched):
    """Asks for a quality."""

    def quality(self) -> float:
        return 99.0


def test_a_quality_is_estimated_for_one_job_at_a_time(stacks: list[int]) -> None:
    model = conv_bn(dtype=DOUBLE)
    found = BRIEF.reconstruct_many(jobs_of(model, 2), Choosy())
    alike(found, [BRIEF.reconstruct(j.update, j.knowledge, j.rng, Choosy()) for j in jobs_of(model, 2)])
    assert stacks == []
    assert all("estimate" in " ".join(r.notes) for r in found)


class Ending(BreakingWatch):
    """A budget that ends after so many states."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def out_of_time(self) -> bool:
        return self.saves >= self.after


@pytest.mark.parametrize("after", [2, 12])
def test_the_budget_ends_all_and_a_larger_one_goes_on(after: int) -> None:
    model, attack = conv_bn(dtype=DOUBLE), with_fields(BRIEF, restarts=1)

    def jobs() -> list[Job]:
        return [*jobs_of(model, 2), *jobs_of(model, 2, n=1), *jobs_of(model, 1, n=3)]

    watch = Ending(after)
    ended = attack.reconstruct_many(jobs(), watch)
    told = [any("budget ended" in note for note in r.notes) for r in ended]
    assert told == ([True] * 5 if after == 2 else [False, False, True, True, True])
    alike(attack.reconstruct_many(jobs(), BreakingWatch(kept=watch.kept)), attack.reconstruct_many(jobs()), 1e-12)
    assert all(len(r.objective) == 1 for r in attack.reconstruct_many(jobs(), Impatient(0)))


class Late(BreakingWatch):
    """A budget that ends with the last iteration of all; knows whether the attack was told so."""

    def __init__(self) -> None:
        super().__init__()
        self.over = self.told = False
        self.done = 0

    def progress(self, done: int, total: int, objective: float) -> None:
        self.over, self.done = self.done >= total, done  # with the second such report: the last step is judged

    def out_of_time(self) -> bool:
        self.told = self.told or self.over
        return self.over


def test_work_that_is_complete_when_the_budget_ends_was_not_ended_by_it() -> None:
    watch, model = Late(), conv_bn(dtype=DOUBLE)
    alike(BRIEF.reconstruct_many(jobs_of(model, 2), watch), BRIEF.reconstruct_many(jobs_of(model, 2)), 1e-12)
    assert watch.over
    assert not watch.told
    state = watch.load()
    assert state is not None
    assert set(state["kept"]) == {"found 0", "found 1"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("graph", [False, True])
def test_many_on_a_cuda_device(graph: bool, stacks: list[int]) -> None:
    model = of_zoo("resnet18", width=4).to("cuda", torch.float32)
    attack = with_fields(BRIEF, steps=40, graph=graph)
    found, wanted = attack.reconstruct_many(jobs_of(model, 4)), one_by_one(attack, jobs_of(model, 4))
    assert stacks == [4]
    for one, two in zip(found, wanted, strict=True):
        # The signs of gradients near 0 are those of rounding, so only the first iterations can be compared closely.
        assert one.objective[:4] == pytest.approx(two.objective[:4], rel=1e-2)
        assert min(one.objective) == pytest.approx(min(two.objective), rel=0.3)
