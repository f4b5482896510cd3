"""What the client's own examples show: every number against a plain twin in bare PyTorch, and its border."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.errors import BadInput
from fedspill.core.model import Model
from fedspill.core.rng import rand, stream
from fedspill.core.roles import Exposed, Incoming
from fedspill.core.types import Batch
from fedspill.guard.dominated_gradients import INFINITE, DominatedGradients, d_snr, ratios_of, silent_examples
from fedspill.guard.isolated_gradients import IsolatedGradients
from fedspill.guard.lone_examples import LoneExamples, connected
from fedspill.guard.lost_accuracy import LostAccuracy, at_least, right
from fedspill.guard.measured_exposure import MeasuredExposure, found_in
from fedspill.guard.training_dynamics import TrainingDynamics, falls
from fedspill.inversion.gradients.singly import ALONE, EXAMPLES, singles, singly, tables
from fedspill.inversion.gradients.telling import LEAST_COMMON, directions, told_by_pairs
from fedspill.zoo.models import build
from tests.support.worlds import CLASSES, SPEC, batch, conv_bn, draw_weights, linear, mlp, relu_mlp

F64 = torch.float64
NETS = {"mlp": mlp(dtype=F64), "relu_mlp": relu_mlp(dtype=F64), "conv_bn": conv_bn(dtype=F64)}


def plain_gradients(model: Model, data: Batch) -> list[dict[str, Tensor]]:
    """Bare PyTorch: one backward pass per example."""
    net = model.own_module().eval()
    named = {k: v.requires_grad_() for k, v in net.named_parameters()}
    mean, std = (torch.tensor(v, dtype=F64)[:, None, None] for v in (SPEC.mean, SPEC.std))
    found = []
    for x, y in zip((data.inputs - mean) / std, data.labels, strict=True):
        loss = functional.cross_entropy(net(x[None]), y[None])
        found.append(dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True)))
    return found


def planted(rows: int = 8, seed: int = 0) -> Model:
    """An imprint by hand: one direction, rising cutoffs, and one number behind each unit."""
    model = relu_mlp(dtype=F64)
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, rows), nn.ReLU(), nn.Linear(rows, CLASSES))
    net = draw_weights(net, seed).double()
    values = batch(8, dtype=F64).inputs
    means = SPEC.encode(values).flatten(1).mean(1).sort().values
    with torch.no_grad():
        net[1].weight.fill_(1 / 192)
        net[1].bias.copy_(-torch.cat([means[:1] - 1, (means[1:] + means[:-1]) / 2])[:rows])
        net[3].weight.copy_(net[3].weight[:, :1].expand(CLASSES, rows))
    return replace(Model.of(net, SPEC), loss_fn=model.loss_fn)


# One example after the other


@pytest.mark.parametrize("name", NETS)
def test_norms_and_sketches_are_those_of_single_gradients(name: str) -> None:
    model, data = NETS[name], batch(4, dtype=F64)
    seen, plain = singly(model, data), plain_gradients(model, data)
    for parameter in model.params:
        rows = torch.stack([g[parameter] for g in plain])
        rows = rows.flatten(2) if rows.ndim > 2 else rows[:, :, None]
        torch.testing.assert_close(seen.norms[parameter], rows.norm(dim=2))
        pairs = (seen.sketches[parameter].sum(0), rows.sum(0).norm(dim=1))
        assert pairs[0].shape == (len(rows[0]), 3)
        assert bool(((pairs[0].norm(dim=1) > 0) == (pairs[1] > 0)).all())


def test_in_train_mode_the_parts_add_up_to_the_gradient_of_the_batch() -> None:
    model, data = conv_bn(training=True, dtype=F64), batch(5, dtype=F64)
    seen = singly(model, data)
    net = model.own_module().train()
    mean, std = (torch.tensor(v, dtype=F64)[:, None, None] for v in (SPEC.mean, SPEC.std))
    parameters = dict(net.named_parameters())
    for value in parameters.values():
        value.requires_grad_()
    loss = functional.cross_entropy(net((data.inputs - mean) / std), data.labels)
    biases = [k for k in parameters if parameters[k].ndim == 1]
    plain = torch.autograd.grad(loss, [parameters[k] for k in biases])
    for name, gradient in zip(biases, plain, strict=True):
        torch.testing.assert_close(seen.sketches[name][:, :, 0].mean(0), gradient, atol=1e-12, rtol=1e-6)
    assert float(loss.detach()) == pytest.approx(float(seen.losses.mean()))


def test_no_more_than_so_many_are_looked_at_and_only_once() -> None:
    incoming = Incoming(relu_mlp(), own_data=batch(EXAMPLES + 4))
    seen = singles(incoming)
    assert seen is not None
    assert len(seen) == EXAMPLES
    assert singles(incoming) is seen
    assert singles(Incoming(relu_mlp())) is None


def test_a_loss_that_is_not_finite_is_refused() -> None:
    model = relu_mlp()
    broken = replace(model, params={**model.params, "5.bias": torch.full((CLASSES,), torch.nan)})
    with pytest.raises(BadInput, match="example 0 is nan"):
        singly(broken, batch(2))


def test_embeddings_are_tables() -> None:
    net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2))
    assert tables(replace(relu_mlp(), module=net)) == {"0.weight"}


# Differences of rows


def pulls_by_hand(model: Model, data: Batch) -> Tensor:
    """What cross-entropy's gradient by the logits is, of length 1."""
    logits = model.logits(model.params, model.input.encode(data.inputs))
    slopes = logits.softmax(1) - functional.one_hot(data.labels, CLASSES)
    return slopes / slopes.norm(dim=1, keepdim=True)


