"""Names, indices, and how a pool is cut into updates."""

import pytest
import torch

from fedspill.core.errors import BadInput
from fedspill.zoo.data import from_tensors, listing, load
from fedspill.zoo.data.cut import cut
from fedspill.zoo.data.indices import parse_indices


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("cifar", {}, "unknown data 'cifar'; there are photos, cifar10"),
        ("folder:", {}, "unknown data"),
        ("photos", {"split": "test"}, "has no split 'test'; it has private, public"),
        ("photos", {"size": 0}, "size=0: a side length"),
        ("photos", {"indices": "0:100000"}, "out of range: the data has 2"),
    ],
)
def test_bad_names(name, change, said):
    with pytest.raises(BadInput, match=said):
        load(name, **change)


def test_listing():
    assert [e.name for e in listing()][:2] == ["photos", "cifar10"]
    assert listing()[0].splits[0] == "private"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("0:3", [0, 1, 2]),
        ("7,3", [7, 3]),
        ("0:2, 5", [0, 1, 5]),
        ("0:9:4", [0, 4, 8]),
        ([4, 2], [4, 2]),
        (None, list(range(10))),
    ],
)
def test_indices(given, expected):
    assert parse_indices(given, 10) == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("8:11", "index 10 is out of range: the data has 10 examples, 0 to 9"),
        ([-1], "index -1 is out of range"),
        ("", "is no position"),
        ("1-3", "is no position"),
        ("3:3", "is empty"),
        ("0:4:0", "is no position"),
        ("1,0:2", "example 1 twice"),
        ([], "name no example"),
    ],
)
def test_bad_indices(given, said):
    with pytest.raises(BadInput, match=said):
        parse_indices(given, 10)


def _pool(labels):
    return from_tensors(torch.zeros(len(labels), 1, 2, 2), torch.tensor(labels))


def test_cut_into_consecutive_updates():
    assert cut(_pool([0, 0, 1, 1, 2]), 2) == [[0, 1], [2, 3]]


def test_cut_with_distinct_labels():
    pool = _pool([0, 0, 1, 2, 2, 1, 0, 1])
    assert cut(pool, 2, True) == [[0, 2], [3, 5], [6, 7]]
    assert cut(pool, 4, True, 2) == [[0, 2, 3, 5]]
    assert cut(pool, 3, True, 2) == [[0, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((9,), "make no update of num_examples=9"),
        ((0,), "must be at least 1"),
        ((4, True), "4 examples cannot all differ among 3 classes"),
        ((3, True), "make no update of num_examples=3 with distinct labels"),
    ],
)
def test_bad_cuts(arguments, said):
    with pytest.raises(BadInput, match=said):
        cut(_pool([0, 0, 2]), *arguments)


def test_distinct_labels_need_labels():
    with pytest.raises(BadInput, match="distinct_labels needs labels"):
        cut(from_tensors(torch.zeros(3, 1, 2, 2)), 1, True)
