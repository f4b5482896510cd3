"""What vetting an incoming model came to: its findings, judged by a policy, and what they hold for."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedspill.core.roles import Finding
from fedspill.core.tensor_files import sha256

FINDING = 1
"""The exit code of a model with an alarm."""


def fingerprint(finding: Finding) -> str:
    """What makes a finding the same one in the next round: its rule and its places, whatever the numbers are."""
    return sha256("\n".join((finding.rule_id, finding.where, *finding.also)))[:32]


@dataclass(frozen=True)
class Judged:
    """A finding under a policy.

    Attributes:
        finding: with the policy's severity.
        alarm: the model must not be trained on because of it.
        accepted: it was accepted before, no less severe than now, so that it raises no alarm.
    """

    finding: Finding
    alarm: bool
    accepted: bool = False

    @property
    def fingerprint(self) -> str:
        """See `fingerprint`."""
        return fingerprint(self.finding)


@dataclass(frozen=True)
class Vetting:
    """A model vetted.

    Attributes:
        source: the file or the network, for a reader.
        checksum: of the weights; the same for every client that received the same model.
        parameters: how many numbers the model has.
        checks: that ran.
        skipped: checks that do not apply, with the reason.
        compared: what stood beside the model, such as "the round before".
        missing: what would have let more be seen.
        findings: the most severe first.
        fail_from: severity from which a finding is an alarm.
        seconds: what it took.
        examples: of the client's own that were at hand.
        memory: bytes by which the process grew at its largest; None where nobody looked.
    """

    source: str
    checksum: str
    parameters: int
    checks: tuple[str, ...]
    findings: tuple[Judged, ...]
    fail_from: float
    seconds: float
    compared: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict[str, str])
    examples: int = 0
    memory: int | None = None

    @property
    def alarms(self) -> tuple[Judged, ...]:
        """The findings for which the model must not be trained on."""
        return tuple(judged for judged in self.findings if judged.alarm)

    @property
    def exit_code(self) -> int:
        """0, which is not evidence of safety, or 1."""
        return FINDING if self.alarms else 0
