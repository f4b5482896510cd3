"""Maui: the head that leaks, what is read from it, and what needs nothing but the head's gradient."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import TokenSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.rng import stream
from fedspill.core.types import ServerRole
from fedspill.inversion.network.extractor import Extractor
from fedspill.inversion.representations.images.decoder_training import DecoderTraining
from fedspill.tamperings.maui import CARD, TRAINED, Maui, MauiReadout
from fedspill.zoo.models import build
from tests.support.watches import Kept
from tests.support.worlds import batch, conv_bn

QUICK = Maui(head="quantile", width=256, inversion="decoder", decoder_epochs=1)
HEAD_ONLY = FedSGD(("6.*",))
"""The head of `conv_bn` is its module 6."""


def tampered(maui: Maui = QUICK, public=None, watch=None):
    more = {} if watch is None else {"watch": watch}
    return maui.tamper(conv_bn(), public or batch(64, seed=1), 0, stream(0, "server"), **more)


@pytest.mark.parametrize("peel", [False, True])
def test_what_the_rows_isolate_is_read_from_the_head_alone(peel: bool) -> None:
    made, private = tampered(replace(QUICK, peel=peel)), batch(12, seed=2)
    update = local_update(made.model, private, HEAD_ONLY)
    assert set(update.values) == {"6.0.weight", "6.0.bias", "6.2.weight", "6.2.bias"}
    assert isinstance(made.readout, MauiReadout)
    knowledge = ServerKnowledge(made.model, num_examples=12, local_training=HEAD_ONLY)
    rebuilt = made.readout.reconstruct(update, knowledge, stream(0, "attack"))
    expected = made.readout.predict(made.model, made.model.input.encode(private.inputs))
    true = Extractor(conv_bn(), "6").of(private.inputs)
    assert expected.representations is not None
    assert torch.allclose(expected.representations, true, atol=1e-6)
    assert rebuilt.representations is not None
    near = torch.cdist(rebuilt.representations, true.double()) < 1e-3 * true.double().norm(dim=1)
    assert int(expected.recoverable.sum()) >= 6, "the world is too poor to test anything"
    assert bool(near.any(0)[expected.recoverable].all())
    assert len(rebuilt.inputs) == len(rebuilt.origins) == len(rebuilt.marks) <= 12
    for k, mark in enumerate(rebuilt.marks):
        if mark == "alone":
            (owner,) = near[k].nonzero()[:, 0].tolist()
            assert rebuilt.labels is not None
            assert int(rebuilt.labels[k]) == int(private.labels[owner])
            assert rebuilt.origins[k].partition(",")[0] in expected.places[owner]


def test_the_extractor_is_sent_as_it_is() -> None:
    made, honest = tampered(), conv_bn()
    kept = [k for k in honest.params if not k.startswith("6.")]
    assert all(torch.equal(made.model.params[k], honest.params[k]) for k in kept)
    assert tampered().model.params.keys() == made.model.params.keys()
    assert all(torch.equal(v, made.model.params[k]) for k, v in tampered().model.params.items())


def test_searched_images_come_first_and_the_rest_is_decoded() -> None:
    maui = replace(QUICK, inversion="refined", iterations=2, most=3)
    made, private = tampered(maui), batch(8, seed=2)
    update = local_update(made.model, private, HEAD_ONLY)
    knowledge = ServerKnowledge(made.model, num_examples=8, local_training=HEAD_ONLY)
    assert isinstance(made.readout, MauiReadout)
    assert made.readout.decoder is not None
    rebuilt = made.readout.reconstruct(update, knowledge, stream(0, "attack"))
    assert rebuilt.representations is not None
    decoded = made.readout.decoder(rebuilt.representations.float())
    same = [torch.allclose(a, b, atol=1e-5) for a, b in zip(rebuilt.inputs, decoded, strict=True)]
    assert same[3:] == [True] * (len(same) - 3)
    assert len(rebuilt.objective) >= 2


def test_a_killed_server_goes_on_to_the_same_model_and_decoder() -> None:
    maui = replace(QUICK, head="spab", width=32, decoder_epochs=2)
    whole = tampered(maui, watch=Kept())
    killed = Kept(killed_at=3)
    with pytest.raises(KeyboardInterrupt):
        tampered(maui, watch=killed)
    again = tampered(maui, watch=Kept(killed.state))
    assert all(torch.equal(v, whole.model.params[k]) for k, v in again.model.params.items())
    assert isinstance(whole.readout, MauiReadout)
    assert isinstance(again.readout, MauiReadout)
    assert whole.readout.decoder is not None
    assert again.readout.decoder is not None
    states = whole.readout.decoder.state_dict(), again.readout.decoder.state_dict()
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


def test_a_head_from_a_file(tmp_path: Path) -> None:
    made = tampered()
    tensors = {k.removeprefix("6."): v.clone() for k, v in made.model.params.items() if k.startswith("6.")}
    save_file(tensors, tmp_path / "head.safetensors")
    again = tampered(replace(QUICK, head_weights=str(tmp_path / "head.safetensors")))
    assert all(torch.equal(v, made.model.params[k]) for k, v in again.model.params.items())
    save_file({**tensors, "0.weight": tensors["0.weight"][:, :7].contiguous()}, tmp_path / "short.safetensors")
    with pytest.raises(BadInput, match="the extractor gives 32 values"):
        tampered(replace(QUICK, head_weights=str(tmp_path / "short.safetensors")))
    save_file({"0.weight": tensors["0.weight"]}, tmp_path / "half.safetensors")
    with pytest.raises(BadInput, match="a head of two layers"):
        tampered(replace(QUICK, head_weights=str(tmp_path / "half.safetensors")))
    with pytest.raises(BadInput, match="does not exist"):
        tampered(replace(QUICK, head_weights=str(tmp_path / "none.safetensors")))


def test_what_it_cannot_do() -> None:
    with pytest.raises(NotApplicable, match="public images are needed"):
        QUICK.tamper(conv_bn(), None, 0, stream(0, "server"))
    words = build("transformer", input_shape=(6,), num_classes=20, spec=TokenSpec(6, 20), options={"width": 16})
    with pytest.raises(NotApplicable, match="pictures are needed, the model takes TokenSpec"):
        QUICK.tamper(words, batch(8), 0, stream(0, "server"))
    with pytest.raises(BadInput, match="width=0"):
        Maui(width=0)
    assert DecoderTraining().minibatch > 64, "the public images of these tests are fewer than one mini-batch"


def test_the_shipped_robust_network_takes_it() -> None:
    model = build("cnn", input_shape=(3, 32, 32), num_classes=10, weights="robust")
    public = torch.rand((32, 3, 32, 32), generator=stream(0, "public"))
    made = replace(QUICK, inversion="unet").tamper(model, replace(batch(32), inputs=public), 0, stream(0, "server"))
    assert made.model.params["head.0.weight"].shape == (256, 512)
    assert isinstance(made.readout, MauiReadout)
    assert made.readout.decoder is None


def test_each_objective_trains_the_head_that_it_names() -> None:
    assert TRAINED["published"].columns.alive_over == "maximum"
    assert TRAINED["published_entries"].columns.alive_over == "entries"
    assert TRAINED["published"].expected.leakage == TRAINED["published_entries"].expected.leakage == 0
    assert TRAINED["expected"].expected.leakage > 0
    assert Maui().objective == "expected"
    paper = CARD.presets["paper"]
    assert isinstance(paper, Maui)
    assert paper.objective == "published", "as it was before there were two readings"


def test_the_card_says_that_layers_are_added() -> None:
    assert CARD.role is ServerRole.MALICIOUS_ARCHITECTURE
    assert set(tampered().model.params) - set(conv_bn().params), "names that the agreed architecture does not have"
