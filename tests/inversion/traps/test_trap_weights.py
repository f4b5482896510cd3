"""Trap weights: the rows of the paper, the fold of a normalisation, and a readout that is judged without the truth."""

from dataclasses import replace
from math import pi

import pytest
import torch
from torch import Tensor

from fedspill.core.inputs import ImageSpec, InputSpec, TableSpec
from fedspill.core.rng import stream
from fedspill.core.roles import Tampered
from fedspill.core.types import Batch
from fedspill.inversion.traps.passthrough import carried
from fedspill.inversion.traps.rows import default_scale, draw_rows
from fedspill.tamperings.trap_weights import TrapWeights
from tests.support.traps import SPEC, TABLE, TRAP, certified, errors, expected, mlp, people, pictures, read, sent

RAW = ImageSpec((3, 16, 16))
LIKE = torch.zeros((), dtype=torch.float64)


def test_rows_are_those_of_algorithm_1() -> None:
    rows = draw_rows(40, 501, 0.5, stream(0, "rows"), LIKE)
    sizes = list[Tensor]()
    for row in rows.at(0.9):
        negative, positive = row[row < 0], row[row > 0]
        assert len(negative) == len(positive) == 250
        torch.testing.assert_close(positive.sort().values, (-0.9 * negative).sort().values)
        assert not torch.equal(positive, -0.9 * negative)
        sizes.append(-negative)
    assert float(torch.cat(sizes).mean()) == pytest.approx(0.5 * (2 / pi) ** 0.5, rel=0.03)
    places = (rows.negative < 0).double()
    assert float((places @ places.T / 250).triu(1).amax()) < 0.7, "every row draws its own half"


def test_the_default_scale_is_the_papers() -> None:
    assert [default_scale(d) for d in (784, 3072, 150528)] == pytest.approx([0.7, 0.95, 0.99])
    between = [default_scale(d) for d in (10, 784, 1500, 3072, 20000, 150528, 10**7)]
    assert between == sorted(between)


def test_public_data_set_how_often_a_row_fires() -> None:
    units = pictures(50, "public").inputs.flatten(1).double()
    rows = draw_rows(60, 768, 0.5, stream(0, "rows"), LIKE)
    for share in (0.02, 0.1, 0.3):
        scale = rows.tuned(units, share)
        fires = sum(float(x @ w) > 0 for x in units for w in rows.at(scale))
        assert fires / 3000 == pytest.approx(share, abs=2 / 3000)


@pytest.mark.parametrize(
    "spec", [RAW, SPEC, replace(SPEC, bounds=(-1.0, 2.0)), TABLE], ids=["raw", "normalised", "wide", "table"]
)
def test_the_fold_does_to_encoded_inputs_what_rows_do_to_units(spec: InputSpec) -> None:
    model = mlp(spec)
    _, way = carried(model, phases=True)
    if isinstance(spec, TableSpec):
        z = spec.encode(people(5).inputs.double())
        numbers = people(5).inputs[:, :6].double() / 60
        units = torch.cat([numbers, z[:, 6:]], 1)
    else:
        assert isinstance(spec, ImageSpec)
        low, high = spec.bounds
        units = pictures(5).inputs.double().flatten(1)
        z = spec.encode(units.view(-1, *spec.shape) * (high - low) + low).flatten(1)
    rows = draw_rows(30, units.shape[1], 0.5, stream(0, "rows"), LIKE).at(0.9)
    weight, bias = way.folded(rows)
    torch.testing.assert_close(way.units(z), units)
    torch.testing.assert_close(z @ weight.T + bias, units @ rows.T)


def test_without_the_fold_nothing_is_found_and_with_it_as_much_as_on_raw_pixels() -> None:
    batch = pictures(30)
    raw, folded = sent(TRAP, mlp(RAW)), sent(TRAP, mlp(SPEC))
    assert not torch.equal(raw.model.params["1.weight"], folded.model.params["1.weight"])
    assert float(raw.model.params["1.bias"].abs().max()) == 0
    papers = folded.model.with_params(
        {**folded.model.params, "1.weight": raw.model.params["1.weight"]} | {"1.bias": raw.model.params["1.bias"]}
    )
    plain = Tampered(papers, folded.readout)
    found = expected(raw, batch).recoverable
    assert 10 < int(found.sum()) < 30
    assert expected(folded, batch).recoverable.tolist() == found.tolist()
    assert not expected(plain, batch).recoverable.any()
    for tampered, wanted in ((raw, found), (folded, found), (plain, torch.zeros_like(found))):
        got = errors(read(tampered, batch), batch).amin(1) < 1e-4
        assert got.tolist() == wanted.tolist()


