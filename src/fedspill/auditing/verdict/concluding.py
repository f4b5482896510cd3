"""The verdict of a whole audit: a word, a sentence that names the server, and the exit code that the policy wants."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from fedspill.auditing.verdict.levels import Level, Rules, is_useful, level
from fedspill.auditing.verdict.roles import Circumstances, by_role
from fedspill.core.types import ServerRole
from fedspill.plan.sections import PolicySection
from fedspill.report.bounds import Bounds
from fedspill.report.schema import RoleVerdict, Verdict, VerdictName
from fedspill.report.trial import Rate, Trial

SERVERS = {
    ServerRole.HONEST_BUT_CURIOUS.value: "an honest-but-curious server",
    ServerRole.MALICIOUS_PARAMETERS.value: "a server that plants parameters",
    ServerRole.MALICIOUS_ARCHITECTURE.value: "a server that changes the architecture and plants parameters",
}
UNRECOGNISED = "whether examples are recognisable was not judged"
UNJUDGED = "the leak thresholds could not be judged"
SHOWN = (VerdictName.LEAKS, VerdictName.RECOGNISABLE)


def verdict(trials: Sequence[Trial], rules: Rules, known: Circumstances) -> Verdict:
    """The conclusion of docs/plan.md: leaks, recognisable, bounded, not shown or not tested."""
    reached, roles = level(trials, rules), by_role(trials, rules, known)
    incomplete = _incomplete(trials, rules, known.bounds)
    if _is_bounded(reached, incomplete, rules, known.bounds):
        reached, roles, incomplete = replace(reached, name=VerdictName.BOUNDED), _bounded_roles(roles), []
    if reached.name in SHOWN:
        said = _shown(reached, roles, trials, rules, known)
        sentence = said + _against_bound(reached, known.bounds) + _besides(incomplete)
    elif reached.name is VerdictName.BOUNDED:
        sentence = _bounded(known.bounds)
    elif reached.name is VerdictName.NOT_TESTED:
        sentence = _nothing_tested(trials)
    else:
        sentence = _not_shown(rules, incomplete, known.bounds)
    return _judged(reached, sentence, roles, incomplete, rules.policy, known)


def _judged(
    reached: Level,
    sentence: str,
    roles: list[RoleVerdict],
    incomplete: list[str],
    policy: PolicySection,
    known: Circumstances,
) -> Verdict:
    code: Literal[0, 1, 3] = 0
    if _fails(reached, policy):
        code = 1
    elif incomplete or reached.name is VerdictName.NOT_TESTED:
        code = 3
    if policy.strict and code != 1 and (code or known.warnings):
        why = [*known.warnings, *incomplete] or ["nothing was tested"]
        code, sentence = 1, f"{sentence} The policy is strict: {'; '.join(w.rstrip('.') for w in why)}."
    return Verdict(name=reached.name, sentence=sentence, exit_code=code, by_role=roles)


def _fails(reached: Level, policy: PolicySection) -> bool:
    """Whether the policy does not allow what was reached; what leaks is recognisable, too."""
    if reached.name not in SHOWN:
        return reached.name.value in policy.fails
    leaks = _exceeds(reached.leaked, policy) or _too_close(reached, policy)
    recognisable = leaks or _exceeds(reached.recognised, policy)
    return ("leaks" in policy.fails and leaks) or ("recognisable" in policy.fails and recognisable)


def _exceeds(share: Rate | None, policy: PolicySection) -> bool:
    return share is not None and share.rate > policy.max_leakage_rate


def _too_close(reached: Level, policy: PolicySection) -> bool:
    return policy.max_psnr is not None and reached.closest is not None and reached.closest > policy.max_psnr


def _shown(
    reached: Level, roles: list[RoleVerdict], trials: Sequence[Trial], rules: Rules, known: Circumstances
) -> str:
    """Which servers it was shown for and how much, the least demanding first, and what the policy says of it."""
    hit = [r for r in roles if r.name is reached.name]
    parts = [f"to {_server(r, known)}: {_how_much(r, trials, rules)}" for r in hit]
    verb = "leaks" if reached.name is VerdictName.LEAKS else "shows recognisable examples"
    rest = "".join(f" {_capital(_server(r, known))}: {r.name.value}." for r in roles if r not in hit)
    return f"This setting {verb} {'; and '.join(parts)}; the policy allows {_allowed(reached, rules.policy)}.{rest}"


def _besides(incomplete: list[str]) -> str:
    """What was not judged beside what was shown; that attacks failed, or were broken off, matters no more."""
    return f" Besides, {UNJUDGED}." if UNJUDGED in incomplete else ""


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _server(role: RoleVerdict, known: Circumstances) -> str:
    if known.looker is not None and role.role == ServerRole.HONEST_BUT_CURIOUS.value:
        return f"client {known.looker}, who looks on"
    return SERVERS.get(role.role, f"a server of role {role.role}")


def _how_much(role: RoleVerdict, trials: Sequence[Trial], rules: Rules) -> str:
    reached = level([t for t in trials if t.role == role.role], rules)
    share, parts = reached.leaked, list[str]()
    attack = f", by {role.attack}{'' if _alone(role, trials, rules) else ' and others'}"
    if role.name is VerdictName.RECOGNISABLE and reached.recognised is not None:
        seen = reached.recognised
        return f"{seen.hits} of {seen.n} private examples can be told from others by what was rebuilt{attack}"
    if share is not None and share.hits:
        criterion = f" ({share.criterion})" if share.criterion else ""
        parts.append(f"{share.hits} of {share.n} private examples leaked{criterion}")
    if _too_close(reached, rules.policy):
        parts.append(f"an example was rebuilt at {reached.closest:.1f} dB")
    return ", ".join(parts) + attack


def _alone(role: RoleVerdict, trials: Sequence[Trial], rules: Rules) -> bool:
    """Whether the strongest attack, over its updates and seeds, showed all examples that any of its role did."""
    ours = [t for t in trials if t.role == role.role]
    its = [t for t in ours if f"{t.attack}:{t.preset}" == role.attack]
    return _hits(level(its, rules), role.name) == _hits(level(ours, rules), role.name)


def _hits(reached: Level, name: VerdictName) -> int:
    share = reached.leaked if name is VerdictName.LEAKS else reached.recognised
    return 0 if share is None else share.hits


def _allowed(reached: Level, policy: PolicySection) -> str:
    share = f"{policy.max_leakage_rate:.0%}"
    fails = {"leaks", "recognisable"} if reached.name is VerdictName.LEAKS else {"recognisable"}
    if not fails & set(policy.fails):
        return "it"
    return f"{share}, and {policy.max_psnr:g} dB" if _too_close(reached, policy) else share


def _is_bounded(reached: Level, incomplete: Sequence[str], rules: Rules, bounds: Bounds | None) -> bool:
    """Nothing was shown though it was looked for and judged, and a bound lies under the policy.

    That attacks failed, or were broken off, matters no more: the bound is of all of them.
    """
    looked = reached.name is VerdictName.NOT_SHOWN and rules.judged and not {UNJUDGED, UNRECOGNISED} & set(incomplete)
    return looked and bounds is not None and bounds.under_policy


def _bounded_roles(roles: Sequence[RoleVerdict]) -> list[RoleVerdict]:
    """The bound is of any model sent, and so of every kind of server that something was tried for."""
    name = VerdictName.BOUNDED
    return [r.model_copy(update={"name": name}) if r.name is VerdictName.NOT_SHOWN else r for r in roles]


def _bounded(bounds: Bounds | None) -> str:
    assert bounds is not None, "a verdict that rests on a bound"
    assert bounds.policy_success is not None, "and on a prior"
    releases = "the update" if bounds.rounds == 1 else f"the updates of {bounds.rounds} rounds"
    return (
        f"No attacker, whatever model he sends, rebuilds a given example from {releases} with a probability above"
        f" {bounds.policy_success:.3g} (the policy accepts {bounds.max_success:g}), if whoever saw none does so with"
        f" {bounds.prior:g} at most, and if the defences do what they say. No leak was shown either."
    )


def _against_bound(reached: Level, bounds: Bounds | None) -> str:
    """That what was measured is more than what a bound allows, if it is."""
    share = reached.leaked
    if bounds is None or bounds.policy_success is None or share is None or share.rate <= bounds.policy_success:
        return ""
    return (
        f" A bound of {bounds.policy_success:.3g} on any attacker's success was computed at prior {bounds.prior:g}:"
        f" that {share.hits} of {share.n} leaked is chance, or the prior is wrong, or a defence does not do what it"
        " says (fedspill filters)."
    )


def _not_shown(rules: Rules, why: Sequence[str], bounds: Bounds | None) -> str:
    """That nothing was shown, and why that may not count."""
    shown = "No leak above the thresholds was shown" if rules.judged else "No leak threshold was set"
    none = "no bound was computed" if bounds is None or bounds.missing else "no bound lies under the policy"
    if bounds is not None and not bounds.missing and bounds.under_policy:
        none = "though a bound lies under the policy, leaks were not judged"
    sentence = f"{shown}, and {none}: this is not evidence of safety"
    return f"{sentence} ({'; '.join(why)})." if why else f"{sentence}."


def _incomplete(trials: Sequence[Trial], rules: Rules, bounds: Bounds | None) -> list[str]:
    """What keeps an audit that showed nothing from being a pass."""
    ran = [t for t in trials if t.skipped is None]
    if not ran:
        return []
    without = {t.update for t in trials} - {t.update for t in ran if t.converged}
    none = not any(t.converged for t in ran)
    found = {
        "no attack converged": none,
        f"no attack converged on {len(without)} of the updates": bool(without) and not none,
        UNJUDGED: rules.judged and all(t.leakage_rate is None for t in ran),
        UNRECOGNISED: _unrecognised(ran, rules),
        "the budget ended before the attacks did": any(t.ended_by_budget for t in ran),
        _no_bound(bounds): rules.policy.require_bound and not (bounds is not None and bounds.under_policy),
    }
    return [words for words, holds in found.items() if holds]


def _no_bound(bounds: Bounds | None) -> str:
    if bounds is None or bounds.missing:
        why = "" if bounds is None else f" ({bounds.missing})"
        return f"the policy requires a bound and none was computed{why}"
    return f"the policy requires a bound and none lies under it: {bounds.short}"


def _unrecognised(ran: Sequence[Trial], rules: Rules) -> bool:
    return rules.judged and "recognisable" in rules.policy.fails and all(t.recognisable is None for t in ran)


def _nothing_tested(trials: Sequence[Trial]) -> str:
    ran = [t for t in trials if t.skipped is None]
    if ran:
        assert not any(is_useful(t) for t in ran)
        return (
            f"Nothing was tested: the budget ended each of {len(ran)} trials before a tenth of its iterations, and none"
            " had found anything by then; give more time."
        )
    reasons = list(dict.fromkeys(t.skipped for t in trials if t.skipped is not None))
    more = f"; and {len(reasons) - 1} more reasons" if len(reasons) > 1 else ""
    return f"Nothing was tested: every one of {len(trials)} trials was skipped ({reasons[0]}{more})."
