"""First guesses of the mixing: probabilities that the head could give, and what the equations then say.

Where a network is sure, examples are unlike in loudness by orders of magnitude, and no guess of all of them at once is
near. They are found one after the other then, the loudest first, each in one more direction of the gradient's rows.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.rng import rand, randn
from fedspill.inversion.disaggregation.point import Rules, point
from fedspill.inversion.disaggregation.solving import solve
from fedspill.inversion.disaggregation.system import System

SPREAD = (0.003, 2.0)
"""Standard deviation of the noise on the logits, from the first start to the last."""
SLIGHT, PENALTY, APART = 0.05, 1e-2, 0.2
"""Noise on the logits of starts near the classes' means, the penalty's share, and how far apart examples are put."""
SURE, WILD = 10.0, 2.0
"""What is added at most to the logit of each example's own class, and the noise on all, where a network may be sure."""

SAMPLES, MOST_SAMPLES = 8000, 2000
"""Guesses of one more example, over all labels that it may have, and of one label at most."""
FOLLOWED, STEPS, WAYS, BEAM, ATTEMPTS = 12, 60, 16, 4, 3
"""Guesses of a label that are followed, and for how many steps; labels in a round; results kept; rounds at most."""
AUDIBLE, FAR = 0.3, 3.0
"""Share of what is missing that one more example must bring, and its length over that of the others at most."""


def starts(
    known: System, bias: Float[Tensor, " classes"], number: int, rng: torch.Generator
) -> Float[Tensor, "number m m"]:
    """Mixings by least squares from probabilities about softmax of the bias, each example's own.

    Args:
        known: the equations.
        bias: the head's.
        number: of starts.
        rng: what is drawn.
    """
    low, high = SPREAD
    powers = torch.linspace(0, 1, number, dtype=bias.dtype, device=bias.device) if number > 1 else bias.new_ones(1)
    spread = (low * (high / low) ** powers)[:, None, None]
    return _behind(known, bias + spread * randn((number, *known.target.shape), rng, bias))


def mean_starts(
    known: System, bias: Float[Tensor, " classes"], number: int, rng: torch.Generator
) -> Float[Tensor, "number m m"]:
    """Mixings near the means of their classes, by least squares with a penalty, and noise that tells examples apart.

    In large batches many examples share a class, and least squares alone would make huge differences of them.
    """
    logits = bias + SLIGHT * randn((number, *known.target.shape), rng, bias)
    errors = known.errors(logits.softmax(-1))
    gram = errors @ errors.mT
    penalty = PENALTY * gram.diagonal(dim1=1, dim2=2).mean(1, keepdim=True)
    mixing = torch.linalg.solve(gram + torch.diag_embed(penalty.expand(gram.shape[:2])), errors @ known.seen)
    mixing = mixing / (mixing @ known.ones)[..., None] if known.affine else mixing
    return (
        mixing
        + APART * mixing.norm(dim=2, keepdim=True) * randn(tuple(mixing.shape), rng, bias) / len(logits[0]) ** 0.5
    )


def sure_starts(
    known: System, bias: Float[Tensor, " classes"], number: int, rng: torch.Generator
) -> Float[Tensor, "number m m"]:
    """Those of a trained network, which is sure of some examples, and of others not."""
    m = len(known.target)
    sure = SURE * rand((number, m, 1), rng, bias)
    own = known.target.argmax(1)[None, :, None].expand(number, -1, 1)
    logits = bias + WILD * randn((number, *known.target.shape), rng, bias)
    return _behind(known, logits.scatter_add(2, own, sure))


def _behind(known: System, logits: Float[Tensor, "s m classes"]) -> Float[Tensor, "s m m"]:
    """Mixings that come nearest to the gradient with such logits."""
    return torch.linalg.pinv(known.errors(logits.softmax(-1)).mT) @ known.seen


@dataclass(frozen=True)
class Grown:
    """Examples that explain as many directions of the gradient's rows, the loudest ones.

    Attributes:
        labels: of the examples.
        mixing: of the directions.
        residual: of their equations, relative; quieter examples are in it.
    """

    labels: Int[Tensor, " r"]
    mixing: Float[Tensor, "r r"]
    residual: float


