"""All metrics, by name."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fedspill.core.errors import BadInput
from fedspill.core.inputs import TableSpec
from fedspill.core.roles import Metric
from fedspill.scoring.metrics.images import MSE, MSSSIM, PSNR, SSIM
from fedspill.scoring.metrics.lpips import LPIPS
from fedspill.scoring.metrics.rows import EXACT_ROW, FEATURE_ACCURACY, TABLEAK_ACCURACY, RowMetric
from fedspill.scoring.metrics.sentences import BLEU, EXACT_SENTENCE, ROUGE_1, ROUGE_2, ROUGE_L, TOKEN_ACCURACY

METRICS: Mapping[str, Metric] = {
    m.name: m
    for m in (
        MSE(),
        PSNR(),
        SSIM(),
        MSSSIM(),
        LPIPS(),
        TOKEN_ACCURACY,
        EXACT_SENTENCE,
        BLEU,
        ROUGE_1,
        ROUGE_2,
        ROUGE_L,
        FEATURE_ACCURACY,
        TABLEAK_ACCURACY,
        EXACT_ROW,
    )
}


def by_names(
    names: Sequence[str], *, lpips_weights: Path | None = None, table: TableSpec | None = None
) -> tuple[Metric, ...]:
    """The metrics of these names, in this order.

    Args:
        names: keys of `METRICS`.
        lpips_weights: file with AlexNet's convolutional layers (`perceptual.default_weights` looks for one);
            without it LPIPS is made, but says "not computed".
        table: the columns that metrics of tables need; without it these are made, but refuse to compute.

    Raises:
        BadInput: a name is unknown, or stands twice.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise BadInput(f"unknown metrics {unknown}; the metrics are {sorted(METRICS)}")
    if len(set(names)) != len(names):
        raise BadInput(f"metrics={list(names)} names one metric twice")
    return tuple(_equipped(METRICS[name], lpips_weights, table) for name in names)


def _equipped(metric: Metric, lpips_weights: Path | None, table: TableSpec | None) -> Metric:
    if isinstance(metric, LPIPS):
        return replace(metric, weights=lpips_weights)
    if isinstance(metric, RowMetric):
        return replace(metric, table=table)
    return metric
