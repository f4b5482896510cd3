"""Fishing: one example of a batch is heard alone, exactly as bare PyTorch says, and its picture is read."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.catalogue import checks
from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining, local_update
from fedspill.core.model import Model
from fedspill.core.rng import rand, stream
from fedspill.core.roles import Incoming, Tampered, Tampering
from fedspill.core.types import Batch, Update
from fedspill.inversion.fishing.catching import caught
from fedspill.inversion.fishing.readout import FishingReadout
from fedspill.tamperings import class_fishing, feature_fishing
from fedspill.tamperings.class_fishing import ClassFishing
from fedspill.tamperings.feature_fishing import FeatureFishing
from tests.support.networks import smooth_net
from tests.support.worlds import CLASSES, SPEC, batch, conv_bn, draw_weights, relu_mlp

DOUBLE = torch.float64
STRONG, STRONG_FEATURE = class_fishing.CARD.presets["strong"], feature_fishing.CARD.presets["strong"]
World = tuple[Tampered, Update, ServerKnowledge]


def pictures(labels: list[int], seed: int = 0, dtype: torch.dtype = DOUBLE) -> Batch:
    like = torch.zeros((), dtype=dtype)
    return Batch(rand((len(labels), *SPEC.shape), stream(seed, "test", "fish"), like), torch.tensor(labels))


def cast(tampering: Tampering, model: Model, public: Batch | None = None) -> Tampered:
    return tampering.tamper(model, public, 0, stream(0, "server"))


def answered(sent: Tampered, private: Batch, training: LocalTraining | None = None, *, told: bool = True) -> World:
    update = local_update(sent.model, private, training or FedSGD())
    count = len(private) if told else None
    return sent, update, ServerKnowledge(sent.model, num_examples=count, local_training=training or FedSGD())


def rounds(
    tampering: Tampering, model: Model, private: Batch, count: int, public: Batch | None = None, *, told: bool = True
) -> Iterator[World]:
    for number in range(count):
        sent = tampering.tamper(model, public, number, stream(0, "server"))
        world = answered(sent, private, told=told)
        yield world
        assert sent.goes_on is not None
        tampering = sent.goes_on(world[1], world[2])


def bare_gradient(model: Model, private: Batch) -> dict[str, Tensor]:
    """By calling the module itself with the parameters in place."""
    net = model.own_module()
    for parameter in net.parameters():
        parameter.requires_grad_()
    functional.cross_entropy(net(SPEC.encode(private.inputs)), private.labels).backward()
    return {k: p.grad for k, p in net.named_parameters() if p.grad is not None}


def isolated(world: World) -> dict[str, Tensor]:
    sent, update, knowledge = world
    assert isinstance(sent.readout, FishingReadout)
    return dict(sent.readout.isolated(update, knowledge).update.values)


def speaking(world: World) -> int | None:
    """How many examples speak; None if that is not told, or nobody does."""
    readout = world[0].readout
    assert isinstance(readout, FishingReadout)
    catch = None if readout.bait is None else caught(readout.bait, world[1], world[2])
    return None if catch is None else catch.count


def apart(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest relative error of a tensor."""
    assert got.keys() == wanted.keys()
    return max(float((got[k] - v).norm() / v.norm()) for k, v in wanted.items())


def psnr(got: Tensor, wanted: Tensor) -> float:
    return float(-10 * (got - wanted).square().mean().log10())


@pytest.mark.parametrize("make", [conv_bn, relu_mlp, smooth_net])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (DOUBLE, 1e-12)])
@pytest.mark.parametrize("fishing", [ClassFishing(target=3), replace(STRONG, target=3)])
def test_one_example_of_a_class_is_heard_as_if_it_were_alone(make, dtype, tolerance, fishing) -> None:
    private = pictures([0, 1, 7, 3, 8, 8, 9, 0, 2, 4, 5, 6], dtype=dtype)
    world = answered(cast(fishing, make(dtype=dtype)), private)
    assert apart(isolated(world), bare_gradient(world[0].model, private[3:4])) < tolerance
    assert speaking(world) == 1


def test_of_several_members_their_mean_is_heard() -> None:
    private = pictures([5, 1, 3, 3, 9, 3])
    world = answered(cast(ClassFishing(target=3), relu_mlp(dtype=DOUBLE)), private)
    assert apart(isolated(world), bare_gradient(world[0].model, private[[2, 3, 5]])) < 1e-12
    assert speaking(world) == 3


def test_an_update_of_another_scale_holds_the_same_example_but_does_not_count() -> None:
    sent, update, knowledge = answered(cast(ClassFishing(target=3), relu_mlp(dtype=DOUBLE)), pictures([3, 1, 1, 2]))
    clipped = Update(update.kind, {k: 0.37 * v for k, v in update.values.items()})
    assert apart(isolated((sent, clipped, knowledge)), isolated((sent, update, knowledge))) < 1e-12
    assert speaking((sent, clipped, knowledge)) is None


