"""Synthetic reports in several states; the numbers are invented, their relations are right."""

from dataclasses import dataclass, replace
from html.parser import HTMLParser

import torch
from scipy.stats import binomtest
from torch import Tensor

from fedspill.core.rng import stream
from fedspill.rendering.drawing.pictures import Pair
from fedspill.report.schema import (
    AuditReport,
    Caveat,
    Environment,
    Grant,
    Pictures,
    RoleVerdict,
    Verdict,
    VerdictName,
    WorstExample,
)
from fedspill.report.trial import Baseline, Identification, Labels, Predicted, Rate, Reading, Score, Trial

VOID = {"meta", "img", "br", "link", "hr"}


@dataclass(frozen=True)
class State:
    """What the synthetic audit looked like.

    Attributes:
        roles: the verdict by kind of server; None is a report of before there was one.
    """

    updates: int = 2
    num_examples: int = 4
    seeds: tuple[int, ...] = (0,)
    verdict: VerdictName = VerdictName.LEAKS
    limit: float | None = 20.0
    all_skipped: bool = False
    scored: bool = True
    data: str = "skimage photographs"
    redacted: bool = False
    roles: tuple[tuple[str, VerdictName], ...] | None = None

    def having(self, **changes: object) -> "State":
        return replace(self, **changes)  # pyright: ignore[reportArgumentType]


ATTACKS = (
    ("robbing_the_fed", "paper", "Robbing the Fed", "malicious architecture", 96.0, 14.0, True),
    ("inverting_gradients", "paper", "Inverting Gradients", "honest-but-curious", 19.0, 3.5, True),
    ("dlg", "quick", "Deep Leakage from Gradients", "honest-but-curious", 9.5, 1.5, False),
)


def report(state: State = State()) -> AuditReport:
    """A report whose trials, worst examples and rates agree with each other."""
    trials = [
        _trial(state, *attack, update=u, seed=s)
        for attack in ATTACKS
        for u in range(state.updates)
        for s in state.seeds
    ]
    trials += [_skipped(0, "needs public_data, which the plan does not grant")]
    if state.all_skipped:
        trials = [_skipped(t.update, "the model has no linear layer", t.name, t.attack) for t in trials]
    worst = _worst(state, trials)
    hits = sum(w.leaked for w in worst)
    return AuditReport(
        plan=plan(state),
        environment=environment(state),
        grants=_grants(),
        trials=trials,
        worst=worst,
        leakage_rate=_rate(hits, len(worst), state) if worst and state.limit is not None else None,
        caveats=_caveats(trials),
        not_tested=["Attacks with a trained generator (no public data granted).", "More than one round."],
        verdict=_verdict(state, hits, len(worst)).model_copy(update={"by_role": _by_role(state, trials)}),
        pictures=Pictures(strip="strip.png", trials={t.name: f"{t.name}.png" for t in trials}),
        redacted=state.redacted,
    )


def _trial(
    state: State,
    attack: str,
    preset: str,
    title: str,
    role: str,
    centre: float,
    width: float,
    converged: bool,
    *,
    update: int,
    seed: int,
) -> Trial:
    rng = stream(seed, "factory", attack, update)
    psnr = (centre + width * torch.randn(state.num_examples, generator=rng)).clamp(5, 100).tolist()
    hits = sum(v >= (state.limit or 0) for v in psnr)
    closed = attack == "robbing_the_fed"
    why = None if state.scored else "the reconstructions were not kept"
    return Trial(
        name=f"{attack}-{preset}-u{update}-s{seed}",
        attack=attack,
        preset=preset,
        title=title,
        role=role,
        seed=seed,
        update=update,
        examples=list(range(update * state.num_examples, (update + 1) * state.num_examples)),
        seconds=0.4 if closed else 212.5,
        iterations=0 if closed else 2400,
        objective=[] if closed else _objective(converged, rng),
        converged=converged,
        gradient_norm=3.21,
        self_check=None if closed else 2e-7,
        added_parameters=1_573_000 if closed else 0,
        labels=Labels(source="none") if closed else Labels(source="inferred", method="iDLG", overlap=0.75),
        scores=_scores(psnr, why),
        leakage_rate=_rate(hits, len(psnr), state) if state.limit is not None and state.scored else None,
        identification=[_identification(state)],
        baselines=_baselines(state, update) if state.scored else [],
        confidence=[0.5] * state.num_examples,
        matched=list(range(state.num_examples)),
        notes=["BatchNorm ran in eval mode."],
    )


