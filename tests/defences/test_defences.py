"""Defences of clients: what they do to an update, what is proven of it, and that plans run them."""

import math
import warnings

import mpmath
import pytest
import torch
from scipy.stats import kstest
from typer.testing import CliRunner

from fedspill.auditing import parse_plan
from fedspill.auditing.resolving.components import defences_of
from fedspill.cli.main import app
from fedspill.core.errors import BadInput
from fedspill.core.local_training.update import FedAvg, FedSGD, local_update, mean_update
from fedspill.core.rng import stream
from fedspill.core.roles import ClientContext, Stages
from fedspill.core.types import Update, UpdateKind
from fedspill.defences.clipping import Clipping
from fedspill.defences.dp_sgd import DPSGD
from fedspill.defences.gradient_noise import GradientNoise
from fedspill.defences.local_dp import LocalDP
from fedspill.federation.aggregation import collect
from fedspill.federation.client import shared_out
from fedspill.plan.file import read_plan
from fedspill.privacy.gaussian import analytic_epsilon, analytic_sigma
from fedspill.privacy.mechanisms import clipped
from tests.support.worlds import batch, conv_bn, mlp, relu_mlp


def flat(update: Update) -> torch.Tensor:
    return torch.cat([v.double().flatten() for v in update.values.values()])


def protected(defence, update: Update, seed: int = 0) -> Update:
    context = ClientContext(mlp(), batch(2), FedSGD())
    return defence.stages().protect(update, context, stream(seed, "noise"))


def gaussian_delta(sigma: float, epsilon: float) -> mpmath.mpf:
    """Theorem 8 of Balle and Wang in 60 digits: nothing overflows and nothing cancels."""
    with mpmath.workdps(60):
        s, e = mpmath.mpf(sigma), mpmath.mpf(epsilon)
        return mpmath.ncdf(1 / (2 * s) - e * s) - mpmath.exp(e) * mpmath.ncdf(-1 / (2 * s) - e * s)


@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-10])
@pytest.mark.parametrize("epsilon", [0.01, 1, 8, 50, 1000, 1e4])
def test_the_noise_is_the_least_that_the_analytic_mechanism_needs(epsilon: float, delta: float) -> None:
    sigma = analytic_sigma(float(epsilon), delta)
    assert gaussian_delta(sigma * (1 + 1e-9), epsilon) < delta < gaussian_delta(sigma * (1 - 1e-9), epsilon)
    assert analytic_epsilon(sigma, delta) == pytest.approx(epsilon, rel=1e-8)


@pytest.mark.parametrize(
    ("epsilon", "sigma"),
    [(1, 3.731), (2, 1.994), (4, 1.081), (8, 0.600), (10, 0.500), (20, 0.290), (50, 0.150), (1000, 0.0246)],
)
def test_figures_for_delta_of_1e_5(epsilon: float, sigma: float) -> None:
    assert analytic_sigma(float(epsilon), 1e-5) == pytest.approx(sigma, rel=3e-3)


def test_much_noise_needs_no_epsilon() -> None:
    assert analytic_epsilon(1e6, 1e-5) == 0.0


@pytest.mark.parametrize("norm", [1e-3, 0.5, 1e6])
def test_clipping_is_exact_and_only_shortens(norm: float) -> None:
    update = local_update(relu_mlp(), batch(3), FedSGD())
    short = clipped(update, norm)
    assert short.norm() == pytest.approx(min(norm, update.norm()), rel=1e-6)
    assert torch.nn.functional.cosine_similarity(flat(short), flat(update), dim=0) == pytest.approx(1, abs=1e-6)
    zero = Update(update.kind, {k: torch.zeros_like(v) for k, v in update.values.items()})
    assert clipped(zero, norm).norm() == 0


BLANK = Update(UpdateKind.GRADIENT, {"a": torch.zeros(300, 300), "b": torch.zeros(10_000)})


@pytest.mark.parametrize(
    ("defence", "sigma", "law"),
    [
        (GradientNoise(0.3), 0.3, "laplace"),
        (GradientNoise(0.3, distribution="gaussian"), 0.3, "norm"),
        (LocalDP(clip=0.5, epsilon=8.0), 0.60023, "norm"),
        (LocalDP(clip=0.5, epsilon=8.0, sensitivity="add_remove"), 0.300113, "norm"),
        (LocalDP(clip=0.5, sigma=2.0), 2.0, "norm"),
    ],
)
def test_noise_has_the_size_and_the_law_that_was_asked_for(defence, sigma: float, law: str) -> None:
    noise = flat(protected(defence, BLANK))
    n, out_of_range = len(noise), 5 if law == "laplace" else 2  # variance of a squared standard value
    assert float(noise.square().mean()) == pytest.approx(sigma**2, rel=5 * math.sqrt(out_of_range / n))
    assert abs(float(noise.mean())) < 5 * sigma / math.sqrt(n)
    scale = sigma / math.sqrt(2) if law == "laplace" else sigma
    assert kstest(noise.numpy(), law, args=(0, scale)).pvalue > 1e-3


