"""Defences that change updates, against the same in bare PyTorch and NumPy."""

import math

import numpy as np
import pytest
import torch

from fedspill.auditing.exposure import MeasuresExposure
from fedspill.core.errors import BadInput
from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining, local_update
from fedspill.core.rng import stream
from fedspill.core.roles import ClientContext, Defence, Exposed, Known, measured
from fedspill.core.types import Update, UpdateKind
from fedspill.defences.dp_sgd import DPSGD
from fedspill.defences.gating import Gating
from fedspill.defences.percentile_privacy import PercentilePrivacy
from fedspill.defences.pruning import Pruning
from fedspill.defences.quantisation import Quantisation
from fedspill.defences.svt_privacy import SVTPrivacy
from fedspill.federation.client import Client
from tests.support.defences import audit
from tests.support.worlds import batch, conv_bn, mlp, relu_mlp

RNG = torch.Generator()
NUMBERS = {
    "b": torch.tensor([[0.5, -0.1, 0.02], [-0.004, 0.3, -0.9]], dtype=torch.float64),
    "a": torch.tensor([0.05, -0.2, 0.0, 0.001], dtype=torch.float64),
    "scalar": torch.tensor(0.0001, dtype=torch.float64),
}
GIVEN = Update(UpdateKind.GRADIENT, NUMBERS)


def protected(defence: Defence, given: Update = GIVEN, training: LocalTraining | None = None, seed: int = 0) -> Update:
    context = ClientContext(mlp(), batch(2), training or FedSGD())
    sent = defence.stages().protect(given, context, stream(seed, "noise"))
    assert sent is not None
    return sent


def flat(update: Update) -> torch.Tensor:
    return torch.cat([v.double().flatten() for v in update.values.values()])


# --- per-example clipping and noise


