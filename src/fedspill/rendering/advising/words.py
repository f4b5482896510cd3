"""The sentences and cells of advice; pure functions of its record."""

import shlex

from fedspill.rendering.headline.roles import title_of
from fedspill.report.advice import Advice, Bound, Change, Counted, LadderWalk, Leak, Price, Tried
from fedspill.scoring.leakage import wilson

MEASURED_ONLY = "measured only: not evidence of safety"
UNTRUSTED = "no attack converged on it: each ran to its end and trusts nothing of what it read (fedspill audit: exit 3)"
VACUOUS = 0.5
"""A success, from a prior of a thousandth, above which a bound is not called one."""
FOUND = {
    "stops": "stops it",
    "leaks": "leaks",
    "untested": "not tested as before",
    "refused": "cannot be run",
    "unmeasured": "budget used up",
}


def leak(one: Leak) -> str:
    """Who reads how much by what."""
    parts = [f"{one.leaked} of {one.examples} private examples leaked"] if one.leaked else []
    if one.recognisable and one.recognisable > one.leaked:
        parts.append(f"{one.recognisable} of {one.examples} can be told from others")
    return f"to {title_of(one.role)}, by {one.attack}: {', '.join(parts)}"


def settings(change: Change) -> str:
    """As the command line takes them."""
    return " ".join(f"--set {shlex.quote(text)}" for text in change.settings)


def share(counted: Counted) -> str:
    """K of n; without a judgement the verdict."""
    return counted.verdict if counted.leaked is None else f"{counted.leaked} of {counted.examples}"


def elsewhere(counted: Counted) -> str:
    """What other examples say of those that were never tried: what still may leak, by Wilson's interval."""
    if counted.leaked is None or not counted.examples:
        return f"On examples that the plan does not name: {counted.verdict}."
    most = wilson(counted.leaked, counted.examples).high
    return (
        f"On examples that the plan does not name {counted.leaked} of {counted.examples} leaked: of all such up"
        f" to {most:.0%} may (95 % interval)."
    )


def accuracy(price: Price) -> str:
    """Before and after, or why there is none."""
    if price.before is None or price.after is None:
        return f"not measured: {price.reason}"
    return f"{price.before:.3f} to {price.after:.3f}"


def priced(price: Price) -> str:
    """What accuracies are of, and what a guess reaches."""
    if price.guess is None or price.before is None:
        return ""
    learns = "" if price.before > price.guess else ": this training learns nothing yet, so it prices nothing"
    return (
        f"Accuracy after {price.rounds} rounds, on {price.held_out} held-out examples;"
        f" the commonest label alone reaches {price.guess:.3f}{learns}."
    )


def bound(change: Change) -> str:
    """Epsilon and what follows, or that nothing does."""
    if change.bound is None:
        return MEASURED_ONLY
    says = change.bound.success <= VACUOUS
    return f"epsilon {change.bound.epsilon:.4g}" + ("" if says else f", which bounds no reading; {MEASURED_ONLY}")


def bound_sentence(one: Bound) -> str:
    """The whole of it."""
    success = f"{one.success:.3g}" if one.success <= VACUOUS else "1"
    return f"{one.sentence}; whoever guesses right with probability {one.prior:g} is right with at most {success}"


def walked(walk: LadderWalk) -> str:
    """The last strength that was tried, and what came of it."""
    last = walk.tried[-1]
    return f"{walk.what}: {len(walk.tried)} tried, up to {' '.join(last.settings)}: {tried(last)}"


def tried(one: Tried) -> str:
    """What came of one strength."""
    said = FOUND[one.found]
    return f"{said} ({one.why})" if one.why and one.why != said else said


def conclusion(advice: Advice) -> str:
    """What to make of it, in one sentence."""
    if advice.changes:
        seeds = ", ".join(map(str, advice.fresh_seeds))
        others = ", also on examples that the plan does not name" if advice.other_examples else ""
        return f"Each of these stopped every leak under the searching seeds and again under seeds {seeds}{others}:"
    if advice.leaking:
        return "No change was found within the budget that stops every leak."
    if not advice.complete:
        return "The plan as it is was not tested to the end, so there is nothing to advise."
    return "Nothing leaks under this plan's attacks, so no change was looked for."
