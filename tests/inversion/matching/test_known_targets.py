"""The search of a batch whose examples are known in part."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import UNWATCHED
from fedspill.inversion.matching.known_targets import KnownTargets, weighted_logits
from fedspill.inversion.recursion.batch import proven
from fedspill.inversion.recursion.known_activations import KnownActivations
from fedspill.inversion.search.sequential import Search
from fedspill.inversion.search.step_rules import SignedAdam
from tests.inversion.recursion.test_batches import World, blocks, model_of


def targets(world: World, *names: str, factor: float = 1.0) -> KnownTargets:
    known = KnownActivations(world.model, {name: world.truth[name] for name in names}, None)
    gradient = {k: factor * v for k, v in world.gradient.items()}
    return KnownTargets(known, factor * world.head.cotangents, gradient)


def test_private_pictures_are_at_distance_0_and_blank_ones_at_1() -> None:
    world = World(blocks(), 3)
    for names in (("mean",), ("relu_1", "relu_2")):
        found = targets(world, *names)
        assert float(found.distance(world.z)) < 1e-12
        assert float(found.distance(torch.zeros_like(world.z))) == pytest.approx(1.0, rel=1e-9)


def test_it_is_each_example_that_is_known_not_the_batch() -> None:
    world = World(blocks(), 3)
    found = targets(world, "mean")
    off = found.off(world.z[[1, 0, 2]])
    assert float(off[2]) < 1e-12
    assert float(off[:2].min()) > 1e-3


def test_a_multiple_of_the_gradient_is_the_same_problem() -> None:
    world = World(blocks(), 2)
    z = torch.zeros_like(world.z) + 0.3
    one, other = (float(targets(world, "mean", factor=f).distance(z)) for f in (1.0, 1e-3))
    assert one == pytest.approx(other, rel=1e-9)


@pytest.mark.parametrize("loss", [functional.cross_entropy, nn.CrossEntropyLoss(label_smoothing=0.2)])
def test_the_gradient_is_the_loss_s_own_whatever_that_is(loss) -> None:
    world = World(blocks(), 3)
    model = replace(world.model, loss_fn=loss)
    logits = world.model.logits(world.model.params, world.z).detach().requires_grad_()
    (cotangents,) = torch.autograd.grad(loss(logits, world.labels), logits)
    guessed = replace(model, loss_fn=weighted_logits)
    for one, other in zip(
        _gradient(guessed, world.z, 3 * cotangents), _gradient(model, world.z, world.labels), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-15)


def _gradient(model: Model, z: Tensor, labels: Tensor) -> list[Tensor]:
    params = {k: v.clone().requires_grad_() for k, v in model.params.items()}
    return list(torch.autograd.grad(model.loss(params, z, labels), list(params.values())))


def test_the_objective_falls_along_its_own_gradient_to_the_plain_twin_s_value() -> None:
    """Value and slope against the same sums in bare PyTorch."""
    with torch.random.fork_rng():
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(64, 24), nn.Tanh(),
            nn.Linear(24, 10),
        )  # fmt: skip
        world = World(model_of(net), 2)
    name = world.flow.inputs(world.flow.output)[0].name
    problem = targets(world, name).problem(0.5, 0.06, boxed=True)
    z = problem.draw(stream(0, "start"))[0].requires_grad_()
    (slope,) = torch.autograd.grad(problem.value([z]), z)
    (twin,) = torch.autograd.grad(_twin(world, net, z), z)
    torch.testing.assert_close(slope, twin, rtol=1e-7, atol=1e-12)
    assert problem.values is not None
    assert float(problem.values([z[None]]).detach()) == pytest.approx(float(_twin(world, net, z).detach()), rel=1e-9)


def _twin(world: World, net: nn.Module, z: Tensor) -> Tensor:
    own = world.model.own_module()
    params = [p.requires_grad_() for p in own.parameters()]

    def off(candidate: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = own[:-1](candidate)
        gradient = torch.autograd.grad((own[-1](features) * world.head.cotangents).sum(), params, create_graph=True)
        wanted = world.gradient.values()
        return (features - world.features).square().sum(1), [
            (g - w).square().sum() for g, w in zip(gradient, wanted, strict=True)
        ]

    (activations, gradients), (blank, flat) = off(z), off(torch.zeros_like(z))
    shares = [g / f.detach() for g, f in zip(gradients, flat, strict=True) if float(f.detach()) > 1e-12]
    assert len(shares) == len(gradients) - 1, "the gradient of the head's bias is the same of all pictures"
    distance = ((activations / blank.detach()).mean() + torch.stack(shares).mean()) / 2
    return (distance + 0.06) * (0.5 * _variation(z)).exp()


def _variation(z: Tensor) -> Tensor:
    across, down = z[..., :-1, 1:] - z[..., :-1, :-1], z[..., 1:, :-1] - z[..., :-1, :-1]
    return (across**2 + down**2).sum(1).add(1e-6).sqrt().mean()


def test_candidates_stay_inside_the_range_if_boxed() -> None:
    world = World(blocks(), 2)
    for boxed in (True, False):
        z = [100 * torch.ones_like(world.z)]
        targets(world, "mean").problem(0.1, 0.0, boxed=boxed).project(z)
        inside = torch.equal(z[0], world.model.input.project(z[0]))
        assert inside is boxed


def test_many_known_activations_are_searched_by_alone_and_prove_the_pictures() -> None:
    world = World(blocks(), 2)
    few, many = targets(world, "relu_1"), targets(world, "relu")
    assert not few.suffices
    assert many.suffices
    z = torch.zeros_like(world.z) + 0.3
    assert float(many.distance(z)) == float(many.off(z).mean())
    fading = float(many.distance(z) * (0.5 * _variation(z)).exp())
    assert float(many.problem(0.5, 0.06, boxed=True).value([z])) == pytest.approx(fading, rel=1e-9), "no floor"
    search = Search(SignedAdam(0.3, schedule="cosine"), 300)
    found = search.run([many.problem(0.0, 0.0, boxed=True)], stream(0, "start"), UNWATCHED).variables[0]
    assert proven(many.known, found).tolist() == [True, True]
    assert not bool(proven(few.known, found + 0.1).any())
    torch.testing.assert_close(found, world.z, rtol=0, atol=1e-2)
