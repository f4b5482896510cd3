"""All that was measured of a chain, as what is concluded from it takes it."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedspill.filtering.attacking import Attacked
from fedspill.filtering.chains.chain import Declared, Unit
from fedspill.filtering.clipping import Bound
from fedspill.filtering.odd import Odd
from fedspill.report.filtering import Fate


@dataclass(frozen=True)
class Seen:
    """All that was measured.

    Attributes:
        declared: what the chain is meant to do.
        fates: of every tensor.
        bound: what a larger update comes to.
        unit: whose part is clipped.
        computes: the chain computes the update itself.
        pairs: of pushes whose differences the noise was measured by.
        repeated: tensors whose noise is the same in every push.
        seeded: tensors whose noise is the same in a chain that was built anew.
        alike: pairs of tensors that share their noise.
        odd: what became of odd updates.
        attacks: on what left.
        withheld: of all pushes, how many the chain withheld.
        pushes: of the same update.
    """

    declared: Declared
    fates: Sequence[Fate]
    bound: Bound
    unit: Unit
    computes: bool
    pairs: int
    repeated: Sequence[str]
    seeded: Sequence[str]
    alike: Sequence[tuple[str, str]]
    odd: Odd
    attacks: Attacked
    withheld: int
    pushes: int

    @property
    def sent(self) -> list[Fate]:
        """The tensors that leave and that the network has: what it does not have it does not send either."""
        return [f for f in self.fates if f.sent and f.size and f.kind != "added"]
