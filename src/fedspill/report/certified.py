"""An attack's own word that it read records verbatim, and how often such a word was wrong by the truth."""

from typing import Literal

from fedspill.report.record import Record

NO_CERTIFICATE = 0.05
"""Share of wrong claims beyond which an attack's word is not called a certificate."""


class Certified(Record):
    """Records that an attack claims without the private data, and what was measured of such claims.

    Attributes:
        basis: "certificate": what was read reproduces what the update holds of it; "objective": what the attack
            minimises fell below the level that it states, which is no certificate.
        what: what is claimed; representations are what the network makes of examples inside.
        records: k, different ones.
        of: how many examples are behind the update; None if nobody knows.
        verbatim: of the k, those that are exact copies of private examples; None where the truth is not at hand.
        measured: claims of this attack on this basis that were compared with a truth (docs/bounds.md).
        wrong: of them, those that were no exact copy.
        limit: the most, at 95 %, that a single claim's probability of being wrong may be by that measurement
            (Clopper-Pearson, one-sided); None if nothing was measured.
        far: like `wrong`, of pictures below 40 dB; None of what is no picture.
        far_limit: likewise.
    """

    basis: Literal["certificate", "objective"]
    what: Literal["examples", "representations"] = "examples"
    records: int
    of: int | None = None
    verbatim: int | None = None
    measured: int = 0
    wrong: int = 0
    limit: float | None = None
    far: int | None = None
    far_limit: float | None = None

    @property
    def is_certificate(self) -> bool:
        """Whether the claim may be called certified: a certificate that was not measured to be worth little."""
        return self.basis == "certificate" and self.wrong <= NO_CERTIFICATE * self.measured

    def sentence(self) -> str:
        """What is claimed, in a sentence, with the probability that such a claim is wrong."""
        read = f"{_counted(self.records, self.of)} {_WHAT[self.what]}"
        if self.is_certificate:
            return f"{read} read verbatim, certified without the private data; {self._believed()}.{self._truth()}"
        how = "the attack's objective fell below its level" if self.basis == "objective" else "the attack's own word"
        return f"{read} rebuilt ({how}), which is no certificate: {self._believed()}.{self._truth()}"

    def _believed(self) -> str:
        if self.limit is None:
            return "false-positive probability not measured"
        told = f"measured: {self.wrong:,} of {self.measured:,} such claims were wrong; 95 % upper limit"
        all_of_them = f", in expectation at most {self.records * self.limit:.2g} of these" if self.records > 1 else ""
        return f"false-positive probability of each at most {self.limit:.2g} ({told}){all_of_them}{self._far()}"

    def _far(self) -> str:
        if self.far is None or self.far_limit is None:
            return ""
        return f"; farther than 40 dB: at most {self.far_limit:.2g} ({self.far:,} of {self.measured:,})"

    def _truth(self) -> str:
        return "" if self.verbatim is None else f" By the truth, {self.verbatim} of the {self.records} are."


_WHAT = {"examples": "records", "representations": "representations"}


def _counted(k: int, n: int | None) -> str:
    return f"{k}" if n is None else f"{k} of {n}"