def test_one_local_step_is_a_gradient() -> None:
    private, training = pictures([3, 1, 1, 2]), FedAvg(lr=0.01)
    world = answered(cast(ClassFishing(target=3), relu_mlp(dtype=DOUBLE)), private, training)
    assert apart(isolated(world), bare_gradient(world[0].model, private[:1])) < 1e-9


@pytest.mark.parametrize("factor", [1.0, 1e4])
def test_features_of_any_size_leave_the_others_silent(factor: float) -> None:
    model = relu_mlp(dtype=DOUBLE)
    model = model.with_params({**model.params, "3.weight": factor * model.params["3.weight"]})
    private = pictures([0, 3, 7, 8])
    strong = answered(cast(replace(STRONG, target=3), model), private)
    assert apart(isolated(strong), bare_gradient(strong[0].model, private[1:2])) < 1e-9
    paper = answered(cast(ClassFishing(target=3), model), private)
    assert (speaking(paper) == 1) is (factor == 1)


def test_the_picture_of_a_class_with_one_member_is_read_exactly_in_float32() -> None:
    private = pictures([0, 1, 7, 3, 8, 8, 9, 0], dtype=torch.float32)
    sent, update, knowledge = answered(cast(replace(STRONG, target=3), smooth_net(torch.float32)), private)
    assert sent.readout is not None
    got = sent.readout.reconstruct(update, knowledge, stream(0, "attack"))
    assert got.converged
    assert got.marks == ("alone",)
    assert got.labels is not None
    assert got.labels.tolist() == [3]
    assert psnr(got.inputs[0], private.inputs[3]) > 60


def test_a_class_that_is_absent_is_not_heard() -> None:
    sent, update, knowledge = answered(cast(ClassFishing(target=3), relu_mlp()), pictures([1, 2], dtype=torch.float32))
    assert isinstance(sent.readout, FishingReadout)
    got = sent.readout.reconstruct(update, knowledge, stream(0, "attack"))
    assert got.inputs.shape == (0, *SPEC.shape)
    assert not got.converged
    assert got.notes == ("No example speaks: the batch holds none of class 3.",)
    with pytest.raises(NotApplicable, match="none of class 3"):
        sent.readout.isolated(update, knowledge)


@pytest.mark.parametrize("member", [True, False])
def test_noise_that_hides_everybody_is_not_called_nobody(member: bool) -> None:
    private = pictures([3, 1] if member else [0, 1])
    sent, update, known = answered(cast(ClassFishing(target=3), relu_mlp(dtype=DOUBLE)), private)
    assert isinstance(sent.readout, FishingReadout)
    bait = sent.readout.bait
    assert bait is not None
    bias = update.values[bait.head.bias or ""]
    noise = torch.zeros_like(bias)
    noise[3] = 2 * float(bias.abs().max()) * (-1 if float(bait.answer[3]) > 0 else 1)
    noisy = replace(update, values={**update.values, bait.head.bias or "": bias + noise})
    got = sent.readout.reconstruct(noisy, known, stream(0, "attack"))
    assert len(got.inputs) == 0
    assert got.notes[0].startswith("No example is heard: the row of class 3 answers with the sign that nobody gives it")


@pytest.mark.parametrize("told", [True, False])
def test_later_rounds_fish_for_classes_with_one_member_in_turn(told: bool) -> None:
    private = pictures([2, 2, 2, 4, 6, 6, 9, 0, 0, 0, 0])
    worlds = list(rounds(ClassFishing(), relu_mlp(dtype=DOUBLE), private, 4, told=told))
    fished = [w[0].readout.what for w in worlds if isinstance(w[0].readout, FishingReadout)]
    assert set(fished[1:3]) == {"class 4", "class 9"}
    for world, place in zip(worlds[1:3], [3, 6] if fished[1] == "class 4" else [6, 3], strict=True):
        assert apart(isolated(world), bare_gradient(world[0].model, private[place : place + 1])) < 1e-12


def separated(worlds: list[World], private: Batch, tolerance: float) -> int:
    """The first round in which a single example speaks: its gradient must be that of one of the pictures."""
    first = next(i for i, w in enumerate(worlds) if speaking(w) == 1)
    for world in worlds[first:]:
        got = isolated(world)
        assert world[0].readout is not None
        singles = [bare_gradient(world[0].model, private[i : i + 1]) for i in range(len(private))]
        names = [k for k in got if not k.startswith(last_layer(world[0].model))]
        off = [apart({k: got[k] for k in names}, {k: s[k] for k in names}) for s in singles]
        assert min(off) < tolerance
    return first


