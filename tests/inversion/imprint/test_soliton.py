"""Rows of an LT code: their degrees are drawn from soliton distributions, and peeling reads what they determine."""

import math
from itertools import pairwise

import pytest
import torch

from fedspill.core.errors import BadInput
from fedspill.core.rng import stream
from fedspill.inversion.imprint.making import Bins
from fedspill.inversion.imprint.rows import Group, Imprint
from fedspill.inversion.imprint.soliton import degrees, ideal_soliton, robust_soliton, white_vectors
from fedspill.tamperings.robbing_linear_layer import RobbingLinearLayer
from fedspill.tamperings.robbing_the_fed import ImprintModule, RobbingTheFed
from tests.support.imprints import EXACT, read, stored
from tests.support.worlds import batch, conv_bn, relu_mlp


def test_solitons_are_luby_s() -> None:
    assert ideal_soliton(4).tolist() == pytest.approx([1 / 4, 1 / 2, 1 / 6, 1 / 12])
    assert ideal_soliton(1).tolist() == [1.0]
    # n = 100, c = 0.1, delta = 0.5: R = ln(200) = 5.298, spike at 19; beta is the sum of both parts.
    size = math.log(200)
    rho = [1 / 100] + [1 / (d * (d - 1)) for d in range(2, 101)]
    tau = [size / (100 * d) for d in range(1, 19)] + [size * math.log(size / 0.5) / 100] + [0.0] * 81
    beta = sum(rho) + sum(tau)
    wanted = [(r + t) / beta for r, t in zip(rho, tau, strict=True)]
    assert robust_soliton(100, 0.1, 0.5).tolist() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("sorting", ["ideal_soliton", "robust_soliton"])
@pytest.mark.parametrize("n", [2, 3, 64])
def test_degrees_follow_the_distribution(sorting, n: int) -> None:
    chances = ideal_soliton(n) if sorting == "ideal_soliton" else robust_soliton(n)
    drawn = degrees(sorting, 20_000, n, stream(0, "degrees"))
    assert int(drawn.min()) >= 1
    assert int(drawn.max()) <= n
    counted = torch.bincount(drawn, minlength=n + 1)[1:] / 20_000
    assert float((counted - chances).abs().max()) < 0.02


def test_rows_of_public_data_measure_without_correlation() -> None:
    shape = torch.linspace(-1, 1, 30, dtype=torch.float64)  # one large shape, as photographs have
    size = 10 * torch.randn(400, 1, generator=stream(0, "size"), dtype=torch.float64)
    public = torch.randn(400, 30, generator=stream(0, "rest"), dtype=torch.float64) + size * shape
    measured = white_vectors(200, 30, public, stream(0, "rows")) @ public.T
    random = white_vectors(200, 30, None, stream(0, "rows")) @ public.T

    def likeness(values: torch.Tensor) -> float:
        return float((values.corrcoef() - torch.eye(200)).abs().mean())

    assert likeness(measured) < 0.2 < 0.7 < likeness(random)
    assert float(measured.var(1).mean()) == pytest.approx(1, abs=0.1)


def test_all_groups_at_once_sort_as_each_for_itself() -> None:
    rng = stream(0, "groups")
    sizes = [1, 4, 2, 1]
    vectors = torch.randn(4, 6, generator=rng, dtype=torch.float64)
    ends = [torch.randn(k + 1, generator=rng, dtype=torch.float64).sort().values for k in sizes]
    rows = torch.arange(sum(sizes)).split(sizes)
    imprint = Imprint(tuple(Group(v, e, r) for v, e, r in zip(vectors, ends, rows, strict=True)), sum(sizes))
    features = torch.randn(50, 6, generator=rng)
    apart = torch.stack([g.bins(features) for g in imprint.groups], 1)
    assert torch.equal(imprint.bins(features), apart)
    assert len(apart.unique()) > 3
    assert imprint.names()[0] == ["row 0"]
    assert imprint.names()[2] == ["group 2, bin 0", "group 2, bin 1"]


@pytest.mark.parametrize("sorting", ["ideal_soliton", "robust_soliton"])
@pytest.mark.parametrize("activation", ["relu", "hardtanh"])
def test_peeling_finds_what_an_ideal_decoder_finds_in_soliton_rows(sorting, activation) -> None:
    bins = Bins(64, ("random",), cutoffs="auto", sorting=sorting, expected=16)
    tampering = RobbingTheFed(bins, module=ImprintModule(activation=activation), decode="peel")
    found, expected, exact, gap = read(tampering, conv_bn(), stored(16, 10))
    assert int(expected.recoverable.sum()) > 8
    assert int((exact & expected.recoverable).sum()) >= int(expected.recoverable.sum()) - 1
    assert bool((gap < EXACT).any(1)[found.confidence > 0.5].all())
    assert all(a != b for a, b in pairwise(expected.places))


def test_a_linear_layer_holds_soliton_rows_too() -> None:
    tampering = RobbingLinearLayer(
        functions=("random",), cutoffs="auto", decode="peel", sorting="ideal_soliton", expected=4
    )
    found, expected, exact, _ = read(tampering, relu_mlp(), stored(4, 10))
    assert bool(exact[expected.recoverable].all())
    assert int(expected.recoverable.sum()) > 0
    assert len(found.inputs) >= int(expected.recoverable.sum())


def test_data_off_the_lattice_are_told_in_soliton_rows_by_their_shares() -> None:
    bins = Bins(64, ("random",), cutoffs="auto", sorting="ideal_soliton", expected=12)
    found, expected, exact, gap = read(RobbingTheFed(bins, decode="peel"), conv_bn(), batch(12))
    assert bool((gap < EXACT).any(1)[found.confidence > 0.5].all())
    assert int(exact.sum()) >= int(expected.recoverable.sum()) - 1 > 4


@pytest.mark.parametrize("functions", [("mean",), ("random", "random")])
def test_a_soliton_draws_its_own_functions(functions) -> None:
    with pytest.raises(BadInput, match=r"functions=\['random'\] is needed"):
        Bins(functions=functions, sorting="robust_soliton")
    with pytest.raises(BadInput, match="at least 2 examples"):
        Bins(expected=1)
