"""From the best iterate of a gradient-matching search to a Reconstruction, judged without the truth."""

import torch
from torch import Tensor

from fedspill.core.types import Reconstruction
from fedspill.inversion.hypotheses import Hypothesis, notes_on
from fedspill.inversion.matching import Matching, cosine_distance
from fedspill.inversion.search import Found


def conclude(
    matching: Matching, z: Tensor, labels: Tensor, found: Found, tried: list[Hypothesis], level: float
) -> Reconstruction:
    """The reconstruction, with 1 - cosine distance of the two updates as its confidence.

    Args:
        labels: classes (n,), or class probabilities (n, classes), of which the likeliest class is kept.
        level: converged means a cosine distance of the updates, without any prior, below this.
    """
    judge = Matching(matching.model, matching.observed, matching.training, matching.clients, cosine_distance)
    with torch.enable_grad():
        distance = float(judge(z.detach(), labels.detach()).detach())
    spec = matching.model.input
    classes = labels.argmax(1) if labels.is_floating_point() else labels
    kept = tried[found.problem]
    notes = notes_on(tried, found.best_by_problem, found.problem)
    if found.diverged:
        notes += (f"{found.diverged} of the runs diverged and were given up.",)
    if not found.complete:
        notes += ("The budget ended before the last iteration; this is the best so far.",)
    return Reconstruction(
        inputs=spec.decode(spec.project(z.detach())),
        labels=classes,
        label_method=None if kept.label_method == "granted" else kept.label_method,
        confidence=torch.full((len(z),), max(0.0, min(1.0, 1.0 - distance))),
        objective=found.history,
        converged=distance < level,
        notes=notes,
    )