def last_layer(model: Model) -> str:
    return list(model.params)[-1].rpartition(".")[0]


@pytest.mark.parametrize(
    "labels",
    [[3] * 8, [0, 1, 2, 3, 4, 5, 6, 7], [*range(CLASSES)] * 2, [*range(CLASSES), *range(9)], [5, 5, 1, 1, 1, 5, 1]],
    ids=["one class", "classes are absent", "two of each", "one of a class", "two classes"],
)
def test_cutoffs_isolate_one_of_any_batch(labels: list[int]) -> None:
    private = pictures(labels)
    worlds = list(rounds(STRONG_FEATURE, relu_mlp(dtype=DOUBLE), private, 14))
    assert separated(worlds, private, 1e-7) <= 10


def test_the_published_cut_isolates_one_of_a_class_that_is_alone() -> None:
    private = pictures([3] * 8)
    worlds = list(rounds(FeatureFishing(feature=3), relu_mlp(dtype=DOUBLE), private, 12))
    assert separated(worlds, private, 1e-6) <= 10


def test_cutoffs_need_no_number_of_examples() -> None:
    private = pictures([3] * 6)
    worlds = list(rounds(STRONG_FEATURE, relu_mlp(dtype=DOUBLE), private, 16, told=False))
    got, model = isolated(worlds[-1]), worlds[-1][0].model
    off = [float((got["1.weight"] - bare_gradient(model, private[i : i + 1])["1.weight"]).norm()) for i in range(6)]
    assert min(off) < 1e-9 * float(got["1.weight"].norm())


def test_public_examples_set_the_first_cutoff() -> None:
    fishing = replace(STRONG_FEATURE, expected=1)
    world = answered(cast(fishing, relu_mlp(dtype=DOUBLE), pictures([0] * 40, seed=1)), pictures([8]))
    assert speaking(world) == 1
    assert speaking(answered(cast(STRONG_FEATURE, relu_mlp(dtype=DOUBLE)), pictures([8]))) is None


def test_a_round_that_only_looks_isolates_nobody_and_says_so() -> None:
    sent, update, knowledge = answered(cast(STRONG_FEATURE, relu_mlp()), batch(4))
    assert sent.readout is not None
    got = sent.readout.reconstruct(update, knowledge, stream(0, "attack"))
    assert len(got.inputs) == 0
    assert "next ones" in got.notes[0]


@pytest.mark.parametrize("fishing", [STRONG, STRONG_FEATURE, ClassFishing(), FeatureFishing()])
def test_networks_that_cannot_be_fished_are_refused_with_the_reason(fishing: Tampering) -> None:
    with pytest.raises(NotApplicable, match="mixes the examples"):
        cast(fishing, conv_bn(training=True))
    with torch.random.fork_rng():
        bare = Model.of(draw_weights(nn.Sequential(nn.Flatten(), nn.Linear(192, 10, bias=False))), SPEC)
    with pytest.raises(NotApplicable, match="biases"):
        cast(fishing, bare)
    smoothed = replace(relu_mlp(), loss_fn=nn.CrossEntropyLoss(label_smoothing=0.1))
    with pytest.raises(NotApplicable, match="cross-entropy"):
        cast(fishing, smoothed)


def test_settings_that_fit_no_model_are_refused() -> None:
    with pytest.raises(BadInput, match="target=10: the model has the classes 0 to 9"):
        cast(ClassFishing(target=10), relu_mlp())
    with pytest.raises(BadInput, match="16 features"):
        cast(FeatureFishing(feature=16), relu_mlp())
    with pytest.raises(BadInput, match="above 0"):
        ClassFishing(multiplier=0.0)
    with pytest.raises(BadInput, match="expected=0"):
        FeatureFishing(expected=0)


@pytest.mark.parametrize("fishing", [STRONG, STRONG_FEATURE, ClassFishing(), FeatureFishing()])
def test_a_client_that_looks_at_the_head_sees_it(fishing: Tampering) -> None:
    guard = checks()["weight_entropy"].presets["paper"]
    sent = cast(fishing, smooth_net(torch.float32), pictures([0] * 8, dtype=torch.float32)).model
    assert guard.inspect(Incoming(smooth_net(torch.float32))) == []
    assert {finding.where for finding in guard.inspect(Incoming(sent))} == {"3.weight"}


def test_a_head_that_was_not_trained_is_refused() -> None:
    sent = cast(ClassFishing(target=3), relu_mlp())
    with pytest.raises(NotApplicable, match="the head's weight"):
        isolated(answered(sent, pictures([3, 1], dtype=torch.float32), FedSGD(("1.*",))))
