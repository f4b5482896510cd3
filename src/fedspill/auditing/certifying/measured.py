"""How often claims were wrong where the truth was at hand: the sums of benchmarks/results/certificates.

Which networks, examples and conditions these are, and what they are not, is in docs/bounds.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from scipy.special import betaincinv

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


MEASURED: Mapping[tuple[str, Basis], Measured] = {
    ("dager", "certificate"): Measured(10, 14, 0, None, 0),
    ("disaggregated_inversion", "certificate"): Measured(8, 16, 0, 0, 0),
    ("imprint_bins", "certificate"): Measured(28, 324, 2, 2, 1),
    ("input_to_head", "certificate"): Measured(47, 162, 42, 30, 7),
    ("linear_first", "certificate"): Measured(66, 262, 3, 3, 2),
    ("linear_layer", "certificate"): Measured(222, 606, 5, 2, 5),
    ("loki", "certificate"): Measured(59, 549, 3, 3, 1),
    ("maui", "certificate"): Measured(23, 145, 1, None, 1),
    ("nex", "certificate"): Measured(172, 422, 0, 0, 0),
    ("one_shot", "certificate"): Measured(20, 20, 0, 0, 0),
    ("reversible_blocks", "certificate"): Measured(44, 156, 30, 18, 5),
    ("robbing_linear_layer", "certificate"): Measured(106, 1269, 13, 10, 7),
    ("robbing_the_fed", "certificate"): Measured(468, 4816, 57, 21, 39),
    ("scale_mia", "certificate"): Measured(16, 221, 4, None, 2),
    ("softmax_disaggregation", "certificate"): Measured(56, 135, 0, 0, 0),
    ("spear", "certificate"): Measured(67, 297, 1, 1, 1),
    ("sub_models", "certificate"): Measured(50, 308, 0, 0, 0),
    ("trap_weights", "certificate"): Measured(245, 698, 27, 9, 11),
    ("dlg", "objective"): Measured(15, 23, 22, 4, 14),
    ("idlg", "objective"): Measured(7, 7, 5, 0, 5),
    ("inverting_gradients", "objective"): Measured(23, 31, 17, 14, 9),
    ("rgap", "objective"): Measured(119, 119, 28, 15, 28),
}
"""By the attack's name and what its claims stand on; what is not here was not measured."""


def limit(wrong: int, claims: int) -> float | None:
    """The most, at `CONFIDENCE`, that the probability of a wrong claim may be (Clopper-Pearson, one-sided).

    A quantile of the beta distribution: importing scipy.stats for its `binomtest` takes half as long as importing
    PyTorch. None without claims. It takes claims to be independent, which those of one update are not quite.
    """
    if not claims:
        return None
    return 1.0 if wrong == claims else float(betaincinv(wrong + 1, claims - wrong, CONFIDENCE))
