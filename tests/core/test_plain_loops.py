"""The simulated client against the same training in bare PyTorch, in float64."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.local_training.conditions import Augmentation, Conditions
from fedspill.core.local_training.draws import draws_anything, is_random, without_draws
from fedspill.core.local_training.losses import BinaryCrossEntropy, CrossEntropy, Focal, MeanSquaredError, loss_of
from fedspill.core.local_training.optimizers import SGD, Adagrad, Adam, AdamW, RMSprop
from fedspill.core.local_training.protocol import FedAvg, FedSGD, LocalTraining, Schedule
from fedspill.core.local_training.update import aggregate_update, encoded_update, local_update
from fedspill.core.model import Model
from fedspill.core.rng import rand, seeded_globals, stream
from fedspill.core.types import Batch, UpdateKind
from fedspill.inversion.objective.distances import cosine_distance, squared_distance
from fedspill.inversion.objective.matching import Matching

SPEC = ImageSpec((3, 6, 6), mean=(0.4,), std=(0.2,))
LIKE = torch.zeros((), dtype=torch.float64)
N = 7


class Net(nn.Module):
    """A branch that no loss reaches, too: its parameters have no gradient, so that `torch.optim` leaves them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(64, 5)
        self.unused = nn.Linear(3, 2)

    def forward(self, z: Tensor) -> Tensor:
        return self.fc(functional.gelu(self.conv(z)).flatten(1))


def model(loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy) -> Model:
    made, rng = Model.of(Net().double(), SPEC, loss), stream(0, "weights")
    params = {k: (rand(tuple(v.shape), rng, v) - 0.5) / 2 for k, v in made.params.items()}
    return made.with_params(params)


def batch(n: int = N) -> Batch:
    return Batch(rand((n, *SPEC.shape), stream(0, "private"), LIKE), torch.arange(n) % 5)


def module(of: Model) -> nn.Module:
    net = Net().double()
    net.load_state_dict(dict(of.params))
    return net


Loop = Callable[[nn.Module, torch.optim.Optimizer], None]


def delta(of: Model, net: nn.Module) -> dict[str, Tensor]:
    return {k: of.params[k] - v.detach() for k, v in net.named_parameters() if k.split(".")[0] != "unused"}


def assert_equal(got: Any, wanted: dict[str, Tensor]) -> None:
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert float((got[name] - value).abs().max()) <= 1e-9 + 1e-6 * float(value.abs().max()), name
        assert float(value.abs().max()) > 0


def batches(size: int, epochs: int, n: int = N) -> Iterator[slice]:
    for _ in range(epochs):
        yield from (slice(k, k + size) for k in range(0, n, size))


OPTIMIZERS = [
    (SGD(), torch.optim.SGD, {}),
    (SGD(momentum=0.9), torch.optim.SGD, {"momentum": 0.9}),
    (
        SGD(0.9, nesterov=True, weight_decay=0.1),
        torch.optim.SGD,
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    ),
    (SGD(0.8, dampening=0.3), torch.optim.SGD, {"momentum": 0.8, "dampening": 0.3}),
    (Adam(), torch.optim.Adam, {}),
    (
        Adam((0.8, 0.95), 1e-4, 0.1, True),
        torch.optim.Adam,
        {"betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1, "amsgrad": True},
    ),
    (AdamW(), torch.optim.AdamW, {}),
    (AdamW(weight_decay=0.2, amsgrad=True), torch.optim.AdamW, {"weight_decay": 0.2, "amsgrad": True}),
    (RMSprop(), torch.optim.RMSprop, {}),
    (
        RMSprop(0.9, 1e-4, 0.1, 0.7, True),
        torch.optim.RMSprop,
        {"alpha": 0.9, "eps": 1e-4, "weight_decay": 0.1, "momentum": 0.7, "centered": True},
    ),
    (Adagrad(), torch.optim.Adagrad, {}),
    (
        Adagrad(0.1, 0.1, 0.5, 1e-6),
        torch.optim.Adagrad,
        {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-6},
    ),
]


@pytest.mark.parametrize(("rule", "kind", "options"), OPTIMIZERS, ids=[repr(o[0]) for o in OPTIMIZERS])
def test_optimisers(rule: Any, kind: Any, options: dict[str, Any]) -> None:
    of, data = model(), batch()
    training = FedAvg(epochs=3, minibatch_size=3, lr=0.05, optimizer=rule)
    net = module(of)
    optimizer = kind(net.parameters(), lr=0.05, **options)
    for rows in batches(3, 3):
        optimizer.zero_grad()
        functional.cross_entropy(net(SPEC.encode(data.inputs[rows])), data.labels[rows]).backward()
        optimizer.step()
    assert_equal(local_update(of, data, training).values, delta(of, net))


SCHEDULES = [
    (Schedule("cosine"), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 9)),
    (Schedule("cosine", final=0.2), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 9, eta_min=0.02)),
    (Schedule("linear", final=0.1), lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=9)),
    (Schedule("step", period=2, gamma=0.5), lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.5)),
    (Schedule(warmup=4), lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.25, 1.0, total_iters=3)),
]


