"""What a plan leaves open until the data is known."""

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, InputSpec, TableSpec, TokenSpec
from fedspill.plan.defaults import IMAGES, SENTENCES, TABLES, Defaults
from fedspill.plan.sections import DEFAULT_BUDGET, AuditPlan
from fedspill.scoring.metrics import METRICS


def defaults(spec: InputSpec) -> Defaults:
    """Those of a kind of data."""
    return SENTENCES if isinstance(spec, TokenSpec) else TABLES if isinstance(spec, TableSpec) else IMAGES


def resolved(plan: AuditPlan, spec: InputSpec) -> AuditPlan:
    """The plan with its metrics, leak thresholds and budget filled in.

    Raises:
        BadInput: a metric or a quality is not one of such data, or the metric of a threshold or of the policy is not
            asked for.
    """
    usual = defaults(spec)
    metrics = usual.metrics if plan.audit.metrics is None else plan.audit.metrics
    limits = dict(usual.leak_threshold) if plan.audit.leak_threshold is None else plan.audit.leak_threshold
    unfit = [name for name in metrics if type(spec) not in METRICS[name].accepts]
    if unfit:
        fit = [name for name, made in METRICS.items() if type(spec) in made.accepts]
        raise BadInput(f"audit.metrics names {unfit}, which do not compare {usual.what}; for these there are {fit}")
    unscored = [name for name in limits if name not in metrics]
    if unscored:
        set_by = "by default" if plan.audit.leak_threshold is None else "by the plan"
        raise BadInput(
            f"audit.leak_threshold names {unscored} ({set_by}), which metrics={list(metrics)} lacks;"
            " set the two together, or leak_threshold = {} to judge nothing"
        )
    if plan.audit.quality is not None and not isinstance(spec, ImageSpec):
        raise BadInput(f"audit.quality={plan.audit.quality:g} dB is a PSNR of images; the data are {usual.what}")
    audit = plan.audit.model_copy(
        update={"metrics": metrics, "leak_threshold": limits, "budget": plan.audit.budget or DEFAULT_BUDGET}
    )
    complete = plan.model_copy(update={"audit": audit})
    check_policy(complete)
    return complete


def check_policy(plan: AuditPlan) -> None:
    """Refuses a policy that the plan could never be judged by, as far as its metrics are known yet.

    Raises:
        BadInput: the policy limits a metric that is not computed.
    """
    metrics = plan.audit.metrics
    if plan.policy.max_psnr is not None and metrics is not None and "psnr" not in metrics:
        raise BadInput("policy.max_psnr is set, but audit.metrics does not hold 'psnr'")
