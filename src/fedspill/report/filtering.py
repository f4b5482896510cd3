"""What a test of a client's filter chain came to: the fate of every tensor, noise, clipping, leakage, and findings."""

from dataclasses import dataclass, field

from fedspill.core.roles import Exposed, Finding

FINDING = 1
"""The exit code of a chain with an alarm."""
FAIL_FROM = 0.5
"""Severity from which a finding is an alarm."""
NO_PRIVACY = "no differential privacy"


@dataclass(frozen=True)
class Fate:
    """What became of one tensor.

    Attributes:
        name: of the tensor as it was pushed.
        kind: "parameter", "buffer", "integers" (a buffer of whole numbers), or "added" (whole numbers that the model
            does not have and that were added for the test).
        size: how many values it has.
        became: in words, such as "clipped x 0.01", "noised (std 0.05)"; what was done first comes first.
        scale: of the part that points the way of what was pushed, over what was pushed; None if it was dropped.
        cosine: of a single output with what was pushed, the mean over the pushes; None if either is all zero.
        kept: share of the values that were not 0 and are not 0 behind the chain.
        noise: standard deviation of what differs from push to push, in the update's unit; 0 for nothing.
        noised: share of the values that differ from push to push.
    """

    name: str
    kind: str
    size: int
    became: tuple[str, ...]
    scale: float | None
    cosine: float | None
    kept: float
    noise: float
    noised: float

    @property
    def sent(self) -> bool:
        """Whether it is among what leaves the client."""
        return self.scale is not None


@dataclass(frozen=True)
class Privacy:
    """What is proven, if the chain always does what it was seen to do.

    Attributes:
        epsilon: of one release; None: no differential privacy, for the `reasons`.
        composed: of `rounds` releases.
        rounds: over which it is composed.
        delta: failure probability.
        unit: between which inputs the releases are hard to tell apart.
        clip: the norm C that was measured; None where nothing is clipped.
        noise: the smallest standard deviation of the tensors that are sent.
        claimed: what the chain's own configuration says, in words; "" for nothing.
        reasons: why nothing is proven.
    """

    epsilon: float | None
    composed: float | None
    rounds: int
    delta: float
    unit: str
    clip: float | None
    noise: float
    claimed: str = ""
    reasons: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """In one sentence."""
        if self.epsilon is None:
            return f"{NO_PRIVACY}: {'; '.join(self.reasons)}"
        one = f"epsilon {self.epsilon:.3g} a release"
        return f"{one}, {self.composed:.3g} over {self.rounds} rounds, at delta {self.delta:g}, for {self.unit}"


@dataclass(frozen=True)
class Filtering:
    """A filter chain tested.

    Attributes:
        source: the chain as it was named.
        steps: what it consists of, in order.
        model: the network whose update was pushed.
        examples: behind the update that was pushed.
        pushes: of the same update.
        fates: one per tensor.
        findings: the most severe first.
        privacy: epsilon, or why there is none.
        law: of the noise, "Gaussian", "Laplace", "uniform", "neither of these" or "" for no noise.
        odd: what became of NaN, infinity and zeros, in words, by the name of what was pushed.
        cosine: of the whole update with what leaves, the mean over the pushes; None if nothing leaves.
        before: attacks on the update as it was pushed.
        after: the same attacks on what left.
        knowing: likewise, by a server that knows what the chain does; () where there is nothing to adapt to.
        averaged: likewise, of the mean of the answers to all pushes.
        notes: what a reader must know, a sentence each.
        seconds: of processor time.
        fail_from: severity from which a finding is an alarm.
    """

    source: str
    steps: tuple[str, ...]
    model: str
    examples: int
    pushes: int
    fates: tuple[Fate, ...]
    findings: tuple[Finding, ...]
    privacy: Privacy
    law: str
    odd: dict[str, str] = field(default_factory=dict[str, str])
    cosine: float | None = None
    before: tuple[Exposed, ...] = ()
    after: tuple[Exposed, ...] = ()
    knowing: tuple[Exposed, ...] = ()
    averaged: tuple[Exposed, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    fail_from: float = FAIL_FROM

    @property
    def alarms(self) -> tuple[Finding, ...]:
        """The findings for which the chain must not be relied on."""
        return tuple(f for f in self.findings if f.severity >= self.fail_from)

    @property
    def exit_code(self) -> int:
        """0, which is not evidence of safety, or 1."""
        return FINDING if self.alarms else 0
