"""Odd modules against their plain twins: the same network, written so that nothing unusual happens."""

import types
from collections import namedtuple
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TokenSpec
from fedspill.core.local_training.update import FedAvg, FedSGD, encoded_update
from fedspill.core.model import Model
from fedspill.core.module.twins import copied
from fedspill.core.probing.state import check_memory
from fedspill.core.rng import rand, randn, stream

SPEC = ImageSpec((1, 6, 6))
LABELS = torch.tensor([1, 3])
SINGLE, DOUBLE = torch.zeros(()), torch.zeros((), dtype=torch.float64)
TWO_EPOCHS = FedAvg(epochs=2, lr=0.5)


class Plain(nn.Module):
    """Two convolutions and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.f = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 3), nn.Linear(12, 4)

    def block(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.b(torch.sigmoid(self.a(x))))

    def features(self, x: Tensor) -> Tensor:
        return self.block(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.features(x).flatten(1))


class Checkpointed(Plain):
    def features(self, x: Tensor) -> Tensor:
        return checkpoint(self.block, x, use_reentrant=False)


class Reentrant(Plain):
    def block(self, x: Tensor) -> Tensor:
        return checkpoint(lambda y: torch.sigmoid(self.b(y)), torch.sigmoid(self.a(x)), use_reentrant=True)


class ReentrantFirst(Plain):
    """No gradient reaches the first two layers: what is checkpointed is given the input, which takes none."""

    def features(self, x: Tensor) -> Tensor:
        return checkpoint(self.block, x.flatten(1).reshape(x.shape), use_reentrant=True)


class FrozenFirst(Plain):
    """Its plain twin."""

    def block(self, x: Tensor) -> Tensor:
        a, b = ((layer.weight.detach(), layer.bias.detach()) for layer in (self.a, self.b))
        return torch.sigmoid(functional.conv2d(torch.sigmoid(functional.conv2d(x, *a)), *b))


class ByClosure(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.first = lambda x: torch.sigmoid(self.a(x))
        self.listed = [self.b]
        self.last = partial(functional.linear, weight=self.f.weight, bias=self.f.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.sigmoid(self.listed[0](self.first(x))).flatten(1))


class Keeping(Plain):
    """Keeps what it saw, tensors with a history among it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.seen = 0, list[Tensor]()
        self.kept = torch.sigmoid(self.a(torch.zeros(1, 1, 6, 6)))

    def features(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.kept = self.block(x)
        self.seen.append(self.kept)
        return self.kept


class WritesItsInput(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sub_(0.5).mul_(2.0))


class FirstInPlace(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.relu(x, inplace=True))


class Helper:
    """No module, but holds one."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer


class ThroughAHelper(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.helper = Helper(self.a)

    def block(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.b(torch.sigmoid(self.helper.layer(x))))


def other_forward(self: Plain, x: Tensor) -> Tensor:
    return self.f(self.block(x).flatten(1))


def monkeypatched() -> Plain:
    net = Plain()
    net.forward = types.MethodType(other_forward, net)
    return net


def compiled_in_place() -> Plain:
    net = Plain()
    net.compile(backend="eager")
    return net


SAME = {
    "checkpoint": (Checkpointed, lambda z: z),
    "checkpoint, reentrant": (Reentrant, lambda z: z),
    "closure": (ByClosure, lambda z: z),
    "keeping": (Keeping, lambda z: z),
    "helper": (ThroughAHelper, lambda z: z),
    "forward put in": (monkeypatched, lambda z: z),
    "compiled in place": (compiled_in_place, lambda z: z),
    "torch.compile": (lambda: torch.compile(Plain(), backend="eager"), lambda z: z),
    "data parallel": (lambda: nn.DataParallel(Plain()), lambda z: z),
    "writes its input": (WritesItsInput, lambda z: (z - 0.5) * 2),
    "in-place activation first": (FirstInPlace, functional.relu),
}


def pair(odd: nn.Module, spec=SPEC, *, training: bool = False) -> tuple[Model, Model]:
    """The odd model and its plain twin with the same parameters, which neither module holds."""
    one, two = (
        Model.of(odd, spec, training=training).to("cpu", torch.float64),
        Model.of(Plain(), spec).to("cpu", torch.float64),
    )
    params = {k: 0.4 * randn(tuple(v.shape), stream(1, k), v) for k, v in two.params.items()}
    return one.with_params(params), two.with_params(params)


def differentiated(model: Model, z: Tensor, training: FedSGD | FedAvg) -> tuple[dict[str, Tensor], Tensor]:
    """An update, and the derivative of a function of it by the input."""
    leaf = z.detach().clone().requires_grad_()
    values = encoded_update(model, leaf, LABELS, training, create_graph=True).values
    total = torch.stack([v.pow(2).sum() for v in values.values()]).sum()
    return {k: v.detach() for k, v in values.items()}, torch.autograd.grad(total, leaf)[0]


@pytest.mark.parametrize("training", [FedSGD(), TWO_EPOCHS], ids=["gradient", "two epochs"])
@pytest.mark.parametrize("kind", SAME)
def test_an_odd_network_is_computed_as_its_plain_twin(kind, training) -> None:
    make, before = SAME[kind]
    odd, plain = pair(make())
    z = rand((2, 1, 6, 6), stream(0), odd.like)
    leaf = z.clone().requires_grad_()
    expected, slope = differentiated(plain, before(z), training)
    (slope,) = torch.autograd.grad(before(leaf), leaf, slope)
    for _ in range(2):
        got, got_slope = differentiated(odd, z, training)
        assert list(got) == list(expected)
        for name, value in expected.items():
            torch.testing.assert_close(got[name], value, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(got_slope, slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("training", [FedSGD(), TWO_EPOCHS], ids=["gradient", "two epochs"])
def test_what_is_checkpointed_at_an_input_without_a_gradient_is_not_trained(training) -> None:
    (odd, _), (plain, _) = pair(ReentrantFirst()), pair(FrozenFirst())
    z = rand((2, 1, 6, 6), stream(0), odd.like)
    expected, slope = differentiated(plain, z, training)
    got, got_slope = differentiated(odd, z, training)
    assert list(got) == list(expected) == ["f.weight", "f.bias"]
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(got_slope, slope, rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
@pytest.mark.parametrize("kind", [Reentrant, ReentrantFirst])
def test_reentrant_checkpoints_as_a_plain_loop_trains_them(kind) -> None:
    odd, _ = pair(kind())
    z = rand((2, 1, 6, 6), stream(0), odd.like)
    net = kind().double()
    net.load_state_dict(dict(odd.params))
    rule = torch.optim.SGD(net.parameters(), lr=TWO_EPOCHS.lr)
    for _ in range(TWO_EPOCHS.epochs):
        rule.zero_grad()
        functional.cross_entropy(net(z), LABELS).backward()
        rule.step()
    got = encoded_update(odd, z, LABELS, TWO_EPOCHS).values
    moved = {k: odd.params[k] - v.detach() for k, v in net.named_parameters() if v.grad is not None}
    assert got.keys() == moved.keys()
    for name, value in moved.items():
        torch.testing.assert_close(got[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", SAME)
def test_nothing_of_a_call_is_left_in_the_caller_s_module(kind) -> None:
    net = SAME[kind][0]()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    model = Model.of(net.eval(), SPEC)
    plain = model.module
    state = (getattr(plain, "calls", 0), list(getattr(plain, "seen", [])), getattr(plain, "kept", None))
    z = rand((2, 1, 6, 6), stream(0), SINGLE)
    untouched = z.clone()
    for _ in range(2):
        encoded_update(model, z, LABELS, FedSGD())
    assert torch.equal(z, untouched)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert (getattr(plain, "calls", 0), list(getattr(plain, "seen", []))) == state[:2]
    assert getattr(plain, "kept", None) is state[2]


def test_a_call_is_refused_that_writes_into_its_input_all_of_a_sudden() -> None:
    class Sudden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = nn.Linear(36, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.f((x.mul_(2) if len(x) > 2 else x).flatten(1))

    model = Model.of(Sudden(), SPEC)
    model.logits(model.params, torch.rand(2, 1, 6, 6))
    with pytest.raises(BadInput, match="writes into its input, and not in every call"):
        model.logits(model.params, torch.rand(3, 1, 6, 6))


class MovingMean(nn.Module):
    """Subtracts a mean that it moves in every call, in eval mode too."""

    def __init__(self, written: bool) -> None:
        super().__init__()
        self.written = written
        self.f = nn.Linear(36, 4)
        self.register_buffer("mean", torch.zeros(36))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        moved = 0.5 * self.mean + 0.5 * x.detach().mean(0)
        if self.written:
            self.mean.copy_(moved)
        else:
            self.mean = moved
        return self.f(x - self.mean)


@pytest.mark.parametrize("written", [True, False], ids=["written", "put in"])
def test_buffers_that_move_in_eval_mode_move_within_a_client_and_not_from_one_to_the_next(written) -> None:
    net = MovingMean(written).double().eval()
    model, z = Model.of(net, SPEC), rand((2, 1, 6, 6), stream(0), DOUBLE)
    got = [encoded_update(model, z, LABELS, TWO_EPOCHS).values for _ in range(2)]
    twin = copied(net)
    rule = torch.optim.SGD(twin.parameters(), lr=TWO_EPOCHS.lr)
    for _ in range(TWO_EPOCHS.epochs):
        rule.zero_grad()
        functional.cross_entropy(twin(z), LABELS).backward()
        rule.step()
    for update in got:
        for name, end in twin.named_parameters():
            torch.testing.assert_close(update[name], model.params[name] - end.detach())
    assert not model.buffers["mean"].any()
    assert not net.mean.any()


ANSWERS = {
    "dict": lambda y: {"logits": y, "loss": None},
    "one tensor in a dict": lambda y: {"out": y},
    "tuple": lambda y: (y, [y.detach()]),
    "named": lambda y: namedtuple("Answer", ["logits", "aux_logits"])(y, None),
    "object": lambda y: types.SimpleNamespace(logits=y, hidden=y[:, :1]),
}


class Answering(Plain):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor):
        return ANSWERS[self.how](super().forward(x))


@pytest.mark.parametrize("how", ANSWERS)
def test_logits_are_found_in_what_a_network_answers(how) -> None:
    odd, plain = pair(Answering(how))
    z = rand((2, 1, 6, 6), stream(0), odd.like)
    assert torch.equal(odd.logits(odd.params, z), plain.logits(plain.params, z))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda y: (y, 2 * y), r"a tuple of several logits \(0, 1\)"),
        (lambda y: {"logits": y, "aux": 2 * y}, r"a dict of several logits \(logits, aux\)"),
        (lambda y: {"a": y, "b": y[:, :1]}, "a dict of a, b; a tensor of logits"),
        (lambda y: [], "a list of nothing"),
        (lambda y: None, "a NoneType of nothing"),
    ],
)
def test_an_answer_without_sure_logits_is_refused(monkeypatch, answer, said) -> None:
    monkeypatch.setitem(ANSWERS, "odd", answer)
    model = Model.of(Answering("odd"), SPEC)
    with pytest.raises(BadInput, match=said):
        model.logits(model.params, torch.rand(2, 1, 6, 6))


NORMED = {
    "weight_norm": lambda layer: weight_norm(layer),
    "parametrised": lambda layer: parametrizations.weight_norm(layer),
    "spectral_norm": lambda layer: spectral_norm(layer),
    "parametrised, spectral": lambda layer: parametrizations.spectral_norm(layer),
}


@pytest.mark.filterwarnings("ignore:`torch.nn.utils")
@pytest.mark.parametrize("kind", NORMED)
def test_normed_weights_are_copied_and_computed(kind) -> None:
    torch.manual_seed(0)  # noqa: TID251
    net = nn.Sequential(nn.Flatten(), NORMED[kind](nn.Linear(36, 4)).double())
    net(torch.rand(2, 1, 6, 6, dtype=torch.float64))  # leaves a weight with a history
    net.eval()
    model = Model.of(net, SPEC, training=True).in_eval_mode()  # copied twice
    z = rand((2, 1, 6, 6), stream(0), DOUBLE)
    update = encoded_update(model, z, LABELS, FedSGD()).values
    functional.cross_entropy(net(z), LABELS).backward()
    assert set(update) == {k for k, _ in net.named_parameters()}
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(update[name], parameter.grad)


def test_a_copy_is_independent_and_keeps_ties_closures_and_hooks() -> None:
    net = ByClosure().double()
    net.tied = net.a
    net.a.register_forward_hook(lambda module, inputs, output: output + net.f.bias.sum())
    twin, z = copied(net), rand((2, 1, 6, 6), stream(0), DOUBLE)
    assert torch.equal(twin(z), net(z))
    expected = net(z)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert torch.equal(twin(z), expected)
    assert twin.tied is twin.a
    assert twin.listed[0] is twin.b
    assert twin.helper.layer is twin.a if hasattr(twin, "helper") else True


def test_tied_weights_are_one_parameter() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(36, 36, bias=False), nn.Linear(36, 36, bias=False)
            self.two.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.two(torch.tanh(self.one(x.flatten(1))))

    net = Tied().double()
    model = Model.of(net, SPEC, training=True).in_eval_mode()
    fresh = {"one.weight": 0.1 * randn((36, 36), stream(1), model.like)}
    z = rand((2, 1, 6, 6), stream(0), model.like)
    got = encoded_update(model.with_params(fresh), z, LABELS, FedSGD()).values
    weight = fresh["one.weight"].clone().requires_grad_()
    loss = functional.cross_entropy(torch.tanh(z.flatten(1) @ weight.T) @ weight.T, LABELS)
    torch.testing.assert_close(got, {"one.weight": torch.autograd.grad(loss, weight)[0]})


def test_lazy_layers_get_their_shapes_and_the_caller_s_stay_lazy() -> None:
    net = nn.Sequential(nn.LazyConv2d(2, 3), nn.Flatten(), nn.LazyLinear(4))
    state = torch.random.get_rng_state()
    model = Model.of(net, SPEC)
    assert torch.equal(state, torch.random.get_rng_state())
    assert {k: tuple(v.shape) for k, v in model.params.items()}["2.weight"] == (4, 32)
    assert net[0].has_uninitialized_params()
    assert len(encoded_update(model, torch.rand(2, 1, 6, 6), LABELS, FedSGD()).values) == 4
    with pytest.raises(BadInput, match=r"lazy layers, and cannot be called on \(1, 1, 2, 2\)"):
        Model.of(nn.Sequential(nn.LazyConv2d(2, 3)), ImageSpec((1, 2, 2)))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(4, 36, dtype=torch.complex64), "'weight' is of torch.complex64"),
        (torch.zeros(4, 36, device="meta"), "'weight' is on the meta device"),
        (torch.eye(4, 36).to_sparse(), "'weight' has the layout torch.sparse_coo"),
        (torch.zeros(4, 36, dtype=torch.int8), "'weight' is of torch.int8"),
    ],
)
def test_parameters_without_a_real_gradient_are_refused(value, said) -> None:
    net = nn.Linear(36, 4)
    net.weight = nn.Parameter(value, requires_grad=False)
    with pytest.raises(BadInput, match=said):
        Model.of(net, SPEC)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_scripted_network_is_refused() -> None:
    with pytest.raises(BadInput, match="TorchScript"):
        Model.of(torch.jit.trace(nn.Linear(6, 4), torch.rand(1, 6)), SPEC)


@pytest.mark.parametrize("layer", [nn.Embedding, nn.EmbeddingBag])
def test_sparse_embeddings_have_the_gradient_of_dense_ones(layer) -> None:
    class Words(nn.Module):
        def __init__(self, sparse: bool) -> None:
            super().__init__()
            self.words, self.f = layer(7, 3, sparse=sparse), nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.words(x)
            return self.f(y.mean(1) if y.ndim == 3 else y)

    spec, tokens = TokenSpec(5, 7), torch.tensor([[0, 1, 2, 3, 3], [6, 5, 5, 1, 0]])
    sparse, dense = (Model.of(Words(s), spec) for s in (True, False))
    got = encoded_update(sparse, tokens, LABELS, FedSGD()).values
    torch.testing.assert_close(got, encoded_update(replaced(dense, sparse), tokens, LABELS, FedSGD()).values)


def replaced(model: Model, other: Model) -> Model:
    return model.with_params(other.params)


def named(*names: str) -> Model:
    net = nn.Module()
    for name in names:
        net.register_parameter(name, nn.Parameter(torch.zeros(2)))
    return Model.of(net, SPEC)


def test_an_exact_name_is_no_pattern() -> None:
    model = named("w[0]", "w0", "v")
    assert model.trained_names(("w[0]",)) == ["w[0]"]
    assert model.trained_names(("w[01]",)) == ["w0"]
    assert model.trained_names(("v", "w0")) == ["w0", "v"]
    with pytest.raises(BadInput, match=r"trainable='x\*' matches none of"):
        model.trained_names(("v", "x*"))


def test_what_takes_no_gradient_is_not_trained_unless_it_is_named() -> None:
    net = Plain()
    net.a.requires_grad_(False)
    model = Model.of(net, SPEC, training=True).in_eval_mode()
    model = model.with_params(model.params).to("cpu", torch.float64)
    kept = [k for k in model.params if not k.startswith("a.")]
    assert model.trained_names(None) == model.trained_names(("*",)) == kept
    assert model.trained_names(("a.*", "f.bias")) == ["a.weight", "a.bias", "f.bias"]
    net.requires_grad_(False)
    with pytest.raises(BadInput, match="no parameter takes a gradient"):
        Model.of(net, SPEC).trained_names(None)


def test_a_wrapper_of_one_s_own_is_no_wrapper_to_take_off() -> None:
    class Doubling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = Plain()

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.module(x)

    model = Model.of(Doubling(), SPEC)
    assert next(iter(model.params)) == "module.a.weight"
    inner = Model.of(model.module.module, SPEC)
    z = torch.rand(2, 1, 6, 6)
    assert torch.equal(model.logits(model.params, z), 2 * inner.logits(inner.params, z))


def test_wrappers_inside_a_network_are_taken_off_too() -> None:
    net = Plain()
    names = [k for k, _ in net.named_parameters()]
    expected = Model.of(net, SPEC)
    net.a, net.f = torch.compile(net.a, backend="eager"), nn.DataParallel(torch.compile(net.f, backend="eager"))
    model = Model.of(net, SPEC)
    assert list(model.params) == names
    z = rand((2, 1, 6, 6), stream(0), SINGLE)
    assert torch.equal(model.logits(model.params, z), expected.logits(expected.params, z))
    assert isinstance(net.f, nn.DataParallel)


def test_hooks_of_a_library_that_records_gradients_are_taken_off() -> None:
    def recording(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        raise AssertionError("the hook was called")

    recording.__module__ = "opacus.grad_sample.grad_sample_module"
    wrapper = type("GradSampleModule", (nn.Module,), {"__module__": "opacus.grad_sample.grad_sample_module"})()
    net, plain = Plain(), Plain()
    plain.load_state_dict(net.state_dict())
    wrapper._module = net
    handle = net.a.register_forward_hook(recording)
    model, twin = Model.of(wrapper, SPEC), Model.of(plain, SPEC)
    z = rand((2, 1, 6, 6), stream(0), SINGLE)
    assert list(model.params) == list(twin.params)
    assert torch.equal(model.logits(model.params, z), twin.logits(twin.params, z))
    assert handle.id in net.a._forward_hooks


class Remembering(Plain):
    """Its mean moves in every call, and is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(())

    def features(self, x: Tensor) -> Tensor:
        y = self.block(x)
        self.mean = 0.5 * self.mean + 0.5 * y.detach().mean()
        return y - self.mean


@pytest.mark.parametrize("make", [Plain, Keeping, lambda: nn.Sequential(Plain(), nn.Dropout(0.5)), lambda: Normed()])
@pytest.mark.parametrize("training", [True, False])
def test_what_is_kept_and_not_used_is_no_memory(make, training) -> None:
    model = Model.of(make(), SPEC, training=training)
    state = torch.random.get_rng_state()
    check_memory(model)
    assert torch.equal(state, torch.random.get_rng_state())


class Normed(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(self.a, nn.BatchNorm2d(3))


def test_a_network_that_remembers_outside_its_buffers_is_refused() -> None:
    with pytest.raises(BadInput, match="^Remembering answers differently when it is asked again"):
        check_memory(Model.of(Remembering(), SPEC))
    check_memory(Model.of(MovingMean(True), SPEC))


class Sequence(nn.Module):
    """Rows of a picture as a sequence through a layer that holds its weights in a way of its own."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.f = layer, nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x[:, 0])
        return self.f((y[0] if isinstance(y, tuple) else y)[:, -1])


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.f = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.attention(x, x, x)[0])


SEQUENCES = {
    "lstm": lambda: nn.LSTM(6, 8, batch_first=True),
    "gru": lambda: nn.GRU(6, 4, 2, batch_first=True, bidirectional=True),
    "attention": Attending,
    "encoder": lambda: nn.Sequential(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), nn.Linear(6, 8)),
    "group norm": lambda: nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(inplace=True), nn.GroupNorm(2, 6), nn.ELU(inplace=True)
    ),
}


@pytest.mark.parametrize("kind", SEQUENCES)
def test_layers_that_hold_their_weights_in_lists(kind) -> None:
    compared(Sequence(SEQUENCES[kind]()), 6, training=False, channels=1)


def compared(net: nn.Module, size: int, *, training: bool, channels: int = 3) -> None:
    """The update equals the module's own backward pass, in a Model whose template holds other weights."""
    spec, net = ImageSpec((channels, size, size)), net.double().train(training)
    z, labels = rand((2, channels, size, size), stream(0), DOUBLE), LABELS
    functional.cross_entropy(net(z), labels).backward()
    other = copied(net)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    buffers = {k: v.detach() for k, v in net.named_buffers()}
    model = Model.of(other, spec, training=training).with_params(
        {k: v.detach() for k, v in net.named_parameters()}, buffers
    )
    update = encoded_update(model, z, labels, FedSGD()).values
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(update[name], parameter.grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("training", [False, True])
def test_torchvision_s_checkpointed_densenet(training) -> None:
    pytest.importorskip("torchvision", exc_type=Exception)
    from torchvision.models import DenseNet

    compared(DenseNet(4, (2, 2), 8, memory_efficient=True, num_classes=5), 32, training=training)


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_timm_s_checkpointed_networks(name) -> None:
    timm = pytest.importorskip("timm", exc_type=Exception)
    net = timm.create_model(name, num_classes=5, **({"img_size": 32} if name.startswith("vit") else {}))
    net.set_grad_checkpointing(True)
    compared(net, 32, training=False)


def test_opacus_wrapper() -> None:
    opacus = pytest.importorskip("opacus", exc_type=Exception)
    net = Plain()
    expected, model = Model.of(net, SPEC), Model.of(opacus.GradSampleModule(net), SPEC)
    z = rand((2, 1, 6, 6), stream(0), SINGLE)
    got = [encoded_update(m, z, LABELS, FedSGD()).values for m in (model, expected)]
    assert list(got[0]) == list(got[1])
    torch.testing.assert_close(*got)


def test_a_network_without_parameters_is_told_in_one_line() -> None:
    with pytest.raises(BadInput, match="^Flatten has no parameters"):
        _ = Model.of(nn.Flatten(), SPEC).like


@pytest.mark.parametrize("training", [FedSGD(), TWO_EPOCHS], ids=["gradient", "two epochs"])
def test_frozen_parameters_are_not_sent_unless_they_are_named(training) -> None:
    net = Plain().double()
    net.a.requires_grad_(False)
    model, z = Model.of(net, SPEC), rand((2, 1, 6, 6), stream(0), DOUBLE)
    update = encoded_update(model, z, LABELS, training).values
    assert set(update) == {k for k, p in net.named_parameters() if p.requires_grad}
    twin = copied(net)
    rule = torch.optim.SGD([p for p in twin.parameters() if p.requires_grad], lr=1.0 if training == FedSGD() else 0.5)
    for _ in range(1 if training == FedSGD() else 2):
        rule.zero_grad()
        functional.cross_entropy(twin(z), LABELS).backward()
        rule.step()
    for name, end in twin.named_parameters():
        if name in update:
            torch.testing.assert_close(update[name], model.params[name] - end.detach())
    named = encoded_update(model, z, LABELS, replace(training, trainable=("a.*", "f.bias"))).values
    assert list(named) == ["a.weight", "a.bias", "f.bias"]
