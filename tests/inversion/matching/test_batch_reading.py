"""A batch is read once for all attacks that ask for it, and anew where anything that it depends on is another."""

from dataclasses import replace

import pytest
import torch

from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.rng import stream
from fedspill.core.roles import UNWATCHED
from fedspill.core.types import Update
from fedspill.inversion.disaggregation.readout import Effort
from fedspill.inversion.matching import batch_reading
from fedspill.inversion.matching.batch_reading import ReadFromHead
from tests.support.watches import Impatient
from tests.support.worlds import batch, relu_mlp

MODEL, PRIVATE = relu_mlp(dtype=torch.float64), batch(2, dtype=torch.float64)
QUICK = Effort(4, 10, 0)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each look at the head's equations."""
    counted, real = list[int](), batch_reading.told_apart

    def counting(*args, **settings):
        counted.append(1)
        return real(*args, **settings)

    monkeypatch.setattr(batch_reading, "told_apart", counting)
    return counted


def sent() -> Update:
    return local_update(MODEL, PRIVATE, FedSGD())


def knowing(**settings) -> ServerKnowledge:
    return ServerKnowledge(MODEL, num_examples=2, labels=PRIVATE.labels.clone(), local_training=FedSGD(), **settings)


def test_what_was_read_is_given_again_for_the_same_update_and_knowledge(looks: list[int]) -> None:
    update = sent()
    first = ReadFromHead(update, knowing(), QUICK)
    told = first.told(stream(0, "a"), UNWATCHED)
    again = ReadFromHead(update, knowing(), QUICK)
    assert again.told(stream(1, "b"), UNWATCHED) is told
    assert again.reading(told, stream(0, "a"), UNWATCHED) is first.reading(told, stream(1, "b"), UNWATCHED)
    assert len(looks) == 1


def test_other_updates_knowledge_and_efforts_are_read_anew(looks: list[int]) -> None:
    update = sent()
    others = [
        ReadFromHead(update, knowing(), QUICK),
        ReadFromHead(sent(), knowing(), QUICK),
        ReadFromHead(update, replace(knowing(), labels=PRIVATE.labels.flip(0)), QUICK),
        ReadFromHead(update, replace(knowing(), labels=None), QUICK),
        ReadFromHead(update, replace(knowing(), model=replace(MODEL)), QUICK),
        ReadFromHead(update, knowing(), Effort(5, 10, 0)),
    ]
    for other in others:
        other.told(stream(0, "a"), UNWATCHED)
    assert len(looks) == len(others)
    # Changed in place, it is another update.
    for value in update.values.values():
        value.mul_(2)
    others[-1].told(stream(0, "a"), UNWATCHED)
    assert len(looks) == len(others) + 1


def test_a_reading_that_was_cut_is_made_again_by_whoever_has_much_more_time(looks: list[int]) -> None:
    update = sent()
    ReadFromHead(update, knowing(), QUICK).told(stream(0, "a"), Impatient(0))
    ReadFromHead(update, knowing(), QUICK).told(stream(0, "a"), UNWATCHED)
    assert len(looks) == 2
    ReadFromHead(update, knowing(), QUICK).told(stream(0, "a"), UNWATCHED)
    assert len(looks) == 2


def test_nothing_is_kept_of_an_update_that_is_gone() -> None:
    update = sent()
    ReadFromHead(update, knowing(), QUICK).told(stream(0, "a"), UNWATCHED)
    key = id(update)
    assert key in batch_reading._KEPT
    del update
    assert key not in batch_reading._KEPT