@pytest.mark.parametrize(("schedule", "make"), SCHEDULES, ids=[repr(s[0]) for s in SCHEDULES])
def test_schedules(schedule: Schedule, make: Callable[..., Any]) -> None:
    of, data = model(), batch()
    net = module(of)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.5)
    scheduler = make(optimizer)
    for rows in batches(3, 3):
        optimizer.zero_grad()
        functional.cross_entropy(net(SPEC.encode(data.inputs[rows])), data.labels[rows]).backward()
        optimizer.step()
        scheduler.step()
    got = local_update(of, data, FedAvg(3, 3, 0.1, momentum=0.5, schedule=schedule))
    assert_equal(got.values, delta(of, net))


def test_clipping_proximal_term_accumulation_and_drop_last_together() -> None:
    of, data = model(), batch()
    training = FedAvg(
        epochs=2,
        minibatch_size=2,
        lr=0.1,
        optimizer=Adam(),
        conditions=Conditions(clip_norm=0.3),
        proximal=0.7,
        accumulate=2,
        drop_last=True,
    )
    net = module(of)
    optimizer = torch.optim.Adam([*net.conv.parameters(), *net.fc.parameters()], lr=0.1)
    start = {k: v.detach().clone() for k, v in net.named_parameters()}
    for _ in range(2):
        for group in ([slice(0, 2), slice(2, 4)], [slice(4, 6)]):
            optimizer.zero_grad()
            for rows in group:
                loss = functional.cross_entropy(net(SPEC.encode(data.inputs[rows])), data.labels[rows])
                pull = sum((v - start[k]).square().sum() for k, v in net.named_parameters())
                ((loss + 0.7 / 2 * pull) / 2).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.3)
            optimizer.step()
    assert training.local_steps(N) == 4
    update = local_update(of, data, training).values
    assert_equal({k: v for k, v in update.items() if not k.startswith("unused")}, delta(of, net))
    assert all(float(v.abs().max()) == 0 for k, v in update.items() if k.startswith("unused"))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_autocast_with_loss_scaling(precision: Any) -> None:
    of, data = model().to("cpu", torch.float32), batch()
    training = FedAvg(2, 3, 0.1, momentum=0.9, conditions=Conditions(precision=precision, loss_scale=1024.0))
    net = module(of).float()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for rows in batches(3, 2):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=getattr(torch, precision)):
            loss = functional.cross_entropy(net(SPEC.encode(data.inputs.float()[rows])), data.labels[rows])
        (1024.0 * loss).backward()
        for p in net.parameters():
            if p.grad is not None:
                p.grad /= 1024.0
        optimizer.step()
    assert_equal(local_update(of, data, training).values, delta(of, net))
    assert not torch.equal(
        local_update(of, data, training).values["fc.weight"],
        local_update(of, data, replace(training, conditions=Conditions())).values["fc.weight"],
    )


def test_a_step_whose_gradient_overflows_is_skipped() -> None:
    of, data = model().to("cpu", torch.float32), batch()
    training = FedAvg(lr=0.1, conditions=Conditions(precision="float16", loss_scale=1e38))
    assert local_update(of, data, training).values == {}


