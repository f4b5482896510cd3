"""Training of the small generator: what it learns, kills, its command's file and figures."""

import json
from dataclasses import replace

import pytest
import torch

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.rng import rand, stream
from fedspill.inversion.generators.files import read_generator
from fedspill.inversion.generators.generator import checked
from fedspill.inversion.generators.training import Autoencoder, GeneratorTraining, train_generator
from fedspill.inversion.representations.images.decoder import DecoderShape
from fedspill.plan.file import parse_as, read_as
from fedspill.training.generator import train_generator_file
from fedspill.training.plan import GeneratorPlan
from fedspill.training.state import StateFile
from tests.support.places import PLANS
from tests.support.watches import Recorder

LIKE = torch.zeros(())
SPEC = ImageSpec((3, 8, 8))
QUICK = GeneratorTraining(layout=DecoderShape((12, 8)), latent=6, epochs=3, minibatch=16, lr=1e-2)


def smooth(n: int, seed: int = 0) -> torch.Tensor:
    """Pictures of few numbers: one colour, brighter to one side."""
    colour, slope = (rand((n, 3, 1, 1), stream(seed, name), LIKE) for name in ("colour", "slope"))
    return (colour + (slope - 0.5) * torch.linspace(-1, 1, 8)).expand(n, 3, 8, 8).clamp(0, 1)


def trained(images: torch.Tensor, settings: GeneratorTraining = QUICK, watch: Recorder | None = None) -> Autoencoder:
    return train_generator(images, SPEC, settings, stream(0), LIKE, watch or Recorder())


def test_training_makes_images_like_the_public_ones_and_repeats() -> None:
    train, held = smooth(320), smooth(64, 1)
    settings = replace(QUICK, epochs=8)
    first, second = trained(train, settings), trained(train, settings)
    assert torch.equal(first.rebuilt(held), second.rebuilt(held))
    blank = (train.mean(0) - held).square().mean()
    assert float((first.rebuilt(held) - held).square().mean()) < 0.3 * float(blank)
    assert not first.generator.training
    assert not any(p.requires_grad for p in first.generator.parameters())


def test_a_broken_training_goes_on_as_if_it_had_not_been(tmp_path) -> None:
    whole, broken = trained(smooth(100)), Recorder(end=8)
    trained(smooth(100), watch=broken)
    torch.save(dict(broken.state), tmp_path / "state")
    kept = Recorder(state=torch.load(tmp_path / "state", weights_only=True))
    rest = trained(smooth(100), watch=kept)
    assert len(kept.told) == 3 * 6 - 8
    for name, value in whole.generator.state_dict().items():
        assert torch.equal(rest.generator.state_dict()[name], value), name


@pytest.mark.parametrize("image", [(3, 8, 8), (1, 5, 9), (3, 3, 2)])
def test_images_of_any_size_have_an_encoder_that_fits(image) -> None:
    settings = replace(QUICK, layout=DecoderShape((6, 5, 4)), epochs=1, minibatch=4)
    public = rand((8, *image), stream(0), LIKE)
    made = train_generator(public, ImageSpec(image), settings, stream(0), LIKE)
    assert made.rebuilt(public).shape == public.shape


def test_what_cannot_be_trained_on_is_refused() -> None:
    with pytest.raises(BadInput, match="15 images were got; one mini-batch of 16"):
        trained(smooth(15))
    with pytest.raises(BadInput, match=r"\(3, 8, 4\) were got; \(3, 8, 8\)"):
        trained(smooth(32)[..., :4])
    for changes in ({"latent": 0}, {"epochs": 0}, {"minibatch": 1}, {"lr": 0.0}):
        with pytest.raises(BadInput, match="must be 1 or more"):
            replace(QUICK, **changes)


def plan(**changes: object) -> GeneratorPlan:
    section = {"widths": [8, 6], "latent": 5, "epochs": 2, "minibatch_size": 10, "held_out": 15, **changes}
    data = {"name": "photos", "size": 16, "split": "public", "indices": "0:60"}
    return parse_as(GeneratorPlan, {"data": data, "generator": section})


def test_the_command_writes_a_generator_that_reads_back_and_its_figures(tmp_path) -> None:
    out = tmp_path / "generator.safetensors"
    report = train_generator_file(plan(), out, device=torch.device("cpu"))
    kept = json.loads(out.with_suffix(".json").read_text())
    assert (report.examples, kept["psnr"], kept["latent"]) == (15, report.psnr, 5)
    assert 5 < report.psnr < 40
    assert not StateFile.beside(out, plan()).path.exists()
    read = checked(read_generator(out), ImageSpec((3, 16, 16)), LIKE)
    assert read.latent_shape == (5,)
    with pytest.raises(BadInput, match="data has 60 examples; held_out=55 and one mini-batch of 10"):
        train_generator_file(plan(held_out=55), out, device=torch.device("cpu"))


def test_the_plan_that_is_documented_is_one() -> None:
    read = read_as(GeneratorPlan, PLANS / "train" / "cifar10_generator.toml")
    assert read.generator.training().latent == 256
