"""Hyperparameters of a head by Optuna's tree-structured Parzen estimator (the paper uses hyperopt's)."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.rng import stream
from fedspill.core.settings import flat_fields, grouped, plain_fields, with_fields
from fedspill.inversion.representations.heads.making import make_head
from fedspill.inversion.representations.heads.settings import SpAB
from fedspill.training.plan import SpabPlan
from fedspill.training.state import Listener

if TYPE_CHECKING:
    import optuna

VALIDATION = 0.1
MOST_VALIDATION = 2560
ACCURACY_TRADE = 1.0
"""Leakage that a trial must win for every unit of accuracy that it loses."""

Range = tuple[float, float, bool]
"""Least and largest value that is tried, and whether in even steps of the logarithm."""

ALWAYS: dict[str, Range] = {
    "lr": (2e-3, 4e-2, True),
    "shrinkage": (0.3, 30.0, True),
    "sparsity": (0.0, 0.03, False),
    "noise": (0.0, 0.1, False),
}
EXPECTED_LEAKAGE: dict[str, Range] = {
    "leakage": (0.3, 30.0, True),
    "start temperature": (0.05, 0.4, True),
    "cooling": (0.1, 1.0, True),
}
QUANTILE_START: dict[str, Range] = {
    "rate": (1 / 512, 1 / 32, True),
    "frequent": (0.0, 0.25, False),
    "dense": (0.0, 0.1, False),
}
CONSTANT_START: dict[str, Range] = {"constant": (-3.0, 0.0, False)}
ALIVE: dict[str, dict[str, Range]] = {
    "maximum": {"alive": (0.3, 30.0, True)},
    "entries": {"alive": (1e-3, 1.0, True)},
}
"""By `alive_over`: a sum over all entries needs a smaller weight than one over columns."""


def ranges(settings: SpAB) -> dict[str, Range]:
    """What is searched: the objective and the start that the plan chose are kept, so that objectives can be compared.

    Without expected leakage (`leakage = 0`, the published objective) its weight and temperature mean nothing.
    """
    searched = dict(ALWAYS)
    searched |= EXPECTED_LEAKAGE if settings.expected.leakage else ALIVE[settings.columns.alive_over]
    starts = {"quantile": QUANTILE_START, "constant": CONSTANT_START}
    return searched | starts.get(settings.rows.start, {})


def best_settings(
    plan: SpabPlan, features: Tensor, labels: Tensor, classes: int, trials: int, out: Path, listener: Listener
) -> SpAB:
    """The best of `trials` settings by leakage rate plus accuracy on public examples that no trial trains on.

    Trials are kept in OUT.trials, so that a killed search goes on; the first one is the plan's own settings.

    Raises:
        BadInput: optuna is not installed, or OUT.trials is of another plan.
    """
    if find_spec("optuna") is None:
        raise BadInput("a search of settings needs optuna: pip install 'fedspill[search]'")
    held = min(MOST_VALIDATION, int(VALIDATION * len(features)))
    if held < max(plan.spab.expected.sizes):
        raise BadInput(
            f"{len(features)} public examples are too few to judge batches of {max(plan.spab.expected.sizes)}"
        )
    study, done = _study(plan, out, trials)
    for number in range(done, trials):
        trial = study.ask()
        settings = suggested(plan.spab, trial)
        rng = stream(plan.head.seed, "search", number)
        head = make_head("spab", features[:-held], labels[:-held], classes, plan.head.width, settings, rng)
        rate = sum(head.leakage(features[-held:], s) for s in settings.expected.sizes) / len(settings.expected.sizes)
        accuracy = head.accuracy(features[-held:], labels[-held:])
        study.tell(trial, rate + ACCURACY_TRADE * accuracy)
        listener.message(f"trial {number + 1} of {trials}: leakage {rate:.4f}, accuracy {accuracy:.4f}")
        listener.progress(number + 1, trials, -study.best_value)
    return TypeAdapter(SpAB).validate_python(grouped(SpAB, study.best_trial.user_attrs["settings"]))


def _study(plan: SpabPlan, out: Path, trials: int) -> "tuple[optuna.Study, int]":
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(out.with_suffix(".trials"))))
    study = optuna.create_study(study_name="spab", storage=storage, direction="maximize", load_if_exists=True)
    described = json.dumps(plan.model_dump(mode="json"), sort_keys=True)
    if study.user_attrs.setdefault("plan", described) != described:
        raise BadInput(f"{str(out.with_suffix('.trials'))!r} holds trials of another plan; remove it to start anew")
    study.set_user_attr("plan", described)
    done = len(study.get_trials(states=[optuna.trial.TrialState.COMPLETE]))
    study.sampler = optuna.samplers.TPESampler(seed=plan.head.seed + done, n_startup_trials=max(5, trials // 4))
    if not study.trials:
        study.enqueue_trial(_values(plan.spab))
    return study, done


def _values(settings: SpAB) -> dict[str, float]:
    """Settings in the words of `suggested`, each moved into its range."""
    start, end = settings.expected.temperature
    derived = {"start temperature": start, "cooling": end / start}
    limits = ranges(settings)
    given = flat_fields(settings) | derived
    return {k: min(max(given[k], low), high) for k, (low, high, _) in limits.items()}


def suggested(settings: SpAB, trial: "optuna.Trial") -> SpAB:
    """Settings that a trial proposes; what is not searched stays as it is."""
    drawn = {k: trial.suggest_float(k, low, high, log=log) for k, (low, high, log) in ranges(settings).items()}
    if "cooling" in drawn:
        start = drawn.pop("start temperature")
        settings = with_fields(settings, temperature=(start, start * drawn.pop("cooling")))
    chosen = with_fields(settings, **drawn)
    trial.set_user_attr("settings", plain_fields(chosen))
    return chosen