def isolated_by_hand(gradients: Sequence[Tensor], slopes: Tensor, dominance: float) -> list[bool]:
    """Every pair of rows, with whole gradients and the best factor on the other examples."""
    stacked = torch.stack(list(gradients))
    examples = []
    for i in range(len(stacked)):
        rest, found = torch.cat([stacked[:i], stacked[i + 1 :]]), False
        others = torch.cat([slopes[:i], slopes[i + 1 :]])
        for k in range(stacked.shape[1]):
            for row in range(stacked.shape[1]):
                a, b = rest[:, k].flatten(), rest[:, row].flatten()
                alive = [others[rest[:, r].norm(dim=1) > 0] for r in (k, row)]
                if k == row or min(int(torch.linalg.matrix_rank(a, rtol=1 / dominance)) for a in alive) < LEAST_COMMON:
                    continue
                factor = a @ b / (b @ b)
                left = (a - factor * b).norm()
                gap = (stacked[i, k] - factor * stacked[i, row]).norm()
                found |= bool(gap > 1e-9) and bool(gap >= dominance * left)
        examples.append(found)
    return examples


@pytest.mark.parametrize("model", [planted(), relu_mlp(dtype=F64)], ids=["planted", "honest"])
def test_pairs_tell_the_examples_that_whole_gradients_tell(model: Model) -> None:
    data = batch(8, dtype=F64)
    plain = [g["1.weight"] for g in plain_gradients(model, data)]
    told = told_by_pairs((seen := singly(model, data)).even("1.weight"), seen.slopes, 20.0, 64)
    assert told.examples.tolist() == isolated_by_hand(plain, pulls_by_hand(model, data), 20.0)
    assert bool(told.examples.any()) == (len(model.params) == 4)


def test_only_so_many_rows_are_compared() -> None:
    seen = singly(planted(), batch(8, dtype=F64))
    sketches = seen.even("1.weight")
    assert told_by_pairs(sketches, seen.slopes, 20.0, 1).rows == 0
    assert told_by_pairs(sketches[:, :0], seen.slopes, 20.0, 64).rows == 0


def test_directions_are_those_of_the_examples_that_are_part_of_a_row() -> None:
    slopes = torch.tensor([[1.0, 0, 0], [0.9999, 0.01, 0], [0, 1, 0], [0, 0, 1]], dtype=F64)
    live = torch.tensor([[True, True, False], [True, True, False], [False, True, False], [False, True, False]])
    assert directions(slopes, live, 0.05).tolist() == [1, 3, 0]
    assert directions(slopes, live, 1e-4).tolist() == [2, 3, 0]


def test_rows_that_share_examples_of_few_classes_tell_nothing() -> None:
    """With two classes among the shared examples, rows are multiples of each other wherever their gates agree."""
    data = batch(8, dtype=F64)
    few = Batch(data.inputs, torch.tensor([0, 0, 1, 1, 0, 1, 0, 1]))
    found = IsolatedGradients().inspect(Incoming(planted(), own_data=few))
    assert [(f.rule, f.severity) for f in found] == [("few_directions", 0.4)]


