"""A gradient that was clipped or scaled on its way is read as the gradient itself: by every attack of the catalogue."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fedspill.attacks.linear_layer import LinearLayer
from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, local_update
from fedspill.core.rng import stream
from fedspill.core.types import Batch, Reconstruction, Update
from fedspill.inversion.analytic.certificate import replay
from fedspill.inversion.gradients.scale import Fitted, Multiple, common_multiple
from fedspill.inversion.labels.scale import head_multiple
from fedspill.testing.components import Component
from fedspill.testing.contracts import worlds
from fedspill.testing.worlds import SPEC, batch, conv_bn, mlp, relu_mlp
from tests.support.exclusivity import STRONG, pictures
from tests.support.exclusivity import mlp as wide_mlp

SEARCHED = {
    "class_fishing",
    "cocktail_party",
    "disaggregated_inversion",
    "dlg",
    "feature_fishing",
    "gias",
    "grad_inversion",
    "idlg",
    "inverting_gradients",
}
"""They take steps, of which rounding makes other ones, so that they are held to factors that round nothing."""


def times(update: Update, factor: float) -> Update:
    return replace(update, values={k: v * factor for k, v in update.values.items()})


def in_order(got: Reconstruction, like: Reconstruction) -> Reconstruction:
    """Candidates in the order of others; those that are equally sure may come in any."""
    order = torch.cdist(like.inputs.flatten(1).double(), got.inputs.flatten(1).double()).argmin(1)

    def turned(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[order]

    marks = tuple(got.marks[i] for i in order) if got.marks else ()
    return replace(
        got, inputs=got.inputs[order], labels=turned(got.labels), confidence=turned(got.confidence), marks=marks
    )


def assert_same(got: Reconstruction, expected: Reconstruction) -> None:
    assert got.inputs.shape == expected.inputs.shape
    if not len(got.inputs):
        return
    got = in_order(got, expected)
    torch.testing.assert_close(got.inputs, expected.inputs, rtol=0, atol=1e-3)
    assert (got.marks, got.converged, got.label_method) == (expected.marks, expected.converged, expected.label_method)
    for one, other in ((got.labels, expected.labels), (got.confidence, expected.confidence)):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=0, atol=1e-3)


@pytest.mark.fedspill_contract("reads")
@pytest.mark.parametrize("granted", [True, False], ids=["labels", "no labels"])
@pytest.mark.parametrize("n", [1, 2])
def test_a_multiple_of_the_gradient_is_read_as_the_gradient(
    fedspill_component: Component, n: int, granted: bool
) -> None:
    searches, solves = fedspill_component.name in SEARCHED, fedspill_component.name == "softmax_disaggregation"
    if fedspill_component.name in {"dlg", "idlg"} and n > 1:
        pytest.skip("of several examples the factor is told roughly, which is another search")
    if fedspill_component.name in {"class_fishing", "feature_fishing"} and n > 1:
        pytest.skip("how many speak is told by the scale; without it one is assumed, which a note says")
    # Where the reading of two examples ends, rounding decides between layers, and the search begins elsewhere.
    ends = 1 if fedspill_component.name == "disaggregated_inversion" and n > 1 else 2 if searches or solves else None
    for attack, update, everything in list(worlds(fedspill_component, n))[:ends]:
        knowledge = everything if granted else replace(everything, labels=None)
        try:
            expected = attack.reconstruct(update, knowledge, stream(0, "attack"))
        except NotApplicable:
            continue
        for factor in (0.25, 65536.0, *(() if searches else (0.01 / update.norm(),))):
            assert_same(attack.reconstruct(times(update, factor), knowledge, stream(0, "attack")), expected)


@pytest.mark.parametrize("factor", [0.25, 65536.0, 1e-3])
@pytest.mark.parametrize("known", [True, False], ids=["n known", "n unknown"])
def test_neuron_exclusivity_reads_all_of_a_scaled_batch(factor: float, known: bool) -> None:
    model, private = wide_mlp(2000, dtype=torch.float32), pictures(16, dtype=torch.float32)
    update = local_update(model, private, FedSGD())
    knowledge = ServerKnowledge(model, num_examples=16 if known else None)
    plain = STRONG.reconstruct(update, knowledge, stream(0, "a"))
    scaled = STRONG.reconstruct(times(update, factor), knowledge, stream(0, "a"))
    assert plain.marks == scaled.marks == ("alone",) * 16
    torch.testing.assert_close(in_order(scaled, plain).inputs, plain.inputs, rtol=0, atol=1e-4)
    if known:
        assert plain.converged
        assert scaled.converged
        assert f"{factor:.4g} times" in scaled.notes[-1]


def test_loss_scaling_in_float16_is_one_factor() -> None:
    update, knowledge = local_update(mlp(), batch(1), FedSGD()), ServerKnowledge(mlp(), num_examples=1)
    half = {k: (v * 1024).half().float() for k, v in update.values.items()}
    rounded = head_multiple(replace(update, values=half), knowledge)
    assert rounded is not None
    assert rounded.factor == pytest.approx(1024, rel=1e-2)


@pytest.mark.parametrize("make", [mlp, relu_mlp, conv_bn])
@pytest.mark.parametrize("factor", [1.0, 0.25, 1e-3, 65536.0])
@pytest.mark.parametrize("same", [True, False], ids=["one class", "distinct"])
def test_the_head_tells_the_factor(make, factor: float, same: bool) -> None:
    model = make()
    for n in (1, 2, 4):
        private = Batch(batch(n).inputs, torch.full((n,), 3) if same else torch.arange(n))
        sent = times(local_update(model, private, FedSGD()), factor)
        told = head_multiple(sent, ServerKnowledge(model, num_examples=n))
        # Features of one class that differ much may contradict each other: then it says nothing, and nothing wrong.
        assert told is not None or (n > 1 and make is relu_mlp)
        assert told is None or told.factor == pytest.approx(factor, rel=1e-4 if n == 1 else 0.1)


def test_where_every_class_has_examples_the_head_says_1_or_nothing() -> None:
    for model in (mlp(), relu_mlp(), conv_bn()):
        told = head_multiple(local_update(model, batch(16), FedSGD()), ServerKnowledge(model, num_examples=16))
        assert told is None or told.allows(1.0)


def test_a_mixture_of_one_class_is_no_multiple_of_one_example() -> None:
    observed, half = torch.tensor([1.0, 2.0]), Fitted(2.0, torch.tensor([1.0, 2.0]))
    assert common_multiple([half], observed, Multiple(1.0, False), 2) is None, "the head says 1"
    assert common_multiple([half], observed, None, 2) is None, "nobody agrees"
    assert common_multiple([half, half], 2 * observed, None, 3) is None, "nothing is left for the third example"
    assert common_multiple([half, half], 2 * observed, None, 2) == 2.0


def test_a_clipped_delta_is_a_multiple_where_nothing_decays() -> None:
    model = mlp(dtype=torch.float64)
    private, training = batch(1, dtype=torch.float64), FedAvg(epochs=3, lr=0.1)
    knowledge = ServerKnowledge(model, num_examples=1, local_training=training)
    sent = times(local_update(model, private, training), 0.3)
    names = ("1.weight", "1.bias")
    again = replay(sent, knowledge, names, SPEC.encode(private.inputs), private.labels)
    assert again is not None
    assert again.residual < 1e-12
    assert again.factor == pytest.approx(0.3)


def test_two_classes_and_an_unknown_number_need_the_gradient_itself() -> None:
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Linear(8, 2))
    model = replace(mlp(), module=net.eval(), params={k: v.detach().clone() for k, v in net.named_parameters()})
    update = local_update(model, Batch(batch(1).inputs, torch.zeros(1, dtype=torch.long)), FedSGD())
    unknown, one = ServerKnowledge(model), ServerKnowledge(model, num_examples=1)
    assert LinearLayer().reconstruct(times(update, 0.25), one, stream(0, "a")).converged
    assert LinearLayer().reconstruct(times(update, 0.25), unknown, stream(0, "a")).inputs.shape == (1, *SPEC.shape)