def test_shuffled_epochs_of_known_draws() -> None:
    of, data = model(), batch()
    training = FedAvg(epochs=2, minibatch_size=3, lr=0.1, shuffle=True, draws=5)
    orders = [[i for rows in training.batches(N)[k : k + 3] for i in rows[0]] for k in (0, 3)]  # type: ignore[union-attr]
    assert [sorted(o) for o in orders] == [list(range(N))] * 2
    assert orders[0] != orders[1]
    net = module(of)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for order in orders:
        for rows in batches(3, 1):
            chosen = order[rows]
            optimizer.zero_grad()
            functional.cross_entropy(net(SPEC.encode(data.inputs[chosen])), data.labels[chosen]).backward()
            optimizer.step()
    assert_equal(encoded_update(of, SPEC.encode(data.inputs), data.labels, training).values, delta(of, net))
    unknown = replace(training, draws=None)
    assert unknown.batches(N) == replace(training, shuffle=False).batches(N)


def views(inputs: Tensor, flip: float, crop: int, rng: torch.Generator) -> Tensor:
    """Crops out of black borders and mirror images of pixels, as torchvision's transforms make them."""
    places, out = torch.randint(2 * crop + 1, (len(inputs), 2), generator=rng).tolist(), list[Tensor]()
    mirrored = (torch.rand(len(inputs), generator=rng) < flip).tolist()
    for picture, (y, x), turned in zip(inputs, places, mirrored, strict=True):
        canvas = picture.new_zeros(3, 6 + 2 * crop, 6 + 2 * crop)
        canvas[:, crop : crop + 6, crop : crop + 6] = picture
        window = canvas[:, y : y + 6, x : x + 6]
        out.append(window.flip(2) if turned else window)
    return torch.stack(out)


def test_augmentation_of_known_draws() -> None:
    of, data = model(), batch()
    conditions = Conditions(augmentation=Augmentation(flip=0.5, crop=2))
    training, net = FedAvg(2, 3, 0.1, conditions=conditions, draws=9), module(of)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step, rows in enumerate(batches(3, 2)):
        rng = training.rng(step)
        assert rng is not None
        seen = views(data.inputs[rows], 0.5, 2, rng)
        optimizer.zero_grad()
        functional.cross_entropy(net(SPEC.encode(seen)), data.labels[rows]).backward()
        optimizer.step()
    got = encoded_update(of, SPEC.encode(data.inputs), data.labels, training)
    assert_equal(got.values, delta(of, net))
    plain = encoded_update(of, SPEC.encode(data.inputs), data.labels, replace(training, draws=None))
    assert not torch.allclose(got.values["fc.weight"], plain.values["fc.weight"])


def test_a_clipped_gradient_is_sent_clipped() -> None:
    of, data = model(), batch()
    net = module(of)
    functional.cross_entropy(net(SPEC.encode(data.inputs)), data.labels).backward()
    nn.utils.clip_grad_norm_(net.parameters(), 0.01)
    got = local_update(of, data, FedSGD(conditions=Conditions(clip_norm=0.01)))
    assert got.kind is UpdateKind.GRADIENT
    assert_equal(got.values, {k: v.grad for k, v in net.named_parameters() if v.grad is not None})
    assert got.norm() == pytest.approx(0.01, rel=1e-3)


class Masked(Net):
    """Dropout as a function, and of whole examples as stochastic depth drops them."""

    def forward(self, z: Tensor) -> Tensor:
        hidden = functional.dropout(functional.gelu(self.conv(z)).flatten(1), 0.3, self.training)
        if self.training:
            hidden = hidden * hidden.new_empty(len(z), 1).bernoulli_(0.8) / 0.8
        return self.fc(hidden)


