"""The defences of a plan in the accountants' terms."""

from collections.abc import Sequence
from dataclasses import replace

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
    chain = chained(steps, size, buffers=model.training and norms)
    why = _not_per_example(scenario, steps) if chain.release is not None and chain.release.unit == "example" else ""
    return replace(chain, release=None, reason=why) if why else chain


def _not_per_example(scenario: Scenario, steps: Sequence[tuple[str, Step | None]]) -> str:
    """Why one example's part is not what was clipped, though a defence clips every example's gradient."""
    idle = Stages()
    for defence in scenario.defences:
        stages = defence.component.stages()
        if stages.blend is not None or stages.transform is not idle.transform:
            return f"{defence.label} mixes or changes examples before their gradients are clipped"
    name, step = steps[0]
    if step is None or step.unit != "example":
        return f"{name} acts between the clipping of every example and the noise"
    return ""


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