@pytest.mark.parametrize("clip", [0.05, 1.0, 1e3])
def test_dp_sgd_clips_every_example_by_itself(clip: float) -> None:
    model, private = relu_mlp(), batch(3)
    expected = {k: torch.zeros_like(v, dtype=torch.float64) for k, v in model.params.items()}
    for i in range(3):
        leaves = {k: v.clone().requires_grad_() for k, v in model.params.items()}
        z = model.input.encode(private.inputs[i : i + 1])
        loss = model.loss_fn(torch.func.functional_call(model.module, leaves, (z,)), private.labels[i : i + 1])
        grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in grads.values()))
        for k, g in grads.items():
            expected[k] += g.double() * min(1.0, clip / norm) / 3
    defence = DPSGD(clip=clip, noise_multiplier=0.0).stages()
    sent = Client(private, FedSGD(), [defence]).respond(model, RNG.manual_seed(0))
    assert sent is not None
    for k, v in expected.items():
        torch.testing.assert_close(sent.values[k].double(), v, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("parts", [None, 2])
def test_dp_sgd_noise_is_added_once_to_the_sum(parts: int | None) -> None:
    model, private, defence = relu_mlp(), batch(4), DPSGD(clip=0.5, noise_multiplier=2.0)
    quiet = DPSGD(clip=0.5, noise_multiplier=0.0)
    noisy, bare = (
        Client(private, FedSGD(), [d.stages()], parts).respond(model, RNG.manual_seed(1)) for d in (defence, quiet)
    )
    assert noisy is not None
    assert bare is not None
    noise = flat(noisy) - flat(bare)
    assert float(noise.square().mean().sqrt()) == pytest.approx(2.0 * 0.5 / 4, rel=5 / math.sqrt(2 * len(noise)))


def test_dp_sgd_costs_what_one_gaussian_release_costs() -> None:
    one, other = DPSGD(clip=3.0, noise_multiplier=3.731).cost(), DPSGD(3.0, 7.462, relation="replacement").cost()
    assert one is not None
    assert other is not None
    assert one.epsilon == pytest.approx(1.0, rel=2e-3), "methods.md: sigma 3.731 is epsilon 1 at delta 1e-5"
    assert other.epsilon == one.epsilon
    assert "one of them" in one.unit
    assert DPSGD(noise_multiplier=0.0).cost() is None


def test_dp_sgd_sends_no_statistics_and_takes_one_gradient_only() -> None:
    sent = Client(batch(3), FedSGD(), [DPSGD().stages()]).respond(conv_bn(training=True), RNG)
    assert sent is not None
    assert sent.buffers is None
    with pytest.raises(BadInput, match="fedsgd"):
        Client(batch(3), FedAvg(), [DPSGD().stages()]).respond(relu_mlp(), RNG)


# --- pruning


@pytest.mark.parametrize("share", [0.0, 0.5, 0.7, 0.99])
def test_pruning_keeps_the_largest_of_each_tensor(share: float) -> None:
    sent = protected(Pruning(share)).values
    for k, v in NUMBERS.items():
        order = sorted(range(v.numel()), key=lambda i: abs(float(v.flatten()[i])))
        expected = v.flatten().clone()
        expected[order[: math.floor(share * v.numel())]] = 0
        assert torch.equal(sent[k], expected.view_as(v))
        assert int((sent[k] != 0).sum()) >= 1


def test_top_k_keeps_the_largest_of_all() -> None:
    sent = protected(Pruning(0.7, whole=True)).values
    assert {k: v[v != 0].tolist() for k, v in sent.items()} == {"b": [0.5, 0.3, -0.9], "a": [-0.2], "scalar": []}
    equal = Update(GIVEN.kind, {"x": torch.ones(10)})
    assert int(protected(Pruning(0.7), equal).values["x"].sum()) == 3, "of equal ones as many as were asked for"


# --- quantisation


def test_eight_bits_are_127_steps_and_the_largest_stays() -> None:
    for k, v in protected(Quantisation()).values.items():
        step = NUMBERS[k].abs().max() / 127
        torch.testing.assert_close(v, torch.as_tensor(np.rint((NUMBERS[k] / step).numpy())) * step)
        assert float((v - NUMBERS[k]).abs().max()) <= float(step) / 2 + 1e-12
    zero = Update(GIVEN.kind, {"x": torch.zeros(3)})
    assert torch.equal(protected(Quantisation(), zero).values["x"], torch.zeros(3))


def test_signs_are_signs_and_stochastic_rounding_is_right_in_the_mean() -> None:
    assert torch.equal(protected(Quantisation(bits=1)).values["a"], torch.tensor([1.0, -1.0, 0.0, 1.0]).double())
    many = Update(GIVEN.kind, {"x": torch.cat([torch.full((20000,), 0.3), torch.ones(1)]).double()})
    for bits, deviation in ((3, 0.15), (1, 1.0)):
        sent = protected(Quantisation(bits, stochastic=True), many).values["x"]
        assert float(sent[:-1].mean()) == pytest.approx(0.3, abs=5 * deviation / math.sqrt(20000))
        assert len(sent.unique()) in (2, 3)


# --- NVFlare's filters


def nvflare_percentile(values: dict[str, torch.Tensor], percentile: float, gamma: float, steps: int) -> dict:
    """What the filter does, in its own operations."""
    delta = {k: v.numpy() / steps for k, v in values.items()}
    cutoff = np.percentile(a=np.concatenate([np.abs(v.ravel()) for v in delta.values()]), q=percentile)
    sent = {}
    for k, v in delta.items():
        if np.ndim(v) == 0:
            sent[k] = v * steps
            continue
        v = v.copy()
        v[(v > -cutoff) & (v < cutoff)] = 0.0
        sent[k] = np.clip(v, a_min=-gamma, a_max=gamma) * steps
    return sent


@pytest.mark.parametrize("training", [FedSGD(), FedAvg(epochs=3, minibatch_size=1, lr=0.1)], ids=["one", "six"])
@pytest.mark.parametrize(("percentile", "gamma"), [(0.0, 1.0), (10.0, 0.01), (50.0, 0.04), (100.0, 1.0)])
def test_percentile_privacy_is_what_nvflare_sends(training: LocalTraining, percentile: float, gamma: float) -> None:
    steps = 6 if isinstance(training, FedAvg) else 1
    sent = protected(PercentilePrivacy(percentile, gamma), training=training).values
    expected = nvflare_percentile(NUMBERS, percentile, gamma, steps)
    for k, v in sent.items():
        np.testing.assert_allclose(v.numpy(), expected[k], rtol=1e-12)


def test_svt_privacy_sends_the_share_that_was_asked_for_within_the_bound() -> None:
    given = Update(GIVEN.kind, {"w": torch.randn(40, 50, generator=RNG.manual_seed(2)), "s": torch.tensor(7.0)})
    for again, fewest, most in ((False, 201, 201), (True, 150, 200)):
        sent = protected(SVTPrivacy(gamma=0.5, replace=again), given).values
        assert fewest - 1 <= int((sent["w"] != 0).sum()) <= most
        assert float(sent["w"].abs().max()) <= 0.5
        assert float(sent["s"]) == 7.0
    sixfold = protected(SVTPrivacy(gamma=0.5), given, FedAvg(epochs=3, minibatch_size=1, lr=0.1)).values["w"]
    assert 0.5 < float(sixfold.abs().max()) <= 3.0


def test_svt_privacy_with_hardly_any_noise_sends_the_values_above_the_threshold() -> None:
    defence = SVTPrivacy(fraction=0.2, epsilon=1e9, noise_var=1e9, gamma=1.0, tau=0.25, replace=False)
    expected = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.3, -0.9]]).double()
    sent = protected(defence).values
    torch.testing.assert_close(sent["b"], expected, rtol=0, atol=1e-6)
    assert not sent["a"].any()
    with pytest.raises(BadInput, match="too few values"):
        protected(SVTPrivacy(fraction=0.9, epsilon=1e9, gamma=1.0, tau=0.4))


