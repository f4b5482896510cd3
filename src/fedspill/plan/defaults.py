"""How sentences, tables and images are scored and judged if a plan does not say."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Defaults:
    """How one kind of data is scored and judged if the plan does not say."""

    what: str
    metrics: tuple[str, ...]
    leak_threshold: Mapping[str, float]


IMAGES = Defaults("images", ("psnr", "ssim", "mse"), {"psnr": 20.0})
SENTENCES = Defaults("sentences", ("token_accuracy", "exact_sentence", "bleu", "rouge_l"), {"token_accuracy": 0.9})
"""The closest of 1000 public sentences has 0.32 of 32 bytes of WikiText-2 right in the mean, 0.44 at most (n = 32)."""

TABLES = Defaults("tables", ("feature_accuracy", "exact_row"), {"feature_accuracy": 0.95})
"""On Adult (14 columns, 2000 private rows) the commonest row scores 0.50 in the mean, the closest of 1000 public rows
0.75, the closest of 30000 public rows 0.81; of the last 7 % reach 0.9 (13 columns) and 0.1 % reach 0.95 (all)."""


EVERY_METRIC = tuple(name for kind in (IMAGES, SENTENCES, TABLES) for name in kind.metrics)
"""What a plan without metrics may come to ask for."""