def _scores(psnr: list[float], why: str | None) -> list[Score]:
    values: list[float | None] = list(psnr)
    ssim: list[float | None] = [min(1.0, v / 40) for v in psnr]
    if why:
        return [Score(metric="psnr", unit="dB", higher_is_closer=True, values=[], not_computed=why)]
    return [
        Score(
            metric="psnr",
            unit="dB",
            higher_is_closer=True,
            values=values,
            worst=max(psnr),
            capped=psnr.count(100),
        ),
        Score(metric="ssim", unit="", higher_is_closer=True, values=ssim, worst=max(v or 0 for v in ssim)),
        Score(
            metric="lpips",
            unit="",
            higher_is_closer=False,
            values=[],
            not_computed="AlexNet weights are missing",
        ),
    ]


def _baselines(state: State, update: int) -> list[Baseline]:
    found: list[Baseline] = []
    for name, centre in (("mean image", 11.5), ("best public image", 10.5), ("TV only", 8.0)):
        rng = stream(0, "baseline", name, update)
        psnr = (centre + 1.5 * torch.randn(state.num_examples, generator=rng)).tolist()
        found.append(Baseline(name=name, explanation=f"{name} as the guess", scores=_scores(psnr, None)[:1]))  # type: ignore[arg-type]
    return found


def _objective(converged: bool, rng: torch.Generator) -> list[tuple[int, float]]:
    floor = 2e-3 if converged else 0.4
    noise = 0.1 * torch.rand(100, generator=rng)
    return [(24 * i, (floor + 0.9 * 0.93**i) * float(1 + noise[i])) for i in range(100)]


def _identification(state: State) -> Identification:
    if not state.scored:
        return Identification(distance="lpips", reference="100 photographs", not_computed="LPIPS is missing")
    return Identification(distance="pixel", reference="100 photographs", rate=_rate(2, 4, state))


def _skipped(update: int, reason: str, name: str | None = None, attack: str = "generator_prior") -> Trial:
    return Trial(
        name=name or f"{attack}-paper-u{update}-s0",
        attack=attack,
        preset="paper",
        title=attack.replace("_", " "),
        role="honest-but-curious",
        seed=0,
        update=update,
        examples=[0],
        skipped=reason,
    )


def _rate(hits: int, n: int, state: State) -> Rate:
    ends = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    criterion = f"psnr >= {state.limit or 20:g} dB"
    return Rate(criterion=criterion, hits=hits, n=n, rate=hits / n, low=float(ends.low), high=float(ends.high))


def _worst(state: State, trials: list[Trial]) -> list[WorstExample]:
    best: dict[int, WorstExample] = {}
    for trial in trials:
        values = trial.scores[0].values if trial.scores else []
        for example, value in zip(trial.examples, values, strict=False):
            if value is not None and (example not in best or value > best[example].value):
                best[example] = WorstExample(
                    example=example,
                    update=trial.update,
                    trial=trial.name,
                    metric="psnr",
                    unit="dB",
                    value=value,
                    leaked=state.limit is not None and value >= state.limit,
                )
    return sorted(best.values(), key=lambda w: -w.value)


def _caveats(trials: list[Trial]) -> list[Caveat]:
    stuck = [t.name for t in trials if not t.converged and not t.skipped]
    return [
        Caveat(topic="Not converged", text="The objective of these runs did not fall to its level.", trials=stuck),
        Caveat(topic="One seed", text="Results of a search move by several dB with the start; one seed was run."),
        Caveat(topic="BatchNorm", text="BatchNorm ran in eval mode with statistics that the server knows."),
    ]


