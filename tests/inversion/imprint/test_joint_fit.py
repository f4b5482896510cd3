"""Peeled rows with large counts and small shares come back exactly from all bins together."""

import torch

from fedspill.core.rng import rand, stream
from fedspill.inversion.imprint.contents import Contents
from fedspill.inversion.imprint.measurement import vector
from fedspill.inversion.imprint.peeling import jointly_fitted
from fedspill.inversion.imprint.rows import arranged


def test_the_fit_brings_errors_down_to_the_rounding_of_the_bins() -> None:
    like = torch.zeros((), dtype=torch.float64)
    x = 2 * rand((30, 12), stream(0, "fit"), like) - 1
    share = 10 ** (-3 * rand((30,), stream(1, "fit"), like))
    vectors = torch.stack([vector("random", 12, stream(k, "v")) for k in range(3)])
    ends = [torch.linspace(-2, 2, 81, dtype=torch.float64)] * 3
    imprint = arranged(vectors, ends, 0, None)
    bins, held = imprint.bins(x), list[Contents]()
    for j in range(3):
        within = (bins[:, j] == torch.arange(80)[:, None]).double()
        sums = (within @ (share[:, None] * x)).float().double()
        total, noise = (within @ share).float().double(), torch.full((80,), 1e-7, dtype=torch.float64)
        held.append(Contents(sums, total, noise, noise))
    empty = [Contents(0 * h.weight, 0 * h.bias, h.noise, h.rough) for h in held]
    disturbed = x + 1e-3 * rand((30, 12), stream(2, "fit"), like)
    same = torch.equal(imprint.bins(disturbed), bins)
    fitted = jointly_fitted(held, empty, imprint, disturbed if same else x, share * 1.0001)
    exact = (fitted - x).norm(dim=1) < 1e-4
    assert int(exact.sum()) >= 20, "rows that share no bins with others alike are determined"
