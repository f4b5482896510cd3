"""What no attack beats on an audit's updates, as the report keeps it, apart from what attacks reached."""

from pydantic import Field

from fedspill.report.trial import Record


class SuccessBound(Record):
    """A bound on any attacker's success.

    Attributes:
        prior: probability of being right without any update.
        success: with all updates of one client, at most.
        how: in words.
    """

    prior: float
    success: float
    how: str


class Privacy(Record):
    """Differential privacy of all releases of one client together.

    Attributes:
        unit: what is protected: one example, client or update.
        relation: which pairs epsilon is about.
        sentence: all that epsilon means nothing without, in one.
    """

    epsilon: float
    delta: float
    unit: str
    relation: str
    sentence: str


class ImageCeiling(Record):
    """PSNR that any attacker exceeds with probability `chance` at most, if pixels are normal and independent.

    Attributes:
        psnr: in dB; None is no ceiling below 400 dB.
        centre: assumed mean of every pixel, in [0, 1].
        spread: assumed standard deviation.
    """

    psnr: float | None
    chance: float
    centre: float
    spread: float


class Bounds(Record):
    """The bounds of the updates that were audited, and whether they lie under the policy.

    Attributes:
        missing: why nothing is bounded; "" if something is.
        rounds: releases of one client that are counted.
        unit: whose part is bounded, if anything is.
        mu: of all Gaussian releases together; None where that is not how it is counted.
        privacy: None if it was not counted.
        privacy_missing: why it was not.
        prior: of the plan: with which probability somebody who saw no update rebuilds an example; None: none stated.
        max_success: the largest success probability that the policy accepts.
        policy_success: the bound at the plan's prior.
        success: the same at 0.1, 1e-3 and 1e-6.
        image: of one image; None if there is none, or its noise is not Gaussian.
        short: why these bounds are not under the policy; "" if they are.
    """

    missing: str = ""
    rounds: int = 1
    unit: str | None = None
    mu: float | None = None
    privacy: Privacy | None = None
    privacy_missing: str = ""
    prior: float | None = None
    max_success: float = 0.05
    policy_success: float | None = None
    success: list[SuccessBound] = Field(default_factory=list[SuccessBound])
    image: ImageCeiling | None = None
    short: str = ""

    @property
    def under_policy(self) -> bool:
        """A bound was computed, and lies under the policy."""
        return not self.missing and not self.short and self.policy_success is not None
