"""How reconstructions are scored and judged: metrics, leak thresholds, identification; settled once for an audit."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedspill.core.inputs import InputSpec, TableSpec
from fedspill.core.roles import Metric
from fedspill.plan.sections import AuditSection
from fedspill.scoring.leakage import criterion
from fedspill.scoring.metrics import by_names
from fedspill.scoring.metrics.lpips import default_weights


@dataclass(frozen=True)
class Evaluation:
    """What every reconstruction of an audit is measured by.

    Attributes:
        metrics: ready to be called on pairs of examples.
        thresholds: metric to value, in the metric's unit; an example leaks when all are met. Empty judges nothing.
        identification: distances by which image identification precision is computed.
        lpips_weights: file of AlexNet's weights; None if there is none.
        table: the columns, if the examples are rows of a table.
    """

    metrics: tuple[Metric, ...]
    thresholds: Mapping[str, float]
    identification: tuple[Literal["pixel", "lpips", "feature"], ...]
    lpips_weights: Path | None
    table: TableSpec | None

    @property
    def main_metric(self) -> str:
        """The metric that examples are ranked by: the first with a threshold, else the first."""
        return next(iter(self.thresholds), self.metrics[0].name)

    @property
    def criterion(self) -> str:
        """What an example must meet to count as leaked, in words."""
        return criterion(self.thresholds, self.metrics)


def evaluation_of(section: AuditSection, spec: InputSpec) -> Evaluation:
    """The evaluation that the `audit` section of a resolved plan (`fedspill.auditing.resolving.defaults`) asks for.

    Raises:
        BadInput: a metric is unknown.
    """
    assert section.metrics is not None, "resolved() names the metrics"
    assert section.leak_threshold is not None, "resolved() names the thresholds"
    weights = default_weights() if section.lpips_weights is None else Path(section.lpips_weights)
    table = spec if isinstance(spec, TableSpec) else None
    metrics = by_names(section.metrics, lpips_weights=weights, table=table)
    return Evaluation(metrics, section.leak_threshold, section.identification, weights, table)
