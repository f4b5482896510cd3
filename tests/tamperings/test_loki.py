"""LOKI against the plain twin: one client's gradient lies in its columns only, and a sum over clients is read apart."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import KnownDefence, Knows, ServerKnowledge
from fedspill.core.local_training.optimizers import Adam
from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining, encoded_update, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import ForClients, Tampered
from fedspill.core.settings import with_fields
from fedspill.core.types import Batch, Reconstruction, UpdateKind
from fedspill.federation.aggregation import collect
from fedspill.federation.client import Client
from fedspill.federation.rounds import Federation, weighted
from fedspill.tamperings.loki import CARD, Loki, LokiReadout
from tests.support.audits import audit
from tests.support.imprints import EXACT, stored
from tests.support.worlds import SPEC, conv_bn, mlp

PRESETS = {name: with_fields(preset, rows=48) for name, preset in CARD.presets.items()}
STRONG = PRESETS["strong"]
DOUBLE = torch.float64
WEIGHT = "planted.first.weight"


def planted(preset: Loki, clients: int, model: Model | None = None) -> Tampered:
    model = mlp(dtype=DOUBLE) if model is None else model
    public = stored(400, 1, model.like.dtype)
    return preset.for_clients(range(clients)).tamper(model, public, 0, stream(3, "server"))


def parts_of(sizes: tuple[int, ...], dtype: torch.dtype = DOUBLE) -> list[Batch]:
    whole, ends = stored(sum(sizes), 0, dtype), torch.tensor(sizes).cumsum(0).tolist()
    return [whole[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def read(tampered: Tampered, parts: list[Batch], training: LocalTraining, noise: float | None = None) -> Reconstruction:
    """What is read of the mean, weighted by examples, of what each client computes of its own model.

    Args:
        noise: standard deviation of what is added to every value of the mean, known to the server.
    """
    updates = [(len(p), local_update(tampered.sent_to(k), p, training)) for k, p in enumerate(parts)]
    sizes = tuple(map(len, parts))
    known = ServerKnowledge(
        tampered.model,
        len(parts),
        sum(sizes),
        local_training=training,
        client_sizes=sizes if len(set(sizes)) > 1 else None,
        # Of the mean; the server knows what each client added.
        defence=None if noise is None else KnownDefence(noise=noise * len(parts) ** 0.5),
    )
    update = weighted(updates)
    if noise is not None:
        drawn = stream(9, "noise")
        noisy = {k: v + noise * torch.randn(v.shape, generator=drawn, dtype=v.dtype) for k, v in update.values.items()}
        update = replace(update, values=noisy)
    assert tampered.readout is not None
    return tampered.readout.reconstruct(update, known, stream(0, "attack"))


def gaps(found: Reconstruction, parts: list[Batch]) -> Tensor:
    """Root mean squared error of every candidate to every private picture, (m, n)."""
    private = torch.cat([p.inputs for p in parts]).flatten(1).double()
    return torch.cdist(found.inputs.flatten(1).double(), private) / private.shape[1] ** 0.5


def owners(parts: list[Batch]) -> list[int]:
    return [k for k, part in enumerate(parts) for _ in range(len(part))]


def check_owners(found: Reconstruction, parts: list[Batch]) -> None:
    """Every exact candidate is named after the client that holds the picture."""
    near, whose = gaps(found, parts).min(1)
    exact = [(o, owners(parts)[int(w)]) for o, w, g in zip(found.origins, whose, near, strict=True) if g < EXACT]
    assert exact
    assert all(origin.startswith(f"client {client}, ") for origin, client in exact)


@pytest.mark.parametrize("name", PRESETS)
def test_the_planted_front_is_what_its_words_say_in_bare_pytorch(name: str) -> None:
    """Two clients' models differ in the kernels alone, and give the gradient of the front written down by hand."""
    tampered, part = planted(PRESETS[name], 2), parts_of((3,))[0]
    readout, model = tampered.readout, tampered.sent_to(1)
    assert isinstance(readout, LokiReadout)
    differing = {k for k, v in model.params.items() if not torch.equal(v, tampered.sent_to(0).params[k])}
    assert differing == {"planted.split.weight", "planted.split.bias"}
    imprint, spec = readout.imprint, SPEC
    z = spec.encode(part.inputs).flatten(1)
    edges, vectors = [g.edges for g in imprint.groups], [g.vector for g in imprint.groups]
    # Every row is 0 below its bin, the gain above it, and between the two a straight line.
    rows = torch.cat(
        [
            imprint.gain * ((z @ v)[:, None] - e[:-1]).div(e.diff()).clamp(0, 1)
            for v, e in zip(vectors, edges, strict=True)
        ],
        1,
    )
    size = 1 / imprint.gain / imprint.total
    handed = (rows.sum(1) * size - size * imprint.typical())[:, None].expand(-1, z.shape[1]).view(-1, *spec.shape)
    base = mlp(dtype=DOUBLE)
    expected = base.logits(base.params, handed)
    assert torch.allclose(model.logits(model.params, spec.encode(part.inputs)), expected, atol=1e-7)


