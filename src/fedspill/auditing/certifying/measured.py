"""How often claims were wrong where the truth was at hand: the sums of benchmarks/results/certificates.

Which networks, examples and conditions these are, and what they are not, is in docs/bounds.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from scipy.stats import binomtest

from fedspill.auditing.certifying.claims import Basis

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Measured:
    """Claims of one attack on one basis, in batches under clean and hostile conditions.

    Attributes:
        updates: of which a record was claimed.
        claims: records that were claimed.
        wrong: of them, those that are no exact copy of a private example, or of its representation.
        far: of them, pictures that are below 40 dB; None where no pictures are claimed.
        wrong_updates: of which a wrong record was claimed.
    """

    updates: int
    claims: int
    wrong: int
    far: int | None
    wrong_updates: int


MEASURED: Mapping[tuple[str, Basis], Measured] = {}
"""By the attack's name and what its claims stand on; what is not here was not measured."""


def limit(wrong: int, claims: int) -> float | None:
    """The most, at `CONFIDENCE`, that the probability of a wrong claim may be (Clopper-Pearson, one-sided).

    None without claims. It takes claims to be independent, which those of one update are not quite.
    """
    if not claims:
        return None
    return float(binomtest(wrong, claims, alternative="less").proportion_ci(CONFIDENCE, method="exact").high)
