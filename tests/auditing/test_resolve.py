"""What a plan leaves open is filled in by the kind of data, and what does not fit it is refused."""

import pytest

from fedspill.auditing import parse_plan
from fedspill.auditing.resolving.defaults import resolved
from fedspill.auditing.resolving.evaluation import evaluation_of
from fedspill.core.errors import BadInput
from fedspill.core.inputs import CategoricalColumn, ImageSpec, TableSpec, TokenSpec
from fedspill.plan.defaults import IMAGES, SENTENCES, TABLES
from fedspill.scoring.metrics import METRICS

SPECS = {
    "images": ImageSpec((3, 8, 8)),
    "sentences": TokenSpec(8, 100),
    "tables": TableSpec((CategoricalColumn("a", ("x", "y")),)),
}


@pytest.mark.parametrize(("kind", "usual"), [("images", IMAGES), ("sentences", SENTENCES), ("tables", TABLES)])
def test_defaults_follow_the_data(kind: str, usual) -> None:
    plan = resolved(parse_plan({}), SPECS[kind])
    evaluation = evaluation_of(plan.audit, SPECS[kind])
    assert tuple(m.name for m in evaluation.metrics) == usual.metrics
    assert dict(evaluation.thresholds) == dict(usual.leak_threshold)
    assert evaluation.main_metric == usual.metrics[0]
    assert all(type(SPECS[kind]) in metric.accepts for metric in evaluation.metrics)
    assert resolved(plan, SPECS[kind]) == plan


def test_what_the_plan_says_stays() -> None:
    plan = parse_plan({"audit": {"metrics": ["exact_row", "tableak_accuracy"], "leak_threshold": {"exact_row": 1.0}}})
    done = resolved(plan, SPECS["tables"])
    assert done.audit.metrics == ("exact_row", "tableak_accuracy")
    assert done.audit.leak_threshold == {"exact_row": 1.0}
    unjudged = resolved(parse_plan({"audit": {"leak_threshold": {}}}), SPECS["sentences"])
    assert unjudged.audit.leak_threshold == {}


def test_examples_are_ranked_by_the_first_metric_with_a_threshold() -> None:
    audit = {"metrics": ["ssim", "psnr", "mse"], "leak_threshold": {"mse": 0.01, "psnr": 20.0}}
    evaluation = evaluation_of(resolved(parse_plan({"audit": audit}), SPECS["images"]).audit, SPECS["images"])
    assert evaluation.main_metric == "mse"
    assert evaluation.criterion == "mse <= 0.01 and psnr >= 20 dB"


@pytest.mark.parametrize(
    ("audit", "kind", "said"),
    [
        ({"metrics": ["psnr"]}, "sentences", r"\['psnr'\], which do not compare sentences; .*'rouge_l'"),
        ({"metrics": ["bleu"], "leak_threshold": {}}, "images", r"\['bleu'\], which do not compare images; .*'lpips'"),
        ({"leak_threshold": {"psnr": 20.0}}, "tables", r"\['psnr'\] \(by the plan\), which metrics="),
        ({"metrics": ["mse"]}, "images", r"\['psnr'\] \(by default\), which metrics=\['mse'\] lacks"),
    ],
)
def test_what_does_not_fit_is_refused(audit: dict, kind: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        resolved(parse_plan({"audit": audit}), SPECS[kind])


def test_every_metric_compares_one_kind() -> None:
    for name, made in METRICS.items():
        assert made.name == name
        assert sum(type(spec) in made.accepts for spec in SPECS.values()) == 1
