"""The three searches: their objectives against bare PyTorch, what each finds, kills and budgets."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.rng import randn, stream
from fedspill.core.roles import UNWATCHED, Watch
from fedspill.core.types import Batch
from fedspill.core.watching.clock import OutOfTime
from fedspill.inversion.generators.generator import Generator, checked
from fedspill.inversion.generators.search import GenerativeSearch, Reached, Stage, Terms
from fedspill.inversion.matching.forward_model import ForwardModel
from fedspill.inversion.matching.hypotheses import Unknowns, hypotheses
from fedspill.inversion.objective.distances import DISTANCES, cosine_distance, surviving_distance
from fedspill.inversion.search.sequential import Search
from fedspill.inversion.search.step_rules import SignedAdam
from tests.support.watches import BreakingWatch, Broken, Impatient, Recorder
from tests.support.worlds import SPEC, draw_weights, mlp

LIKE = torch.zeros((), dtype=torch.float64)
LATENT = 4
TERMS = Terms(0.05, 0.2)


def generator() -> Generator:
    with torch.random.fork_rng():
        module = nn.Sequential(nn.Linear(LATENT, 192), nn.Sigmoid(), nn.Unflatten(1, (3, 8, 8)))
    return checked(Generator.of(draw_weights(module, scale=1.0), (LATENT,), (3, 8, 8), "'mine'"), SPEC, LIKE)


def images(count: int) -> Tensor:
    """Some that the generator makes."""
    return generator().images(randn((count, LATENT), stream(7, "truth"), LIKE)).detach()


def searched(private: Tensor, terms: Terms = TERMS) -> GenerativeSearch:
    model, labels = mlp(dtype=torch.float64), torch.arange(len(private)) + 1
    update = local_update(model, Batch(private, labels), FedSGD())
    knowledge = ServerKnowledge(model, num_examples=len(private), labels=labels, local_training=FedSGD())
    tried = hypotheses(update, knowledge, Unknowns(), stream(0))
    assumed = [ForwardModel.of(h, knowledge, update, DISTANCES["cosine"], shorten=False) for h in tried]
    return GenerativeSearch(generator(), assumed, terms)


def stages(latents: int, weights: int = 0, pixels: int = 0, restarts: int = 1) -> list[Stage]:
    one = Stage("latents", Search(SignedAdam(0.1, False, "cosine"), latents, restarts))
    two = Stage("weights", Search(SignedAdam(1e-2, False, "cosine"), weights or 1))
    three = Stage("pixels", Search(SignedAdam(0.05, True, "cosine"), pixels or 1))
    return [one] + [two] * bool(weights) + [three] * bool(pixels)


def run(search: GenerativeSearch, how: list[Stage], watch: Watch = UNWATCHED) -> Reached:
    return search.run(how, stream(0, "search"), watch)


def bare_distance(made: Tensor, private: Tensor) -> Tensor:
    """Of the gradients of two batches of images with labels 1, 2, ..., in PyTorch alone."""
    model = mlp(dtype=torch.float64)
    net = model.own_module().requires_grad_(True)
    params, labels = list(net.parameters()), torch.arange(len(private)) + 1
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (SPEC.mean, SPEC.std))
    losses = [functional.cross_entropy(net((x - mean) / std), labels) for x in (made, private)]
    guess, observed = (
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, params, create_graph=True)]) for loss in losses
    )
    return 1 - functional.cosine_similarity(guess, observed.detach(), dim=0)


def test_the_objectives_are_those_of_bare_pytorch_with_their_gradients() -> None:
    private = images(2)
    search, made = searched(private), generator()
    z = randn((2, LATENT), stream(1), LIKE).requires_grad_()
    problem = search._problems("latents", None)[0]
    plain = bare_distance(made.images(z), private) * (0.05 * z.square().mean()).exp()
    value = problem.value([z])
    torch.testing.assert_close(value, plain, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(*(torch.autograd.grad(v, z)[0] for v in (value, plain)), rtol=1e-7, atol=1e-12)
    reached = run(search, stages(1))
    weights = [w.requires_grad_() for w in search._problems("weights", reached)[0].draw(stream(0))]
    value = search._problems("weights", reached)[0].value(weights)
    own = torch.stack(
        [(w @ latent + b).sigmoid().view(3, 8, 8) for w, b, latent in zip(*weights, reached.latents, strict=True)]
    )
    encoded = SPEC.encode(own)
    across, down = encoded.diff(dim=-1)[:, :, :-1], encoded.diff(dim=-2)[..., :-1]
    variation = (across.square() + down.square()).sum(1).add(1e-6).sqrt().mean()
    plain = bare_distance(own, private) * (0.2 * variation).exp()
    torch.testing.assert_close(value, plain, rtol=1e-9, atol=1e-12)
    for got, wanted in zip(*(torch.autograd.grad(v, weights) for v in (value, plain)), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-12)


def test_latents_are_found_of_images_that_the_generator_makes() -> None:
    private = images(2)
    reached = run(searched(private, Terms(0.0, 0.0)), stages(120))
    assert reached.found.value < 1e-3
    torch.testing.assert_close(SPEC.decode(reached.z), private, rtol=0, atol=0.05)


def test_weights_and_pixels_go_beyond_what_the_generator_makes() -> None:
    private = (images(1) + 0.2 * (torch.arange(8.0).double() % 2)).clamp(0, 1)
    search = searched(private, Terms(0.0, 0.0))
    values = [run(search, how).found.value for how in (stages(30), stages(30, 20), stages(30, 20, 20))]
    assert values[1] < 0.5 * values[0]
    assert values[2] < values[1]
    assert run(search, stages(5, 5, 5)).stages == ("latents", "weights", "pixels")


def test_each_image_has_weights_of_its_own_and_keeps_its_latent() -> None:
    search = searched(images(2))
    first, last = run(search, stages(5)), run(search, stages(5, 5))
    assert torch.equal(first.latents, last.latents)
    weight = last.found.variables[0]
    assert weight.shape == (2, 192, LATENT)
    assert not torch.allclose(weight[0], weight[1])


@pytest.mark.parametrize("killed", [3, 9, 14])
def test_a_killed_search_goes_on_as_if_it_had_not_been(killed: int) -> None:
    search, how = searched(images(1)), stages(4, 4, 4)
    whole = run(search, how)
    watch = BreakingWatch(break_after=killed)
    with pytest.raises(Broken):
        run(search, how, watch)
    rest = run(search, how, BreakingWatch(kept=watch.kept))
    assert torch.equal(rest.z, whole.z)
    assert rest.found.history == whole.found.history


def test_progress_rises_over_all_stages_and_ends_at_their_sum() -> None:
    heard = list[tuple[int, int]]()

    class Hears(Recorder):
        def progress(self, done: int, total: int, objective: float) -> None:
            heard.append((done, total))

    run(searched(images(1)), stages(4, 6, 2, restarts=2), Hears())
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)
    assert heard[-1] == (16, 16)
    assert {total for _, total in heard} == {16}


def test_a_budget_that_ends_in_a_later_stage_leaves_the_images_of_the_one_before() -> None:
    search = searched(images(1))

    def ended(*_: object) -> None:
        raise OutOfTime

    object.__setattr__(search, "_weights", ended)
    first, cut = run(searched(images(1)), stages(4)), run(search, stages(4, 4))
    assert torch.equal(cut.z, first.z)
    assert (cut.stages, cut.found.complete) == (("latents",), False)
    object.__setattr__(search, "_latents", ended)
    with pytest.raises(OutOfTime):
        run(search, stages(4, 4))
    impatient = run(searched(images(1)), stages(4, 4), Impatient(2))
    assert (impatient.stages, impatient.found.complete) == (("latents",), False)


def test_what_was_pruned_says_nothing() -> None:
    observed = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[0.0], [4.0]])}
    guess = {"a": torch.tensor([3.0, 100.0]), "b": torch.tensor([[-50.0], [4.0]])}
    assert float(surviving_distance(guess, observed)) == pytest.approx(0, abs=1e-6)
    assert float(cosine_distance(guess, observed)) > 0.7
    guess["b"][1] = 0.0  # (3, 0) against (3, 4)
    assert float(surviving_distance(guess, observed)) == pytest.approx(0.4)
    whole = {k: v + 1 for k, v in observed.items()}
    torch.testing.assert_close(surviving_distance(guess, whole), cosine_distance(guess, whole))
