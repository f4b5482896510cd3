"""Closeness of matched sentences of token numbers, one float64 number per pair; nothing is pooled over a batch.

Every position counts, also those of padding or of marks of beginning and end, where the data holds any.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import Kind, TokenSpec
from fedspill.core.libraries.vision import import_torchmetrics
from fedspill.scoring.pairs import paired

SENTENCES: frozenset[Kind] = frozenset({TokenSpec})
"""What the metrics of this file accept."""

LONGEST_RUN = 4
"""Tokens of the longest runs that BLEU counts."""


@dataclass(frozen=True)
class SentenceMetric:
    """One number per pair of sentences; in [0, 1], 1 when equal.

    Attributes:
        name: in plans and reports.
        measure: of checked sentences (n, t), (n, t).
    """

    name: str
    measure: Callable[[Tensor, Tensor], Tensor]
    unit: str = ""
    higher_is_closer: bool = True
    accepts: frozenset[Kind] = SENTENCES

    def __call__(self, rebuilt: Tensor, private: Tensor) -> Float[Tensor, " n"]:
        """One value per pair of sentences (n, t) of token numbers.

        Raises:
            BadInput: shapes differ, or these are no token numbers.
        """
        _sentences(rebuilt, private)
        return self.measure(rebuilt, private)


def _sentences(rebuilt: Tensor, private: Tensor) -> None:
    paired(rebuilt, private)
    if private.ndim != 2 or private.shape[1] == 0 or private.is_floating_point() or rebuilt.is_floating_point():
        raise BadInput(
            f"inputs of shape {tuple(private.shape)} and of {rebuilt.dtype} and {private.dtype} were got;"
            " sentences (n, tokens) of token numbers are needed"
        )


def _per_sentence(function: Callable[[str, str], Tensor], rebuilt: Tensor, private: Tensor) -> Tensor:
    values = [float(function(a, b)) for a, b in zip(_words(rebuilt), _words(private), strict=True)]
    return private.new_tensor(values, dtype=torch.float64)


def _words(sentences: Tensor) -> list[str]:
    return [" ".join(map(str, row)) for row in sentences.tolist()]


def _bleu(rebuilt: str, private: str) -> Tensor:
    text = import_torchmetrics("torchmetrics.functional.text")
    return text.bleu_score([rebuilt], [[private]], n_gram=min(LONGEST_RUN, len(private.split())))


def _rouge_2(rebuilt: str, private: str) -> Tensor:
    return _rouge("rouge2" if " " in private else "rouge1", rebuilt, private)


def _rouge(key: str, rebuilt: str, private: str) -> Tensor:
    # torchmetrics' own normaliser would drop signs; token numbers need none of it.
    text = import_torchmetrics("torchmetrics.functional.text")
    scores = text.rouge_score([rebuilt], [private], rouge_keys=key, normalizer=str, tokenizer=str.split)
    return scores[f"{key}_fmeasure"]


TOKEN_ACCURACY = SentenceMetric("token_accuracy", lambda a, b: (a == b).double().mean(1))
"""Share of positions that hold the right token (Fowl et al. 2023, Decepticons)."""

EXACT_SENTENCE = SentenceMetric("exact_sentence", lambda a, b: (a == b).all(1).double())
"""1 where every position holds the right token, else 0."""

BLEU = SentenceMetric("bleu", partial(_per_sentence, _bleu))
"""BLEU of each sentence against its private one (Papineni et al. 2002).

On token numbers, with runs of up to four tokens (or of the sentence's length, if that is shorter), without smoothing,
so that a sentence that shares no run of four scores 0 (torchmetrics, float32).
"""

ROUGE_1 = SentenceMetric("rouge_1", partial(_per_sentence, partial(_rouge, "rouge1")))
"""F1 of the tokens that each sentence shares with its private one, wherever they stand (Lin 2004; torchmetrics)."""

ROUGE_2 = SentenceMetric("rouge_2", partial(_per_sentence, _rouge_2))
"""F1 of the pairs of neighbouring tokens that both hold (Lin 2004; torchmetrics); of tokens in sentences of one."""

ROUGE_L = SentenceMetric("rouge_l", partial(_per_sentence, partial(_rouge, "rougeL")))
"""F1 of the longest common subsequence of each sentence and its private one (Lin 2004; torchmetrics, float32)."""
