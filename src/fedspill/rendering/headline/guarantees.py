"""Words on a leak, never blended: what attacks reached, what they certify, what was declared, what none beats."""

from dataclasses import dataclass

from fedspill.rendering import numbers
from fedspill.rendering.headline.certified import certified_lines
from fedspill.rendering.headline.roles import score_of
from fedspill.report.bounds import Bounds
from fedspill.report.schema import AuditReport


@dataclass(frozen=True)
class Block:
    """One kind of word.

    Attributes:
        name: "Measured", "Certified", "Declared" or "Bounded".
        about: what such words are worth.
    """

    name: str
    about: str
    lines: tuple[str, ...]


def blocks(report: AuditReport) -> list[Block]:
    """What is certified, if anything; with it measured, declared and bounded, if the plan has a defence or a bound."""
    bounds, told = report.bounds, certified_lines(report)
    claimed = [Block("Certified", "by the attacks themselves, without the private data", told)] if told else []
    if bounds is None:
        return claimed
    return [
        Block("Measured", "by the attacks that were run; others may do better", _measured(report)),
        *claimed,
        Block("Declared", "by the plan; nothing here checks it", _declared(report, bounds)),
        Block("Bounded", "for every attack, as far as what is declared is true", _bounded(bounds)),
    ]


def _measured(report: AuditReport) -> tuple[str, ...]:
    share = report.leakage_rate
    leaked = "leaks were not judged" if share is None else f"leaked: {numbers.rate(share)}"
    closest = "no example was scored" if not report.worst else f"closest example: {score_of(report.worst[0])}"
    return (leaked, closest)


def _declared(report: AuditReport, bounds: Bounds) -> tuple[str, ...]:
    prior = (
        "no prior (policy.prior)"
        if bounds.prior is None
        else f"prior: whoever saw no update rebuilds an example with probability {bounds.prior:g} at most"
    )
    knows = ", ".join(g.name.replace("_", " ") for g in report.grants if g.granted) or "nothing but its own model"
    claims = [
        f"{d.name} claims epsilon {d.cost.epsilon:.4g} at delta {d.cost.delta:g} of one release ({d.cost.unit})"
        if d.cost is not None
        else f"{d.name} claims no epsilon"
        for d in report.defences
    ]
    return (prior, f"the server knows: {knows}", *claims, "noise is drawn anew each time, and nobody knows its draws")


def _bounded(bounds: Bounds) -> tuple[str, ...]:
    if bounds.missing:
        return (f"nothing: {bounds.missing}",)
    privacy = f"epsilon not counted: {bounds.privacy_missing}" if bounds.privacy is None else bounds.privacy.sentence
    mu = () if bounds.mu is None else (f"mu {bounds.mu:.4g} over {numbers.count(bounds.rounds, 'release')}",)
    own = () if bounds.policy_success is None else (_own(bounds),)
    usual = ", ".join(f"{s.success:.3g} at prior {s.prior:g}" for s in bounds.success)
    short = (f"not under the policy: {bounds.short}",) if bounds.short else ()
    return (privacy, *mu, *own, f"any attacker's success at most {usual}", *_image(bounds), *short)


def _own(bounds: Bounds) -> str:
    return (
        f"any attacker's success at most {bounds.policy_success:.3g} at the plan's prior {bounds.prior:g}; the policy"
        f" accepts {bounds.max_success:g}"
    )


def _image(bounds: Bounds) -> tuple[str, ...]:
    image = bounds.image
    if image is None:
        return ()
    prior = f"assuming pixels normal and independent, {image.centre:g} +- {image.spread:g}, which real images are not"
    if image.psnr is None:
        return (f"an image's PSNR: no ceiling below 400 dB ({prior})",)
    return (f"an image's PSNR above {image.psnr:.1f} dB with probability {image.chance:g} at most ({prior})",)
