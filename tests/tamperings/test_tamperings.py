"""What a malicious server gains: each tampering's readout against the pictures, with a float32 client."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import Card, Tampering
from fedspill.core.types import Batch, Reconstruction, ServerRole
from fedspill.inversion.identity.units import WORKING_RANGE
from fedspill.tamperings import identity_convolutions, input_to_head, label_flip, linear_first, robbing_linear_layer
from fedspill.tamperings.identity_convolutions import IdentityConvolutions
from fedspill.tamperings.input_to_head import InputToHead
from fedspill.tamperings.label_flip import LabelFlip
from fedspill.tamperings.linear_first import LinearFirst

SPEC = ImageSpec((3, 16, 16), mean=(0.5, 0.4, 0.45), std=(0.25, 0.2, 0.3))
CARDS: list[Card[Tampering]] = [
    identity_convolutions.CARD,
    input_to_head.CARD,
    label_flip.CARD,
    linear_first.CARD,
]


def model_of(module: nn.Module, *, training: bool = False, seed: int = 0) -> Model:
    module = module.to_empty(device="cpu")
    rng = stream(seed, "tamperings", "net")
    params, buffers = dict[str, Tensor](), dict[str, Tensor]()
    for name, p in module.named_parameters():
        bound = 1.0 if p.ndim == 1 else p[0].numel() ** -0.5
        params[name] = (torch.rand(p.shape, generator=rng) * 2 - 1) * bound
    for name, b in module.named_buffers():
        buffers[name] = torch.rand(b.shape, generator=rng) + 0.5 if b.is_floating_point() else torch.zeros_like(b)
    return Model(module, params, buffers, functional.cross_entropy, SPEC, training)


def conv(inside: int, outside: int, *rest: nn.Module, stride: int = 1, size: int = 3) -> list[nn.Module]:
    return [nn.Conv2d(inside, outside, size, stride=stride, padding=size // 2), *rest]


def lenet() -> nn.Module:
    with torch.device("meta"):
        stack = [
            *conv(3, 12, nn.Sigmoid(), stride=2, size=5),
            *conv(12, 12, nn.Sigmoid(), stride=2, size=5),
            *conv(12, 12, nn.Sigmoid(), size=5),
        ]
        return nn.Sequential(nn.Sequential(*stack), nn.Flatten(), nn.Linear(192, 10))


def plain(activation: nn.Module) -> nn.Module:
    with torch.device("meta"):
        stack = [
            *conv(3, 8, nn.BatchNorm2d(8), activation),
            *conv(8, 6, activation),
            nn.Dropout(),
            *conv(6, 5, nn.BatchNorm2d(5), activation),
        ]
        return nn.Sequential(*stack, nn.Flatten(), nn.Linear(5 * 256, 20), nn.ReLU(), nn.Linear(20, 10))


def pooled() -> nn.Module:
    with torch.device("meta"):
        stack = [*conv(3, 12, nn.BatchNorm2d(12), nn.ReLU()), nn.MaxPool2d(2), *conv(12, 12, nn.ReLU())]
        return nn.Sequential(*stack, nn.Flatten(), nn.Linear(12 * 64, 10))


def pictures(n: int, seed: int = 0) -> Batch:
    """Smooth random pictures over the whole range, and distinct labels."""
    rng = stream(seed, "tamperings", "pictures", n)
    coarse = torch.rand(n, 3, 4, 4, generator=rng)
    smooth = functional.interpolate(coarse, size=16, mode="bilinear", align_corners=True)
    return Batch(smooth, torch.randperm(10, generator=rng)[:n])


def psnr(got: Reconstruction, batch: Batch) -> Tensor:
    """Per private picture, the best candidate's PSNR in dB."""
    error = (got.inputs[:, None] - batch.inputs[None]).square().flatten(2).mean(2)
    return -10 * error.clamp_min(1e-14).log10().amin(0)


def read(tampering: Tampering, model: Model, batch: Batch, training: LocalTraining | None = None) -> Reconstruction:
    training = training or FedSGD()
    tampered = tampering.tamper(model, None, 0, stream(0, "tamper"))
    assert tampered.readout is not None
    update = local_update(tampered.model, batch, training)
    knowledge = ServerKnowledge(tampered.model, num_examples=len(batch), local_training=training)
    got = tampered.readout.reconstruct(update, knowledge, stream(0, "readout"))
    assert float(got.inputs.min()) >= 0
    assert float(got.inputs.max()) <= 1
    return got


def test_cards_say_what_a_server_must_do() -> None:
    for card in CARDS:
        assert {"paper", "quick"} <= set(card.presets)
        assert card.role is not ServerRole.HONEST_BUT_CURIOUS


