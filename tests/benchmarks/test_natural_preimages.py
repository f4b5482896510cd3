"""The benchmark of natural pre-images: what it finds lies in the ball, and is as near as can be."""

import pytest
import torch
from benchmarks.representations.natural_preimages import norms, preimages, within

from fedspill.core.rng import rand, stream
from fedspill.inversion.network.extractor import Extractor
from tests.support.worlds import SPEC, batch, conv_bn

LIKE = torch.zeros((), dtype=torch.float64)


class Identity(Extractor):
    """Representations are the pixels, moved by one half so that none is zero."""

    def function(self):
        return lambda z: SPEC.decode(z).flatten(1) + 0.5


def test_within_stays_in_the_ball_and_in_the_bounds() -> None:
    centres = rand((6, 3, 8, 8), stream(0), LIKE)
    moved = within(centres + 5 * (rand((6, 3, 8, 8), stream(1), LIKE) - 0.5), centres, 0.7)
    assert float(norms(moved - centres).max()) <= 0.7 + 1e-12
    assert bool(((moved >= 0) & (moved <= 1)).all())


@pytest.mark.parametrize("radius", [0.5, 2.0])
def test_the_nearest_point_of_the_ball_is_found_for_an_identity(radius: float) -> None:
    extractor = Identity(conv_bn(dtype=torch.float64), "6")
    targets, seeds = batch(3, dtype=torch.float64).inputs, batch(3, seed=1, dtype=torch.float64).inputs
    found, curve = preimages(extractor, targets.flatten(1) + 0.5, seeds, radius, 200, 0.0)
    assert float(norms(found - seeds).max()) <= radius + 1e-9
    # On the straight line to the target, which lies further away than the radius.
    gap = (targets - seeds).flatten(1).norm(dim=1)
    expected = (gap - radius) / (targets + 0.5).flatten(1).norm(dim=1)
    torch.testing.assert_close(curve[-1], expected, rtol=2e-3, atol=0)
    assert bool((curve.diff(dim=0) <= 0).all())


def test_a_real_network_gets_nearer() -> None:
    extractor = Extractor(conv_bn(), "6")
    targets, seeds = extractor.of(batch(2).inputs), batch(2, seed=1).inputs
    found, curve = preimages(extractor, targets, seeds, 1.0, 50, 1e-3)
    assert bool((curve[-1] < 0.8 * curve[0]).all())
    assert float(norms(found - seeds).max()) <= 1.0 + 1e-5
