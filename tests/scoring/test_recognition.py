"""A picture is told from others, and closer than a guess; sentences and rows likewise."""

import pytest
import torch
from torch import Tensor

from fedspill.core.rng import stream
from fedspill.scoring import recognition
from fedspill.scoring.metrics.images import SSIM
from fedspill.scoring.metrics.sentences import TOKEN_ACCURACY
from fedspill.scoring.recognition import closeness, recognised, similarities, thumbnails, told
from fedspill.zoo.data import load

TILES = load("photos", size=32).batch.inputs[:140].double()
TARGET, OTHERS, GUESS = TILES[120], TILES[:100], torch.full((3, 32, 32), 0.5).double()


def seen(picture: Tensor, target: Tensor = TARGET, others: Tensor = OTHERS) -> bool:
    return recognised(picture, target, others, GUESS[:, : target.shape[1], : target.shape[2]])


def test_similarity_is_that_of_the_metric() -> None:
    noisy = (OTHERS[:5] + 0.1 * torch.randn(5, 3, 32, 32, generator=stream(0, "t"), dtype=torch.float64)).clamp(0, 1)
    torch.testing.assert_close(similarities(noisy, OTHERS[:5]), SSIM()(noisy, OTHERS[:5]), atol=1e-6, rtol=0)


def test_from_an_exact_copy_to_another_picture() -> None:
    noise = torch.randn(3, 32, 32, generator=stream(0, "noise"), dtype=torch.float64)
    assert seen(TARGET)
    assert seen((TARGET + 0.1 * noise).clamp(0, 1))
    assert seen(0.8 * TARGET + 0.2 * OTHERS[3])
    assert not seen(0.2 * TARGET + 0.8 * OTHERS[3]), "nearer to the other"
    assert not seen(OTHERS[3])
    assert not seen(GUESS), "no closer than the guess"
    assert not seen(noise.clamp(0, 1))


def test_the_target_and_its_equals_are_no_rivals() -> None:
    assert seen(TARGET, others=torch.cat([OTHERS, TARGET[None]]))


def test_being_nearest_is_not_enough_where_a_guess_is_as_close() -> None:
    """Of pictures that are all alike any guess is nearest to one of them."""
    grey = (0.5 + 0.01 * torch.randn(3, 32, 32, generator=stream(0, "grey"))).double()
    assert not seen(GUESS, grey)
    assert not seen(GUESS + 1e-4, grey)
    assert seen(grey, grey), "far closer than the guess"


def test_pictures_smaller_than_a_window_are_told_by_pixels_alone() -> None:
    small = TILES[:, :, ::4, ::4]
    assert closeness(small[120], small[120], small[0]).similarity == 0
    assert seen(small[120] * 0.95, small[120], small[:100])


@pytest.mark.parametrize(("shape", "size"), [((3, 32, 32), (32, 32)), ((1, 200, 100), (64, 32)), ((3, 8, 8), (8, 8))])
def test_thumbnails(shape: tuple[int, int, int], size: tuple[int, int]) -> None:
    assert thumbnails(torch.full((2, *shape), 1.5)).shape == (2, shape[0], *size)
    assert thumbnails(torch.full((2, *shape), 1.5)).max() == 1


def test_a_sentence_is_told_from_others_and_more_of_it_right_than_of_a_guess() -> None:
    target, others = torch.arange(20), torch.arange(100, 2100).reshape(100, 20)

    def right(count: int, rivals: Tensor = others, guessed: float = 0.0) -> bool:
        rebuilt = torch.where(torch.arange(20) < count, target, -1)
        return told(TOKEN_ACCURACY, rebuilt, target, rivals, guessed, recognition.TOKENS)

    assert [right(k) for k in (0, 2, 3, 20)] == [False, False, True, True]
    assert not right(3, guessed=0.1), "less than 0.15 above the guess"
    alike = others.clone()
    alike[0, :5] = target[:5]
    assert not right(5, alike), "as much of another one is right"
    assert [right(k, others[:19]) for k in (5, 6)] == [False, True], "too few others: a margin of 0.3"