# --- gating


def exposing(*shares: float, failed: str = ""):
    def exposure(update: Update, context: ClientContext, attacks: tuple[str, ...]) -> list[Exposed]:
        return [Exposed("linear_layer:quick", torch.arange(4) < 4 * s, None, "", 0.0, failed) for s in shares]

    return exposure


def test_gating_withholds_above_the_measured_exposure_and_where_nothing_was_measured() -> None:
    context = ClientContext(mlp(), batch(4), FedSGD())

    def sent(gate: Defence) -> Update | None:
        return gate.stages().protect(GIVEN, context, RNG)

    assert sent(Gating(0.5)) is None, "nobody measured"
    assert sent(Gating(0.5).measuring(exposing())) is None
    assert sent(Gating(0.5).measuring(exposing(0.0, failed="time"))) is None
    assert sent(Gating(0.5).measuring(exposing(0.25, 0.5))) is GIVEN
    assert sent(Gating(0.5).measuring(exposing(0.25, 0.75))) is None


def test_gating_measures_with_the_catalogue_and_an_audit_says_that_nothing_came() -> None:
    model, context = relu_mlp(), ClientContext(relu_mlp(), batch(1), FedSGD())
    update, gate = local_update(model, batch(1), FedSGD()), measured(Gating(), MeasuresExposure().as_sent)
    assert gate.stages().protect(update, context, RNG) is None, "one example stands in the first layer as it is"
    noise = Update(update.kind, {k: torch.randn(v.shape, generator=RNG) for k, v in update.values.items()})
    assert gate.stages().protect(noise, context, RNG) is noise
    (trial,) = audit([{"name": "gating"}], ["linear_layer"], n=1).report.trials
    assert trial.skipped is not None
    assert "withheld" in trial.skipped


# --- refusals, and what is known


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: DPSGD(clip=0.0), "clip=0.0"),
        (lambda: DPSGD(noise_multiplier=-1.0), "noise_multiplier=-1.0"),
        (lambda: DPSGD(noise_multiplier=math.nan), "noise_multiplier=nan"),
        (lambda: DPSGD(delta=1.0), "delta=1.0"),
        (lambda: Pruning(share=1.0), "share=1.0"),
        (lambda: Pruning(share=math.nan), "share=nan"),
        (lambda: Quantisation(bits=0), "bits=0"),
        (lambda: PercentilePrivacy(percentile=101.0), "percentile=101.0"),
        (lambda: PercentilePrivacy(gamma=0.0), "gamma=0.0"),
        (lambda: SVTPrivacy(fraction=0.0), "fraction=0.0"),
        (lambda: SVTPrivacy(noise_var=0.0), "noise_var=0.0"),
        (lambda: SVTPrivacy(tau=math.inf), "tau=inf"),
        (lambda: Gating(most=1.5), "most=1.5"),
    ],
)
def test_a_value_out_of_range_is_refused(make, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        make()


def test_each_says_what_a_server_knows_of_it() -> None:
    model = mlp()
    assert DPSGD(2.0, 3.0).known(model).noise_of_sum == 6.0
    assert Pruning().known(model).survivors
    assert not Pruning(share=0.0).known(model).survivors
    assert Quantisation(1).known(model).signs
    assert Quantisation(8).known(model).bits == 8
    assert PercentilePrivacy().known(model).cut
    assert SVTPrivacy().known(model).survivors
    for defence in (Gating(), measured(Gating(), MeasuresExposure().as_sent)):
        assert isinstance(defence, Known)
        assert defence.known(model).names == ("gating",)