def test_a_new_network_with_batch_norm_has_no_loss_to_be_blamed_for() -> None:
    """Its running statistics are nobody's: logits are far apart in eval mode, and by the batch's own they are not."""
    new = build("resnet20", input_shape=(3, 32, 32), num_classes=10, seed=1)
    data = Batch(rand((8, 3, 32, 32), stream(0, "pictures"), new.like), torch.arange(8))
    loss = float(new.loss(new.params, new.input.encode(data.inputs), data.labels))
    assert loss > 5 * math.log(10)
    assert TrainingDynamics().inspect(Incoming(new, own_data=data)) == []
    bias = torch.zeros(10)
    bias[9] = 1000
    fished = replace(new, params={**new.params, "linear.bias": bias})
    assert [f.rule_id for f in TrainingDynamics().inspect(Incoming(fished, own_data=data))] == [
        "training_dynamics.loss"
    ]


def test_an_imprint_by_hand_is_found_by_what_it_does() -> None:
    (finding,) = IsolatedGradients().inspect(Incoming(planted(), own_data=batch(8, dtype=F64)))
    assert (finding.where, finding.rule_id, finding.severity) == ("1.weight", "isolated_gradients", 0.9)
    hidden = planted()
    hidden = replace(hidden, params={**hidden.params, "1.weight": hidden.params["1.weight"].flip(0)})
    order = [3, 0, 6, 1, 7, 2, 5, 4]
    moved = {k: v[order] if k.startswith("1.") else v for k, v in hidden.params.items()}
    assert IsolatedGradients().inspect(Incoming(replace(hidden, params=moved), own_data=batch(8, dtype=F64)))
    assert IsolatedGradients().inspect(Incoming(planted(), own_data=batch(LEAST_COMMON, dtype=F64))) == []


def test_a_batch_of_one_class_is_a_note() -> None:
    data = Batch(batch(8, dtype=F64).inputs, torch.zeros(8, dtype=torch.long))
    (finding,) = IsolatedGradients(pulls=9).inspect(Incoming(planted(), own_data=data))
    assert (finding.rule, finding.severity) == ("few_directions", 0.4)


# Alone in a unit


def of_own_units() -> Model:
    """Every unit fires for one of eight examples, which are unit vectors."""
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    net = draw_weights(net).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.eye(192)[:8])
        net[1].bias.fill_(-0.5)
    return Model.of(net, replace(SPEC, mean=(0.0,), std=(1.0,)))


def own_vectors() -> Batch:
    return Batch(torch.eye(192, dtype=F64)[:8].reshape(8, *SPEC.shape), torch.arange(8))


def test_units_that_fire_for_one_each_are_found() -> None:
    seen = singly(of_own_units(), own_vectors())
    assert torch.equal(seen.alone("1.weight"), torch.eye(8, dtype=torch.bool))
    (finding,) = LoneExamples().inspect(Incoming(of_own_units(), own_data=own_vectors()))
    assert finding.where == "1.weight"
    assert finding.evidence["lone_units"] == finding.evidence["lone_examples"] == 8
    assert finding.evidence["activation_rate"] == pytest.approx(1 / 8)


def test_shares_count_every_example_alike() -> None:
    seen = singly(relu_mlp(dtype=F64), batch(4, dtype=F64))
    even = seen.norms["3.weight"] / seen.signals[:, None]
    torch.testing.assert_close(seen.shares("3.weight"), even / even.sum(0).clamp_min(1e-300))
    assert torch.equal(seen.alone("3.weight"), seen.shares("3.weight") >= ALONE)
    assert connected(relu_mlp()) == ["1.weight", "3.weight", "5.weight"]


# D-SNR


@pytest.mark.parametrize(
    ("norms", "ratio"), [([3.0, 1.0, 1.0], 1.5), ([2.0, 2.0], 1.0), ([0.0, 0.0], 0.0), ([4.0, 0.0], INFINITE)]
)
def test_d_snr(norms: list[float], ratio: float) -> None:
    assert d_snr(torch.tensor(norms)) == ratio


def test_d_snr_is_of_every_parameter() -> None:
    model, data = conv_bn(dtype=F64), batch(4, dtype=F64)
    plain = plain_gradients(model, data)
    ratios = ratios_of(singly(model, data), frozenset(), 1)
    assert set(ratios) == set(model.params)
    for name, ratio in ratios.items():
        norms = sorted(float(g[name].norm()) for g in plain)
        assert ratio == pytest.approx(norms[-1] / sum(norms[:-1]))


