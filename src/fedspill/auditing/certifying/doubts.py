"""Where no certificate holds, as what the clients sent is not the update of their examples."""

from dataclasses import replace

from fedspill.core.knowledge import KnownDefence, ServerKnowledge
from fedspill.core.types import Reconstruction

MIXED = "The clients mix their examples, so that what explains the update may be a mixture: nothing here is certain."
ALTERED = (
    "What the clients sent is not the update of their examples (values were cut off or left out, or a layer draws), so"
    " that no certificate holds: nothing here is certain."
)


def doubt(defence: KnownDefence | None) -> str | None:
    """Why nothing that explains the update need be an example, as far as the server knows; None if nothing is known."""
    if defence is None:
        return None
    if defence.mixed:
        return MIXED
    altered = defence.cut or defence.random_layers or (defence.survivors and defence.is_noisy)
    return ALTERED if altered else None


def unsure(returned: Reconstruction, knowledge: ServerKnowledge) -> Reconstruction:
    """What an attack is sure of where clients mix their examples, or alter the update, explains no example."""
    why = doubt(knowledge.defence) if returned.converged else None
    return returned if why is None else replace(returned, converged=False, notes=(*returned.notes, why))