def test_relative_noise_goes_with_the_update() -> None:
    update = local_update(mlp(), batch(2), FedSGD())
    tenfold = Update(update.kind, {k: 10 * v for k, v in update.values.items()})
    small, large = (flat(protected(GradientNoise(0.1, relative=True), u)) - flat(u) for u in (update, tenfold))
    torch.testing.assert_close(large, 10 * small, rtol=1e-3, atol=1e-6)
    rms = float(flat(update).square().mean().sqrt())
    assert float(small.square().mean().sqrt()) == pytest.approx(0.1 * rms, rel=0.1)


def test_local_dp_sends_no_statistics_of_the_batch() -> None:
    update = local_update(conv_bn(training=True), batch(4), FedSGD())
    assert update.buffers
    assert protected(LocalDP(), update).buffers is None
    assert protected(Clipping(), update).buffers == update.buffers


@pytest.mark.parametrize("training", [FedSGD(), FedAvg(epochs=2, lr=0.1)], ids=["fedsgd", "fedavg"])
def test_every_client_is_clipped_before_the_mean_is_taken(training) -> None:
    model, private, norm = relu_mlp(), batch(6), 0.05
    clients = shared_out(private, 3, training, defences=[Clipping(norm).stages()])
    got = collect(model, clients, stream(0, "clients"))
    alone = [local_update(model, private[2 * k : 2 * k + 2], training) for k in range(3)]
    assert min(u.norm() for u in alone) > norm
    expected = sum(norm * flat(u) / u.norm() for u in alone) / 3
    torch.testing.assert_close(flat(got), expected, rtol=1e-5, atol=1e-8)
    assert got.norm() < 0.99 * clipped(mean_update(alone), norm).norm()


def noises(clients: int, defences: list[Stages], seed: int = 0) -> list[torch.Tensor]:
    """What each of several clients added to an update of its own."""
    model, private = mlp(), batch(2 * clients)
    bare = [local_update(model, private[2 * k : 2 * k + 2], FedSGD()) for k in range(clients)]
    added = list[torch.Tensor]()

    def last(update: Update, context: ClientContext, rng: torch.Generator) -> Update:
        added.append(flat(update) - flat(bare[len(added)]))
        return update

    collect(
        model, shared_out(private, clients, FedSGD(), defences=[*defences, Stages(protect=last)]), stream(seed, "c")
    )
    return added


def test_clients_and_defences_have_their_own_streams() -> None:
    noise = GradientNoise(0.1, distribution="gaussian").stages()
    first, second, third = noises(3, [noise])
    assert not torch.allclose(first, second)
    assert torch.equal(first, noises(1, [noise])[0]), "another client shifts nobody's noise"
    torch.testing.assert_close(noises(3, [noise, noise])[1] - noises(3, [noise])[1], _of_second_place(noise))
    assert torch.equal(third, noises(3, [noise])[2])
    assert not torch.allclose(first, noises(1, [noise], seed=1)[0])