def of_one_class(members: int) -> Incoming:
    """A head by which class 0 alone has a gradient, and a batch with so many members of it."""
    model = relu_mlp(dtype=F64)
    head = torch.zeros_like(model.params["5.weight"])
    head[0] = 0.5
    bias = torch.full((CLASSES,), 1000.0, dtype=F64)
    bias[0] = 0
    labels = torch.tensor([0] * members + [1, 2, 3, 4, 5, 6, 7, 8][members:])
    params = {**model.params, "5.weight": head, "5.bias": bias}
    return Incoming(replace(model, params=params), own_data=Batch(batch(8, dtype=F64).inputs, labels))


def test_a_head_of_one_class_is_found_however_many_members_it_has() -> None:
    rules = {n: {f.rule for f in DominatedGradients().inspect(of_one_class(n))} for n in (0, 1, 3)}
    assert rules == {0: {"silenced"}, 1: {"planted", "silenced"}, 3: {"silenced"}}
    seen = singles(of_one_class(3))
    assert seen is not None
    assert silent_examples(seen, ["1.weight", "3.weight"]) == (8, 5)


def test_one_example_that_the_network_does_not_know_is_a_note() -> None:
    model, data = linear(dtype=F64), batch(8, dtype=F64)
    sure = 1e3 * SPEC.encode(data.inputs).flatten(1).pinverse() @ functional.one_hot(data.labels, CLASSES).double()
    known = replace(model, params={**model.params, "1.weight": sure.T, "1.bias": torch.zeros(CLASSES, dtype=F64)})
    wrong = Batch(data.inputs, torch.cat([data.labels[:7], data.labels[:1]]))
    (finding,) = DominatedGradients(smallest=1).inspect(Incoming(known, own_data=wrong))
    assert (finding.rule, finding.severity) == ("by_loss", 0.3)


# Loss and gradient


def test_steps_along_the_gradient_lower_the_loss_of_honest_networks() -> None:
    for model in NETS.values():
        assert falls(model, batch(4, dtype=F64), 0.1, 1) is None


def test_a_loss_without_a_gradient_and_one_that_never_falls() -> None:
    flat = replace(relu_mlp(dtype=F64), loss_fn=lambda logits, labels: 1 + 0 * logits.sum())
    before, after = falls(flat, batch(4, dtype=F64), 0.1, 3) or (0.0, 0.0)
    assert before == 1
    assert math.isnan(after)
    (finding,) = TrainingDynamics().inspect(Incoming(flat, own_data=batch(4, dtype=F64)))
    assert finding.rule_id == "training_dynamics.no_gradient"


def test_a_loss_far_above_that_of_guessing_is_found() -> None:
    model = relu_mlp(dtype=F64)
    bias = torch.zeros(CLASSES, dtype=F64)
    bias[9] = 1000
    (finding,) = TrainingDynamics().inspect(
        Incoming(replace(model, params={**model.params, "5.bias": bias}), own_data=batch(4, dtype=F64))
    )
    assert finding.rule_id == "training_dynamics.loss"
    assert finding.evidence["loss_of_guessing"] == pytest.approx(math.log(CLASSES))


# Accuracy


@pytest.mark.parametrize(("hits", "tosses"), [(0, 0), (3, 4), (8, 8), (5, 20)])
def test_how_likely_so_many_heads_are(hits: int, tosses: int) -> None:
    assert at_least(hits, tosses) == pytest.approx(float(stats.binom.sf(hits - 1, tosses, 0.5)))


def knowing(turn: int) -> Model:
    """Class k, turned so far, for the k-th unit vector."""
    model = linear(dtype=F64)
    weight = torch.zeros(CLASSES, 192, dtype=F64)
    weight[:8, :8] = torch.eye(8, dtype=F64).roll(turn, 0)
    spec = replace(SPEC, mean=(0.0,), std=(1.0,))
    return replace(model, params={"1.weight": weight, "1.bias": torch.zeros(CLASSES, dtype=F64)}, input=spec)


def many_vectors() -> Batch:
    data = own_vectors()
    return Batch(data.inputs.repeat(2, 1, 1, 1), data.labels.repeat(2))


