"""The defences of a plan in the accountants' terms."""

from fedspill.auditing.resolving.components import ChosenDefence
from fedspill.auditing.resolving.scenario import Scenario
from fedspill.core.model import BATCH_NORMS
from fedspill.core.roles import Stages
from fedspill.privacy.release import Accounted, Chain, Step, chained


def chain_of(scenario: Scenario) -> Chain:
    """What the defences of one client come to on one update."""
    model, training = scenario.model, scenario.clients.training
    size = sum(model.params[name].numel() for name in model.trained_names(training.trainable))
    steps = [(d.label, _step(d, examples_of_a_client(scenario))) for d in scenario.defences if _touches(d)]
    norms = any(isinstance(m, BATCH_NORMS) for m in model.module.modules())
    return chained(steps, size, buffers=model.training and norms)


def examples_of_a_client(scenario: Scenario) -> int:
    """How many are behind one client's update."""
    if scenario.rounds is not None:
        return len(scenario.groups[0])
    return len(scenario.groups[0]) // scenario.clients.count


def _step(defence: ChosenDefence, examples: int) -> Step | None:
    return defence.component.step(examples) if isinstance(defence.component, Accounted) else None


def _touches(defence: ChosenDefence) -> bool:
    """It changes gradients or the update; what changes architecture or data alone comes before both."""
    stages, idle = defence.component.stages(), Stages()
    return stages.protect is not idle.protect or stages.per_example is not None