def test_the_readout_finds_what_it_must_and_vouches_for_nothing_else() -> None:
    batch, tampered = pictures(30), sent(TRAP, mlp())
    wanted = expected(tampered, batch)
    z = SPEC.encode(batch.inputs).flatten(1).double()
    outputs = z @ tampered.model.params["1.weight"].double().T + tampered.model.params["1.bias"].double()
    for i, places in enumerate(wanted.places):
        assert set(places) == {f"row {j}" for j in range(200) if float(outputs[i, j]) > 0}
    owners = [[i for i in range(30) if float(outputs[i, j]) > 0] for j in range(200)]
    assert set(wanted.recoverable.nonzero()[:, 0].tolist()) == {o[0] for o in owners if len(o) == 1}
    for known in (True, False):
        got = read(tampered, batch, known=known)
        error, sure = errors(got, batch), certified(got)
        assert got.converged
        assert got.confidence is not None
        assert ((got.confidence == 1) == sure).all()
        assert (error.amin(1) < 1e-4).tolist() == wanted.recoverable.tolist()
        assert int(sure.sum()) == int(wanted.recoverable.sum()), "each example once, no mixture"
        owner = error[:, sure].argmin(0).tolist()
        assert len(set(owner)) == len(owner)
        assert all(o in wanted.places[i] for i, o in zip(owner, got.origins, strict=False))
        assert not known or len(got.inputs) == 30


def test_snapped_candidates_are_the_stored_pictures_bit_for_bit() -> None:
    batch = pictures(30)
    got = read(sent(replace(TRAP, snap=True), mlp()), batch)
    assert float(errors(got, batch)[:, certified(got)].amin(0).max()) < 2e-7


def test_real_numbers_have_no_lattice_and_the_network_itself_vouches() -> None:
    batch, tampered = pictures(20, bits=False), sent(TRAP, mlp())
    got, wanted = read(tampered, batch), expected(tampered, batch)
    error, sure = errors(got, batch), certified(got)
    assert 3 <= int(sure.sum()) <= int(wanted.recoverable.sum())
    assert float(error[:, sure].amin(0).max()) < 1e-4
    assert "mixture" not in {m for m, e in zip(got.marks, error.amin(0).tolist(), strict=True) if e < 1e-4}


def test_rows_that_agree_on_a_mixture_are_not_believed() -> None:
    # Directly before two logits the derivatives of all examples are proportional: rows that the same two examples
    # fire agree on their mixture, and lie in the range, and fire again.
    batch, tampered = pictures(2), sent(TrapWeights(scale=1.0), mlp(classes=2))
    batch = Batch(batch.inputs, torch.tensor([0, 1]))
    places = [set(p) for p in expected(tampered, batch).places]
    shared = places[0] & places[1]
    assert len(shared) > 10
    got = read(tampered, batch, known=False)
    error, sure = errors(got, batch), certified(got)
    assert int(sure.sum()) == 2
    assert float(error[:, sure].amin(0).max()) < 1e-4


def test_an_example_that_is_there_twice_is_read_once() -> None:
    batch = pictures(6)
    twice = Batch(torch.cat([batch.inputs, batch.inputs[:1]]), torch.cat([batch.labels, torch.tensor([7])]))
    tampered = sent(TRAP, mlp())
    assert bool(expected(tampered, batch).recoverable.all())
    got = read(tampered, twice)
    assert int(((errors(got, twice)[0] < 1e-4) & certified(got)).sum()) == 1


def test_one_example_is_read_and_replayed() -> None:
    for known in (True, False):
        got = read(sent(TRAP, mlp()), pictures(1), known=known)
        assert got.converged
        assert float(errors(got, pictures(1)).max()) < 1e-5