@pytest.mark.parametrize("name", PRESETS)
def test_a_clients_gradient_lands_in_its_own_columns_only(name: str) -> None:
    tampered = planted(PRESETS[name], 3)
    assert isinstance(tampered.readout, LokiReadout)
    layout = tampered.readout.layout
    for client, part in enumerate(parts_of((4, 4, 4))):
        gradient = local_update(tampered.sent_to(client), part, FedSGD()).values[WEIGHT]
        for other in range(3):
            own = layout.columns(other)
            columns = gradient[:, own.pixels], gradient[:, own.ones or own.pixels]
            assert all(bool(c.any()) == (client == other) for c in columns)


def test_ones_sum_up_one_clients_own_derivatives() -> None:
    """The ratio of a client's columns in the sum is the ratio of its weight and bias alone, in bare autograd."""
    tampered, parts = planted(STRONG, 3), parts_of((4, 4, 4))
    assert isinstance(tampered.readout, LokiReadout)
    total = sum(local_update(tampered.sent_to(k), p, FedSGD()).values[WEIGHT] for k, p in enumerate(parts))
    for client, part in enumerate(parts):
        own = tampered.readout.layout.columns(client)
        assert own.ones is not None
        alone = local_update(tampered.sent_to(client), part, FedSGD()).values
        ones = total[:, own.ones].mean(1) / STRONG.scaling
        assert torch.allclose(ones, alone["planted.first.bias"], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("sizes", [(1,), (5, 5, 5), (2, 7, 1)], ids=["one", "equal", "unequal"])
@pytest.mark.parametrize("training", [FedSGD(), FedAvg(minibatch_size=2, lr=1e-3)], ids=["fedsgd", "fedavg"])
def test_strong_reads_every_picture_of_every_client_exactly(training: LocalTraining, sizes: tuple[int, ...]) -> None:
    parts = parts_of(sizes)
    found = read(planted(STRONG, len(sizes)), parts, training)
    assert float(gaps(found, parts).min(0).values.max()) < 1e-6
    check_owners(found, parts)
    assert found.converged
    sure = torch.tensor([m == "alone" for m in found.marks])
    assert int(sure.sum()) == sum(sizes), "each is certified once"
    assert float(gaps(found, parts)[sure].min(1).values.max()) < 1e-6


@pytest.mark.parametrize("scaling", [1 / 16, 16.0, 5000.0])
def test_noise_is_as_small_beside_a_scaled_row_as_the_scaling_makes_it(scaling: float) -> None:
    """Noise of a millionth of the gradient leaves every picture, however the rows are scaled."""
    parts = parts_of((3, 3, 3))
    tampered = planted(replace(STRONG, scaling=scaling), 3)
    largest = max(
        float(local_update(tampered.sent_to(k), p, FedSGD()).values[WEIGHT].abs().max()) for k, p in enumerate(parts)
    )
    found = read(tampered, parts, FedSGD(), noise=1e-6 * largest)
    assert float(gaps(found, parts).min(0).values.max()) < 1e-2


def test_float32_clients_over_many_steps_lose_nothing_to_rounding() -> None:
    parts = parts_of((8, 8), torch.float32)
    found = read(planted(STRONG, 2, mlp()), parts, FedAvg(epochs=2, minibatch_size=2, lr=1e-3))
    assert float(gaps(found, parts).min(0).values.max()) < 1e-6
    check_owners(found, parts)


@pytest.mark.parametrize("training", [FedSGD(), FedAvg(minibatch_size=2, lr=1e-2)], ids=["fedsgd", "fedavg"])
def test_bias_free_rows_are_the_picture_up_to_a_factor_and_stored_levels_tell_it(training: LocalTraining) -> None:
    parts = parts_of((5, 5, 5))
    private = torch.cat([p.inputs for p in parts]).flatten(1)
    paper, quick = (read(planted(PRESETS[name], 3), parts, training) for name in ("paper", "quick"))
    assert paper.origins == quick.origins
    assert torch.allclose(paper.inputs.flatten(1).amax(1), torch.ones(len(paper.inputs), dtype=DOUBLE))
    sure = [i for i, m in enumerate(quick.marks) if m == "alone"]
    assert 8 <= len(sure) <= 15
    near, whose = gaps(quick, parts)[sure].min(1)
    assert float(near.max()) < 1e-6
    stretched = private[whose] / private[whose].amax(1, keepdim=True)
    assert torch.allclose(paper.inputs[sure].flatten(1), stretched, atol=1e-5)
    check_owners(quick, parts)


def test_a_row_that_was_hit_is_out_of_reach_of_later_steps() -> None:
    """Two pictures of one bin in two steps: the first is read exactly, where one gradient of both gives a mixture."""
    picture = stored(1, 4, DOUBLE).inputs
    # Swapping two pixels of a channel changes no mean.
    other = picture.clone()
    other[:, :, 0, 0], other[:, :, 5, 5] = picture[:, :, 5, 5], picture[:, :, 0, 0]
    other[:, :, 1], other[:, :, 6] = picture[:, :, 6], picture[:, :, 1]
    pair = [Batch(torch.cat([picture, other]), torch.tensor([0, 1]))]
    apart = read(planted(PRESETS["quick"], 1), pair, FedAvg(minibatch_size=1, lr=1e-2))
    assert float(gaps(apart, pair)[:, 0].min()) < 1e-6
    together = read(planted(PRESETS["quick"], 1), pair, FedSGD())
    assert float(gaps(together, pair).min()) > EXACT


def test_other_bounds_and_one_channel_are_read_alike() -> None:
    spec = ImageSpec((1, 8, 8), bounds=(-1.0, 1.0), mean=(0.1,), std=(0.5,))
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).double()
    model = Model.of(net, spec, functional.cross_entropy)
    parts = [Batch(p.inputs[:, :1] * 2 - 1, p.labels) for p in parts_of((4, 4))]
    public = Batch(stored(400, 1, DOUBLE).inputs[:, :1] * 2 - 1, torch.zeros(400, dtype=torch.long))
    for name in ("quick", "strong"):
        tampered = PRESETS[name].for_clients((0, 1)).tamper(model, public, 0, stream(3, "server"))
        found = read(tampered, parts, FedSGD())
        close = gaps(found, parts).min(0).values < 1e-6
        assert int(close.sum()) >= (8 if name == "strong" else 5)
        assert float(found.inputs.min()) >= -1


