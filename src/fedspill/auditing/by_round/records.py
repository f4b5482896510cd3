"""The rounds of the report: what was measured of each, beside what leaked in it."""

from collections.abc import Callable, Sequence

from fedspill.auditing.by_round.ledger import Ledger, altering
from fedspill.auditing.resolving.components import Chosen
from fedspill.auditing.resolving.scenario import Scenario
from fedspill.auditing.verdict import worst_examples
from fedspill.core.errors import NotApplicable
from fedspill.report.leakage import leaked_share
from fedspill.report.schema import RoundRecord
from fedspill.report.trial import Trial


def round_records(ledger: Ledger, trials: Sequence[Trial], walk: Callable[[Chosen], None]) -> list[RoundRecord]:
    """Every round up to the last observed one; of a server that alters its model once more, as there models differ.

    Args:
        ledger: what was measured while trials were run.
        trials: all.
        walk: runs a world's rounds for the ledger alone, where nothing is on record of them.
    """
    scenario = ledger.scenario
    if scenario.rounds is None:
        return []
    found, by_label = list[RoundRecord](), _by_label(trials)
    for name in dict.fromkeys(altering(world) for world in scenario.worlds):
        worlds = [world for world in scenario.worlds if altering(world) == name]
        of_these = [trial for world in worlds for trial in by_label.get(world.label, [])]
        found += [_beside(scenario, one, of_these) for one in _measured(ledger, worlds[0], of_these, walk)]
    return found


def _by_label(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    found = dict[str, list[Trial]]()
    for trial in trials:
        found.setdefault(f"{trial.attack}:{trial.preset}", []).append(trial)
    return found


def _measured(
    ledger: Ledger, world: Chosen, trials: Sequence[Trial], walk: Callable[[Chosen], None]
) -> list[RoundRecord]:
    held = ledger.of(world)
    if held is None and (altering(world) is None or any(t.skipped is None for t in trials)):
        try:
            walk(world)
        except NotApplicable:
            return []
    return ledger.of(world) or []


def _beside(scenario: Scenario, measured: RoundRecord, trials: Sequence[Trial]) -> RoundRecord:
    assert scenario.rounds is not None, "asked only of a federation"
    seen = [o for o in scenario.rounds.observations if o.round == measured.number]
    if not seen:
        return measured
    here = [trial for trial in trials if trial.round == measured.number]
    reasons = list(dict.fromkeys(t.skipped for t in here if t.skipped is not None))
    worst = worst_examples(scenario.evaluation.main_metric, here)
    return measured.model_copy(
        update={
            "observer": "server" if seen[0].by_client is None else f"client {seen[0].by_client}",
            "leakage": leaked_share(here),
            "worst": worst[0] if worst else None,
            "untested": "; ".join(reasons) if reasons and all(t.skipped is not None for t in here) else None,
        }
    )