def test_an_accuracy_that_is_lost_is_found_and_one_that_is_won_is_not() -> None:
    assert right(knowing(0), own_vectors()) == [True] * 8
    assert right(knowing(1), own_vectors()) == [False] * 8
    (finding,) = LostAccuracy().inspect(Incoming(knowing(1), knowing(0), own_data=many_vectors()))
    assert (finding.evidence["accuracy_before"], finding.evidence["accuracy"]) == (1, 0)
    assert LostAccuracy().inspect(Incoming(knowing(0), knowing(1), own_data=many_vectors())) == []
    assert LostAccuracy().inspect(Incoming(knowing(1), own_data=many_vectors())) == []
    few = many_vectors()[:4]
    assert LostAccuracy().inspect(Incoming(knowing(1), knowing(0), own_data=few)) == [], "four may be chance"


# Exposure


def exposed(*read: bool, failed: str = "") -> Exposed:
    return Exposed("one:quick", torch.tensor(read), 30.0, "psnr >= 20 dB", 0.1, failed)


def test_what_is_read_by_any_attack_counts() -> None:
    (finding,) = found_in([exposed(True, False, False), exposed(False, True, False)], 0.5)
    assert finding.evidence == {"read": 2, "examples": 3, "by_the_best": 1, "closest": 30}
    assert found_in([exposed(True, False, False)], 0.5) == []
    assert found_in([exposed(False, False)], 0.0) == []
    assert found_in([], 0.0) == [], "no attack fits"
    (unknown,) = found_in([exposed(False, failed="time")], 0.0)
    assert unknown.rule_id == "measured_exposure.not_measured"


def test_only_with_own_data_and_somebody_who_measures() -> None:
    asked = list[int]()

    def measure(model: Model, data: Batch) -> tuple[Exposed, ...]:
        asked.append(len(data))
        return (exposed(True, True),)

    check = MeasuredExposure()
    assert check.inspect(Incoming(relu_mlp(), exposure=measure)) == []
    assert check.inspect(Incoming(relu_mlp(), own_data=batch(2))) == []
    assert check.inspect(Incoming(relu_mlp(), own_data=batch(2), exposure=measure))
    assert asked == [2]


# Honest networks, and fields


def untrained() -> Iterator[Model]:
    for seed in range(3):
        for net in (
            nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, CLASSES)),
            nn.Sequential(
                nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 32), nn.ReLU(), nn.Linear(32, 10)
            ),
        ):
            yield Model.of(draw_weights(net, seed, 0.1), SPEC)


@pytest.mark.parametrize("check", [IsolatedGradients(), LoneExamples(), DominatedGradients(), TrainingDynamics()])
def test_honest_networks_raise_nothing(
    check: IsolatedGradients | LoneExamples | DominatedGradients | TrainingDynamics,
) -> None:
    for model in (*untrained(), mlp(), relu_mlp(), conv_bn(), conv_bn(training=True)):
        assert check.inspect(Incoming(model, own_data=batch(8))) == []


@pytest.mark.parametrize(
    ("make", "fields"),
    [
        (LoneExamples, {"share": 0.0}),
        (LoneExamples, {"fewest": 1}),
        (DominatedGradients, {"alarm": 0.0}),
        (DominatedGradients, {"silenced": 0.0}),
        (IsolatedGradients, {"share": 2.0}),
        (IsolatedGradients, {"dominance": 1.0}),
        (TrainingDynamics, {"guessing": 1.0}),
        (TrainingDynamics, {"tries": 0}),
        (LostAccuracy, {"chance": 1.0}),
        (LostAccuracy, {"most": 0}),
        (MeasuredExposure, {"share": 1.0}),
    ],
)
def test_fields_out_of_range_are_refused(make: type, fields: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=next(iter(fields))):
        make(**fields)


def test_in_a_pruned_network_rows_that_isolate_examples_are_a_note() -> None:
    """Units that hand on to one unit alone are alike whoever pruned them."""
    model, data = planted(), batch(8, dtype=F64)
    rows = model.params["1.weight"].clone()
    rows[:, 115:] = 0
    sums = (SPEC.encode(data.inputs).flatten(1) @ rows[0]).sort().values
    bias = -torch.cat([sums[:1] - 1, (sums[1:] + sums[:-1]) / 2])
    thinned = replace(model, params={**model.params, "1.weight": rows, "1.bias": bias})
    (whole,) = IsolatedGradients().inspect(Incoming(model, own_data=data))
    (part,) = IsolatedGradients().inspect(Incoming(thinned, own_data=data))
    assert (whole.rule, whole.severity) == ("", 0.9)
    assert (part.rule, part.severity) == ("pruned", 0.4)
