"""The attack `gias`: where its generator comes from, what it refuses, what its presets do."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fedspill.attacks.gias import CARD, GIAS, Prior, Stages
from fedspill.auditing.resolving.components import configure
from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.rng import randn, stream
from fedspill.core.settings import with_fields
from fedspill.core.tensor_files import write_tensors
from fedspill.core.types import Batch, Reconstruction
from fedspill.inversion.generators.files import generator_metadata
from fedspill.inversion.generators.own import own_generator
from fedspill.inversion.representations.images.decoder import DecoderShape, fresh_decoder
from fedspill.plan.sections import AttackEntry
from tests.support.worlds import batch, draw_weights, mlp

FEW = with_fields(GIAS(), steps=60, weights_share=0.3, lr=0.1, schedule="cosine")
OWN = f"{__name__}:own"


def own() -> nn.Module:
    """Latents (n, 4) to images."""
    with torch.random.fork_rng():
        module = nn.Sequential(nn.Linear(4, 192), nn.Sigmoid(), nn.Unflatten(1, (3, 8, 8)))
    return draw_weights(module, scale=1.0)


def attacked(attack: GIAS, private: Batch, public: Batch | None = None) -> Reconstruction:
    model = mlp(dtype=torch.float64)
    update = local_update(model, private, FedSGD())
    knowledge = ServerKnowledge(model, num_examples=len(private), labels=private.labels, public_data=public)
    return attack.reconstruct(update, knowledge, stream(0, "attack"))


def made(count: int) -> Batch:
    """Images that `own` makes, in float64."""
    generator = own_generator(OWN, (4,), (3, 8, 8)).to(torch.zeros((), dtype=torch.float64))
    latents = randn((count, 4), stream(5), torch.zeros((), dtype=torch.float64))
    return Batch(generator.images(latents).detach(), torch.arange(count))


def test_a_users_generator_finds_what_it_can_make() -> None:
    private = made(1)
    attack = with_fields(FEW, generator=OWN, latent_shape=(4,), steps=150)
    got = attacked(attack, private)
    torch.testing.assert_close(got.inputs, private.inputs, rtol=0, atol=0.1)
    assert got.converged
    assert any(f"generator '{OWN}' makes: latents, then weights" in n for n in got.notes)


def test_without_a_generator_the_command_is_named() -> None:
    with pytest.raises(NotApplicable, match=r"`fedspill train generator plans/train/cifar10_generator\.toml"):
        attacked(FEW, batch(1, dtype=torch.float64))


def test_public_images_stand_in_for_one() -> None:
    got = attacked(FEW, batch(2, dtype=torch.float64), batch(32, seed=1))
    assert any("components of 32 public images" in n for n in got.notes)
    assert got.inputs.dtype == torch.float64


def test_a_file_is_taken_and_one_of_another_size_refused(tmp_path) -> None:
    file, like = tmp_path / "generator.safetensors", torch.zeros(())
    for shape in ((3, 8, 8), (3, 16, 16)):
        network = fresh_decoder(DecoderShape((6, 4)), 5, shape, (0.0, 1.0), stream(0), like)
        write_tensors(file, network.state_dict(), generator_metadata(network))
        attack = with_fields(FEW, generator=str(file), steps=4)
        if shape == (3, 8, 8):
            assert attacked(attack, batch(1, dtype=torch.float64)).inputs.shape == (1, 3, 8, 8)
        else:
            with pytest.raises(BadInput, match=r"images of shape \(3, 16, 16\); the network takes \(3, 8, 8\)"):
                attacked(attack, batch(1, dtype=torch.float64))
    with pytest.raises(BadInput, match="does not exist"):
        attacked(with_fields(FEW, generator=str(tmp_path / "none.safetensors")), batch(1, dtype=torch.float64))


def test_a_plan_names_the_generator_and_its_latents() -> None:
    entry = AttackEntry.model_validate({"name": "gias", "generator": OWN, "latent_shape": [4]})
    assert configure(CARD, entry, "attack").prior == Prior(OWN, (4,))
    for wrong in ({"generator": OWN}, {"latent_shape": [4]}, {"generator": OWN, "latent_shape": [0]}):
        with pytest.raises(BadInput, match=r"needs the shape of one latent, such as \(128,\)"):
            configure(CARD, AttackEntry.model_validate({"name": "gias", **wrong}), "attack")


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"restarts": 0},
        {"weights_share": 0.6, "pixels_share": 0.4},
        {"pixels_share": -0.1},
        {"weights_lr": 0.0},
        {"lr": float("nan")},
        {"likely": -1.0},
        {"tv": float("nan")},
        {"components": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong) -> None:
    with pytest.raises(BadInput, match="="):
        with_fields(GIAS(), **wrong)


def test_shares_are_parts_of_the_steps() -> None:
    stages = Stages(steps=10, weights_share=0.3, pixels_share=0.2, restarts=2)
    told = [(s.name, s.search.steps, s.search.restarts) for s in stages.each(tunable=True)]
    assert told == [("latents", 5, 2), ("weights", 3, 1), ("pixels", 2, 1)]
    assert replace(GIAS(), stages=stages).evaluations() == 15
    assert [s.name for s in stages.each(tunable=False)] == ["latents", "pixels"]
    assert [s.search.steps for s in Stages(steps=1, weights_share=0.9).each(tunable=True)] == [1, 1]
