"""An example that is alone in a bin is read exactly: wherever the module stands, however it is built."""

from dataclasses import replace

import pytest
import scipy.fft
import scipy.stats
import torch
from torch import nn

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_update import FedAvg, FedSGD, aggregate_update, local_update
from fedspill.core.model import Model
from fedspill.core.rng import rand, stream
from fedspill.core.types import Batch
from fedspill.inversion.lattice_scale import lattice_scale
from fedspill.inversion.measurement import decorrelated, edges, vector
from fedspill.inversion.share_test import predicted_shares
from fedspill.tamperings.one_shot import OneShot
from fedspill.tamperings.robbing_linear_layer import RobbingLinearLayer
from fedspill.tamperings.robbing_the_fed import RobbingTheFed
from tests.worlds import CLASSES, SPEC, batch, conv_bn, draw_weights, mlp, relu_mlp

EXACT = 1e-3
"""Root mean squared error of 60 dB."""


def stored(n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
    """Random pictures of 8 bits."""
    made = batch(n, seed, dtype)
    return Batch((made.inputs * 255).round() / 255, made.labels)


def read(tampering, model: Model, private: Batch, training=FedSGD(), public=None, clients: int = 1, round: int = 0):
    """The reconstruction, what was expected, and which private examples it holds exactly."""
    public = stored(400, 1, model.like.dtype) if public is None else public
    tampered = tampering.tamper(model, public, round, stream(3, "server"))
    z = model.input.encode(private.inputs)
    update = aggregate_update(tampered.model, z, private.labels, training, clients)
    known = ServerKnowledge(tampered.model, clients, len(private), local_training=training)
    found = tampered.readout.reconstruct(update, known, stream(0, "attack"))
    gap = torch.cdist(found.inputs.flatten(1), private.inputs.flatten(1)) / private.inputs[0].numel() ** 0.5
    return found, tampered.readout.expects(tampered.model, z), (gap < EXACT).any(0), gap


@pytest.mark.parametrize("activation", ["relu", "hardtanh", "two_relus"])
@pytest.mark.parametrize("connection", ["linear", "addition"])
@pytest.mark.parametrize("net", [mlp, conv_bn], ids=["mlp", "conv"])
def test_whoever_is_alone_by_the_measurement_is_read_exactly(activation, connection, net) -> None:
    tampering = RobbingTheFed(48, ("random",), cutoffs="auto", activation=activation, connection=connection)
    found, expected, exact, gap = read(tampering, net(dtype=torch.float64), stored(20, dtype=torch.float64))
    assert 8 < int(expected.found.sum()) < 20
    assert torch.equal(exact, expected.found)
    assert float(gap.min(0).values[expected.found].max()) < 1e-9
    # The blind test: stored pictures are recognised, mixtures are not.
    sure = found.confidence > 0.5
    assert torch.equal((gap < EXACT).any(1), sure)
    assert [m == "alone" for m in found.marks] == sure.tolist()


@pytest.mark.parametrize("function", ["mean", "dct:5", "random", "own"])
def test_every_linear_function_reads(function: str) -> None:
    own = tuple(vector("random", 192, stream(5, "own")).tolist()) if function == "own" else ()
    tampering = RobbingTheFed(64, (function,), own, cutoffs="empirical")
    _, expected, exact, _ = read(tampering, conv_bn(), stored(16))
    assert int(expected.found.sum()) > 6
    assert torch.equal(exact, expected.found)


@pytest.mark.parametrize("at", ["", "3", "4"])
def test_the_module_stands_before_any_layer_and_the_update_names_its_rows(at: str) -> None:
    tampered = RobbingTheFed(8, at=at).tamper if at == "" else None
    model = conv_bn()
    if tampered is None:
        with pytest.raises(NotApplicable, match="is not the network's input"):
            RobbingTheFed(8, at=at).tamper(model, stored(9), 0, stream(0, "s"))
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
    tampering = RobbingTheFed(48, ("random",), cutoffs="auto", at="1")
    _, expected, exact, _ = read(tampering, relu_mlp(), stored(16))
    assert int(expected.found.sum()) > 6
    assert torch.equal(exact, expected.found)


def test_shuffled_rows_among_ordinary_ones_read_the_same() -> None:
    plain = RobbingTheFed(40, ("random",), cutoffs="auto")
    hidden = replace(plain, shuffle=True, ordinary_rows=24)
    sent = hidden.tamper(mlp(), stored(400, 1), 0, stream(3, "server")).model
    weight = sent.params["planted.first.weight"]
    assert weight.shape[0] == 64
    assert int(torch.linalg.matrix_rank(weight.double())) == 25
    _, expected, exact, _ = read(hidden, mlp(), stored(16))
    assert torch.equal(exact, expected.found)
    assert torch.equal(expected.found, read(plain, mlp(), stored(16))[1].found)


def test_a_dormant_module_changes_by_parameters_only_and_reads_from_its_round_on() -> None:
    dormant = RobbingTheFed(40, ("random",), cutoffs="auto", active_from=3)
    early, late = (dormant.tamper(mlp(), stored(400, 1), r, stream(3, "server")) for r in (2, 3))
    assert {k: v.shape for k, v in early.model.params.items()} == {k: v.shape for k, v in late.model.params.items()}
    assert repr(early.model.module) == repr(late.model.module)
    assert int(torch.linalg.matrix_rank(early.model.params["planted.first.weight"].double())) == 40
    update = local_update(early.model, stored(8), FedSGD())
    with pytest.raises(NotApplicable, match="dormant"):
        early.readout.reconstruct(update, ServerKnowledge(early.model), stream(0, "attack"))
    _, expected, exact, _ = read(dormant, mlp(), stored(12), round=3)
    assert torch.equal(exact, expected.found)


def test_a_layer_that_is_there_is_written_to_and_nothing_else() -> None:
    model = relu_mlp()
    tampering = RobbingLinearLayer(rows=20, functions=("random",), cutoffs="auto", shuffle=True)
    sent = tampering.tamper(model, stored(400, 1), 0, stream(3, "server")).model
    changed = {k for k, v in model.params.items() if not torch.equal(v, sent.params[k])}
    assert changed == {"1.weight", "1.bias", "3.weight", "3.bias"}
    assert int((model.params["1.weight"] != sent.params["1.weight"]).any(1).sum()) == 20
    _, expected, exact, _ = read(tampering, model, stored(8))
    assert int(expected.found.sum()) > 3
    assert torch.equal(exact, expected.found)


def test_a_network_without_such_a_pair_of_layers_is_told() -> None:
    for net, words in ((mlp, "not followed by a ReLU"), (conv_bn, "not followed by")):
        with pytest.raises(NotApplicable, match=words):
            RobbingLinearLayer().tamper(net(), None, 0, stream(0, "s"))


@pytest.mark.parametrize("clients", [1, 4])
def test_one_step_of_training_and_secure_aggregation_read_as_one_gradient(clients: int) -> None:
    tampering, model = RobbingTheFed(48, ("random",), cutoffs="auto"), mlp(dtype=torch.float64)
    private = stored(16, dtype=torch.float64)
    steps = FedAvg(lr=0.01, momentum=0.9, weight_decay=0.1)
    _, expected, exact, gap = read(tampering, model, private, steps, clients=clients)
    assert torch.equal(exact, expected.found)
    assert float(gap.min(0).values[expected.found].max()) < 1e-7


def test_train_mode_behind_the_module_changes_nothing() -> None:
    _, expected, exact, _ = read(RobbingTheFed(48, ("random",), cutoffs="auto"), conv_bn(training=True), stored(16))
    assert torch.equal(exact, expected.found)


def test_several_local_steps_read_from_sparse_bins_by_the_lattice_where_the_bias_is_lost() -> None:
    model, private = wide(), stored(16)
    private = Batch((rand((16, 3, 16, 16), stream(0, "w"), private.inputs) * 255).round() / 255, private.labels)
    public = Batch(rand((400, 3, 16, 16), stream(1, "w"), private.inputs), torch.zeros(400, dtype=torch.long))
    steps = FedAvg(minibatch_size=4, lr=1e-2)
    tampering = RobbingTheFed(48, ("random",), cutoffs="auto", activation="hardtanh")
    _, expected, exact, _ = read(tampering, model, private, steps, public)
    assert int(expected.found.sum()) > 6
    assert int((exact & expected.found).sum()) >= int(expected.found.sum()) - 1
    tampered = tampering.tamper(model, public, 0, stream(3, "server"))
    moved = local_update(tampered.model, private, steps).values["planted.first.bias"]
    bins = tampered.readout.imprint.bins(model.input.encode(private.inputs).flatten(1))[:, 0][expected.found]
    eps = torch.finfo(torch.float32).eps * tampered.model.params["planted.first.bias"].abs()
    assert bool((moved.abs() < 100 * eps)[bins].any()), "the bias alone would not have told the scale"


def wide() -> Model:
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Flatten(), nn.Linear(768, 32), nn.ReLU(), nn.Linear(32, CLASSES))
    spec = ImageSpec((3, 16, 16), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    return Model.of(draw_weights(net), spec)


@pytest.mark.parametrize("activation", ["relu", "hardtanh"])
def test_peeling_finds_what_an_ideal_decoder_finds_and_nothing_false(activation) -> None:
    tampering = RobbingTheFed(48, ("random",) * 3, cutoffs="auto", decode="peel", activation=activation)
    for seed in range(3):
        private = stored(24, 10 + seed)
        found, expected, exact, gap = read(tampering, conv_bn(), private)
        single = read(replace(tampering, functions=("random",), decode="bins"), conv_bn(), private)[2]
        assert int(expected.found.sum()) > int(single.sum())
        assert int((exact & expected.found).sum()) >= int(expected.found.sum()) - 1
        assert bool((gap < EXACT).any(1)[found.confidence > 0.5].all())


def test_data_off_the_lattice_are_never_called_sure_where_shares_cannot_be_computed() -> None:
    for functions, decode in ((("random",), "bins"), (("random",) * 3, "peel")):
        tampering = RobbingTheFed(48, functions, cutoffs="auto", decode=decode)
        found, _, _, _ = read(tampering, conv_bn(training=True), batch(16))
        assert float(found.confidence.max()) <= 0.5
        assert not found.converged


@pytest.mark.parametrize("connection", ["linear", "addition"])
def test_data_off_the_lattice_are_recognised_and_peeled_by_the_share_that_they_send(connection) -> None:
    plain = RobbingTheFed(48, ("random",), cutoffs="auto", connection=connection)
    peeled = replace(plain, functions=("random",) * 3, decode="peel")
    for tampering in (plain, peeled):
        found, expected, exact, gap = read(tampering, conv_bn(), batch(16))
        assert bool((gap < EXACT).any(1)[found.confidence > 0.5].all())
        assert int((exact & expected.found).sum()) >= int(expected.found.sum()) - 1
        assert int((found.confidence > 0.5).sum()) >= int(expected.found.sum()) - 1
    assert int(exact.sum()) > 13


@pytest.mark.parametrize("net", [relu_mlp, conv_bn])
def test_the_predicted_share_is_the_gradient_of_the_rows_of_one_example(net) -> None:
    model, private = net(dtype=torch.float64), batch(3, dtype=torch.float64)
    tampering = RobbingLinearLayer(cutoffs="auto") if net is relu_mlp else RobbingTheFed(32, cutoffs="auto", gain=3.0)
    tampered = tampering.tamper(model, stored(400, 1, torch.float64), 0, stream(3, "server"))
    readout, z = tampered.readout, model.input.encode(private.inputs)
    shares = predicted_shares(tampered.model, readout.outlet, z.flatten(1))
    bins = readout.imprint.bins(z.flatten(1))[:, 0]
    for i in range(3):
        update = local_update(tampered.model, private[i : i + 1], FedSGD())
        row = readout.imprint.groups[0].rows[bins[i]]
        assert float(update.values[readout.layer.bias][row]) == pytest.approx(float(shares[i, i]), rel=1e-9)


@pytest.mark.parametrize("sparse", [False, True])
def test_one_shot_reads_its_one_example_and_its_frequency_is_the_theory(sparse: bool) -> None:
    tampering = OneShot(expected=20, function="random", sparse=sparse)
    public = stored(3000, 1)
    tampered = tampering.tamper(mlp(), public, 0, stream(3, "server"))
    bins = tampered.readout.imprint.bins(SPEC.encode(stored(20 * 400, 7).inputs).flatten(1))[:, 0]
    hits = [(part == 0).sum() == 1 for part in bins.split(20)]
    chance = (1 - 1 / 20) ** 19
    assert abs(sum(map(int, hits)) / 400 - chance) < 4 * (chance * (1 - chance) / 400) ** 0.5
    lucky = next(i for i, hit in enumerate(hits) if hit)
    private = Batch(stored(20 * 400, 7).inputs[20 * lucky : 20 * lucky + 20], batch(20).labels)
    found, expected, exact, _ = read(tampering, mlp(), private, public=public)
    assert len(found.inputs) == 1
    assert found.converged
    assert torch.equal(exact, expected.found)
    empty = next(i for i, part in enumerate(bins.split(20)) if not bool((part == 0).any()))
    private = Batch(stored(20 * 400, 7).inputs[20 * empty : 20 * empty + 20], batch(20).labels)
    found, _, _, _ = read_empty(tampering, private, public)
    assert len(found.inputs) == 0
    assert any("empty" in note for note in found.notes)


def read_empty(tampering, private: Batch, public: Batch):
    tampered = tampering.tamper(mlp(), public, 0, stream(3, "server"))
    update = local_update(tampered.model, private, FedSGD())
    return tampered.readout.reconstruct(update, ServerKnowledge(tampered.model), stream(0, "a")), None, None, None


def test_the_cosine_is_the_one_of_scipy_and_random_vectors_have_the_stated_moments() -> None:
    x = rand((192,), stream(0, "x"), torch.zeros((), dtype=torch.float64))
    for mode in (1, 32):
        wanted = scipy.fft.dct(x.numpy(), type=2)[mode] / 2 / 192 * 4 * mode
        assert float(vector(f"dct:{mode}", 192, stream(0, "v")) @ x) == pytest.approx(wanted, rel=1e-9)
    drawn = vector("random", 192, stream(0, "v")) * 192**0.5
    assert float(drawn.mean()) == pytest.approx(0, abs=1e-12)
    assert float(drawn.std()) == pytest.approx(1, abs=1e-12)
    with pytest.raises(BadInput, match="'dtc:3' is unknown; there are mean"):
        vector("dtc:3", 192, stream(0, "v"))
    with pytest.raises(BadInput, match="own vector of 2 numbers; 192"):
        vector("own", 192, stream(0, "v"), (1.0, 2.0))


@pytest.mark.parametrize(
    ("kind", "law"),
    [("normal", scipy.stats.norm()), ("laplace", scipy.stats.laplace(scale=2**-0.5))],
)
def test_cutoffs_cut_equal_masses(kind, law) -> None:
    ends = edges(kind, 16, None)
    assert len(ends) == 17
    assert bool((ends.diff() > 0).all())
    assert law.cdf(ends[1:-1].numpy()) == pytest.approx([i / 16 for i in range(1, 16)])
    assert law.var() == pytest.approx(1)


def test_cutoffs_from_data_need_data() -> None:
    with pytest.raises(NotApplicable, match="at least 8 public examples, got 2"):
        edges("empirical", 4, torch.zeros(2))
    answers = rand((1000,), stream(0, "a"), torch.zeros(()))
    counted = torch.bucketize(answers.double(), edges("empirical", 10, answers)).bincount(minlength=12)[1:11]
    assert counted.min() >= 99


def test_decorrelated_measurements_are_uncorrelated() -> None:
    public = rand((300, 20), stream(0, "p"), torch.zeros((), dtype=torch.float64))
    public = public + 3 * public[:, :1]
    drawn = torch.stack([vector("random", 20, stream(i, "v")) for i in range(3)])
    found = (public @ decorrelated(drawn, public).T).T.cov()
    assert torch.allclose(found, torch.eye(3, dtype=torch.float64), atol=1e-9)
    assert torch.equal(decorrelated(drawn, public[:20]), drawn)


def test_the_lattice_tells_the_scale_of_a_picture_and_of_a_row() -> None:
    z = SPEC.encode(stored(1, dtype=torch.float64).inputs)[0].flatten()
    for factor in (0.004, 3.7):
        found = lattice_scale(SPEC, z / factor, 0.8 * factor, 1.3 * factor)
        assert found is not None
        assert found[0] == pytest.approx(factor, rel=1e-9)
        assert found[1] < 1e-6
    mixture = 0.37 * z + 0.63 * SPEC.encode(stored(1, 4, torch.float64).inputs)[0].flatten()
    assert lattice_scale(SPEC, mixture, 0.5, 1.5)[1] > 0.15
    assert lattice_scale(SPEC, torch.zeros_like(z), 0.5, 1.5) is None


def test_bad_fields_are_told() -> None:
    with pytest.raises(BadInput, match="at least 2 rows each"):
        RobbingTheFed(rows=3, functions=("random", "mean")).tamper(mlp(), None, 0, stream(0, "s"))
    with pytest.raises(BadInput, match="gain and throughput must be above 0"):
        RobbingTheFed(gain=0.0)
    with pytest.raises(NotApplicable, match=r"no layer 'fc'; it has 0, 1"):
        RobbingTheFed(at="fc").tamper(mlp(), None, 0, stream(0, "s"))


def test_labels_are_the_model_s_own_prediction_if_asked_for() -> None:
    model, private = mlp(), stored(12)
    found, _, _, gap = read(RobbingTheFed(48, ("random",), cutoffs="auto", predict_labels=True), model, private)
    predicted = model.logits(model.params, SPEC.encode(private.inputs)).argmax(1)
    sure = found.confidence > 0.5
    assert int(sure.sum()) > 4
    assert torch.equal(found.labels[sure], predicted[gap.argmin(1)[sure]])
