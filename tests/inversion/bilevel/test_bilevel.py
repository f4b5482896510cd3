"""The derivative of what a descent leaves, against autograd through all its steps, and the search that goes by it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model
from fedspill.core.rng import rand, stream
from fedspill.core.roles import UNWATCHED, State, Unwatched
from fedspill.core.types import Batch
from fedspill.inversion.bilevel.rebuilding import Rebuilding
from fedspill.inversion.bilevel.search import LeakSearch, OuterSearch, leaking_params
from fedspill.inversion.objective.distances import cosine_distance
from fedspill.testing.worlds import draw_weights

SPEC = ImageSpec((1, 5, 5), mean=(0.5,), std=(0.25,))
SMALL = OuterSearch(steps=4, lr=1e-2, images=1, held_out=2, judge_every=2)


def dense() -> Model:
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Flatten(), nn.Linear(25, 8), nn.Sigmoid(), nn.Linear(8, 3))
    return Model.of(draw_weights(net, scale=1.0), SPEC).to("cpu", torch.float64)


def strided() -> Model:
    """A stride that leaves a rest: PyTorch has no third derivative of it."""
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Conv2d(1, 2, 2, 2), nn.Sigmoid(), nn.Flatten(), nn.Linear(8, 3))
    return Model.of(draw_weights(net, scale=1.0), SPEC).to("cpu", torch.float64)


def images(n: int, seed: int = 0) -> Batch:
    like = torch.zeros((), dtype=torch.float64)
    return Batch(rand((n, *SPEC.shape), stream(seed, "bilevel"), like), torch.arange(n) % 3)


def test_the_derivative_is_that_of_autograd_through_all_steps() -> None:
    model, private = dense(), images(1)
    z, labels, rebuilding = SPEC.encode(private.inputs), private.labels, Rebuilding(2, 0.3)
    rebuilt = rebuilding.run(model, z, labels, torch.zeros_like(z))
    params = {k: v.clone().requires_grad_() for k, v in model.params.items()}
    gradient = torch.func.grad(lambda p, x: model.loss(p, x, labels))
    observed, x = gradient(params, z), torch.zeros_like(z).requires_grad_()
    for step in range(2):
        (slope,) = torch.autograd.grad(cosine_distance(gradient(params, x), observed), x, create_graph=True)
        x = x - 0.3 * (1 - step / 2) * slope / slope.square().mean().sqrt()
    expected = torch.autograd.grad((x - z).square().mean(), list(params.values()))
    torch.testing.assert_close(rebuilt.points[-1], x.detach())
    for got, wanted in zip(rebuilt.derivative().values(), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("make", [dense, strided])
def test_the_derivative_is_how_the_error_changes(make: Callable[[], Model]) -> None:
    model, private, rebuilding = make(), images(1), Rebuilding(2, 0.3)
    z, labels = SPEC.encode(private.inputs), private.labels

    def error(along: dict[str, Tensor], by: float) -> float:
        moved = model.with_params({k: v + by * along[k] for k, v in model.params.items()})
        return rebuilding.run(moved, z, labels, torch.zeros_like(z)).error

    derivative = dict(rebuilding.run(model, z, labels, torch.zeros_like(z)).derivative())
    slope = sum(float(v.square().sum()) for v in derivative.values())
    assert slope > 1e-8
    assert (error(derivative, 1e-5) - error(derivative, -1e-5)) / 2e-5 == pytest.approx(slope, rel=1e-3)


def test_a_search_makes_images_easier_to_rebuild_that_it_has_not_seen() -> None:
    model, settings = dense(), OuterSearch(steps=10, lr=3e-2, images=1, held_out=3, judge_every=5)
    public, rebuilding = images(16), Rebuilding(3, 0.3)
    found = leaking_params(model, public, rebuilding, settings, stream(0, "s"), UNWATCHED)
    fresh = images(6, seed=1)
    z = SPEC.encode(fresh.inputs)

    def error(sent: Model) -> float:
        each = [(z[i : i + 1], fresh.labels[i : i + 1]) for i in range(len(z))]
        return sum(rebuilding.run(sent, *one, torch.zeros_like(one[0])).error for one in each)

    assert error(model.with_params(found)) < 0.95 * error(model)


@dataclass
class Broken(Unwatched):
    """Keeps the state, and ends the run after so many steps."""

    after: int
    kept: State | None = None
    done: int = 0
    heard: list[float] = field(default_factory=list[float])

    def progress(self, done: int, total: int, objective: float) -> None:
        self.done = done
        self.heard.append(objective)

    def save(self, state: Callable[[], State], *, last: bool = False) -> None:
        self.kept = {k: v.clone() if isinstance(v, Tensor) else v for k, v in state().items()}

    def load(self) -> State | None:
        return self.kept

    def out_of_time(self) -> bool:
        return self.done >= self.after


def test_a_search_that_was_broken_off_gives_what_an_unbroken_one_does() -> None:
    model, public, inner = dense(), images(6), Rebuilding(2, 0.3)
    whole = leaking_params(model, public, inner, SMALL, stream(0, "s"), UNWATCHED)
    first = Broken(after=3)
    leaking_params(model, public, inner, SMALL, stream(0, "s"), first)
    assert first.done == 3
    again = leaking_params(model, public, inner, SMALL, stream(0, "s"), Broken(after=99, kept=first.kept))
    assert all(torch.equal(again[k], v) for k, v in whole.items())
    assert any(not torch.equal(again[k], v) for k, v in model.params.items())


def test_without_time_or_gain_the_parameters_stay() -> None:
    model, public, inner = dense(), images(6), Rebuilding(2, 0.3)
    found = leaking_params(model, public, inner, SMALL, stream(0, "s"), Broken(after=0))
    assert all(torch.equal(found[k], v) for k, v in model.params.items())
    search = LeakSearch(model, SPEC.encode(public.inputs), public.labels, inner, SMALL, stream(0, "s"), UNWATCHED)
    search.best_error = 0.0
    assert search.run() == model.params, "nothing is better than no error at all"
    assert len(search.curve) == 3
    assert any(not torch.equal(search.values[k], v) for k, v in model.params.items())


@pytest.mark.parametrize("field", ["steps", "images", "held_out", "judge_every", "lr"])
def test_settings_out_of_range_are_named(field: str) -> None:
    with pytest.raises(BadInput, match=f"{field}=0"):
        OuterSearch(**{field: 0.0 if field == "lr" else 0})
