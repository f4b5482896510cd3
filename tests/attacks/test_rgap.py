"""R-GAP's presets on small chains, against the picture."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedspill.attacks.rgap import BOTH, CARD, NEWTON, RGAP
from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.types import Reconstruction, Update, UpdateKind
from fedspill.inversion.matching.outcome import TWINS, preferred
from tests.support.chains import FEW, HARDLY, chain, gradient_of, opposite, picture

PRESETS = {name: preset for name, preset in CARD.presets.items() if isinstance(preset, RGAP)}


def attacked(attack: RGAP, model: Model, z: Tensor, label: Tensor, granted: Tensor | None = None) -> Reconstruction:
    update = Update(UpdateKind.GRADIENT, gradient_of(model, z, label))
    return attack.reconstruct(update, ServerKnowledge(model, num_examples=1, labels=granted), stream(0, "attack"))


@pytest.mark.parametrize("name", PRESETS)
def test_a_picture_is_read_with_its_label_where_neither_is_known(name: str) -> None:
    model, z = chain(), picture()
    label = opposite(model, z)
    got = attacked(PRESETS[name], model, z, label)
    torch.testing.assert_close(got.inputs, z, rtol=1e-5, atol=1e-5)
    assert got.converged
    assert got.labels is not None
    assert (got.labels.tolist(), got.label_method) == (label.tolist(), BOTH)


@pytest.mark.parametrize("widths", [FEW, HARDLY])
def test_what_a_layer_leaves_open_is_told_by_the_others(widths: tuple[int, int]) -> None:
    model, z = chain(widths), picture()
    label = opposite(model, z)
    published, strong = (attacked(PRESETS[name], model, z, label, label) for name in ("paper", "strong"))
    assert float((published.inputs - z).abs().max()) > 1e-2
    assert not published.converged
    torch.testing.assert_close(strong.inputs, z, rtol=1e-4, atol=1e-4)
    assert strong.converged
    assert NEWTON in strong.notes


def test_two_pictures_with_one_gradient_are_said_to_be_two() -> None:
    """A label that is predicted leaves two roots, whose pictures are multiples of each other."""
    model, z = chain(), picture()
    logit = float(model.logits(model.params, z)[0, 0])
    scaled = model.with_params({k: v * (1.5 / abs(logit) if k == "5.weight" else 1) for k, v in model.params.items()})
    label = 1 - opposite(scaled, z)  # the roots are 1.5 and 1.07: the other picture is darker
    got = attacked(PRESETS["quick"], scaled, z, label, label)
    assert TWINS in got.notes
    assert (got.converged, float(got.confidence.max()) if got.confidence is not None else None) == (False, 0.5)
    torch.testing.assert_close(got.inputs, z, rtol=1e-4, atol=1e-4)


def test_the_valid_range_tells_twins_apart_and_else_neither_is_certain() -> None:
    model, z = chain(), picture()
    sure = Reconstruction(z, confidence=torch.ones(1), converged=True)
    other = replace(sure, inputs=0.5 * z)
    spec = model.input
    assert preferred([sure, replace(sure, inputs=3 * z)], [z, 3 * z], spec) is sure
    assert preferred([sure, sure], [z, z], spec) is sure
    assert preferred([replace(sure, confidence=torch.zeros(1)), sure], [z, 3 * z], spec) is sure
    twin = preferred([other, sure], [0.5 * z, z], spec)
    assert (twin.inputs is z, twin.converged, twin.notes) == (True, False, (TWINS,))


def test_several_examples_are_refused() -> None:
    model = chain()
    z, labels = torch.cat([picture(0), picture(1)]), torch.tensor([0, 1])
    update = Update(UpdateKind.GRADIENT, gradient_of(model, z, labels))
    for preset in PRESETS.values():
        with pytest.raises(NotApplicable, match="single example; the update is the mean of 2"):
            preset.reconstruct(update, ServerKnowledge(model, num_examples=2), stream(0, "attack"))


@pytest.mark.parametrize("wrong", [{"steps": -1}, {"converged_below": 0.0}, {"converged_below": 1.5}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadInput, match="must be 'chain' or 'graph'"):
        replace(RGAP(), **wrong)


def test_a_delta_of_an_unknown_protocol_is_refused() -> None:
    model, z = chain(), picture()
    update = Update(UpdateKind.DELTA, gradient_of(model, z, opposite(model, z)))
    with pytest.raises(NotApplicable, match="no single gradient"):
        RGAP().reconstruct(update, ServerKnowledge(model, num_examples=1), stream(0, "attack"))
