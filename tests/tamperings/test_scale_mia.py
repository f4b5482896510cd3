"""Scale-MIA: the written network in bare PyTorch, latents read blind, and images that come of them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import TableSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining, aggregate_update
from fedspill.core.model import Model
from fedspill.core.rng import rand, stream
from fedspill.core.roles import Tampered
from fedspill.core.tensor_files import write_tensors
from fedspill.core.types import Batch, Reconstruction, Update, UpdateKind
from fedspill.inversion.imprint.bin_readout import OPEN, REPEATED, SURE, Readings, told_once
from fedspill.inversion.representations.autoencoder.encoder import latents_of
from fedspill.inversion.representations.autoencoder.files import autoencoder_tensors
from fedspill.inversion.representations.autoencoder.training import AutoencoderTraining, train_autoencoder
from fedspill.inversion.representations.images.decoder import decoder_metadata
from fedspill.tamperings.scale_mia import CARD, DecoderView, ScaleMIA, ScaleMIAReadout
from fedspill.zoo.models import build
from fedspill.zoo.networks.strided_cnn import StridedCNNOptions, strided_cnn
from tests.support.imprints import stored
from tests.support.watches import BreakingWatch, Broken
from tests.support.worlds import CLASSES, SPEC, batch, conv_bn, draw_weights, linear, relu_mlp

DOUBLE = torch.float64
QUICK, STRONG = (CARD.presets[name] for name in ("quick", "strong"))
TRAINED = ScaleMIA(epochs=1, cutoffs="auto")
ROWS = 96


def convolutional(channels: int = 12, act: type[nn.Module] = nn.ReLU, dtype: torch.dtype = DOUBLE) -> Model:
    """A strided convolution, which 12 channels carry whole, and a head of two linear layers."""
    with torch.random.fork_rng():
        net = nn.Sequential(
            *(nn.Conv2d(3, channels, 4, 2, 1), act(), nn.Flatten()),
            *(nn.Linear(16 * channels, ROWS), nn.ReLU(), nn.Linear(ROWS, 20), nn.ReLU(), nn.Linear(20, CLASSES)),
        )
    return Model.of(draw_weights(net), SPEC).to("cpu", dtype)


def planted(tampering: ScaleMIA, model: Model | None = None) -> Tampered:
    model = convolutional() if model is None else model
    return tampering.tamper(model, stored(400, 1, model.like.dtype), 0, stream(3, "server"))


def read(made: Tampered, private: Batch, training: LocalTraining = FedSGD(), clients: int = 1) -> Reconstruction:
    z = made.model.input.encode(private.inputs)
    update = aggregate_update(made.model, z, private.labels, training, clients)
    known = ServerKnowledge(made.model, clients, len(private), local_training=training)
    assert made.readout is not None
    return made.readout.reconstruct(update, known, stream(0, "attack"))


def near(found: Tensor, true: Tensor) -> Tensor:
    """Relative distance of every candidate to every example, (m, n)."""
    return torch.cdist(found.double().flatten(1), true.double().flatten(1)) / true.double().flatten(1).norm(dim=1)


def test_the_written_network_is_what_its_words_say_in_bare_pytorch() -> None:
    """Bins of the latents' brightness, equal columns behind them, all other layers as they were."""
    made, honest, z = planted(QUICK), convolutional(), SPEC.encode(batch(5, dtype=DOUBLE).inputs)
    assert isinstance(made.readout, ScaleMIAReadout)
    assert {k: v.shape for k, v in made.model.params.items()} == {k: v.shape for k, v in honest.params.items()}
    net = made.model.own_module()
    assert isinstance(net, nn.Sequential)
    latents = net[:3](z)
    edges = made.readout.bins.imprint.groups[0].edges
    rows = (latents.mean(1)[:, None] - edges[:-1]).relu()
    columns = made.model.params["5.weight"]
    assert torch.allclose(columns, columns[:, :1].expand_as(columns))
    hidden = (rows.sum(1)[:, None] * columns[:, 0] + made.model.params["5.bias"]).relu()
    expected = hidden @ honest.params["7.weight"].T + honest.params["7.bias"]
    assert torch.allclose(made.model.logits(made.model.params, z), expected, atol=1e-9)
    assert all(torch.equal(made.model.params[f"7.{k}"], honest.params[f"7.{k}"]) for k in ("weight", "bias"))


@pytest.mark.parametrize("gain", [1.0, 0.01])
def test_the_gain_changes_no_output(gain: float) -> None:
    z = SPEC.encode(batch(5, dtype=DOUBLE).inputs)
    ours, other = (planted(replace(STRONG, gain=g)).model for g in (gain, 0.3))
    assert torch.allclose(ours.logits(ours.params, z), other.logits(other.params, z), atol=1e-9)


