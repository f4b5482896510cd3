"""An example that is alone in a bin is read exactly: wherever the module stands, however it is built."""

import pytest
import torch
from torch import nn

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import rand, stream
from fedspill.core.settings import with_fields
from fedspill.core.types import Batch
from fedspill.inversion.imprint.making import Bins
from fedspill.inversion.imprint.measurement import vector
from fedspill.tamperings.one_shot import OneShot
from fedspill.tamperings.robbing_linear_layer import RobbingLinearLayer
from fedspill.tamperings.robbing_the_fed import ImprintModule, Placement, RobbingTheFed
from tests.support.imprints import EXACT, read, stored
from tests.support.worlds import CLASSES, SPEC, batch, conv_bn, draw_weights, mlp, relu_mlp


@pytest.mark.parametrize("activation", ["relu", "hardtanh", "two_relus"])
@pytest.mark.parametrize("connection", ["linear", "addition"])
@pytest.mark.parametrize("net", [mlp, conv_bn], ids=["mlp", "conv"])
def test_whoever_is_alone_by_the_measurement_is_read_exactly(activation, connection, net) -> None:
    tampering = RobbingTheFed(
        Bins(48, ("random",), cutoffs="auto"), module=ImprintModule(activation=activation, connection=connection)
    )
    found, expected, exact, gap = read(tampering, net(dtype=torch.float64), stored(20, dtype=torch.float64))
    assert 8 < int(expected.recoverable.sum()) < 20
    assert torch.equal(exact, expected.recoverable)
    assert float(gap.min(0).values[expected.recoverable].max()) < 1e-9
    # The blind test: stored pictures are recognised, mixtures are not.
    sure = found.confidence > 0.5
    assert torch.equal((gap < EXACT).any(1), sure)
    assert [m == "alone" for m in found.marks] == sure.tolist()


@pytest.mark.parametrize("function", ["mean", "dct:5", "random", "own"])
def test_every_linear_function_reads(function: str) -> None:
    own = tuple(vector("random", 192, stream(5, "own")).tolist()) if function == "own" else ()
    tampering = RobbingTheFed(Bins(64, (function,), own=own, cutoffs="empirical"))
    _, expected, exact, _ = read(tampering, conv_bn(), stored(16))
    assert int(expected.recoverable.sum()) > 6
    assert torch.equal(exact, expected.recoverable)


@pytest.mark.parametrize("at", ["", "3", "4"])
def test_the_module_stands_before_any_layer_and_the_update_names_its_rows(at: str) -> None:
    tampered = RobbingTheFed(Bins(8), place=Placement(at=at)).tamper if at == "" else None
    model = conv_bn()
    if tampered is None:
        with pytest.raises(NotApplicable, match="is not the network's input"):
            RobbingTheFed(Bins(8), place=Placement(at=at)).tamper(model, stored(9), 0, stream(0, "s"))
        return
    sent = tampered(model, stored(9), 0, stream(0, "s")).model
    assert sent.logits(sent.params, SPEC.encode(batch(2).inputs)).shape == (2, CLASSES)
    assert [k for k in sent.params if "planted" in k] == [
        "planted.first.weight",
        "planted.first.bias",
        "planted.second.weight",
        "planted.second.bias",
    ]
    assert set(sent.params) == {k for k, _ in sent.module.named_parameters()}


def test_a_layer_that_sees_the_input_can_be_stood_before() -> None:
    tampering = RobbingTheFed(Bins(48, ("random",), cutoffs="auto"), place=Placement(at="1"))
    _, expected, exact, _ = read(tampering, relu_mlp(), stored(16))
    assert int(expected.recoverable.sum()) > 6
    assert torch.equal(exact, expected.recoverable)


def test_shuffled_rows_among_ordinary_ones_read_the_same() -> None:
    plain = RobbingTheFed(Bins(40, ("random",), cutoffs="auto"))
    hidden = with_fields(plain, shuffle=True, ordinary_rows=24)
    sent = hidden.tamper(mlp(), stored(400, 1), 0, stream(3, "server")).model
    weight = sent.params["planted.first.weight"]
    assert weight.shape[0] == 64
    assert int(torch.linalg.matrix_rank(weight.double())) == 25
    _, expected, exact, _ = read(hidden, mlp(), stored(16))
    assert torch.equal(exact, expected.recoverable)
    assert torch.equal(expected.recoverable, read(plain, mlp(), stored(16))[1].recoverable)


def test_a_dormant_module_changes_by_parameters_only_and_reads_from_its_round_on() -> None:
    dormant = RobbingTheFed(Bins(40, ("random",), cutoffs="auto"), module=ImprintModule(active_from=3))
    early, late = (dormant.tamper(mlp(), stored(400, 1), r, stream(3, "server")) for r in (2, 3))
    assert {k: v.shape for k, v in early.model.params.items()} == {k: v.shape for k, v in late.model.params.items()}
    assert repr(early.model.module) == repr(late.model.module)
    assert int(torch.linalg.matrix_rank(early.model.params["planted.first.weight"].double())) == 40
    update = local_update(early.model, stored(8), FedSGD())
    with pytest.raises(NotApplicable, match="dormant"):
        early.readout.reconstruct(update, ServerKnowledge(early.model), stream(0, "attack"))
    _, expected, exact, _ = read(dormant, mlp(), stored(12), round=3)
    assert torch.equal(exact, expected.recoverable)