def test_masks_of_known_draws_and_none_of_unknown_ones() -> None:
    net = Masked().double()
    net.load_state_dict(dict(model().params))
    of, data, training = Model.of(net, SPEC, training=True), batch(), FedAvg(2, 3, 0.1, draws=4)
    z = SPEC.encode(data.inputs)
    assert draws_anything(of, FedSGD(), z)
    twin = Masked().double()
    twin.load_state_dict(net.state_dict())
    optimizer = torch.optim.SGD(twin.train().parameters(), lr=0.1)
    for step, rows in enumerate(batches(3, 2)):
        rng = training.rng(step)
        assert rng is not None
        optimizer.zero_grad()
        with seeded_globals(rng):
            functional.cross_entropy(twin(z[rows]), data.labels[rows]).backward()
        optimizer.step()
    drawn = encoded_update(of, z, data.labels, training)
    assert_equal(drawn.values, delta(of, twin))
    assert torch.equal(encoded_update(of, z, data.labels, training).values["fc.bias"], drawn.values["fc.bias"])
    assumed, unknown = without_draws(of, training)
    assert isinstance(unknown, FedAvg)
    assert not is_random(assumed, z)
    calm = encoded_update(of.in_eval_mode(), z, data.labels, unknown)
    assert torch.allclose(encoded_update(assumed, z, data.labels, unknown).values["fc.bias"], calm.values["fc.bias"])


WEIGHT = (1.0, 2.0, 0.5, 1.0, 3.0)
LOSSES = [
    ("cross_entropy", functional.cross_entropy),
    ({"name": "cross_entropy", "label_smoothing": 0.1}, nn.CrossEntropyLoss(label_smoothing=0.1)),
    (
        {"name": "cross_entropy", "weight": list(WEIGHT), "label_smoothing": 0.2},
        nn.CrossEntropyLoss(torch.tensor(WEIGHT).double(), label_smoothing=0.2),
    ),
    ({"name": "focal", "gamma": 2.0}, lambda o, y: -((1 - p(o, y)) ** 2 * p(o, y).log()).mean()),
    ("binary_cross_entropy", lambda o, y: nn.BCEWithLogitsLoss()(o, functional.one_hot(y, 5).double())),
    ("mean_squared_error", lambda o, y: nn.MSELoss()(o, functional.one_hot(y, 5).double())),
    (
        [{"name": "cross_entropy", "share": 0.3}, {"name": "mean_squared_error", "share": 2.0}],
        lambda o, y: 0.3 * functional.cross_entropy(o, y) + 2 * nn.MSELoss()(o, functional.one_hot(y, 5).double()),
    ),
    ("torch.nn.functional:multi_margin_loss", functional.multi_margin_loss),
    ({"name": "torch.nn:MultiMarginLoss", "margin": 0.5}, nn.MultiMarginLoss(margin=0.5)),
]


