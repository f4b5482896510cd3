"""Metrics of sentences against their definitions; what guesses of sentences score."""

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import TokenSpec
from fedspill.core.rng import stream
from fedspill.core.types import Batch
from fedspill.scoring.baselines import best_public, commonest_token
from fedspill.scoring.exact import exact_copies
from fedspill.scoring.metrics import by_names
from fedspill.scoring.metrics.sentences import BLEU, EXACT_SENTENCE, ROUGE_1, ROUGE_2, ROUGE_L, TOKEN_ACCURACY
from fedspill.scoring.score import score_all

NAMES = ("token_accuracy", "exact_sentence", "bleu", "rouge_1", "rouge_2", "rouge_l")


def sentences(n: int, t: int = 12, words: int = 6, seed: int = 0) -> Tensor:
    return torch.randint(0, words, (n, t), generator=stream(seed, "test text", n, t))


def bleu_by_hand(rebuilt: list[int], private: list[int], longest: int) -> float:
    """Papineni et al. 2002, equations 1 to 3, for one sentence and one reference."""
    total = 0.0
    for n in range(1, longest + 1):
        grams, known = (Counter(tuple(s[i : i + n]) for i in range(len(s) - n + 1)) for s in (rebuilt, private))
        hits = sum(min(count, known[gram]) for gram, count in grams.items())
        if hits == 0:
            return 0.0
        total += math.log(hits / sum(grams.values())) / longest
    return math.exp(total)


def common_subsequence(a: list[int], b: list[int]) -> int:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


@pytest.mark.parametrize("length", [1, 2, 3, 4, 32])
def test_equal_sentences_are_at_the_optimum(length: int) -> None:
    private = sentences(5, length, words=50257)
    for metric in by_names(NAMES):
        assert metric(private, private).tolist() == [1.0] * 5, metric.name
        assert metric(private, private).dtype == torch.float64
        assert metric.accepts == {TokenSpec}


def test_metrics_agree_with_their_definitions() -> None:
    rebuilt, private = sentences(40, seed=1), sentences(40, seed=2)
    rebuilt[::2, 3:] = private[::2, 3:]
    pairs = list(zip(rebuilt.tolist(), private.tolist(), strict=True))
    assert BLEU(rebuilt, private).tolist() == pytest.approx([bleu_by_hand(a, b, 4) for a, b in pairs], abs=1e-6)
    shared = [common_subsequence(a, b) / 12 for a, b in pairs]  # of equal length, so F1 is the share itself
    assert ROUGE_L(rebuilt, private).tolist() == pytest.approx(shared, abs=1e-6)
    right = [sum(x == y for x, y in zip(a, b, strict=True)) / 12 for a, b in pairs]
    assert TOKEN_ACCURACY(rebuilt, private).tolist() == pytest.approx(right)
    assert EXACT_SENTENCE(rebuilt, private).tolist() == [float(a == b) for a, b in pairs]


def shared_runs(a: list[int], b: list[int], size: int) -> float:
    """F1 of Lin 2004's ROUGE-N: of equally long sentences the share itself."""
    first, second = (Counter(tuple(s[i : i + size]) for i in range(len(s) - size + 1)) for s in (a, b))
    return (first & second).total() / first.total()


def test_rouge_counts_shared_tokens_and_pairs() -> None:
    rebuilt, private = sentences(40, seed=1), sentences(40, seed=2)
    rebuilt[::2, 3:] = private[::2, 3:]
    pairs = list(zip(rebuilt.tolist(), private.tolist(), strict=True))
    assert ROUGE_1(rebuilt, private).tolist() == pytest.approx([shared_runs(a, b, 1) for a, b in pairs], abs=1e-6)
    assert ROUGE_2(rebuilt, private).tolist() == pytest.approx([shared_runs(a, b, 2) for a, b in pairs], abs=1e-6)
    turned = torch.tensor([[2, 1, 3, 4]]), torch.tensor([[1, 2, 3, 4]])
    assert (ROUGE_1(*turned).item(), ROUGE_2(*turned).item()) == (1.0, pytest.approx(1 / 3))


def test_one_wrong_token_is_no_exact_sentence() -> None:
    private = sentences(1)
    rebuilt = private.clone()
    rebuilt[0, 5] += 1
    assert EXACT_SENTENCE(rebuilt, private).item() == 0
    assert TOKEN_ACCURACY(rebuilt, private).item() == pytest.approx(11 / 12)
    assert 0 < BLEU(rebuilt, private).item() < 1


def test_shifted_sentences_keep_their_order_but_not_their_positions() -> None:
    private = torch.arange(10)[None]
    shifted = private.roll(1, 1)
    assert TOKEN_ACCURACY(shifted, private).item() == 0
    assert ROUGE_L(shifted, private).item() == pytest.approx(0.9)


def test_scores_are_blind_to_the_order() -> None:
    private, order = sentences(6, words=900), torch.tensor([3, 1, 0, 5, 2, 4])
    rebuilt = private.clone()
    rebuilt[:, 0] = 0
    first, second = (score_all(r, private, by_names(NAMES)) for r in (rebuilt, rebuilt[order]))
    for a, b in zip(first.metrics, second.metrics, strict=True):
        assert a.listed() == b.listed()


def test_other_inputs_are_refused() -> None:
    for metric in by_names(NAMES):
        for bad in (torch.zeros(2, 4), torch.zeros(2, 3, 4, 4), torch.zeros(2, 0, dtype=torch.long)):
            with pytest.raises(BadInput, match="token numbers are needed"):
                metric(bad, bad)
        with pytest.raises(BadInput, match="matched pairs"):
            metric(sentences(2), sentences(3))


def test_copies_are_told_even_when_doubled() -> None:
    private = sentences(3, words=900)
    rebuilt = private[[2, 0, 2]].clone()
    rebuilt[1, 0] += 1
    found = exact_copies(rebuilt, private, TokenSpec(12, 901))
    assert found.tolist() == [[False, False, True], [False] * 3, [False, False, True]]
    assert exact_copies(rebuilt[:0], private, TokenSpec(12, 901)).shape == (0, 3)


def test_guesses_of_sentences() -> None:
    public = Batch(torch.tensor([[5, 5, 1], [5, 2, 3], [7, 7, 9]]), torch.zeros(3, 3, dtype=torch.long))
    assert commonest_token(public, 2).tolist() == [[5, 5, 5]] * 2
    assert best_public(public, torch.tensor([[7, 0, 9], [1, 2, 3]])).tolist() == [[7, 7, 9], [5, 2, 3]]
    with pytest.raises(BadInput, match="sentences are needed"):
        commonest_token(Batch(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)), 1)