def test_a_client_that_sends_nothing_and_one_that_is_seen_alone() -> None:
    tampered, parts = planted(STRONG, 3), parts_of((3, 3, 3))
    assert tampered.readout is not None
    update = local_update(tampered.sent_to(2), parts[2], FedSGD())
    found = tampered.readout.reconstruct(update, ServerKnowledge(tampered.model), stream(0, "attack"))
    assert found.origins
    assert all(origin.startswith("client 2, ") for origin in found.origins)
    assert float(gaps(found, parts)[:, 6:].min(0).values.max()) < 1e-6


def test_clients_are_named_by_their_own_numbers() -> None:
    tampering = with_fields(STRONG, clients=(4, 7, 9)).for_clients((9, 4))
    tampered = tampering.tamper(mlp(dtype=DOUBLE), stored(400, 1, DOUBLE), 0, stream(3, "server"))
    part = parts_of((2,))[0]
    assert tampered.readout is not None
    update = local_update(tampered.sent_to(9), part, FedSGD())
    found = tampered.readout.reconstruct(update, ServerKnowledge(tampered.model), stream(0, "attack"))
    assert {origin.split(",")[0] for origin in found.origins} == {"client 9"}


def test_refusals_say_what_was_got_in_one_line() -> None:
    for fields, words in (
        ({"scaling": 0.0}, "scaling=0.0 must be finite and above 0"),
        ({"gain": float("nan")}, "gain=nan"),
        ({"throughput": -1.0}, "throughput=-1.0"),
        ({"clients": (1, 1)}, r"clients=\[1, 1\]"),
        ({"clients": (-1,)}, r"clients=\[-1\]"),
        ({"decode": "peel"}, "needs read='ratio'"),
    ):
        with pytest.raises(BadInput, match=words) as refusal:
            with_fields(Loki(), **fields)
        assert "\n" not in str(refusal.value)
    with pytest.raises(BadInput, match=r"clients \[2\] are asked"):
        Loki(clients=(0, 1)).for_clients((1, 2))