def _grants() -> list[Grant]:
    return [
        Grant(name="num_examples", granted=True, explanation="How many examples the update was computed on."),
        Grant(name="labels", granted=False, explanation="The true labels of the private examples."),
        Grant(
            name="local_training",
            granted=True,
            explanation="The protocol with learning rate, epochs, batches.",
        ),
        Grant(name="public_data", granted=False, explanation="Examples from the clients' distribution."),
        Grant(name="bn_statistics", granted=False, explanation="BatchNorm statistics of the private batch."),
    ]


def _verdict(state: State, hits: int, n: int) -> Verdict:
    sentences = {
        VerdictName.LEAKS: f"{hits} of {n} private examples were rebuilt past {state.limit or 20:g} dB; none may be.",
        VerdictName.BOUNDED: "No attack can beat 12.1 dB PSNR on average under the declared noise.",
        VerdictName.NOT_SHOWN: "No attack passed the thresholds, and no bound was shown.",
        VerdictName.RECOGNISABLE: "No example leaked, but 3 of 8 can be told from 100 others; the policy allows none.",
        VerdictName.NOT_TESTED: "No attack had a useful share of its iterations.",
    }
    failing = (VerdictName.LEAKS, VerdictName.RECOGNISABLE)
    code = 1 if state.verdict in failing else 3 if state.all_skipped or state.verdict is VerdictName.NOT_TESTED else 0
    return Verdict(name=state.verdict, sentence=sentences[state.verdict], exit_code=code)


def _by_role(state: State, trials: list[Trial]) -> list[RoleVerdict]:
    return [_against(state, role, name, trials) for role, name in state.roles or ()]


def _against(state: State, role: str, name: VerdictName, trials: list[Trial]) -> RoleVerdict:
    ran = [t for t in trials if t.role == role and t.skipped is None]
    worst = _worst(state, ran)
    if not worst:
        return RoleVerdict(role=role, name=name)
    best = next(t for t in ran if t.name == worst[0].trial)
    added = best.added_parameters
    return RoleVerdict(
        role=role,
        name=name,
        attack=f"{best.attack}:{best.preset}",
        trial=best.name,
        planted=f"a layer in front of the network, {added:,} parameters added" if added else None,
        assumed=["num_examples", "local_training"],
        worst=worst[0],
        share=None if state.limit is None else _rate(sum(w.leaked for w in worst), len(worst), state),
        seconds=sum(t.seconds for t in ran),
    )


def environment(state: State) -> Environment:
    return Environment(
        fedspill="0.1.0",
        python="3.11.7",
        torch="2.13.0",
        device="cpu",
        device_name="2-core x86-64 CPU",
        threads=2,
        started="2026-11-03 14:02 UTC",
        seconds=1284.0,
        command="fedspill audit plan.toml --html report.html",
        plan_sha256="9f2c1b" + "0a" * 29,
        weights_sha256="e07d44" + "5b" * 29,
        data=state.data,
        model="ResNet-20 (CIFAR stem)",
    )


def plan(state: State) -> dict[str, object]:
    return {
        "audit": {
            "attacks": ["robbing_the_fed:paper", "inverting_gradients:paper"],
            "seeds": list(state.seeds),
            "leak_threshold": {} if state.limit is None else {"psnr": state.limit},
        },
        "model": {"name": "resnet20", "weights": None, "mode": "eval"},
        "data": {"name": state.data, "size": 32},
        "client": {"protocol": "fedsgd", "num_examples": state.num_examples, "trainable": ["*"]},
        "server": {"knows": ["num_examples", "local_training"], "public": {"name": "none"}},
        "defences": [{"name": "noise", "sigma": 0.0}, {"name": "clip", "norm": 1.0}],
        "policy": {"max_leakage_rate": 0.0},
    }


