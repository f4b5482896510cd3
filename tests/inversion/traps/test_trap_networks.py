"""Trap weights behind convolutions, after local training, on tables, and where they do not fit."""

import os
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.local_training.update import FedAvg, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.types import Reconstruction
from fedspill.tamperings.trap_weights import TrapWeights
from tests.support.traps import (
    SPEC,
    TABLE,
    TRAP,
    certified,
    errors,
    expected,
    mlp,
    model_of,
    people,
    pictures,
    read,
    sent,
)


def convolutional(stride: int = 1) -> Model:
    side = 16 // stride
    with torch.device("meta"):
        stack = [nn.Conv2d(3, 12, 3, stride, 1), nn.ReLU(), nn.Conv2d(12, 14, 3, padding=1), nn.ReLU(), nn.Flatten()]
        net = nn.Sequential(*stack, nn.Linear(14 * side**2, 200), nn.ReLU(), nn.Linear(200, 10))
    return model_of(net)


def test_convolutions_carry_the_picture_to_the_rows() -> None:
    batch, tampered = pictures(24), sent(TRAP, convolutional())
    got, wanted = read(tampered, batch), expected(tampered, batch)
    assert int(wanted.recoverable.sum()) > 8
    assert (errors(got, batch).amin(1) < 1e-3).tolist() == wanted.recoverable.tolist()
    assert int(certified(got).sum()) == int(wanted.recoverable.sum())


def test_behind_strides_free_channels_carry_the_pixels_between() -> None:
    batch = pictures(12)
    errors_of = dict[bool, float]()
    for phases in (True, False):
        tampered = sent(replace(TRAP, phases=phases), convolutional(stride=2))
        got, found = read(tampered, batch), expected(tampered, batch).recoverable
        assert int(found.sum()) > 5
        assert bool(certified(got).any()), "the pixels that are shown lie on the lattice"
        errors_of[phases] = float(errors(got, batch)[found].amin(1).max())
    assert errors_of[True] < 1e-3 < 0.01 < errors_of[False]


@pytest.mark.parametrize(
    "training",
    [FedAvg(lr=0.1), FedAvg(epochs=2, minibatch_size=8, lr=0.02, momentum=0.9, weight_decay=1e-3)],
    ids=["one step", "momentum and decay"],
)
def test_deltas_are_read_too_with_rows_that_are_not_too_large(training: FedAvg) -> None:
    batch, tampered = pictures(16), sent(replace(TRAP, gain=0.1), mlp())
    got, found = read(tampered, batch, training), expected(tampered, batch).recoverable
    error, sure = errors(got, batch), certified(got)
    assert got.converged
    assert float(error[:, sure].amin(0).max()) < 5e-3
    assert int((error[:, sure] < 5e-3).any(1).sum()) >= 0.6 * int(found.sum())


def test_a_rough_bias_is_mended_from_the_lattice() -> None:
    # A small deviation makes rows small and leaves biases large, so that only the latter suffer from rounding.
    training, spec = FedAvg(lr=0.01), replace(SPEC, std=(0.02,))
    batch, tampered = pictures(16), sent(TRAP, mlp(spec))
    got, found = read(tampered, batch, training), expected(tampered, batch).recoverable
    raw = local_update(tampered.model, batch, training).values
    weight, bias = raw["1.weight"].double(), raw["1.bias"].double()
    usable = bias != 0
    divided = spec.decode((weight[usable] / bias[usable, None]).view(-1, *spec.shape)).float()
    plainly = int((errors(Reconstruction(divided), batch) < 1e-3).any(1).sum())
    mended = errors(got, batch)[:, certified(got)]
    assert float(mended.amin(0).max()) < 1e-3
    assert int((mended < 1e-3).any(1).sum()) >= 0.8 * int(found.sum()) > plainly


def test_rows_of_a_table_are_read() -> None:
    batch, tampered = people(12), sent(replace(TRAP, examples=12), mlp(TABLE))
    got, wanted = read(tampered, batch), expected(tampered, batch)
    assert int(wanted.recoverable.sum()) >= 6
    error = errors(got, batch)
    assert (error.amin(1) < 1e-2).tolist() == wanted.recoverable.tolist()
    assert float(error[:, certified(got)].amin(0).max()) < 1e-2


def test_rows_that_nobody_fires_say_so() -> None:
    got = read(sent(TrapWeights(scale=0.1), mlp()), pictures(4))
    assert len(got.inputs) == 0
    assert not got.converged
    assert "No example fired" in got.notes[0]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.hidden, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(768, 20), nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.hidden((x + self.conv(x)).flatten(1))))


def test_networks_that_do_not_fit_are_named() -> None:
    with torch.device("meta"):
        residual = Residual()
        unbiased = nn.Sequential(nn.Flatten(), nn.Linear(768, 20, bias=False), nn.ReLU(), nn.Linear(20, 10))
    for model, reason in [
        (model_of(residual), "residual sum"),
        (model_of(unbiased), "has no bias"),
        (mlp(activation=nn.Sigmoid), "no ReLU follows"),
        (mlp(activation=nn.LeakyReLU), "no ReLU follows"),
    ]:
        with pytest.raises(NotApplicable, match=reason):
            sent(TRAP, model)
    with pytest.raises(BadInput, match="scale=-1"):
        TrapWeights(scale=-1.0)


@pytest.mark.skipif("FEDSPILL_DATA" not in os.environ, reason="FEDSPILL_DATA does not name a folder with CIFAR-10")
def test_photographs_give_the_papers_recall() -> None:
    from fedspill.zoo import data

    pool = data.load("cifar10", split="test", indices="0:100")
    spec = ImageSpec((3, 32, 32), mean=pool.mean, std=pool.std)
    tampered = TrapWeights().tamper(mlp(spec, rows=1000), None, 0, stream(0, "server"))
    got, found = read(tampered, pool.batch), expected(tampered, pool.batch).recoverable
    assert 0.35 < float(found.double().mean()) < 0.65  # 0.54 in the paper's Table 4
    assert (errors(got, pool.batch).amin(1) < 1e-4).tolist() == found.tolist()
    assert int(certified(got).sum()) == int(found.sum())