def p(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.softmax(1)[torch.arange(len(labels)), labels]


@pytest.mark.parametrize(("named", "plain"), LOSSES, ids=[str(one[0]) for one in LOSSES])
@pytest.mark.parametrize("training", [FedSGD(), FedAvg(2, 3, 0.1, optimizer=AdamW())], ids=["fedsgd", "fedavg"])
def test_losses(named: Any, plain: Callable[..., Tensor], training: LocalTraining) -> None:
    of, data = model(loss_of(named)), batch()
    net = module(of)
    if isinstance(training, FedSGD):
        plain(net(SPEC.encode(data.inputs)), data.labels).backward()
        wanted = {k: v.grad for k, v in net.named_parameters() if v.grad is not None}
    else:
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
        for rows in batches(3, 2):
            optimizer.zero_grad()
            plain(net(SPEC.encode(data.inputs[rows])), data.labels[rows]).backward()
            optimizer.step()
        wanted = delta(of, net)
    assert_equal(local_update(of, data, training).values, wanted)


def test_targets_of_several_labels_and_of_one_output() -> None:
    logits, several = torch.randn(4, 3, generator=stream(0)).double(), torch.tensor([[1, 0, 1]] * 4)
    assert torch.equal(
        BinaryCrossEntropy()(logits, several), functional.binary_cross_entropy_with_logits(logits, several.double())
    )
    one, answers = logits[:, :1], torch.tensor([0, 1, 1, 0])
    wanted = functional.binary_cross_entropy_with_logits(one[:, 0], answers.double())
    assert torch.allclose(BinaryCrossEntropy()(one, answers), wanted)
    with pytest.raises(BadInput, match=r"labels of shape \(2,\)"):
        MeanSquaredError()(logits[:2], torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: loss_of("hinge"), "'hinge' is unknown"),
        (lambda: loss_of({"name": "focal", "beta": 1}), "no field beta; it has gamma, weight"),
        (lambda: loss_of({"name": "focal", "gamma": "2"}), "must be a number"),
        (lambda: loss_of({"label_smoothing": 0.1}), "has no name"),
        (lambda: loss_of("no.such:loss"), "package.module:function"),
        (lambda: loss_of([]), "at least one part"),
        (lambda: CrossEntropy(label_smoothing=1.5), r"must lie in \[0, 1\]"),
        (lambda: Focal(float("nan")), "gamma=nan"),
        (lambda: CrossEntropy(weight=(1.0, -1.0)), "above 0"),
        (lambda: CrossEntropy(weight=(1.0,))(torch.zeros(1, 5), torch.tensor([0])), "5 outputs"),
        (lambda: SGD(nesterov=True), "nesterov needs a momentum"),
        (lambda: SGD(momentum=1.0), "below 1"),
        (lambda: Adam(betas=(0.9, float("nan"))), r"betas\[1\]=nan"),
        (lambda: RMSprop(eps=-1.0), "eps=-1.0"),
        (lambda: FedAvg(momentum=0.9, optimizer=Adam()), "say them in Adam"),
        (lambda: FedAvg(accumulate=0), "accumulate=0"),
        (lambda: FedAvg(proximal=float("nan")), "proximal=nan"),
        (lambda: FedAvg(lr=float("inf")), "lr=inf"),
        (lambda: FedAvg(minibatch_size=8, drop_last=True).batches(3), "leaves nothing of 3"),
        (lambda: Conditions(clip_norm=0.0), "clip_norm=0.0"),
        (lambda: Augmentation(flip=1.5), "flip=1.5"),
    ],
)
def test_what_cannot_be_is_named(make: Callable[[], object], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        make()


MATCHED = [
    FedSGD(conditions=Conditions(clip_norm=0.01)),
    FedSGD(conditions=Conditions(augmentation=Augmentation(0.5, 2)), draws=3),
    FedAvg(2, 2, 0.05, optimizer=Adam()),
    FedAvg(2, 2, 0.05, optimizer=RMSprop(momentum=0.5), schedule=Schedule("cosine")),
    FedAvg(2, 2, 0.05, optimizer=Adagrad(), proximal=0.1, accumulate=2),
    FedAvg(2, 2, 0.05, optimizer=SGD(0.9, nesterov=True), conditions=Conditions(clip_norm=0.1)),
    FedAvg(
        2, 2, 0.05, optimizer=AdamW(), shuffle=True, conditions=Conditions(augmentation=Augmentation(0.5, 1)), draws=3
    ),
]


@pytest.mark.parametrize("training", MATCHED, ids=[str(k) for k in range(len(MATCHED))])
@pytest.mark.parametrize("distance", [cosine_distance, squared_distance])
@pytest.mark.parametrize("clients", [1, 2])
def test_the_matching_loss_is_0_at_the_truth(training: LocalTraining, distance: Any, clients: int) -> None:
    of, data = model(CrossEntropy(label_smoothing=0.1)), batch(4)
    z = SPEC.encode(data.inputs)
    observed = aggregate_update(of, z, data.labels, training, clients)
    matching = Matching(of, observed, training, clients, distance)
    assert abs(float(matching(z, data.labels))) < 1e-12
    assert float(matching(z + 0.3, data.labels)) > 1e-7


@pytest.mark.parametrize("training", [t for t in MATCHED if isinstance(t, FedAvg)], ids=repr)
def test_many_steps_have_the_derivative_of_their_graph(training: FedAvg, monkeypatch: pytest.MonkeyPatch) -> None:
    of, data = model(CrossEntropy(label_smoothing=0.1)), batch(4)
    z = SPEC.encode(data.inputs)
    observed = aggregate_update(of, z, data.labels, training)
    found = list[Tensor]()
    for limit in (1 << 40, 0):
        monkeypatch.setattr("fedspill.inversion.objective.unrolled.GRAPHS", limit)
        candidate = (z + 0.2).requires_grad_()
        matching = Matching(of, observed, training, 1, cosine_distance)
        found.append(torch.autograd.grad(matching(candidate, data.labels), candidate)[0])
    assert float((found[0] - found[1]).abs().max()) < 1e-9 * float(found[0].abs().max())
    assert float(found[0].abs().max()) > 0