def pairs(audit: AuditReport, side: int = 32, channels: int = 3) -> list[Pair]:
    """A pair of random pictures for each of the report's worst examples; the last has no reconstruction."""
    made: list[Pair] = []
    for place, worst in enumerate(audit.worst):
        private = torch.rand(channels, side, side, generator=stream(0, "picture", worst.example))
        noise = torch.rand(channels, side, side, generator=stream(1, "picture", worst.example))
        rebuilt: Tensor | None = (0.8 * private + 0.2 * noise) if place < len(audit.worst) - 1 else None
        made.append(Pair(worst.trial, worst.example, private, rebuilt, {"psnr": worst.value, "ssim": 0.9}))
    return made


THEORY = "Proposition 1 expects 2.0 of 4 in 8 bins <at most>."


def with_bins(audit: AuditReport) -> tuple[AuditReport, dict[str, Tensor]]:
    """The report with readings in its first trial, and tensors for them: one of each sort, in eleven bins.

    Of the four examples 0 and 1 were read exactly, 0 twice; 2 and 3 share a bin; one bin holds nothing; one reading
    of example 1 failed.
    """
    trial = audit.trials[0]
    read = [
        Reading(origin="bin 10", mark="alone", confidence=1.0, scored=0, holds=[1], exact=1),
        Reading(origin="bin 9", mark="alone", confidence=0.9, scored=1, holds=[0], exact=0),
        Reading(origin="bin 2", mark="mixture", confidence=0.4, scored=2, holds=[2, 3]),
        Reading(origin="bin 11", mark="unsure", confidence=0.3, scored=3, holds=[]),
        Reading(origin="other 1", mark="duplicate", confidence=0.2, unscored=0, holds=[0], exact=0),
        Reading(origin="other 2", mark="unsure", confidence=0.1, unscored=1, holds=[1]),
    ]
    predicted = Predicted(n=4, predicted=3, exact=2, both=2)
    more = {"readings": read, "predicted": predicted, "notes": [THEORY], "added_parameters": 500}
    changed = trial.model_copy(update=more)
    found = audit.environment.model_copy(update={"parameters": 10_000})
    tensors = {
        f"rebuilt/{trial.name}": torch.rand(4, 3, 8, 8, generator=stream(0, "bins")),
        f"unscored/{trial.name}": torch.rand(2, 3, 8, 8, generator=stream(1, "bins")),
    }
    return audit.model_copy(update={"trials": [changed, *audit.trials[1:]], "environment": found}), tensors


HOSTILE = "<script>alert(1)</script> \"quoted\" 'name' & $x_{$ ]]> --> \x0b"


HONEST_SHOWS = ("honest-but-curious", VerdictName.RECOGNISABLE)
PLANTED_LEAKS = ("malicious architecture", VerdictName.LEAKS)

STATES = {
    "leaks": State(),
    "bounded": State(updates=1, num_examples=1, verdict=VerdictName.BOUNDED),
    "no threshold": State(limit=None, verdict=VerdictName.NOT_SHOWN),
    "all skipped": State(all_skipped=True, verdict=VerdictName.NOT_SHOWN),
    "not scored": State(scored=False, verdict=VerdictName.NOT_SHOWN),
    "two seeds": State(seeds=(0, 1)),
    "many examples": State(num_examples=100, updates=1),
    "hostile": State(data=HOSTILE),
    "by role": State(limit=40.0, roles=(HONEST_SHOWS, ("malicious parameters", VerdictName.NOT_TESTED), PLANTED_LEAKS)),
    "recognisable": State(verdict=VerdictName.RECOGNISABLE, limit=60.0, roles=(HONEST_SHOWS,)),
    "not tested": State(
        verdict=VerdictName.NOT_TESTED, all_skipped=True, roles=(("honest-but-curious", VerdictName.NOT_TESTED),)
    ),
    "bounded by role": State(verdict=VerdictName.BOUNDED, roles=(("honest-but-curious", VerdictName.BOUNDED),)),
    "not shown by role": State(
        verdict=VerdictName.NOT_SHOWN, limit=60.0, roles=(("honest-but-curious", VerdictName.NOT_SHOWN),)
    ),
}


class Strict(HTMLParser):
    """Collects tags and text; complains of tags that do not close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