@pytest.mark.parametrize("activation", [*WORKING_RANGE, nn.Identity])
def test_without_strides_the_whole_picture_arrives(activation: type[nn.Module]) -> None:
    batch = pictures(1)
    got = read(IdentityConvolutions(), model_of(plain(activation())), batch)
    assert float((got.inputs - batch.inputs).abs().max()) < 2e-3
    assert float(psnr(got, batch)) > 60
    assert got.converged


def test_strides_leave_a_smaller_picture_and_free_channels_help() -> None:
    batch = pictures(1)
    plainly = read(IdentityConvolutions(), model_of(lenet()), batch)
    filled = read(IdentityConvolutions(phases=True), model_of(lenet()), batch)
    assert plainly.converged
    assert float(psnr(plainly, batch)) > 18
    assert float(psnr(filled, batch)) > float(psnr(plainly, batch)) + 3
    shown = got_at(plainly, 4)
    assert float((shown - batch.inputs[:, :, ::4, ::4]).abs().max()) < 2e-3


def got_at(got: Reconstruction, stride: int) -> Tensor:
    return got.inputs[:, :, ::stride, ::stride]


def test_maximum_pools_are_read_from_both_sides() -> None:
    batch = pictures(1)
    got = read(IdentityConvolutions(), model_of(pooled()), batch)
    assert float(psnr(got, batch)) > 24


def test_a_flat_head_separates_classes() -> None:
    batch = pictures(4)
    model = model_of(plain(nn.ReLU()))
    flat = model_of(lenet())
    got = read(IdentityConvolutions(phases=True, flat_head=True), flat, batch)
    alone = read(IdentityConvolutions(phases=True), flat, batch[:1])
    assert got.converged
    assert len(got.inputs) == 4
    assert float(psnr(got, batch).min()) > 18
    assert abs(float(psnr(got, batch)[0]) - float(psnr(alone, batch[:1]))) < 1.0
    # Behind a hidden layer, and without a flat head, several examples only mix; the readout says so.
    mixed = read(IdentityConvolutions(), model, batch)
    assert not mixed.converged
    assert any("mixture" in note for note in mixed.notes)


def test_stacks_that_cannot_become_identities_are_named() -> None:
    with torch.device("meta"):
        residual = Residual()
        grouped = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Flatten(), nn.Linear(6 * 196, 10))
        narrow = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 196, 10))
        clipped = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 196, 10))
        dense = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
    for module, reason in [
        (residual, "before Linear 'head'|before ReLU"),
        (grouped, "has groups"),
        (narrow, "cannot carry 3 colours"),
        (clipped, "neither a bias nor a BatchNorm"),
        (dense, "no convolution comes before"),
    ]:
        with pytest.raises(NotApplicable, match=reason):
            IdentityConvolutions().tamper(model_of(module), None, 0, stream(0, "t"))
    with pytest.raises(NotApplicable, match="batch statistics"):
        IdentityConvolutions().tamper(model_of(pooled(), training=True), None, 0, stream(0, "t"))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(768, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x + self.conv(x)).flatten(1))


@pytest.mark.parametrize("training", [FedSGD(), FedAvg(epochs=3, lr=0.01)])
def test_a_layer_in_front_shows_one_example(training: LocalTraining) -> None:
    batch = pictures(1)
    got = read(LinearFirst(), model_of(pooled()), batch, training)
    assert float(psnr(got, batch)) > (100 if isinstance(training, FedSGD) else 60)
    assert got.converged
    assert got.labels is not None
    assert got.labels.tolist() == batch.labels.tolist()


def test_a_layer_in_front_shows_those_that_own_rows() -> None:
    batch, model = pictures(6), model_of(pooled())
    few, many = read(LinearFirst(), model, batch), read(LinearFirst(rows=256, peel=True), model, batch)
    for got in (few, many):
        assert got.confidence is not None
        sure = got.inputs[got.confidence == 1]
        backwards = Batch(sure, torch.zeros(len(sure), dtype=torch.long))
        assert float(psnr(Reconstruction(batch.inputs), backwards).min()) > 80
    assert int((psnr(many, batch) > 80).sum()) == 6
    assert few.confidence is not None
    assert many.confidence is not None
    assert int((many.confidence == 1).sum()) > int((few.confidence == 1).sum())


def test_a_layer_in_front_leaves_the_network_nearly_as_it_was() -> None:
    batch, model = pictures(8), model_of(pooled())
    tampered = LinearFirst().tamper(model, None, 0, stream(0, "t")).model
    z = SPEC.encode(batch.inputs)
    before, after = model.logits(model.params, z), tampered.logits(tampered.params, z)
    assert float((before - after).abs().max()) < 0.2 * float(before.abs().max())


