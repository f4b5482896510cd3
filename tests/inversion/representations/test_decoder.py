"""Decoders from representations to images: shape, training, resumption, files."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from fedspill.core.errors import BadInput
from fedspill.core.rng import rand, randn, stream
from fedspill.core.settings import with_fields
from fedspill.inversion.network.extractor import Extractor
from fedspill.inversion.representations.images.decoder import DecoderShape, IRDecoder, fresh_decoder, read_decoder
from fedspill.inversion.representations.images.decoder_training import DecoderTraining, train_decoder
from fedspill.inversion.representations.images.search import match_representations
from fedspill.inversion.representations.images.settings import IRMatching
from fedspill.plan.file import parse_as, read_as
from fedspill.training.decoder import train_decoder_file
from fedspill.training.plan import DecoderPlan
from fedspill.training.state import StateFile
from tests.support.places import PLANS
from tests.support.watches import Recorder
from tests.support.worlds import SPEC, batch, conv_bn

QUICK = DecoderTraining(layout=DecoderShape((12, 8)), epochs=3, minibatch=16, lr=1e-2)


def extractor(dtype=torch.float32) -> Extractor:
    return Extractor(conv_bn(dtype=dtype), "6")


def smooth(n: int, seed: int = 0) -> torch.Tensor:
    """Pictures that a representation can tell: one colour, brighter to one side."""
    colour, slope = (rand((n, 3, 1, 1), stream(seed, name), torch.zeros(())) for name in ("colour", "slope"))
    return (colour + (slope - 0.5) * torch.linspace(-1, 1, 8)).expand(n, 3, 8, 8).clamp(0, 1)


@pytest.mark.parametrize(
    ("image", "widths"), [((3, 32, 32), (8, 8, 6, 4)), ((1, 17, 30), (6, 4, 4)), ((3, 8, 8), (5,))]
)
@pytest.mark.parametrize("blocks", [0, 1])
def test_a_decoder_gives_images_of_the_wanted_shape_inside_the_bounds(image, widths, blocks: int) -> None:
    decoder = fresh_decoder(DecoderShape(widths, blocks), 10, image, (-1.0, 2.0), stream(0), torch.zeros(()))
    made = decoder.eval()(randn((4, 10), stream(1), torch.zeros(())))
    assert made.shape == (4, *image)
    assert bool(((made >= -1) & (made <= 2)).all())
    assert float(made.detach().std()) > 1e-3


def test_activations_of_a_fresh_decoder_keep_their_size() -> None:
    decoder = fresh_decoder(DecoderShape((16, 16, 16)), 40, (3, 16, 16), (0.0, 1.0), stream(0), torch.zeros(()))
    seen = dict[str, float]()

    def keep(part, given, got) -> None:
        seen[type(part).__name__ + str(len(seen))] = float(got.var() / given[0].square().mean())

    for part in decoder.modules():
        if isinstance(part, nn.Linear | nn.ConvTranspose2d):
            part.register_forward_hook(keep)
    with torch.no_grad():
        decoder.train()(randn((64, 40), stream(1), torch.zeros(())))
    assert len(seen) == 3
    assert all(0.7 < ratio < 1.4 for ratio in seen.values()), seen


def test_training_reads_images_from_representations_and_repeats() -> None:
    train, held = smooth(320), smooth(64, 1)
    settings = replace(QUICK, epochs=6)
    first, second = (train_decoder(extractor(), train, settings, stream(0)) for _ in range(2))
    made = first(extractor().of(held))
    assert torch.equal(made, second(extractor().of(held)))
    blank = (train.mean(0) - held).square().mean()
    assert float((made - held).square().mean()) < 0.3 * float(blank)
    assert not first.training
    assert not any(p.requires_grad for p in first.parameters())
    # In eval mode, no image depends on another.
    torch.testing.assert_close(first(extractor().of(held[3:4])), made[3:4], rtol=1e-4, atol=1e-5)


def test_a_broken_training_goes_on_as_if_it_had_not_been(tmp_path) -> None:
    settings = replace(QUICK, consistency=0.1, edges=0.1)
    whole = train_decoder(extractor(), smooth(100), settings, stream(0))
    broken = Recorder(end=8)
    train_decoder(extractor(), smooth(100), settings, stream(0), broken)
    torch.save(dict(broken.state), tmp_path / "state")
    kept = Recorder(state=torch.load(tmp_path / "state", weights_only=True))
    rest = train_decoder(extractor(), smooth(100), settings, stream(0), kept)
    assert len(kept.told) == 3 * 6 - 8
    for name, value in whole.state_dict().items():
        assert torch.equal(rest.state_dict()[name], value), name


def test_consistency_brings_representations_closer() -> None:
    settings, held = replace(QUICK, epochs=6), smooth(64, 1)
    wanted, apart = extractor().of(held), list[float]()
    for weight in (0.0, 1.0):
        decoder = train_decoder(extractor(), smooth(320), replace(settings, consistency=weight), stream(0))
        apart.append(float((extractor().of(decoder(wanted)) - wanted).square().mean()))
    assert apart[1] < apart[0]


def test_matching_from_a_decoder_only_improves_on_it() -> None:
    held = smooth(6, 1)
    wanted = extractor().of(held)
    decoder = train_decoder(extractor(), smooth(320), QUICK, stream(0))
    settings = with_fields(IRMatching(prior="decoder"), iterations=30, lr=0.02, tv=0.0)
    found = match_representations(extractor(), SPEC, wanted, settings, stream(0), decoder=decoder)
    begun = extractor().of(decoder(wanted))
    before = (begun - wanted).norm(dim=1) / wanted.norm(dim=1)
    assert bool((found.distance < before).all())
    held_back = match_representations(
        extractor(), SPEC, wanted, with_fields(settings, anchor=1e4), stream(0), decoder=decoder
    )
    moved, free = ((f.inputs - decoder(wanted)).square().mean() for f in (held_back, found))
    assert float(moved) < float(free)


@pytest.fixture
def plan():
    return parse_as(
        DecoderPlan,
        {
            "model": {"name": "cnn", "width": 4, "channels": 4},
            "data": {"name": "photos", "size": 16, "split": "public", "indices": "0:60"},
            "decoder": {"widths": [8, 6], "epochs": 2, "minibatch_size": 10, "held_out": 15},
        },
    )


def test_the_command_writes_a_decoder_that_reads_back_and_knows_its_extractor(plan, tmp_path) -> None:
    out = tmp_path / "decoder.safetensors"
    report = train_decoder_file(plan, out, device=torch.device("cpu"))
    assert report.examples == 15
    assert report.psnr > 5
    assert json.loads(out.with_suffix(".json").read_text())["psnr"] == report.psnr
    assert not StateFile.beside(out, plan).path.exists()
    from fedspill.training.decoder import _world

    own, _, held = _world(plan, torch.device("cpu"))
    decoder = read_decoder(out, own)
    made = decoder(own.of(held))
    error = (made - held).square().flatten(1).mean(1)
    assert float((-10 * error.log10()).mean()) == pytest.approx(report.psnr, abs=1e-3)
    shifted = {k: v + 0.1 for k, v in own.model.params.items()}
    with pytest.raises(BadInput, match="another extractor"):
        read_decoder(out, Extractor(own.model.with_params(shifted), own.at))
    with pytest.raises(BadInput, match="takes 16 values, the extractor gives 32"):
        read_decoder(out, extractor())


def test_files_that_hold_no_decoder_are_named(tmp_path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        read_decoder(tmp_path / "no.safetensors", extractor())
    (tmp_path / "half.safetensors").write_bytes(b"123")
    with pytest.raises(BadInput, match="no whole safetensors"):
        read_decoder(tmp_path / "half.safetensors", extractor())
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(BadInput, match="holds no decoder"):
        read_decoder(tmp_path / "other.safetensors", extractor())


def test_too_few_images_and_bad_settings_are_named() -> None:
    with pytest.raises(BadInput, match="one mini-batch of 16"):
        train_decoder(extractor(), smooth(9), QUICK, stream(0))
    with pytest.raises(BadInput, match="epochs=0"):
        replace(QUICK, epochs=0)
    with pytest.raises(BadInput, match="widths"):
        DecoderShape(())
    assert isinstance(
        fresh_decoder(DecoderShape((4,)), 3, (3, 8, 8), (0.0, 1.0), stream(0), batch(1).inputs), IRDecoder
    )


def test_the_shipped_plan_is_valid() -> None:
    plan = read_as(DecoderPlan, PLANS / "train" / "cnn_decoder.toml")
    assert plan.decoder.training().layout.widths == plan.decoder.widths
