"""Features, orders and the linear map of a learned inversion against brute force and scikit-learn."""

from dataclasses import replace
from itertools import islice, permutations

import pytest
import torch
from sklearn.linear_model import Ridge

from fedspill.core.errors import NotApplicable
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.rng import rand, randn, stream
from fedspill.core.types import Batch
from fedspill.inversion.learned.assignment import exchangeable, in_canonical_order, ordered
from fedspill.inversion.learned.features import BEYOND, Features, Standardiser
from fedspill.inversion.learned.linear import PENALTIES, constant, ridge
from fedspill.inversion.learned.pairs import Pairs, Public
from tests.support.worlds import SPEC, batch, conv_bn, mlp, relu_mlp

LIKE = torch.zeros((), dtype=torch.float64)


def test_a_hash_is_the_signed_sum_of_each_bin() -> None:
    update = local_update(mlp(), batch(2), FedSGD())
    features = Features.of(update, 50, 0, reads=False)
    row = features(update)
    flat = torch.cat([(v / v.double().square().mean().sqrt()).flatten() for v in update.values.values()])
    assert features.bins is not None
    assert features.signs is not None
    slow = [0.0] * 50
    for value, place, sign in zip(flat.tolist(), features.bins.tolist(), features.signs.tolist(), strict=True):
        slow[place] += value * sign
    torch.testing.assert_close(row[:50], torch.tensor(slow), atol=1e-3, rtol=1e-4)
    assert len(row) == 50 + len(update.values)