def test_what_leaves_no_ratio_is_refused() -> None:
    tampered, parts = planted(STRONG, 2), parts_of((2, 2))
    with pytest.raises(NotApplicable, match="Adam"):
        read(tampered, parts, FedAvg(optimizer=Adam(), lr=1e-3))
    assert tampered.readout is not None
    update = local_update(tampered.model, parts[0], FedSGD(trainable=("base.*",)))
    with pytest.raises(NotApplicable, match="was not trained"):
        tampered.readout.reconstruct(update, ServerKnowledge(tampered.model), stream(0, "attack"))


def test_a_federation_of_one_model_and_one_of_several_agree_on_what_all_share() -> None:
    """`collect` and the rounds hand each client its own model, whatever the others get."""
    model, parts = mlp(dtype=DOUBLE), parts_of((2, 2))
    scaled = [model.with_params({k: v * (1 + c) for k, v in model.params.items()}) for c in range(2)]
    tampered = Tampered(model, for_client=lambda k: scaled[k])
    by_hand = [
        encoded_update(m, SPEC.encode(p.inputs), p.labels, FedSGD()).values for m, p in zip(scaled, parts, strict=True)
    ]
    mean = {k: (by_hand[0][k] + v) / 2 for k, v in by_hand[1].items()}
    clients = [Client(p, FedSGD()) for p in parts]
    got = collect(model, clients, stream(0, "clients"), for_client=tampered.for_client)
    assert got is not None
    (done,) = Federation(tuple(parts), FedSGD()).rounds(model, 1, 0, lambda model, number: tampered)
    assert done.mean is not None
    assert done.sent_to(1) is scaled[1]
    for found in (got, done.mean):
        assert found.kind is UpdateKind.GRADIENT
        assert all(torch.allclose(found.values[k], v, rtol=1e-12, atol=0) for k, v in mean.items())


LOKI = {"name": "loki", "preset": "strong", "rows": 64}
SERVER = {"role": "malicious architecture", "knows": ["num_examples", "local_training"]}


@pytest.mark.parametrize(
    "more",
    [
        {"client": {"clients": 3, "num_examples": 6}},
        {"client": {"clients": 3, "num_examples": 6, "protocol": "fedavg", "lr": 1e-3, "minibatch_size": 1}},
        {"client": {"protocol": "fedsgd"}, "federation": {"rounds": 2, "sizes": [3, 1, 2], "server_lr": 0.1}},
        {
            "client": {"protocol": "fedavg", "lr": 1e-3},
            "federation": {"rounds": 2, "sizes": [3, 1, 2], "participation": 0.67},
        },
    ],
    ids=["fedsgd", "fedavg", "rounds", "some_take_part"],
)
def test_an_audit_sends_different_models_says_so_and_its_self_check_holds(more: dict) -> None:
    table = {"audit": {"attacks": [LOKI], "metrics": ["psnr"]}, "server": SERVER, **more}
    report = audit(table, n=6).report
    (trial,) = report.trials
    assert trial.skipped is None
    assert trial.different_models
    assert trial.self_check == pytest.approx(0, abs=1e-6)
    assert trial.leaked is not None
    assert all(trial.leaked)
    (caveat,) = [c for c in report.caveats if c.topic == "different models"]
    assert caveat.trials == [trial.name]


def test_statistics_of_one_network_are_not_told_of_several() -> None:
    known = {**SERVER, "knows": [*SERVER["knows"], Knows.BN_STATISTICS.value]}
    table = {
        "audit": {"attacks": [LOKI], "metrics": ["psnr"]},
        "client": {"clients": 2, "num_examples": 4},
        "server": known,
    }
    (trial,) = audit(table, n=4, model=conv_bn()).report.trials
    assert trial.leaked == [True] * 4


def test_one_client_gets_the_one_model_there_is() -> None:
    table = {"audit": {"attacks": [LOKI], "metrics": ["psnr"]}, "client": {"num_examples": 3}, "server": SERVER}
    report = audit(table, n=3).report
    assert not report.trials[0].different_models
    assert not [c for c in report.caveats if c.topic == "different models"]
    assert report.trials[0].leaked == [True] * 3


def test_attacks_that_know_one_model_are_not_run_on_several() -> None:
    table = {
        "audit": {"attacks": ["linear_layer"], "metrics": ["psnr"]},
        "client": {"clients": 2, "num_examples": 4},
        "server": {**SERVER, "tampering": "loki"},
    }
    with pytest.raises(BadInput, match="name it in audit.attacks"):
        audit(table, n=4)


def test_a_tampering_that_is_not_told_plants_for_one_client() -> None:
    assert isinstance(STRONG, ForClients)
    tampered = STRONG.tamper(mlp(dtype=DOUBLE), stored(400, 1, DOUBLE), 0, stream(3, "server"))
    assert tampered.for_client is None
