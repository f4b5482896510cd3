"""What seeds agree on: means in each seed's own order, and images that are moved onto each other."""

import pytest
import torch

from fedspill.core.rng import rand, stream
from fedspill.inversion.priors.group_consistency import aligned, consensus

LIKE = torch.zeros((), dtype=torch.float64)


def test_seeds_may_hold_examples_of_one_label_in_any_order_and_no_others() -> None:
    labels = torch.tensor([4, 2, 4, 4])
    first = rand((4, 1, 6, 6), stream(0), LIKE)
    turned = first[[3, 1, 0, 2]] + 0.01 * rand((4, 1, 6, 6), stream(1), LIKE)
    z = torch.stack([first, turned])
    order = aligned(z, labels)
    assert order.tolist() == [[0, 1, 2, 3], [2, 1, 3, 0]]
    expected = (first + turned[order[1]]) / 2
    agreed = consensus(z, labels, "mean")
    torch.testing.assert_close(agreed[0], expected)
    torch.testing.assert_close(agreed[1], expected[[3, 1, 0, 2]])


def test_examples_of_different_labels_stay_where_they_are() -> None:
    z = rand((2, 2, 1, 6, 6), stream(0), LIKE)
    swapped = torch.stack([z[0], z[0].flip(0)])
    assert aligned(swapped, torch.tensor([0, 1])).tolist() == [[0, 1], [0, 1]]
    assert aligned(swapped, torch.tensor([1, 1])).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("shift", [1, 2])
def test_images_that_are_shifted_against_each_other_are_moved_onto_each_other(shift: int) -> None:
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")

    def blob(x: float) -> torch.Tensor:
        return torch.exp(-((rows - 16) ** 2 + (columns - x) ** 2) / 30).double()[None, None]

    z = torch.stack([blob(16 - shift), blob(16 + shift)])
    labels = torch.tensor([0])
    mean, registered = (consensus(z, labels, kind)[0, 0] for kind in ("mean", "registered"))
    middle = blob(16)[0]
    assert float((registered - middle).norm()) < 0.5 * float((mean - middle).norm())
    still = torch.stack([blob(16), blob(16)])
    torch.testing.assert_close(consensus(still, labels, "registered"), still, rtol=0, atol=1e-6)
