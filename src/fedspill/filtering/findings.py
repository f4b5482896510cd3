"""What is broken in a chain: one finding per reason, most of them about noise that is not what it seems."""

from collections.abc import Iterator, Sequence

from fedspill.core.errors import few
from fedspill.core.roles import Finding
from fedspill.filtering.noise import below
from fedspill.filtering.seen import Seen
from fedspill.report.filtering import Fate

CHECK = "filters"
CERTAIN, GRAVE, LIKELY, NOTE = 1.0, 0.9, 0.7, 0.3
"""Severities; from 0.5 on a finding is an alarm."""
ADVICE = "Add noise that a clipping norm is matched to."
NO_MORE = 1e-3
"""Of a declared noise, below which there is none."""


def findings_of(seen: Seen) -> tuple[Finding, ...]:
    """The most severe first."""
    rules = (_leaks, _heuristics, _same_noise, _bare, _declared_noise, _order, _declared_clip, _odd, _passing)
    every = [finding for rule in rules for finding in rule(seen)]
    return tuple(sorted(every, key=lambda finding: -finding.severity))


def _found(
    rule: str,
    where: Sequence[str],
    severity: float,
    evidence: dict[str, float],
    said: str,
    advice: str,
    reads: str = "",
) -> Finding:
    first = where[0] if where else "update"
    return Finding(CHECK, first, severity, evidence, said, rule, reads, advice, tuple(where[1:]))


def _leaks(seen: Seen) -> Iterator[Finding]:
    answers, found = seen.pushes - seen.withheld, seen.attacks
    servers = (
        ("leaks", CERTAIN, found.after, "what leaves"),
        ("leaks.knowing", CERTAIN, found.knowing, "what leaves, by knowing the chain"),
        ("leaks.averaged", LIKELY, found.averaged, f"the mean of {answers} answers to one model"),
    )
    told = set[str]()
    for rule, severity, attacks, source in servers:
        for one in attacks:
            if one.attack in told or not bool(one.read.any()):
                continue
            told.add(one.attack)
            count, total = int(one.read.sum()), len(one.read)
            evidence = {"read": float(count), "examples": float(total)}
            evidence |= {} if one.closest is None else {"closest": one.closest}
            said = f"{one.attack} rebuilt {count} of {total} examples from {source} ({one.criterion})."
            yield _found(rule, [], severity, evidence, said, ADVICE, "Examples.")


def _heuristics(seen: Seen) -> Iterator[Finding]:
    for name in seen.declared.heuristics:
        said = f"{name} is no mechanism of differential privacy, though it is often taken for one."
        yield _found(
            "heuristic", [], NOTE, {}, said, "Do not call it differential privacy, and do not add up its epsilon."
        )


def _noisy(seen: Seen) -> list[Fate]:
    return [f for f in seen.fates if f.noise > 0 and f.sent]


def _same_noise(seen: Seen) -> Iterator[Finding]:
    if seen.repeated:
        said = f"{few(seen.repeated)}: the same noise in every push, so one seed serves every round."
        reads = "The server takes the difference of two rounds, or subtracts what it has once learnt."
        yield _found(
            "noise.repeated", seen.repeated, CERTAIN, {}, said, "Draw noise from a fresh secret stream.", reads
        )
    if seen.seeded:
        said = f"{few(seen.seeded)}: a chain built anew draws the same noise in the same round, so its seed is fixed."
        reads = "Whoever has the configuration, or another client, knows the noise and subtracts it."
        yield _found("noise.seeded", seen.seeded, CERTAIN, {}, said, "Seed from the operating system's entropy.", reads)
    if seen.alike:
        names = list(dict.fromkeys(name for pair in seen.alike for name in pair))
        said = f"{few(names)} share one noise, up to a factor: a generator starts anew for each tensor."
        yield _found("noise.shared", names, GRAVE, {}, said, "Draw all tensors' noise from one stream.")


def _bare(seen: Seen) -> Iterator[Finding]:
    """Tensors without noise beside others that have some, or are meant to."""
    meant = bool(_noisy(seen)) or bool(seen.declared.noise) or bool(seen.repeated)
    quiet = [f for f in seen.fates if f.sent and f.size and not f.noise and f.name not in seen.repeated]
    if not meant or not (_noisy(seen) or seen.repeated):
        return
    of_kind = {kind: [f.name for f in quiet if f.kind == kind] for kind in ("parameter", "buffer", "integers", "added")}
    if of_kind["parameter"]:
        said = f"{few(of_kind['parameter'])}: sent without noise beside parameters that have some."
        yield _found("noise.left_out", of_kind["parameter"], GRAVE, {}, said, "Noise every tensor, or do not send it.")
    if of_kind["buffer"]:
        said = f"{few(of_kind['buffer'])}: buffers, which hold statistics of the client's data, are sent without noise."
        yield _found("buffers.unnoised", of_kind["buffer"], LIKELY, {}, said, "Do not send them, or noise them too.")
    if of_kind["integers"]:
        said = f"{few(of_kind['integers'])}: whole numbers are sent as they are, beside tensors that have noise."
        reads = "How many batches the client trained on."
        yield _found("integers.unnoised", of_kind["integers"], LIKELY, {}, said, "Do not send whole numbers.", reads)
    if of_kind["added"]:
        said = "Whole numbers would be sent as they are; this network has none, so one was added to see."
        yield _found("integers.would_pass", of_kind["added"], NOTE, {}, said, "Do not send whole numbers.")


