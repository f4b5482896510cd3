"""Linear functions, cutoffs and the lattice, against SciPy and brute force."""

import pytest
import scipy.fft
import scipy.stats
import torch

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.rng import rand, stream
from fedspill.inversion.codebooks.scale import lattice_scale
from fedspill.inversion.imprint.measurement import decorrelated, edges, vector
from tests.support.imprints import stored
from tests.support.worlds import SPEC


def test_the_cosine_is_the_one_of_scipy_and_random_vectors_have_the_stated_moments() -> None:
    x = rand((192,), stream(0, "x"), torch.zeros((), dtype=torch.float64))
    for mode in (1, 32):
        wanted = scipy.fft.dct(x.numpy(), type=2)[mode] / 2 / 192 * 4 * mode
        assert float(vector(f"dct:{mode}", 192, stream(0, "v")) @ x) == pytest.approx(wanted, rel=1e-9)
    drawn = vector("random", 192, stream(0, "v")) * 192**0.5
    assert float(drawn.mean()) == pytest.approx(0, abs=1e-12)
    assert float(drawn.std()) == pytest.approx(1, abs=1e-12)
    with pytest.raises(BadInput, match="'dtc:3' is unknown; there are mean"):
        vector("dtc:3", 192, stream(0, "v"))
    with pytest.raises(BadInput, match="own vector of 2 numbers; 192"):
        vector("own", 192, stream(0, "v"), (1.0, 2.0))


@pytest.mark.parametrize(
    ("kind", "law"),
    [("normal", scipy.stats.norm()), ("laplace", scipy.stats.laplace(scale=2**-0.5))],
)
def test_cutoffs_cut_equal_masses(kind, law) -> None:
    ends = edges(kind, 16, None)
    assert len(ends) == 17
    assert bool((ends.diff() > 0).all())
    assert law.cdf(ends[1:-1].numpy()) == pytest.approx([i / 16 for i in range(1, 16)])
    assert law.var() == pytest.approx(1)


def test_cutoffs_from_data_need_data() -> None:
    with pytest.raises(NotApplicable, match="at least 8 public examples, got 2"):
        edges("empirical", 4, torch.zeros(2))
    answers = rand((1000,), stream(0, "a"), torch.zeros(()))
    counted = torch.bucketize(answers.double(), edges("empirical", 10, answers)).bincount(minlength=12)[1:11]
    assert counted.min() >= 99


def test_decorrelated_measurements_are_uncorrelated() -> None:
    public = rand((300, 20), stream(0, "p"), torch.zeros((), dtype=torch.float64))
    public = public + 3 * public[:, :1]
    drawn = torch.stack([vector("random", 20, stream(i, "v")) for i in range(3)])
    found = (public @ decorrelated(drawn, public).T).T.cov()
    assert torch.allclose(found, torch.eye(3, dtype=torch.float64), atol=1e-9)
    assert torch.equal(decorrelated(drawn, public[:20]), drawn)


def test_the_lattice_tells_the_scale_of_a_picture_and_of_a_row() -> None:
    z = SPEC.encode(stored(1, dtype=torch.float64).inputs)[0].flatten()
    for factor in (0.004, 3.7):
        found = lattice_scale(SPEC, z / factor, 0.8 * factor, 1.3 * factor)
        assert found is not None
        assert found[0] == pytest.approx(factor, rel=1e-9)
        assert found[1] < 1e-6
    mixture = 0.37 * z + 0.63 * SPEC.encode(stored(1, 4, torch.float64).inputs)[0].flatten()
    assert lattice_scale(SPEC, mixture, 0.5, 1.5)[1] > 0.15
    assert lattice_scale(SPEC, torch.zeros_like(z), 0.5, 1.5) is None