def loudest_first(
    equations: Callable[[Tensor], System],
    left: Callable[[Tensor], Sequence[int]],
    goals: Iterable[float],
    rng: torch.Generator,
    is_up: Callable[[], bool] = lambda: False,
) -> list[Grown]:
    """The best guesses of all examples, by adding one after the other; empty where the time is over.

    Args:
        equations: of examples with these labels, in as many directions.
        left: labels that one more example may have beside those.
        goals: the residual at which a number of examples is taken to be right, for 1, 2, ... up to all of them.
        rng: what is drawn.
        is_up: whether the time is over.
    """
    beam: list[Grown] | None = None
    for goal in goals:
        found = list[Grown]()
        for _ in range(ATTEMPTS):
            if is_up():
                return []
            found += _with_one_more(equations, left, beam, goal, rng, is_up)
            if min((f.residual for f in found), default=0.0) < goal:
                break
        beam = _unlike(found)
    return beam or []


def _with_one_more(
    equations: Callable[[Tensor], System],
    left: Callable[[Tensor], Sequence[int]],
    beam: Sequence[Grown] | None,
    goal: float,
    rng: torch.Generator,
    is_up: Callable[[], bool],
) -> list[Grown]:
    tried = list[tuple[float, Tensor, System, Tensor]]()
    none = torch.zeros(0, dtype=torch.long)
    for before in beam if beam is not None else [None]:
        labels = none if before is None else before.labels
        choices = left(labels)
        for label in choices if not is_up() else ():
            more = torch.cat([labels, labels.new_tensor([label])])
            known = equations(more)
            number = min(MOST_SAMPLES, SAMPLES // len(choices) + 1)
            near, guesses = _screened(known, _extended(known, before, number, rng))
            if len(guesses):
                tried.append((near, more, known, guesses))
    found = list[Grown]()
    for _, labels, known, guesses in sorted(tried, key=lambda t: t[0])[:WAYS]:
        rules = Rules(steps=STEPS, enough=goal / 10)
        best = solve(known, guesses, torch.ones_like(guesses[:, 0, 0]), rules, is_up).best()
        found.append(Grown(labels, best.mixing[0], float(best.residual[0])))
    return found


def _extended(known: System, before: Grown | None, number: int, rng: torch.Generator) -> Float[Tensor, "s r r"]:
    """Guesses with a last example of any direction, not unlike the others, which are moved a little or not at all."""
    r, like = len(known.target), known.seen
    if before is None:
        length = 1 / known.ones if known.affine else 10 ** (4 * rand((number, 1), rng, like) - 2)
        return (length * randn((number, 1), rng, like).sign() if not known.affine else length[None]).reshape(-1, 1, 1)
    old = torch.cat([before.mixing, before.mixing.new_zeros(r - 1, 1)], 1)
    size, chosen = old.norm(dim=1).mean(), (rand((number,), rng, like) * (r - 1)).long()
    apart = 10 ** (-1.5 * rand((number, 1), rng, like))
    new = (1 - apart) * old[chosen] + 1.5 * apart * size * randn((number, r), rng, like) / r**0.5
    moved = 10 ** (-3 * rand((number, 1, 1), rng, like)) * (rand((number, 1, 1), rng, like) < 0.7)
    others = old + moved * size * randn((number, r - 1, r), rng, like) / r**0.5
    both = torch.cat([others, new[:, None]], 1)
    both = both / (both @ known.ones)[..., None] if known.affine else both
    return both[both[:, -1].norm(dim=1) < FAR * size]


def _screened(known: System, guesses: Float[Tensor, "s r r"]) -> tuple[float, Float[Tensor, "k r r"]]:
    """The guesses of the least residual whose last example can be heard, and that residual."""
    here = point(known, guesses, torch.ones_like(guesses[:, 0, 0]), 0.0)
    loud = here.errors[:, -1].norm(dim=1) * guesses[:, -1, -1].abs()
    missing = known.seen[:, -1].norm() / known.seen.norm().clamp_min(1e-300)
    residual = here.residual().where(loud > AUDIBLE * missing, torch.inf)
    index = residual.argsort()[:FOLLOWED]
    index = index[residual[index].isfinite()]
    return float(residual[index[0]]) if len(index) else torch.inf, guesses[index]


def _unlike(found: Sequence[Grown]) -> list[Grown]:
    """The best that differ in labels or residual."""
    kept = dict[tuple[object, ...], Grown]()
    for one in sorted(found, key=lambda f: f.residual):
        kept.setdefault((*one.labels.sort().values.tolist(), f"{one.residual:.1e}"), one)
    return list(kept.values())[:BEAM]