@pytest.mark.parametrize("name", ["quick", "strong"])
def test_an_encoder_that_drops_nothing_leaks_pictures_exactly(name: str) -> None:
    made, private = planted(CARD.presets[name]), stored(12, 0, DOUBLE)
    found = read(made, private)
    assert isinstance(made.readout, ScaleMIAReadout)
    expected = made.readout.predict(made.model, SPEC.encode(private.inputs))
    assert expected.representations is not None
    assert found.representations is not None
    assert int(expected.recoverable.sum()) >= 8, "the world is too poor to test anything"
    exact = (near(found.representations, expected.representations) < 1e-6).any(0)
    assert bool(exact[expected.recoverable].all())
    pictures = (found.inputs[:, None] - private.inputs[None]).abs().flatten(2).amax(2) < 1e-5
    assert bool(pictures.any(0)[expected.recoverable].all())


@pytest.mark.parametrize("name", ["quick", "strong"])
def test_what_is_certified_is_one_example(name: str) -> None:
    """Blind: no mark "alone" on a candidate that is no example's latent, and no example twice under it."""
    made, private = planted(CARD.presets[name]), stored(40, 0, DOUBLE)
    found = read(made, private)
    assert isinstance(made.readout, ScaleMIAReadout)
    true = made.readout.predict(made.model, SPEC.encode(private.inputs)).representations
    assert true is not None
    assert found.representations is not None
    sure = torch.tensor([mark == "alone" for mark in found.marks])
    gaps = near(found.representations[sure], true)
    assert int(sure.sum()) >= 15
    assert bool((gaps.amin(1) < 1e-4).all())
    assert len(set(gaps.argmin(1).tolist())) == int(sure.sum())
    assert found.converged


@pytest.mark.parametrize("training", [FedSGD(), FedAvg(epochs=1, minibatch_size=4, lr=0.1)])
def test_an_aggregate_of_clients_is_read_as_one_batch(training: LocalTraining) -> None:
    """In float32, as clients send it: one local step, so that the model moved once."""
    made, private = planted(STRONG, convolutional(dtype=torch.float32)), stored(12)
    found = read(made, private, training, clients=3)
    assert isinstance(made.readout, ScaleMIAReadout)
    expected = made.readout.predict(made.model, SPEC.encode(private.inputs))
    assert expected.representations is not None
    assert found.representations is not None
    exact = (near(found.representations, expected.representations) < 1e-2).any(0)
    assert bool(exact[expected.recoverable].all())


def test_a_trained_decoder_is_asked_for_what_was_read() -> None:
    made, private = planted(TRAINED), stored(8, 0, DOUBLE)
    found = read(made, private)
    assert isinstance(made.readout, ScaleMIAReadout)
    assert isinstance(look := made.readout.bins.look, DecoderView)
    assert found.representations is not None
    assert torch.equal(found.inputs, look.decoder(found.representations))
    true = made.readout.predict(made.model, SPEC.encode(private.inputs))
    assert true.representations is not None
    assert bool((near(found.representations, true.representations) < 1e-6).any(0)[true.recoverable].all())
    honest = convolutional()
    assert not torch.equal(made.model.params["0.weight"], honest.params["0.weight"])


def test_a_search_brings_images_nearer_to_the_latents_that_were_read() -> None:
    made, private = planted(replace(TRAINED, refine=8)), stored(6, 0, DOUBLE)
    found = read(made, private)
    assert isinstance(made.readout, ScaleMIAReadout)
    look, latents = made.readout.bins.look, found.representations
    assert isinstance(look, DecoderView)
    assert latents is not None
    encoder = latents_of(made.model, "3")
    gaps = [(encoder.of(images) - latents).norm() for images in (found.inputs, look.decoder(latents))]
    assert float(gaps[0]) < 0.95 * float(gaps[1])
    assert len(found.objective) == 8


def test_in_closed_form_nothing_is_searched() -> None:
    assert read(planted(STRONG), stored(6, 0, DOUBLE)).objective == ()


def test_an_encoder_may_stay_as_it_is() -> None:
    made, honest = planted(replace(TRAINED, encoder="own")), convolutional()
    assert all(torch.equal(made.model.params[f"0.{k}"], honest.params[f"0.{k}"]) for k in ("weight", "bias"))
    found = read(made, stored(8, 0, DOUBLE))
    assert found.representations is not None
    assert len(found.inputs) > 0


def test_layers_that_carry_no_components_are_trained_and_the_result_says_so() -> None:
    made = planted(replace(QUICK, epochs=1), convolutional(act=nn.Sigmoid))
    found = read(made, stored(6, 0, DOUBLE))
    assert any("trained: in closed form" in note and "Sigmoid" in note for note in found.notes)


def test_where_nothing_encodes_the_pictures_themselves_are_read() -> None:
    """A fully connected network: no decoder is needed, and stored data are recognised."""
    made, private = planted(ScaleMIA(cutoffs="auto"), relu_mlp(dtype=DOUBLE)), stored(3, 0, DOUBLE)
    found = read(made, private)
    assert isinstance(made.readout, ScaleMIAReadout)
    expected = made.readout.predict(made.model, SPEC.encode(private.inputs)).recoverable
    assert bool(expected.any())
    exact = (found.inputs[:, None] - private.inputs[None]).abs().flatten(2).amax(2) < 1e-6
    assert bool(exact.any(0)[expected].all())


