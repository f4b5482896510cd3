"""What an imprint module measures: linear functions of an input, and the cutoffs that share their values out to bins.

Fowl et al.: "Robbing the Fed", ICLR 2022, arXiv:2110.13057, section 3.3 and appendix A.2.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.rng import randn

Cutoffs = Literal["normal", "laplace", "fitted_normal", "fitted_laplace", "empirical"]
BEYOND = 10.0
"""Standard deviations below which, and above which, no example is expected to measure."""
LEAST_PUBLIC = 8
"""Public examples without which no distribution is fitted."""


def check_function(function: str, own: Sequence[float] = ()) -> None:
    """Refuses a linear function that `vector` would refuse whatever the number of features.

    Args:
        function: see `vector`.
        own: the vector of "own".

    Raises:
        BadInput: an unknown function, or an own vector that is missing, all 0 or not finite.
    """
    name, _, mode = function.partition(":")
    if function == "own":
        if not any(own) or not all(map(math.isfinite, own)):
            raise BadInput(f"own vector of {len(own)} numbers; finite ones that are not all 0 are needed")
    elif not (name == "dct" and mode.isdecimal() and int(mode)) and function not in ("mean", "random"):
        raise BadInput(f"linear function {function!r} is unknown; there are mean, dct:M (M >= 1), random, own")


def vector(function: str, features: int, rng: torch.Generator, own: Sequence[float] = ()) -> Float[Tensor, " features"]:
    """The vector w of h(x) = <w, x>, in float64.

    Args:
        function: "mean"; "dct:M", cosine mode M over the flattened input, scaled as in the paper (A.2), so that on
            normalised photographs h has about unit variance; "random", Gaussian, shifted and scaled to mean 0 and
            standard deviation 1 and divided by the root of `features`; "own".
        features: length of the flattened input.
        rng: of "random".
        own: the vector of "own".

    Raises:
        BadInput: an unknown function, or an own vector of another length.
    """
    name, _, mode = function.partition(":")
    if name == "mean" and not mode:
        return torch.full((features,), 1.0 / features, dtype=torch.float64)
    if name == "dct" and mode.isdecimal() and 0 < int(mode) < features:
        place = torch.arange(features, dtype=torch.float64) + 0.5
        return (math.pi / features * place * int(mode)).cos() / features * (4 * int(mode))
    if name == "random" and not mode:
        drawn = randn((features,), rng, torch.zeros((), dtype=torch.float64))
        return (drawn - drawn.mean()) / drawn.std() / features**0.5
    if name == "own" and not mode:
        return _own(own, features)
    raise BadInput(f"linear function {function!r} is unknown; there are mean, dct:M (0 < M < {features}), random, own")


def _own(numbers: Sequence[float], features: int) -> Tensor:
    direction = torch.tensor(list(numbers), dtype=torch.float64)
    if len(direction) != features or not bool(direction.isfinite().all()) or not bool(direction.any()):
        raise BadInput(
            f"own vector of {len(direction)} numbers; {features} finite numbers that are not all 0 are needed"
        )
    return direction


def decorrelated(
    vectors: Float[Tensor, "d features"], public: Float[Tensor, "m features"]
) -> Float[Tensor, "d features"]:
    """The same span, turned so that the measurements of public examples are uncorrelated and have unit variance.

    Two random vectors measure pictures alike, as brightness and large shapes dominate both; bins of correlated
    measurements collide for the same pairs of examples.
    """
    if len(vectors) < 2 or len(public) < LEAST_PUBLIC * len(vectors):
        return vectors
    covariance = torch.atleast_2d((public.to(vectors) @ vectors.T).T.cov())
    values, turn = torch.linalg.eigh(covariance)
    return (turn / values.clamp_min(1e-12 * float(values.max())).sqrt()) @ turn.T @ vectors


def edges(kind: Cutoffs, bins: int, answers: Float[Tensor, " m"] | None) -> Float[Tensor, " ends"]:
    """Ends of `bins` adjoining intervals of equal mass, ascending, in float64; the outermost hold everything.

    Args:
        kind: the assumed distribution: "normal" and "laplace" have mean 0 and variance 1 as in the paper, the
            "fitted" ones those of `answers`, "empirical" takes the quantiles of `answers`.
        bins: how many, at least 1.
        answers: measurements of public examples.

    Raises:
        NotApplicable: `answers` are needed and there are too few.
    """
    return edges_at(kind, torch.arange(1, bins, dtype=torch.float64) / bins, answers)


def edges_at(kind: Cutoffs, share: Float[Tensor, " inner"], answers: Float[Tensor, " m"] | None) -> Tensor:
    """Ends of intervals that are cut at given shares of the mass, ascending, in float64; the outermost hold everything.

    Args:
        kind: see `edges`.
        share: in (0, 1), ascending; none for a single interval.
        answers: see `edges`.

    Raises:
        NotApplicable: see `edges`.
    """
    if kind in ("normal", "laplace"):
        centre, spread = 0.0, 1.0
    elif answers is None or len(answers) < LEAST_PUBLIC:
        got = 0 if answers is None else len(answers)
        raise NotApplicable(f"cutoffs {kind!r} need at least {LEAST_PUBLIC} public examples, got {got}")
    else:
        centre, spread = float(answers.double().mean()), max(float(answers.double().std()), 1e-12)
    if kind == "empirical":
        assert answers is not None
        inner = answers.double().cpu().quantile(share) if len(share) else share
    else:
        inner = _quantiles(kind, share, centre, spread)
    # A fitted tail may lie beyond ten deviations of nothing: the outer ends always enclose the inner ones.
    low, high = centre - BEYOND * spread, centre + BEYOND * spread
    if len(inner):
        low, high = min(low, float(inner[0]) - spread), max(high, float(inner[-1]) + spread)
    return torch.cat([inner.new_tensor([low]), inner, inner.new_tensor([high])])


def _quantiles(kind: Cutoffs, share: Tensor, centre: float, spread: float) -> Tensor:
    if kind in ("normal", "fitted_normal"):
        return torch.as_tensor(stats.norm.ppf(share.numpy(), centre, spread))
    # A Laplace distribution of variance 1 has the scale 1 / sqrt(2).
    return torch.as_tensor(stats.laplace.ppf(share.numpy(), centre, spread / 2**0.5))