@pytest.mark.parametrize("training", [FedSGD(), FedAvg(epochs=3, lr=0.05, weight_decay=0.01)])
def test_an_input_at_the_head_shows_one_example(training: LocalTraining) -> None:
    batch, model = pictures(1), model_of(pooled())
    got = read(InputToHead(), model, batch, training)
    assert float(psnr(got, batch)) > 80
    assert got.converged
    tampered = InputToHead().tamper(model, None, 0, stream(0, "t")).model
    z = SPEC.encode(batch.inputs)
    torch.testing.assert_close(tampered.logits(tampered.params, z), model.logits(model.params, z))


def test_an_input_at_a_flat_head_shows_every_class() -> None:
    batch = pictures(5)
    got = read(InputToHead(flat_head=True), model_of(pooled()), batch)
    assert float(psnr(got, batch).min()) > 80
    assert got.converged
    repeated = Batch(batch.inputs, torch.tensor([1, 1, 2, 3, 4]))
    got = read(InputToHead(flat_head=True), model_of(pooled()), repeated)
    assert got.confidence is not None
    assert got.confidence.tolist() == pytest.approx([0.5, 1, 1, 1])
    assert float(psnr(got, repeated)[2:].min()) > 80
    path = read(InputToHead(flat_head=True), model_of(pooled()), batch, FedAvg(epochs=3, lr=0.01))
    assert not path.converged


@dataclass(frozen=True)
class Fitted:
    model: Model
    batch: Batch


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    """A network that has learnt its batch."""
    batch, model = pictures(10), model_of(pooled())
    for _ in range(60):
        update = local_update(model, batch, FedAvg(lr=0.05))
        model = model.with_params({k: v - update.values[k] for k, v in model.params.items()})
    return Fitted(model, batch)


def test_label_flip_enlarges_the_gradient_of_a_fitted_model(fitted: Fitted) -> None:
    honest = local_update(fitted.model, fitted.batch, FedSGD()).norm()
    norms = list[float]()
    for flip in (LabelFlip(), LabelFlip(all_rows=True)):
        tampered = flip.tamper(fitted.model, None, 0, stream(0, "flip"))
        assert tampered.readout is None
        norms.append(local_update(tampered.model, fitted.batch, FedSGD()).norm())
    assert norms[0] > 2 * honest
    assert norms[1] > norms[0]


def test_label_flip_moves_rows_of_the_head_only(fitted: Fitted) -> None:
    tampered = LabelFlip().tamper(fitted.model, None, 0, stream(1, "flip")).model
    changed = {k for k, v in tampered.params.items() if not torch.equal(v, fitted.model.params[k])}
    assert changed == {"7.weight", "7.bias"}
    rows = (tampered.params["7.weight"] != fitted.model.params["7.weight"]).any(1)
    assert int(rows.sum()) == 2


def test_global_random_state_is_untouched_and_same_seed_same_model() -> None:
    before = torch.random.get_rng_state()
    for card in CARDS:
        for component in card.presets.values():
            made = [component.tamper(model_of(lenet()), pictures(4), 0, stream(5, "t")).model for _ in range(2)]
            for name, value in made[0].params.items():
                assert torch.equal(value, made[1].params[name])
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("width", [1, 2, 5])
@pytest.mark.parametrize("preset", list(robbing_linear_layer.CARD.presets))
def test_bins_in_a_narrow_layer_measure_fewer_functions_or_say_that_it_is_too_narrow(width: int, preset: str) -> None:
    with torch.device("meta"):
        net = nn.Sequential(nn.Flatten(), nn.Linear(768, width), nn.ReLU(), nn.Linear(width, 10))
    model = model_of(net)
    tampering = robbing_linear_layer.CARD.presets[preset]
    rows = getattr(tampering, "rows", None) or 2
    if rows > width:
        with pytest.raises(NotApplicable, match=f"rows={rows}, but .* has {width}"):
            tampering.tamper(model, None, 0, stream(0, "server"))
        return
    tampered = tampering.tamper(model, None, 0, stream(0, "server"))
    weight = tampered.model.params["1.weight"]
    assert weight.shape == model.params["1.weight"].shape
    assert not torch.equal(weight, model.params["1.weight"])


def test_an_input_tied_to_the_head_of_a_network_that_returns_a_mapping() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.net(x)}

    private = pictures(1)
    got = read(InputToHead(), model_of(Named()), private)
    assert float(psnr(got, private).min()) > 60