def _of_second_place(noise: Stages) -> torch.Tensor:
    """The second client's noise of a defence that stands behind one that draws nothing."""
    return noises(3, [Stages(), noise])[1]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "local_pd"}, "unknown defence 'local_pd'; there are clipping, .*gradient_noise, .*local_dp"),
        ({"name": "local_dp", "eps": 1.0}, "defence 'local_dp' has no field 'eps'; it has clip, epsilon"),
        ({"name": "local_dp", "preset": "mild"}, "defence 'local_dp' has no preset 'mild'"),
        ({"name": "local_dp", "epsilon": "much"}, "defence 'local_dp', field 'epsilon'"),
        ({"name": "local_dp", "epsilon": 1, "sigma": 2}, "defence 'local_dp': epsilon=1.0 and sigma=2.0 were got"),
        ({"name": "local_dp", "delta": 0.0}, "delta=0.0 must lie between 0 and 1"),
        ({"name": "local_dp", "clip": -1.0}, "clip=-1.0 must be above 0"),
        ({"name": "local_dp", "sensitivity": "swap"}, "'sensitivity'"),
        ({"name": "clipping", "norm": 0}, "norm=0.0 must be above 0"),
        ({"name": "gradient_noise", "sigma": -1}, "sigma=-1.0 must be at least 0"),
    ],
)
def test_bad_defences_are_bad_input(entry: dict, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        defences_of(parse_plan({"defences": [entry]}))


def test_a_plan_without_a_name_and_a_wrong_one_on_the_command_line(tmp_path) -> None:
    with pytest.raises(BadInput, match=r"plan key 'defences\.0\.name'"):
        parse_plan({"defences": [{"epsilon": 1.0}]})
    path = tmp_path / "plan.toml"
    path.write_text('[[defences]]\nname = "local_dp"\nepsilon = 1\n')
    assert defences_of(read_plan(path, ["defences.0.epsilon=3"]))[0].component == LocalDP(epsilon=3.0)
    for setting, said in (("1.epsilon", "'1' is no place in a list of 1"), ("0", "'defences' is a list")):
        with pytest.raises(BadInput, match=said):
            read_plan(path, [f"defences.{setting}=3"])
    done = CliRunner().invoke(
        app, ["audit", str(path), "--set", "defences.0.name=nothing", "--out", str(tmp_path / "o")]
    )
    assert isinstance(done.exception, BadInput)


def test_a_noise_multiplier_is_that_of_opacus_and_sigma_1_is_twice_as_much() -> None:
    opacus, replaced = LocalDP(clip=0.5, noise_multiplier=1.0), LocalDP(clip=0.5, sigma=1.0)
    assert opacus.noise() == 0.5
    assert replaced.noise() == 1.0, "over the sensitivity of replacement, 2 x clip"
    assert LocalDP(clip=0.5, sigma=1.0, relation="add-or-remove").noise() == 0.5
    # The release of one vector of sensitivity C with noise of C: Balle and Wang's mechanism at sigma 1.
    assert gaussian_delta(1.0, opacus.cost().epsilon) == pytest.approx(1e-5, rel=1e-6)
    assert opacus.cost().epsilon == pytest.approx(replaced.cost().epsilon)
    stated = opacus.cost().unit, replaced.cost().unit
    assert "add or remove: 1 x clip" in stated[0]
    assert "replacement: 2 x clip" in stated[1]
    noise = flat(protected(opacus, BLANK))
    assert float(noise.square().mean().sqrt()) == pytest.approx(0.5, rel=0.02)


def test_the_other_relation_by_name_costs_more_for_the_same_noise() -> None:
    kept = LocalDP(noise_multiplier=1.0, relation="replacement")
    assert kept.noise() == 1.0
    assert gaussian_delta(0.5, kept.cost().epsilon) == pytest.approx(1e-5, rel=1e-6)
    assert LocalDP(epsilon=8.0, relation="replacement").noise() == LocalDP(epsilon=8.0).noise()
    assert (
        LocalDP(epsilon=8.0, relation="add-or-remove").noise() == LocalDP(epsilon=8.0, sensitivity="add_remove").noise()
    )


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"noise_multiplier": 1, "sigma": 1}, r"sigma=1\.0 and noise_multiplier=1\.0 were got"),
        ({"noise_multiplier": 0}, r"noise_multiplier=0\.0 must be above 0"),
        ({"relation": "replacement", "sensitivity": "add_remove"}, "contradict each other"),
        ({"relation": "swap"}, "'relation'"),
    ],
)
def test_a_multiplier_that_does_not_fit_is_bad_input(entry: dict, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        defences_of(parse_plan({"defences": [{"name": "local_dp", **entry}]}))


def test_opacus_accountant_says_the_same_of_one_release() -> None:
    accountants = pytest.importorskip("opacus.accountants")
    accountant = accountants.PRVAccountant()
    accountant.step(noise_multiplier=1.0, sample_rate=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = accountant.get_epsilon(delta=1e-5)
    assert theirs == pytest.approx(LocalDP(noise_multiplier=1.0).cost().epsilon, abs=0.02)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_cannot_be_clipped_is_not_sent(value: float) -> None:
    update = Update(UpdateKind.GRADIENT, {"w": torch.tensor([1.0, value])})
    with pytest.raises(BadInput, match="NaN or infinite"):
        clipped(update, 1.0)
    per_example = DPSGD().stages().per_example
    assert per_example is not None
    with pytest.raises(BadInput, match="NaN or infinite"):
        per_example({"w": torch.tensor([[1.0, value]])}, stream(0, "dp"))
