"""Peeling finds what an ideal decoder finds; single examples are recognised without the truth."""

import pytest
import torch

from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.rng import stream
from fedspill.core.settings import with_fields
from fedspill.inversion.imprint.certificate import predicted_shares
from fedspill.inversion.imprint.making import Bins
from fedspill.tamperings.robbing_linear_layer import RobbingLinearLayer
from fedspill.tamperings.robbing_the_fed import ImprintModule, RobbingTheFed
from tests.support.imprints import EXACT, read, stored
from tests.support.worlds import batch, conv_bn, relu_mlp


@pytest.mark.parametrize("activation", ["relu", "hardtanh"])
def test_peeling_finds_what_an_ideal_decoder_finds_and_nothing_false(activation) -> None:
    tampering = RobbingTheFed(
        Bins(48, ("random",) * 3, cutoffs="auto"), module=ImprintModule(activation=activation), decode="peel"
    )
    for seed in range(3):
        private = stored(24, 10 + seed)
        found, expected, exact, gap = read(tampering, conv_bn(), private)
        single = read(with_fields(tampering, functions=("random",), decode="bins"), conv_bn(), private)[2]
        assert int(expected.recoverable.sum()) > int(single.sum())
        assert int((exact & expected.recoverable).sum()) >= int(expected.recoverable.sum()) - 1
        assert bool((gap < EXACT).any(1)[found.confidence > 0.5].all())


def test_data_off_the_lattice_are_never_called_sure_where_shares_cannot_be_computed() -> None:
    for functions, decode in ((("random",), "bins"), (("random",) * 3, "peel")):
        tampering = RobbingTheFed(Bins(48, functions, cutoffs="auto"), decode=decode)
        found, _, _, _ = read(tampering, conv_bn(training=True), batch(16))
        assert float(found.confidence.max()) <= 0.5
        assert not found.converged


@pytest.mark.parametrize("connection", ["linear", "addition"])
def test_data_off_the_lattice_are_recognised_and_peeled_by_the_share_that_they_send(connection) -> None:
    plain = RobbingTheFed(Bins(48, ("random",), cutoffs="auto"), module=ImprintModule(connection=connection))
    peeled = with_fields(plain, functions=("random",) * 3, decode="peel")
    for tampering in (plain, peeled):
        found, expected, exact, gap = read(tampering, conv_bn(), batch(16))
        assert bool((gap < EXACT).any(1)[found.confidence > 0.5].all())
        assert int((exact & expected.recoverable).sum()) >= int(expected.recoverable.sum()) - 1
        assert int((found.confidence > 0.5).sum()) >= int(expected.recoverable.sum()) - 1
    assert int(exact.sum()) > 13


@pytest.mark.parametrize("net", [relu_mlp, conv_bn])
def test_the_predicted_share_is_the_gradient_of_the_rows_of_one_example(net) -> None:
    model, private = net(dtype=torch.float64), batch(3, dtype=torch.float64)
    tampering = (
        RobbingLinearLayer(cutoffs="auto")
        if net is relu_mlp
        else RobbingTheFed(Bins(32, cutoffs="auto"), module=ImprintModule(gain=3.0))
    )
    tampered = tampering.tamper(model, stored(400, 1, torch.float64), 0, stream(3, "server"))
    readout, z = tampered.readout, model.input.encode(private.inputs)
    shares = predicted_shares(tampered.model, readout.outlet, z.flatten(1))
    bins = readout.imprint.bins(z.flatten(1))[:, 0]
    for i in range(3):
        update = local_update(tampered.model, private[i : i + 1], FedSGD())
        row = readout.imprint.groups[0].rows[bins[i]]
        assert float(update.values[readout.layer.bias][row]) == pytest.approx(float(shares[i, i]), rel=1e-9)