@pytest.mark.parametrize("tampering", [QUICK, STRONG, TRAINED], ids=["quick", "strong", "trained"])
def test_an_update_of_nothing_holds_nobody(tampering: ScaleMIA) -> None:
    made = planted(tampering)
    update = Update(UpdateKind.GRADIENT, {k: torch.zeros_like(v) for k, v in made.model.params.items()})
    assert made.readout is not None
    found = made.readout.reconstruct(update, ServerKnowledge(made.model, num_examples=2), stream(0, "attack"))
    assert found.inputs.shape == (0, *SPEC.shape)
    assert not found.converged


def test_a_file_takes_the_place_of_a_training(tmp_path) -> None:
    model, path = convolutional(), tmp_path / "made.safetensors"
    settings = AutoencoderTraining(epochs=1)
    made = train_autoencoder(model, "3", stored(400, 1, DOUBLE).inputs, settings, stream(0))
    write_tensors(path, autoencoder_tensors(made), decoder_metadata(made.decoder))
    sent = planted(ScaleMIA(autoencoder=str(path), cutoffs="auto")).model
    assert all(torch.equal(sent.params[k], v) for k, v in made.encoder.items())
    with pytest.raises(BadInput, match="no parameters of a layer before"):
        planted(ScaleMIA(autoencoder=str(path)), relu_mlp(dtype=DOUBLE))


def test_a_training_that_was_broken_off_sends_the_same_model() -> None:
    whole, watch = planted(TRAINED).model, BreakingWatch(break_after=3)
    public = stored(400, 1, DOUBLE)
    with pytest.raises(Broken):
        TRAINED.tamper(convolutional(), public, 0, stream(3, "server"), watch)
    again = BreakingWatch(kept=watch.kept)
    resumed = TRAINED.tamper(convolutional(), public, 0, stream(3, "server"), again).model
    assert all(torch.equal(v, resumed.params[k]) for k, v in whole.params.items())


@pytest.mark.parametrize(
    ("model", "said"), [(linear(), "is not followed by a ReLU"), (conv_bn(), "is not followed by a ReLU")]
)
def test_networks_without_a_head_of_two_layers_are_refused(model: Model, said: str) -> None:
    with pytest.raises(NotApplicable, match=said):
        QUICK.tamper(model, batch(32), 0, stream(0))


def test_what_it_cannot_do_without_is_said() -> None:
    with pytest.raises(NotApplicable, match="public images are needed"):
        QUICK.tamper(convolutional(), None, 0, stream(0))
    table = replace(relu_mlp(), input=TableSpec(()))
    with pytest.raises(NotApplicable, match="pictures are needed"):
        QUICK.tamper(table, batch(32), 0, stream(0))
    with pytest.raises(NotApplicable, match=f"rows={ROWS + 1}, but"):
        replace(QUICK, rows=ROWS + 1).tamper(convolutional(), stored(400, 1, DOUBLE), 0, stream(0))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"refine": -1}, "refine=-1"),
        ({"throughput": 0.0}, "throughput=0.0"),
        ({"gain": float("nan")}, "gain=nan"),
        ({"rows": 3, "functions": ("mean", "random")}, "rows=3"),
        ({"autoencoder": "a.safetensors", "encoder": "components"}, "is a trained one"),
    ],
)
def test_settings_out_of_range_are_refused(change, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        ScaleMIA(**change)


def test_what_two_groups_show_alike_is_told_once() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.001, 0.0], [3.0, 3.0]], dtype=DOUBLE)
    confidence = torch.tensor([0.25, OPEN, OPEN, SURE], dtype=DOUBLE)
    readings = Readings(features, ("a", "b", "c", "d"), ("unsure", "unsure", "unsure", "alone"), confidence, confidence)
    told = told_once(readings)
    assert told.marks == ("duplicate", "unsure", "unsure", "alone")
    assert told.confidence.tolist() == [0.0, OPEN, REPEATED, SURE]


def test_the_networks_layers_are_those_of_the_paper() -> None:
    model = build("strided_cnn", input_shape=(3, 32, 32), num_classes=10)
    assert model.params["extractor.4.weight"].shape == (64, 32, 4, 4)
    shapes = [tuple(model.params[f"head.{i}.weight"].shape) for i in (0, 2, 4)]
    assert shapes == [(1024, 1024), (512, 1024), (10, 512)]
    z = rand((2, 3, 32, 32), stream(0), model.like)
    assert model.logits(model.params, z).shape == (2, 10)
    with pytest.raises(BadInput, match="sides that 8 divides"):
        strided_cnn((3, 20, 32), 10, StridedCNNOptions())
