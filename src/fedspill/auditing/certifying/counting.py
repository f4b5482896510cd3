"""The record of what an attack claims to have read verbatim, with what was measured of such claims."""

from typing import Literal

from fedspill.auditing.certifying.claims import Claims
from fedspill.auditing.certifying.measured import MEASURED, limit
from fedspill.core.types import Reconstruction
from fedspill.report.certified import Certified


def certified(
    attack: str, claimed: Claims, rebuilt: Reconstruction, n: int | None, verbatim: int | None = None
) -> Certified | None:
    """The record; None if nothing is claimed.

    Args:
        attack: its name, as the measured table has it; an attack of another package has no measurement here.
        claimed: which of its candidates.
        rebuilt: all of them.
        n: examples behind the update, if anybody knows.
        verbatim: of those that are claimed, exact copies of private examples, where the truth is at hand.
    """
    if not len(claimed):
        return None
    known, basis, what = MEASURED.get((attack, claimed.basis)), claimed.basis, _what(rebuilt)
    if known is None:
        return Certified(basis=basis, what=what, records=len(claimed), of=n, verbatim=verbatim)
    return Certified(
        basis=basis,
        what=what,
        records=len(claimed),
        of=n,
        verbatim=verbatim,
        measured=known.claims,
        wrong=known.wrong,
        limit=limit(known.wrong, known.claims),
        far=known.far,
        far_limit=None if known.far is None else limit(known.far, known.claims),
    )


def _what(rebuilt: Reconstruction) -> Literal["examples", "representations"]:
    return "examples" if rebuilt.representations is None else "representations"
