"""What a reader of a verdict must know: what the evaluation was granted, assumed, and did not test."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedspill.auditing.watch import duration
from fedspill.core.errors import few
from fedspill.core.types import ServerRole
from fedspill.report.schema import Caveat
from fedspill.report.trial import Trial

OPPOSITE = 1.5
"""Cosine distance from which an update points the other way rather than elsewhere."""
SERVER_SEES_MORE = (
    "The server, which sees more than client {}, who looked on: the clients' own updates or their mean, in every round."
)
NO_LABELS = "The data has no labels, so every example was given class 0; real labels can change the result."
NO_LABELS_CAPTURED = (
    "The truth holds no labels, so the ones that the client trained on are unknown: neither labels that the attack was"
    " given or inferred, nor what it simulates, nor the network's accuracy could be checked."
)
WARNINGS = ("fed wrong", "self-check", "sign", "scale")
"""Topics that say that the attacks did not face what the clients compute; by a strict policy they fail an audit."""
EXPECTED_SHARE = 0.98
"""Share of the predicted examples that a readout must recover; below it the report says that it falls short."""


@dataclass(frozen=True)
class Conditions:
    """What of model, data, clients and seeds a caveat may hang on.

    Attributes:
        training: BatchNorm used batch statistics.
        untrained: the model's weights were random.
        fed_wrong: why the network is probably fed wrong, if so.
        labelled: the data came with labels.
        captured: the update was somebody else's trainer's, not simulated here.
        batch_norm: the network holds BatchNorm layers.
        one_seed: every attack was run from one random start only.
        defended: the clients apply defences.
        known_defence: the server knows which, so that attacks adapt.
        private: a defence states what an update costs in privacy.
        drawn: clients draw masks, views or orders that the server does not know.
        small_stem: the network is a ResNet with the stem for small pictures, on large ones, which the plan did not ask
            for.
        looker: the client that looks on; None is the server.
        bounded: a bound on any attack was computed.
        idle: defences that found nothing to change.
        repeats: answers to the same model of which the server took the mean.
    """

    training: bool
    untrained: bool
    fed_wrong: str | None
    labelled: bool
    batch_norm: bool
    one_seed: bool
    defended: bool
    private: bool
    drawn: bool = False
    captured: bool = False
    small_stem: bool = False
    looker: int | None = None
    known_defence: bool = False
    bounded: bool = False
    idle: tuple[str, ...] = ()
    repeats: int = 1


def _more_time(trials: Sequence[Trial]) -> list[Caveat]:
    """What a larger budget would bring."""
    short = [t for t in trials if t.foreseen is not None and (t.planned is not None or t.ended_by_budget)]
    if not short:
        return []
    needed = sum(t.foreseen.iterations * t.foreseen.seconds for t in short if t.foreseen is not None)
    spent = sum(t.seconds for t in trials if t not in short)
    text = (
        f"{len(short)} of {len(trials)} trials were shortened or not started to keep to the budget; with about"
        f" {duration(needed + spent)} all would come to the end of their presets."
    )
    return [Caveat(topic="more time", text=text, trials=[t.name for t in short])]


def caveats(trials: Sequence[Trial], conditions: Conditions) -> list[Caveat]:
    """What limits the numbers, each with the trials that it concerns."""
    ran = [t for t in trials if t.skipped is None]
    specific = [
        _about(
            ran,
            "not converged",
            "The attack did not converge by its own measure: its failure is not evidence of safety.",
            lambda t: not t.converged,
        ),
        _about(ran, "budget", "The budget ended before the attack did.", lambda t: t.ended_by_budget),
        *_more_time(trials),
        _about(
            ran,
            "labels granted",
            "The attack was given the true labels; where the server must infer them, it may do worse.",
            lambda t: t.labels.source == "granted",
        ),
        _about(
            ran,
            "different models",
            "Every client received a model of its own, which none of them can see alone: clients that compare what they"
            " received, or a hash of it, would refuse.",
            lambda t: t.different_models,
        ),
        _about(
            ran,
            "tiny gradient",
            "The update's norm is below 1e-5: in float32 there is next to nothing to"
            " invert. A model at an earlier stage of training may leak more.",
            lambda t: t.gradient_norm is not None and t.gradient_norm < 1e-5,
        ),
        _about(
            ran,
            "self-check",
            "At the true input the matching loss is not 0: attacker and client do not compute"
            " the same, so gradient matching is handicapped.",
            lambda t: t.self_check is not None and 1e-4 < t.self_check < OPPOSITE,
        ),
        _about(
            ran,
            "sign",
            "At the true input the update points the other way: its sign is reversed (client minus server, or the"
            " other way round), and attacks that rest on it fail for that.",
            lambda t: t.self_check is not None and t.self_check >= OPPOSITE,
        ),
        _about(
            ran,
            "scale",
            "At the true input the attack computes an update of another length than the client sent: a learning rate, a"
            " norm to clip to, or a sum in the place of a mean was described wrongly. Searches by cosine do not mind.",
            lambda t: t.self_check_length is not None and not 0.99 < t.self_check_length < 1.01,
        ),
        _about(ran, "notes", "The attack itself has remarks, listed with its trials.", lambda t: bool(t.notes)),
        _about(
            ran,
            "lax threshold",
            "A guess made without the update meets the leak thresholds too, so meeting them proves no leak here: of"
            " such examples only those count as leaked that are clearly closer than the guess (3 dB, 0.2 of SSIM, 15 %"
            " of a sentence or row). Raise the thresholds.",
            lambda t: any(b.leakage_rate is not None and b.leakage_rate.hits > 0 for b in t.baselines),
        ),
        _about(
            ran,
            "prediction",
            "Fewer than 98 % of the examples that the readout's own measurement isolates were recovered exactly:"
            " something between the bins and the update (local training, rounding, a defence) stood in the way.",
            _falls_short,
        ),
        _about(ran, "failed to fall", "The objective did not fall during the search.", _did_not_fall),
    ]
    fed = [] if conditions.fed_wrong is None else [Caveat(topic="fed wrong", text=conditions.fed_wrong)]
    return [*fed, *(c for c in specific if c is not None), *_general(conditions, any(t.round is not None for t in ran))]


def warnings(limits: Sequence[Caveat]) -> list[str]:
    """The caveats that a strict policy takes for a failure, in words."""
    return [f"{c.topic}: {c.text}" for c in limits if c.topic in WARNINGS]


def _about(trials: Sequence[Trial], topic: str, text: str, concerns: Callable[[Trial], bool]) -> Caveat | None:
    names = [t.name for t in trials if concerns(t)]
    return Caveat(topic=topic, text=text, trials=names) if names else None


def _falls_short(trial: Trial) -> bool:
    predicted = trial.predicted
    return predicted is not None and predicted.both < EXPECTED_SHARE * predicted.predicted


def _did_not_fall(trial: Trial) -> bool:
    values = [v for _, v in trial.objective]
    return len(values) > 1 and min(values) > 0.99 * values[0]


def _general(conditions: Conditions, in_rounds: bool) -> list[Caveat]:
    mode, other = ("train", "running statistics (eval mode)") if conditions.training else ("eval", "batch statistics")
    texts = {
        "batch normalisation": f"BatchNorm ran in {mode} mode; with {other} the result can differ.",
        "one seed": "One seed was run; a reconstruction moves with its random start, that of an image by several dB.",
        "untrained weights": "The model was untrained; leakage changes over training: audit the stages that you send.",
        "few rounds": "The model was untrained before the first round; it stands as far on as the rounds observed, and"
        " leakage goes on changing with training.",
        "privacy cost": "The epsilon stated is of one update: every further one of the same data adds to it, and what"
        " the server is granted besides is not covered by it.",
        "random draws": "The clients drew dropout masks, views of their examples, or an order, which the server"
        " does not know; attacks assumed a network without dropout, and examples as they are, in one order.",
        "stem": "The ResNet has the stem for small pictures (a 3x3 convolution at full resolution), which is the"
        ' default at every size; for pictures this large torchvision has another: model.stem = "imagenet". State one.',
        "idle defence": f"{', '.join(conditions.idle)} found nothing to change in this network, and did nothing.",
        "same model": f"The server sent the same model in {conditions.repeats} rounds and took the mean of the answers,"
        " each with noise of its own; a client that compares what it receives would see it.",
        "no labels": NO_LABELS_CAPTURED if conditions.captured else NO_LABELS,
    }
    if not conditions.one_seed:
        del texts["one seed"]
    if not conditions.untrained or in_rounds:
        del texts["untrained weights"]
    if not conditions.untrained or not in_rounds:
        del texts["few rounds"]
    if not conditions.small_stem:
        del texts["stem"]
    if conditions.labelled:
        del texts["no labels"]
    if not conditions.batch_norm:
        del texts["batch normalisation"]
    if not conditions.private:
        del texts["privacy cost"]
    if not conditions.drawn:
        del texts["random draws"]
    if conditions.repeats == 1:
        del texts["same model"]
    if not conditions.idle:
        del texts["idle defence"]
    return [Caveat(topic=topic, text=text) for topic, text in texts.items()]


UNADAPTED = {
    False: "Attacks made for the clients' defences: those that ran know of none.",
    True: "Attacks made for the clients' defences alone: those that ran adapt distance and readings to them.",
}
"""What an attacker might do about defences beyond what was tried, by whether the server knows them."""


def not_tested(trials: Sequence[Trial], conditions: Conditions) -> list[str]:
    """What a reader might believe to be covered and is not."""
    roles = [role.value for role in ServerRole]
    boldest = max((roles.index(t.role) for t in trials if t.skipped is None), default=0)
    return [
        "Attacks that are not named in this report, and settings of the named ones that were not run.",
        *([UNADAPTED[conditions.known_defence]] if conditions.defended else []),
        *_other_rounds(trials),
        *([SERVER_SEES_MORE.format(conditions.looker)] if conditions.looker is not None else []),
        "Inference of membership or of properties: only reconstruction of inputs was tried.",
        *([] if conditions.bounded else ["A bound on what any attack could reach: none was computed."]),
        *(f"A server of {role}." for role in roles[boldest + 1 :]),
    ]


def _other_rounds(trials: Sequence[Trial]) -> list[str]:
    """What of a federation's rounds was left out; each that was observed was attacked by itself."""
    observed = sorted({t.round for t in trials if t.round is not None and t.skipped is None})
    if not observed:
        return ["Updates of later rounds, and what several rounds tell together."]
    last, named = observed[-1], few(observed, 8)
    earlier = f"Updates of rounds that were not observed, later than {last} or between 0 and {last}."
    every = f"Updates of rounds later than {last}."
    return [
        every if observed == list(range(last + 1)) else earlier,
        f"What several rounds tell together: each observed one was attacked by itself (rounds {named}).",
    ]
