"""Every attack and every tampering of the catalogue runs in an audit under every defence, and says honestly what came.

Each meets each defence once, by its preset "quick" with few iterations, on the first small network that it fits. What
a defence hides from an attack is a result: the trial is skipped with a reason, and the report says that nothing was
tested.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from fedspill import catalogue
from fedspill.auditing import parse_plan, run_audit
from fedspill.core.inputs import ImageSpec, TableSpec
from fedspill.core.model import Model
from fedspill.core.roles import Card
from fedspill.core.settings import flat_fields
from fedspill.rendering.html.page import render
from fedspill.rendering.markdown import markdown
from fedspill.report.schema import AuditReport, VerdictName
from fedspill.report.trial import Trial
from fedspill.testing.contracts import FEW
from fedspill.testing.worlds import batch, conv_bn, imprinted, linear, mlp, relu_mlp
from fedspill.zoo.data import DataPool, from_tokens
from tests.support import texts

ATTACKS, TAMPERINGS, DEFENCES = catalogue.attacks(), catalogue.tamperings(), catalogue.defences()
NETWORKS: tuple[Callable[[], Model], ...] = (relu_mlp, conv_bn, linear, mlp, imprinted)
SHORT: dict[str, Any] = {**FEW, "steps": 4, "target": 0, "turns": 20, "samples": 1000, "starts": 2, "guesses": 2}
"""Fields of the presets, where they have them: class 0 is in every batch."""
WITHHELD = "withheld"
"""In the words of a trial whose update was never sent, whatever the network."""
HARMLESS = "clipping"
"""The defence that changes an update's length alone."""
NEAR = 14.0
"""dB that random pictures are not rebuilt to by luck."""


@dataclass(frozen=True)
class Case:
    """One component under one defence; a tampering that reads nothing stands before another attack."""

    name: str
    defence: str

    @property
    def card(self) -> Card[Any]:
        return ATTACKS.get(self.name) or TAMPERINGS[self.name]

    def report(self) -> AuditReport:
        """Of the first network and number of examples that it fits, else of the last."""
        if self.card.accepts == {TableSpec}:
            rows = {"data": {"name": "iris", "indices": "0:2"}, "model": {"name": "mlp", "hidden": [8]}}
            return run_audit(parse_plan(self.plan(2) | rows), device="cpu").report
        if ImageSpec not in self.card.accepts:
            network, pool = texts.language_model(lambda: texts.GPT2(1)), sentences()
            return run_audit(parse_plan(self.plan(2)), model=network, data=pool, device="cpu").report
        tried = ((network, n) for n in (2, 1) for network in NETWORKS)
        found = self._audited(*next(tried))
        for network, n in tried:
            if found.trials[0].skipped is None or WITHHELD in found.trials[0].skipped:
                break
            found = self._audited(network, n)
        return found

    def _audited(self, network: Callable[[], Model], n: int) -> AuditReport:
        private = batch(n)
        data = (private.inputs, private.labels)
        return run_audit(parse_plan(self.plan(n)), model=network(), data=data, device="cpu").report

    def plan(self, n: int) -> dict[str, Any]:
        """A short one, with everything granted that the data have."""
        preset = self.card.presets["quick"]
        entry = {"name": self.name, "preset": "quick", **{k: v for k, v in SHORT.items() if k in flat_fields(preset)}}
        reads, pictures = self.name in ATTACKS or self.card.reads, ImageSpec in self.card.accepts
        public = {"name": "photos", "split": "public", "indices": "0:40", "size": 8}
        server: dict[str, Any] = {
            "role": "malicious architecture",
            "knows": ["num_examples", "local_training", "labels", *(["public_data"] if pictures else [])],
        }
        return {
            "audit": {"attacks": [entry if reads else "linear_layer"], "identification": []},
            "client": {"num_examples": n},
            "defences": [{"name": self.defence, "preset": "quick"}],
            "server": server | ({"public": public} if pictures else {}) | ({} if reads else {"tampering": entry}),
        }


def sentences() -> DataPool:
    """Two, with the token that follows each."""
    drawn = texts.sentences(2)
    return from_tokens(torch.cat([drawn.inputs, drawn.labels[:, -1:]], 1), vocabulary=texts.VOCABULARY)


def _together(case: Case) -> bool:
    """Whether both take a kind of data; a plan with others is refused, of which the plan's own tests are."""
    return bool(case.card.accepts & DEFENCES[case.defence].accepts)


CASES = [case for name in (*ATTACKS, *TAMPERINGS) for d in DEFENCES if _together(case := Case(name, d))]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.name}-{c.defence}")
def test_it_runs_in_an_audit_under_the_defence_and_claims_no_more_than_it_has(case: Case) -> None:
    report = case.report()
    (trial,) = report.trials
    assert [d.name for d in report.defences] == [case.defence]
    if trial.skipped is not None:
        assert len(trial.skipped) > 20, "a refusal says why"
        assert case.defence != HARMLESS, "what is only scaled leaves every attack something to try"
        assert (report.verdict.name, report.verdict.exit_code) == (VerdictName.NOT_TESTED, 3)
    assert not trial.converged or _is_near(trial), "converged, or certified, is said of what is right"
    if case.name == "linear_layer" or case.defence == HARMLESS:  # a page takes longer than many a trial
        assert case.defence in render(report, [])
    assert "What to change first" in markdown(report)


def _is_near(trial: Trial) -> bool:
    """An example was rebuilt, or the representation of it read."""
    psnr = [v for s in trial.scores if s.metric == "psnr" for v in s.values if v is not None]
    read = trial.predicted is not None and trial.predicted.certified > 0
    return read or any(trial.leaked or []) or max(psnr, default=0.0) > NEAR
