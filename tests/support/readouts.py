"""A readout that reads what it is told, for tests of reports."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fedspill import catalogue
from fedspill.auditing import parse_plan, run_audit
from fedspill.auditing.run import AuditResult
from fedspill.core.inputs import CategoricalColumn, ImageSpec, NumericColumn, TableSpec, TokenSpec
from fedspill.core.model import Model
from fedspill.core.roles import UNWATCHED, Card, Prediction, Tampered, Watch
from fedspill.core.types import Batch, Reconstruction, ServerRole
from fedspill.zoo.data.pool import DataPool, from_tensors
from tests.support.reports import THEORY
from tests.support.worlds import SPEC, batch, mlp

TABLE = TableSpec(
    (
        NumericColumn("age", mean=40.0, std=10.0, low=17.0, high=90.0, step=1.0),
        CategoricalColumn("work", ("farm", "<script>shop</script>")),
        CategoricalColumn("city", ("yes", "no")),
    )
)
HOSTILE = "<script>alert(1)</script>"


@dataclass(frozen=True)
class Fake:
    """A readout that returns what a test hands it; not an attack, but what the evaluation makes of one."""

    returned: Reconstruction
    expected: Prediction

    def tamper(
        self, model: Model, public_data: Batch | None, round: int, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Tampered:
        return Tampered(model, self)

    def reconstruct(self, update, knowledge, rng, watch=UNWATCHED) -> Reconstruction:
        return self.returned

    def predict(self, model: Model, z: Tensor) -> Prediction:
        assert len(z) == len(self.expected.recoverable)
        return self.expected


def bins_of(private: Tensor, noise: Tensor) -> Fake:
    """Seven bins over four examples: 0 and 1 alone, 2 and 3 together, 1 a second time, and one empty bin."""
    inputs = torch.stack([noise, private[1], private[0], private[1], noise])
    return Fake(
        Reconstruction(
            inputs,
            confidence=torch.tensor([0.2, 0.9, 0.8, 0.7, 0.1]),
            converged=True,
            notes=(THEORY,),
            origins=("bin 10", "bin 2", "bin 9", "bin 3", "bin 4"),
            marks=("mixture", "alone", "alone", "duplicate", "unsure"),
        ),
        Prediction(
            (("bin 9",), ("bin 2", "bin 3"), ("bin 10",), ("bin 10",)), torch.tensor([True, True, False, False])
        ),
    )


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fake], None]:
    """Puts a fake readout into the catalogue."""

    def put(fake: Fake) -> None:
        card = Card(
            "Fake",
            "none",
            "For tests.",
            {"paper": fake},
            role=ServerRole.MALICIOUS_ARCHITECTURE,
            reads=True,
            accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
        )
        monkeypatch.setattr(catalogue, "tamperings", lambda: {"fake": card})

    return put


def audit_of(model: Model, pool: DataPool, n: int = 4, **more) -> AuditResult:
    table = {"audit": {"attacks": ["fake"]}, "client": {"num_examples": n}}
    return run_audit(parse_plan(table), model=model, data=pool, device="cpu", **more)


def pictures_audit(planted: Callable[[Fake], None], **more) -> AuditResult:
    private = batch(4)
    planted(bins_of(private.inputs, torch.full(SPEC.shape, 0.5)))
    return audit_of(mlp(), from_tensors(private.inputs, private.labels), **more)