def test_a_layer_that_is_there_is_written_to_and_nothing_else() -> None:
    model = relu_mlp()
    tampering = RobbingLinearLayer(rows=20, functions=("random",), cutoffs="auto", shuffle=True)
    sent = tampering.tamper(model, stored(400, 1), 0, stream(3, "server")).model
    changed = {k for k, v in model.params.items() if not torch.equal(v, sent.params[k])}
    assert changed == {"1.weight", "1.bias", "3.weight", "3.bias"}
    assert int((model.params["1.weight"] != sent.params["1.weight"]).any(1).sum()) == 20
    _, expected, exact, _ = read(tampering, model, stored(8))
    assert int(expected.recoverable.sum()) > 3
    assert torch.equal(exact, expected.recoverable)


def test_a_network_without_such_a_pair_of_layers_is_told() -> None:
    for net, words in ((mlp, "not followed by a ReLU"), (conv_bn, "not followed by")):
        with pytest.raises(NotApplicable, match=words):
            RobbingLinearLayer().tamper(net(), None, 0, stream(0, "s"))


@pytest.mark.parametrize("clients", [1, 4])
def test_one_step_of_training_and_secure_aggregation_read_as_one_gradient(clients: int) -> None:
    tampering, model = RobbingTheFed(Bins(48, ("random",), cutoffs="auto")), mlp(dtype=torch.float64)
    private = stored(16, dtype=torch.float64)
    steps = FedAvg(lr=0.01, momentum=0.9, weight_decay=0.1)
    _, expected, exact, gap = read(tampering, model, private, steps, clients=clients)
    assert torch.equal(exact, expected.recoverable)
    assert float(gap.min(0).values[expected.recoverable].max()) < 1e-7


def test_train_mode_behind_the_module_changes_nothing() -> None:
    _, expected, exact, _ = read(
        RobbingTheFed(Bins(48, ("random",), cutoffs="auto")), conv_bn(training=True), stored(16)
    )
    assert torch.equal(exact, expected.recoverable)


def test_several_local_steps_read_from_sparse_bins_by_the_lattice_where_the_bias_is_lost() -> None:
    model, private = wide(), stored(16)
    private = Batch((rand((16, 3, 16, 16), stream(0, "w"), private.inputs) * 255).round() / 255, private.labels)
    public = Batch(rand((400, 3, 16, 16), stream(1, "w"), private.inputs), torch.zeros(400, dtype=torch.long))
    steps = FedAvg(minibatch_size=4, lr=1e-2)
    tampering = RobbingTheFed(Bins(48, ("random",), cutoffs="auto"), module=ImprintModule(activation="hardtanh"))
    _, expected, exact, _ = read(tampering, model, private, steps, public)
    assert int(expected.recoverable.sum()) > 6
    assert int((exact & expected.recoverable).sum()) >= int(expected.recoverable.sum()) - 1
    tampered = tampering.tamper(model, public, 0, stream(3, "server"))
    moved = local_update(tampered.model, private, steps).values["planted.first.bias"]
    bins = tampered.readout.imprint.bins(model.input.encode(private.inputs).flatten(1))[:, 0][expected.recoverable]
    eps = torch.finfo(torch.float32).eps * tampered.model.params["planted.first.bias"].abs()
    assert bool((moved.abs() < 100 * eps)[bins].any()), "the bias alone would not have told the scale"


def wide() -> Model:
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Flatten(), nn.Linear(768, 32), nn.ReLU(), nn.Linear(32, CLASSES))
    spec = ImageSpec((3, 16, 16), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    return Model.of(draw_weights(net), spec)


def test_bad_fields_are_told() -> None:
    for bins, message in (
        ({"rows": 3, "functions": ("random", "mean")}, "at least 2 rows each"),
        ({"functions": ("dtc:3",)}, "'dtc:3' is unknown; there are mean"),
        ({"functions": ("dct:0",)}, "'dct:0' is unknown"),
        ({"functions": ("own",)}, "own vector of 0 numbers"),
        ({"functions": ("own",), "own": (0.0, 0.0)}, "own vector of 2 numbers; finite ones that are not all 0"),
    ):
        for made in (Bins, RobbingLinearLayer):
            with pytest.raises(BadInput, match=message):
                made(**bins)
    with pytest.raises(BadInput, match="own vector of 0 numbers"):
        OneShot(function="own")
    with pytest.raises(BadInput, match="gain and throughput must be above 0"):
        RobbingTheFed(module=ImprintModule(gain=0.0))
    with pytest.raises(NotApplicable, match=r"no layer 'fc'; it has 0, 1"):
        RobbingTheFed(place=Placement(at="fc")).tamper(mlp(), None, 0, stream(0, "s"))


def test_labels_are_the_model_s_own_prediction_if_asked_for() -> None:
    model, private = mlp(), stored(12)
    found, _, _, gap = read(RobbingTheFed(Bins(48, ("random",), cutoffs="auto"), predict_labels=True), model, private)
    predicted = model.logits(model.params, SPEC.encode(private.inputs)).argmax(1)
    sure = found.confidence > 0.5
    assert int(sure.sum()) > 4
    assert torch.equal(found.labels[sure], predicted[gap.argmin(1)[sure]])
