"""What the gradient of several examples says of activations, once their features at the head are known."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model
from fedspill.core.rng import randn, stream
from fedspill.core.roles import UNWATCHED
from fedspill.inversion.recursion.batch import proven, read_batch
from fedspill.inversion.recursion.equations.spoiled import spoiled
from fedspill.inversion.recursion.facts import KnownValues
from fedspill.inversion.recursion.firing import settled
from fedspill.inversion.recursion.graph import Dataflow
from fedspill.inversion.recursion.layer_by_layer import Head, Recursion
from tests.support.worlds import CLASSES, draw_weights

LIKE = torch.zeros((), dtype=torch.float64)


def numbers(*shape: int, name: str = "x") -> Tensor:
    return randn(shape, stream(0, "test", name), LIKE)


class Blocks(nn.Module):
    """A stem, a convolution with a stride, a residual block, the mean over the picture, and a head."""

    def __init__(self, width: int = 56) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, width, 3, stride=2, padding=1)
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.bn1, self.bn2, self.fc = nn.BatchNorm2d(width), nn.BatchNorm2d(width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.down(torch.relu(self.stem(x))))
        out = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(torch.relu(self.bn2(self.conv2(out)) + x).mean((2, 3)))


def dense() -> nn.Module:
    convolution = nn.Conv2d(3, 8, 3, padding=1)
    return nn.Sequential(
        convolution, nn.ReLU(), nn.Flatten(), nn.Linear(512, 40), nn.ReLU(), nn.Linear(40, 24), nn.ReLU(),
        nn.Linear(24, CLASSES),
    )  # fmt: skip


def model_of(module: nn.Module) -> Model:
    spec = ImageSpec((3, 8, 8), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    return Model.of(draw_weights(module, scale=0.2), spec).to("cpu", LIKE.dtype)


def blocks(width: int = 56) -> Model:
    with torch.random.fork_rng():
        return model_of(Blocks(width))


class World:
    """A network, pictures, their mean gradient, and what is known of them at the head."""

    def __init__(self, model: Model, examples: int) -> None:
        self.model, self.labels = model, torch.arange(examples) % CLASSES
        spec = model.input
        self.z = spec.encode(torch.rand(examples, 3, 8, 8, generator=stream(1, "pictures"), dtype=LIKE.dtype))
        self.flow = Dataflow(model, examples=examples)
        params = {k: v.clone().requires_grad_() for k, v in model.params.items()}
        loss = model.loss(params, self.z, self.labels)
        self.gradient = dict(zip(params, torch.autograd.grad(loss, list(params.values())), strict=True))
        names = [n.name for n in self.flow]
        with torch.no_grad():
            self.truth = dict(zip(names, self.flow.until(names)(self.z), strict=True))
        self.features = self.truth[self.flow.inputs(self.flow.output)[0].name]
        logits = self.truth[self.flow.output.name]
        self.residuals = torch.softmax(logits, 1) - functional.one_hot(self.labels, CLASSES)

    @property
    def head(self) -> Head:
        return Head(self.features, self.residuals / len(self.labels))

    def read(self, gradient: dict[str, Tensor] | None = None) -> Recursion:
        recursion = Recursion(self.flow, gradient or self.gradient, self.head)
        with torch.no_grad():
            recursion.run()
        return recursion

    def error(self, known: KnownValues) -> float:
        """The largest relative error of anything that counts as known."""
        errors = [0.0]
        for node, fact in known.facts.items():
            wanted = self.truth[node.name]
            errors.append(float((fact.value - wanted)[fact.known].abs().max() / wanted.abs().max()))
        return max(errors)


@pytest.mark.parametrize(("examples", "width"), [(1, 40), (2, 48), (3, 96)])
def test_the_activations_of_a_batch_are_read_below_the_first_residual_block(examples: int, width: int) -> None:
    world = World(blocks(width), examples)
    recursion = world.read()
    complete = {n.name for n, f in recursion.facts.items() if f.complete}
    assert complete >= {"relu_1", "relu_2", "add"}, "the block's input, middle and sum"
    assert world.error(recursion) < 1e-7


def test_of_one_example_the_features_add_nothing() -> None:
    world = World(blocks(), 1)
    alone = Recursion(world.flow, world.gradient)
    with torch.no_grad():
        alone.run()
    told = world.read()
    assert {n for n, f in alone.facts.items() if f.complete} == {n for n, f in told.facts.items() if f.complete}
    for node, fact in alone.facts.items():
        torch.testing.assert_close(fact.value, told.facts[node].value, rtol=1e-6, atol=1e-9)


def test_fully_connected_layers_are_passed_down_to_the_pictures_of_a_batch() -> None:
    with torch.random.fork_rng():
        world = World(model_of(dense()), 4)
    recursion = world.read()
    maps = next(f for n, f in recursion.facts.items() if n.name == "_2")
    assert maps.complete
    assert world.error(recursion) < 1e-7


def test_pictures_follow_and_prove_themselves() -> None:
    world = World(blocks(), 2)
    reading = read_batch(world.model, world.gradient, world.features, 3 * world.residuals, stream(0, "start"))
    assert reading.pictures is not None
    assert reading.certain.tolist() == [True, True]
    assert reading.described().startswith("the picture itself; the inputs of 5 of 5 layers")
    torch.testing.assert_close(reading.pictures, world.z, rtol=1e-3, atol=1e-3)


def test_where_what_was_read_determines_no_picture_none_is_made_up_or_proven() -> None:
    with torch.random.fork_rng():
        few = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(64, 40), nn.Tanh(),
            nn.Linear(40, CLASSES),
        )  # fmt: skip
        world = World(model_of(few), 3)
    reading = read_batch(world.model, world.gradient, world.features, world.residuals, stream(0, "start"))
    assert reading.pictures is None
    assert not bool(reading.certain.any())
    pictures = reading.known.inverted(stream(0, "start"), UNWATCHED)
    assert float(reading.known.errors(pictures).max()) < 1e-5
    assert float((pictures - world.z).abs().max()) > 0.1, "another picture has all that was read"
    assert not bool(proven(reading.known, pictures).any())


def test_a_part_of_the_network_runs_by_itself_if_nothing_goes_past_its_start() -> None:
    world = World(blocks(), 2)
    start, inside, end = (next(n for n in world.flow if n.name == name) for name in ("relu_1", "relu_2", "mean"))
    part = world.flow.between(start, [end])
    assert part is not None
    torch.testing.assert_close(part(world.truth["relu_1"])[0], world.truth["mean"])
    assert world.flow.between(inside, [end]) is None


@pytest.mark.parametrize("noise", [1e-7, 1e-6, 1e-5, 1e-4, 1e-2])
def test_what_counts_as_known_is_right_at_every_noise(noise: float) -> None:
    world = World(blocks(), 2)
    noisy = {
        k: v + noise * v.square().mean().sqrt() * numbers(*v.shape, name=k) if v.dim() > 1 else v
        for k, v in world.gradient.items()
    }
    assert world.error(world.read(noisy)) < max(1e-5, 1e3 * noise)


def test_a_wrong_unit_is_turned_over_by_the_gradient_of_its_channel() -> None:
    world = World(blocks(), 2)
    recursion = world.read()
    relu = next(n for n in world.flow if n.name == "relu_2")
    node = next(n for n in world.flow if n.name == "conv1")
    right = recursion.fires(relu)
    wrong = right.clone()
    wrong[0, 5, 1, 2], wrong[1, 5, 3, 3], wrong[1, 9, 0, 0] = (
        ~right[0, 5, 1, 2],
        ~right[1, 5, 3, 3],
        ~right[1, 9, 0, 0],
    )
    recursion.weak[relu] = torch.ones_like(right)
    recursion.doubtful[relu] = torch.zeros_like(right)
    recursion.force(relu, wrong)
    recursion.conclude()
    assert settled(recursion, recursion.gradient, node)
    assert torch.equal(recursion.fires(relu), right)


def test_wrong_equations_are_told_by_what_they_leave() -> None:
    rows, solution = numbers(90, 60), numbers(60, 40, name="solution")
    targets = rows @ solution + 1e-9 * numbers(90, 40, name="noise")
    assert not bool(spoiled(rows, targets).any())
    wrong = torch.zeros(90, dtype=torch.bool)
    wrong[[3, 17, 18, 19, 71]] = True
    targets[wrong] += 1e-3 * numbers(5, 40, name="wrong")
    assert torch.equal(spoiled(rows, targets), wrong)


def test_features_of_another_update_are_refused() -> None:
    world = World(blocks(), 2)
    with pytest.raises(NotApplicable, match="last layer's gradient is not that of these features"):
        read_batch(world.model, world.gradient, world.features.flip(0), world.residuals, stream(0, "start"))
    headless = model_of(nn.Sequential(nn.Conv2d(3, CLASSES, 8), nn.Flatten()))
    with pytest.raises(NotApplicable, match="does not end in a linear layer"):
        read_batch(headless, {}, world.features, world.residuals, stream(0, "start"))
