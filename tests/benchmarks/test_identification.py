"""Identification among rivals of the target's own class and among strangers."""

import torch
from benchmarks.imprint.identification import hits, mixed, split, strangers

from fedspill.core.rng import rand, stream
from fedspill.core.types import Batch

LIKE = torch.zeros(())


def pictures(n: int, classes: int) -> Batch:
    return Batch(rand((n, 3, 4, 4), stream(0, "pictures", n), LIKE), torch.arange(n) % classes)


def test_a_rival_of_the_own_class_takes_what_strangers_leave() -> None:
    private, others = pictures(6, 3), pictures(9, 3)
    twin = others.inputs.clone()
    twin[3] = (private.inputs[0] + 0.02).clamp(0, 1)  # of class 0, as the first example
    others = Batch(twin, others.labels)
    shown, where = (private.inputs + 0.018).clamp(0, 1), torch.arange(6)
    assert hits(shown, where, private, others).tolist() == [False, True, True, True, True, True]
    elsewhere = Batch(twin, others.labels.roll(1))  # the twin is of another class now
    assert hits(shown, where, private, elsewhere).all()
    alone = strangers(private, elsewhere)
    assert len({*alone[0].labels.tolist(), *alone[1].labels.tolist()}) == 15
    assert not hits(shown, where, *alone)[0], "strangers are rivals whatever their class"


def test_a_mixture_is_a_share_of_the_target_and_of_a_picture_of_another_class() -> None:
    private = pictures(8, 2)
    made = mixed(private, 0.6, 0)
    for k in range(8):
        other = (made[k] - 0.6 * private.inputs[k]) / 0.4
        near = (other - private.inputs).flatten(1).norm(dim=1)
        assert near.min() < 1e-5
        assert private.labels[near.argmin()] != private.labels[k]
    assert torch.equal(made, mixed(private, 0.6, 0))


def test_a_batch_and_the_others_share_no_picture() -> None:
    pool = pictures(200, 10)
    private, others = split(pool, 1)
    assert torch.equal(private.inputs, pool.inputs[64:128])
    assert len(others) == 136
    assert torch.cdist(private.inputs.flatten(1), others.inputs.flatten(1)).min() > 0