def test_a_small_update_is_taken_as_it_is_and_its_layers_are_read() -> None:
    private = batch(1)
    update = local_update(mlp(), private, FedSGD())
    size = sum(v.numel() for v in update.values.values())
    features = Features.of(update, size, 0, reads=True)
    row = features(update)
    assert features.bins is None
    assert features.read == 192 + 32
    assert len(row) == features.read + size + 4
    torch.testing.assert_close(row[:192], SPEC.encode(private.inputs).flatten(), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("factor", [0.25, 65536.0, 1e-3])
def test_a_multiple_has_the_same_row(factor: float) -> None:
    update = local_update(relu_mlp(), batch(2), FedSGD())
    features = Features.of(update, 64, 0, reads=True)
    scaled = replace(update, values={k: v * factor for k, v in update.values.items()})
    torch.testing.assert_close(features(scaled), features(update), atol=1e-4, rtol=1e-4)


def test_a_layer_that_tells_nothing_gives_numbers_all_the_same() -> None:
    update = local_update(relu_mlp(), batch(1), FedSGD())
    empty = replace(update, values={k: torch.zeros_like(v) for k, v in update.values.items()})
    assert Features.of(update, 64, 0, reads=True)(empty).abs().max() == 0
    lacking = replace(update, values={k: v for k, v in update.values.items() if k != "1.bias"})
    with pytest.raises(NotApplicable, match=r"lacks 1\.bias"):
        Features.of(update, 64, 0, reads=True)(lacking)
    assert Features.of(local_update(conv_bn(), batch(1), FedSGD()), 64, 0, reads=True).read == 32


def test_standardised_rows_have_unit_variance_and_constants_vanish() -> None:
    rows = torch.cat([3 + 2 * randn((200, 4), stream(0), LIKE), torch.full((200, 1), 7.0, dtype=torch.float64)], 1)
    got = Standardiser.of(rows)(rows)
    torch.testing.assert_close(got[:, :4].mean(0), torch.zeros(4, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(got[:, :4].std(0, correction=0), torch.ones(4, dtype=torch.float64), atol=0.02, rtol=0)
    assert got[:, 4].abs().max() == 0
    assert Standardiser.of(rows)(rows + 1e9)[:, :4].max() == BEYOND


@pytest.mark.parametrize("labels", [None, [1, 1, 2], [0, 1, 2], [5, 5, 5]])
def test_the_best_order_is_that_of_brute_force(labels: list[int] | None) -> None:
    made, targets = (rand((6, 3, 4), stream(seed), LIKE) for seed in (0, 1))
    may = exchangeable(None if labels is None else torch.tensor(labels), 3)
    got = ordered(made, targets, may)
    for i in range(6):
        allowed = [
            targets[i, list(p)] for p in permutations(range(3)) if labels is None or [labels[j] for j in p] == labels
        ]
        best = min(float((made[i] - one).square().sum()) for one in allowed)
        assert float((made[i] - got[i]).square().sum()) == pytest.approx(best, rel=1e-9)


def test_labels_of_any_shape_say_who_changes_places() -> None:
    several = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert exchangeable(several, 3).tolist() == [[True, False, True], [False, True, False], [True, False, True]]


def test_the_canonical_order_sorts_by_mean_among_equal_labels() -> None:
    targets = rand((5, 4, 3), stream(0), LIKE)
    got = in_canonical_order(targets, exchangeable(torch.tensor([1, 0, 1, 1]), 4))
    torch.testing.assert_close(got[:, 1], targets[:, 1])
    ones, means = targets[:, [0, 2, 3]], got[:, [0, 2, 3]].mean(2)
    assert bool((means.diff(dim=1) >= 0).all())
    torch.testing.assert_close(means, ones.mean(2).sort(1).values)
    free = exchangeable(None, 4)
    shuffled = targets[:, torch.randperm(4, generator=stream(1))]
    torch.testing.assert_close(in_canonical_order(shuffled, free), in_canonical_order(targets, free))


@pytest.mark.parametrize(("rows", "width"), [(40, 6), (12, 30)], ids=["tall", "wide"])
def test_the_linear_map_is_the_ridge_regression_that_does_best_on_held_out_pairs(rows: int, width: int) -> None:
    x, y = randn((rows + 20, width), stream(0), LIKE), randn((rows + 20, 1, 2), stream(1), LIKE)
    y = y + x[:, :1, None]
    pairs, held = Pairs(x[:rows].float(), y[:rows].float()), Pairs(x[rows:].float(), y[rows:].float())
    got = ridge(pairs, held, 0)
    # Ours has the mean of the targets as its offset, whatever the mean of the features.
    offset = y[:rows].mean(0)
    tried = [Ridge(alpha=a, fit_intercept=False).fit(x[:rows], y[:rows, 0] - offset) for a in PENALTIES]
    errors = [float((torch.tensor(m.predict(x[rows:])) + offset - y[rows:, 0]).square().mean()) for m in tried]
    best = tried[errors.index(min(errors))]
    assert min(errors) < float((offset - y[rows:, 0]).square().mean())
    torch.testing.assert_close(got.weight.double(), torch.tensor(best.coef_).T, atol=1e-4, rtol=1e-3)


def test_features_that_tell_nothing_give_the_mean() -> None:
    x, y = randn((30, 4), stream(0), LIKE).float(), randn((30, 1, 2), stream(1), LIKE).float()
    held = Pairs(-x, 10 * x[:, None, :2])
    got = ridge(Pairs(x, y), held, 2)
    constantly = constant(y.flatten(1))
    assert float((got(held.features) - held.targets[:, 0]).square().mean()) <= float(
        (constantly(held.features) - held.targets[:, 0]).square().mean()
    )


def test_no_held_out_example_is_learned_from_and_every_one_is_used() -> None:
    public = Batch(torch.arange(40.0)[:, None, None, None].expand(40, 3, 8, 8) / 40, torch.arange(40))
    source = Public.of(public, 3, SPEC, 0)
    seen = {
        held: {int(label) for b in islice(source.batches(held_out=held), 12) for label in b.labels}
        for held in (True, False)
    }
    assert not seen[True] & seen[False]
    assert len(seen[True]) == 4
    assert len(seen[False]) == 36
    assert source.most(10**6) == 120
    assert source.most(50) == 50
    with pytest.raises(NotApplicable, match="7 public examples were granted; 8 are the least"):
        Public.of(public[:7], 1, SPEC, 0)


def test_batches_take_the_labels_that_are_known_and_are_mirrored_by_half() -> None:
    public, labels = batch(40), torch.tensor([7])
    source = Public.of(public, 1, SPEC, 0, labels=labels, mirror=True)
    drawn = list(islice(source.batches(held_out=False), 36))
    assert all(torch.equal(b.labels, labels) for b in drawn)
    plain = {tuple(image.flatten().tolist()) for image in public.inputs}
    turned = {tuple(image.flip(2).flatten().tolist()) for image in public.inputs}
    pictures = [tuple(b.inputs[0].flatten().tolist()) for b in drawn]
    assert all(p in plain or p in turned for p in pictures)
    assert 8 < sum(p in turned for p in pictures) < 28