def _declared_noise(seen: Seen) -> Iterator[Finding]:
    meant = seen.declared.noise
    sent = [f for f in seen.fates if f.sent and f.kind == "parameter" and f.name not in seen.repeated]
    if not meant or not sent:
        return
    none = [f.name for f in sent if f.noise <= NO_MORE * meant]
    if len(none) == len(sent):
        said = f"Noise of standard deviation {meant:.3g} is declared, and there is none."
        yield _found("noise.none", none, CERTAIN, {"declared": meant}, said, "Find out why no noise is added.")
        return
    small = [f for f in sent if f.name not in none and below(f.noise, meant, f.size * seen.pairs)]
    if small:
        least = min(f.noise for f in small)
        said = f"Noise of standard deviation {meant:.3g} is declared, and {least:.3g} was measured."
        evidence = {"declared": meant, "measured": least}
        yield _found(
            "noise.small", [f.name for f in small], GRAVE, evidence, said, "Check what the noise is relative to."
        )


def _order(seen: Seen) -> Iterator[Finding]:
    bound, noise = seen.bound, dict(seen.bound.noise)
    evidence = {f"noise_at_{scale:g}_times": value for scale, value in noise.items()}
    if bound.after_noise:
        said = (
            "What leaves has the same norm in every push although noise is in it: it is clipped after the noise, and a"
            " larger update has less of it."
        )
        reads = "A client with a large update is sent with next to no noise."
        yield _found("clip.after_noise", [], CERTAIN, evidence, said, "Clip first, then add noise.", reads)
    elif bound.vanishes:
        said = "The noise gets less as the update gets larger, so that no amount of it is sure."
        yield _found("noise.vanishes", [], GRAVE, evidence, said, "Clip first, then add noise of one size.")
    elif bound.grows:
        said = "The noise grows with the update: its size tells of the update, and nothing is proven of it."
        yield _found(
            "noise.relative", [], NOTE, evidence, said, "Clip, and add noise that depends on the norm C alone."
        )


def _declared_clip(seen: Seen) -> Iterator[Finding]:
    meant, got = seen.declared.clip, seen.bound.clip
    if meant is None or seen.unit != "update" or not seen.bound.noise or seen.withheld == seen.pushes:
        return
    if seen.repeated:  # a noise that is always the same cannot be told from the update
        return
    if got is None:
        said = f"A clipping norm of {meant:.3g} is declared, and a larger update leaves larger."
        yield _found("clip.none", [], GRAVE, {"declared": meant}, said, "Find out why nothing is clipped.")
    elif seen.bound.exceeds(meant):
        said = f"A clipping norm of {meant:.3g} is declared, and {got:.3g} left."
        evidence = {"declared": meant, "measured": got}
        yield _found("clip.exceeded", [], GRAVE, evidence, said, "Clip all tensors together, to one norm.")


def _odd(seen: Seen) -> Iterator[Finding]:
    if seen.odd.unclips:
        said = f"{few(seen.odd.unclips)} in an update switches the clipping off: the rest leaves at full size."
        reads = "The client's whole update, wherever one value overflows."
        yield _found("clip.unclipped_by_odd", [], LIKELY, {}, said, "Refuse updates that are not finite.", reads)
    if seen.odd.accepted:
        said = f"{few(seen.odd.accepted)} in an update is let out of the client."
        yield _found("odd.accepted", [], NOTE, {}, said, "Refuse updates that are not finite.")


def _passing(seen: Seen) -> Iterator[Finding]:
    """Without noise: tensors that nothing was done to, beside others."""
    if _noisy(seen) or seen.repeated:
        return
    same = [f.name for f in seen.fates if f.became == ("passed unchanged",) and f.kind != "added"]
    altered = [f for f in seen.fates if f.became != ("passed unchanged",) and f.sent]
    if same and altered:
        said = f"{few(same)}: passed unchanged, beside tensors that the chain alters."
        yield _found("tensors.untouched", same, NOTE, {}, said, "See whether these are meant to be left alone.")
