"""What attacks claim to have read verbatim: counted, judged, believed as far as was measured, and told."""

import io
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from benchmarks.certificates import Counts, Setting, World, judged
from rich.console import Console
from scipy.stats import beta

import fedspill
from benchmarks import certificates
from fedspill.auditing.capturing.in_turn import Try, answered
from fedspill.auditing.certifying.claims import claims
from fedspill.auditing.certifying.counting import certified
from fedspill.auditing.certifying.doubts import MIXED
from fedspill.auditing.certifying.measured import MEASURED, Measured, limit
from fedspill.auditing.watch import Silent, TrialWatch
from fedspill.core.knowledge import KnownDefence, ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.rng import rand, stream
from fedspill.core.roles import UNWATCHED, Job, Watch
from fedspill.core.types import Mark, Reconstruction, Update
from fedspill.plan.sections import AttackEntry
from fedspill.rendering.headline.certified import certified_lines
from fedspill.rendering.headline.guarantees import blocks
from fedspill.rendering.html.page import render
from fedspill.rendering.terminal import summary
from fedspill.report.certified import Certified
from fedspill.report.schema import AuditReport
from fedspill.testing.worlds import batch, relu_mlp

MARKS: tuple[Mark, ...] = ("alone", "alone", "mixture", "alone", "duplicate", "unsure", "alone")
CONFIDENCE = (1.0, 0.9995, 1.0, 0.5, 0.0, 1.0, 1.0)
KNOWLEDGE = ServerKnowledge(relu_mlp(), num_examples=7)
PLAN = {
    "audit": {"attacks": ["linear_layer"], "metrics": ["psnr"]},
    "model": {"name": "mlp", "hidden": [64]},
    "data": {"name": "photos", "indices": "0:2", "size": 8},
    "client": {"num_examples": 2},
}


def reconstruction(*, marked: bool = True, searched: bool = False, converged: bool = True) -> Reconstruction:
    """Seven candidates, of which the last is the first one again."""
    inputs = rand((7, 3, 8, 8), stream(0, "candidates"), torch.zeros(()))
    inputs[6] = inputs[0]
    return Reconstruction(
        inputs,
        confidence=torch.tensor(CONFIDENCE),
        objective=(1.0, 0.5, 0.1) if searched else (),
        converged=converged,
        marks=MARKS if marked else (),
    )


def by_hand(rebuilt: Reconstruction, sure: float) -> list[bool]:
    """Candidate by candidate."""
    assert rebuilt.confidence is not None
    marks, found = rebuilt.marks or ("alone",) * len(rebuilt.inputs), list[bool]()
    for k, mark in enumerate(marks):
        again = any(torch.equal(rebuilt.inputs[k], rebuilt.inputs[i]) for i in range(k))
        found.append(mark == "alone" and float(rebuilt.confidence[k]) >= sure and not again)
    return found


@pytest.mark.parametrize("marked", [True, False])
def test_what_is_claimed_is_what_counting_one_by_one_gives(marked: bool) -> None:
    rebuilt = reconstruction(marked=marked)
    found = claims(rebuilt, KNOWLEDGE)
    assert found.basis == "certificate"
    assert found.which.tolist() == by_hand(rebuilt, 0.999)
    assert len(found) == (2 if marked else 4)


def test_without_marks_the_attacks_word_on_the_whole_decides() -> None:
    assert len(claims(reconstruction(marked=False, converged=False), KNOWLEDGE)) == 0
    assert len(claims(reconstruction(converged=False), KNOWLEDGE)) == 2, "a mark is of the candidate itself"
    searched = claims(reconstruction(marked=False, searched=True), KNOWLEDGE)
    assert (searched.basis, len(searched)) == ("objective", 6)
    assert claims(reconstruction(searched=True), KNOWLEDGE).basis == "certificate"


@pytest.mark.parametrize(
    "defence",
    [
        KnownDefence(mixed=2),
        KnownDefence(cut=True),
        KnownDefence(random_layers=frozenset({"1"})),
        KnownDefence(survivors=True, noise=0.1),
    ],
)
def test_nothing_is_claimed_where_no_certificate_holds(defence: KnownDefence) -> None:
    assert len(claims(reconstruction(), replace(KNOWLEDGE, defence=defence))) == 0
    assert len(claims(reconstruction(), replace(KNOWLEDGE, defence=KnownDefence(scale_free=True)))) == 2


@pytest.mark.parametrize(("wrong", "of"), [(0, 1), (0, 2345), (3, 800), (7, 7)])
def test_the_limit_is_that_of_the_beta_distribution(wrong: int, of: int) -> None:
    expected = 1.0 if wrong == of else float(beta.ppf(0.95, wrong + 1, of - wrong))
    assert limit(wrong, of) == pytest.approx(expected, rel=1e-9)
    if not wrong:
        assert limit(wrong, of) == pytest.approx(1 - 0.05 ** (1 / of), rel=1e-9)


def test_nothing_measured_has_no_limit() -> None:
    assert limit(0, 0) is None
    found = claims(reconstruction(), KNOWLEDGE)
    one = certified("an_attack_of_another_package", found, reconstruction(), 7)
    assert one is not None
    assert (one.limit, one.measured) == (None, 0)
    assert "2 of 7 records read verbatim, certified without the private data" in one.sentence()
    assert "not measured" in one.sentence()
    assert (
        certified("linear_layer", claims(reconstruction(converged=False, marked=False), KNOWLEDGE), reconstruction(), 7)
        is None
    )


def test_the_table_in_the_source_is_the_record() -> None:
    assert dict(MEASURED) == certificates.by_attack()
    assert sum(m.claims for (_, basis), m in MEASURED.items() if basis == "certificate") >= 2000


def test_claims_that_are_often_wrong_are_called_no_certificate() -> None:
    sound = Certified(basis="certificate", records=2, measured=2345, wrong=0, limit=limit(0, 2345))
    assert sound.is_certificate
    assert "2 records read verbatim, certified without the private data" in sound.sentence()
    assert "at most 0.0013 (measured: 0 of 2,345" in sound.sentence()
    assert replace_in(sound, measured=20, limit=limit(0, 20)).is_certificate, "few claims are no wrong ones"
    for other in (
        replace_in(sound, wrong=300, limit=limit(300, 2345)),
        replace_in(sound, basis="objective"),
    ):
        assert not other.is_certificate
        assert "no certificate" in other.sentence()
        assert "certified" not in other.sentence()


def replace_in(one: Certified, **changes: object) -> Certified:
    return one.model_copy(update=changes)


@cache
def setting_of(units: int) -> Setting:
    return certificates.setting(World("linear_layer", "paper", options={"hidden": (units,)}))


def attacked() -> tuple[Setting, Reconstruction, ServerKnowledge, fedspill.Batch]:
    """A real reading of two examples."""
    setting = setting_of(64)
    private = setting.pool.batch[500:502]
    knowledge = ServerKnowledge(setting.model, num_examples=2, local_training=FedSGD())
    update = local_update(setting.model, private, FedSGD())
    return setting, setting.attack.reconstruct(update, knowledge, stream(0)), knowledge, private


def test_a_false_certificate_is_counted() -> None:
    setting, rebuilt, knowledge, private = attacked()
    honest, tampered = Counts(), Counts()
    found = claims(rebuilt, knowledge)
    honest.add(*judged(setting, rebuilt, found, private))
    assert (honest.certified, honest.wrong, honest.far, honest.wrong_updates) == (2, 0, 0, 0)
    inputs = rebuilt.inputs.clone()
    inputs[0] = (inputs[0] + inputs[1]) / 2
    false = replace(rebuilt, inputs=inputs)
    tampered.add(*judged(setting, false, claims(false, knowledge), private))
    assert (tampered.certified, tampered.wrong, tampered.far, tampered.wrong_updates) == (2, 1, 1, 1)
    assert tampered.least is not None
    assert tampered.least < 40


def test_a_group_of_rows_within_known_noise_confirms_nothing() -> None:
    """Rows that agree only as noise is granted to them: what they show would be claimed without the bound on it."""
    setting = setting_of(256)
    case = certificates.CASES["8 bits, known"]
    counts = Counts()
    for k in range(4):
        private = setting.pool.batch[500 + 8 * k : 508 + 8 * k]
        update, knowledge = certificates.answered(setting, case, private, k)
        assert update is not None
        rebuilt = setting.attack.reconstruct(update, knowledge, stream(k))
        counts.add(*judged(setting, rebuilt, claims(rebuilt, knowledge), private))
    assert counts.far == 0


@dataclass(frozen=True)
class Certain:
    """Is sure of a picture that nobody has."""

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """A picture."""
        return Reconstruction(rand((1, 3, 8, 8), rng, torch.zeros(())), converged=True)


def test_captured_updates_are_doubted_as_an_audits_are() -> None:
    model, private = relu_mlp(), batch(1)
    update = local_update(model, private, FedSGD())
    tries = [Try(AttackEntry(name=name), Certain(), last=name == "dlg") for name in ("linear_layer", "dlg")]
    watch = TrialWatch(Silent(), None, None)
    plain = ServerKnowledge(model, num_examples=1)
    assert answered(tries, Job(update, plain, stream(0)), 0, watch).by is tries[0]
    mixed = replace(plain, defence=KnownDefence(mixed=2))
    doubted = answered(tries, Job(update, mixed, stream(0)), 0, watch)
    assert doubted.by is tries[1], "nothing is certain, so that the next one is tried"
    assert not doubted.rebuilt.converged
    assert MIXED in doubted.rebuilt.notes


def test_a_captured_update_says_what_is_certified() -> None:
    setting, _, _, private = attacked()
    update = dict(local_update(setting.model, private, FedSGD()).values)
    told = fedspill.attack(update, setting.model, attack="linear_layer", num_examples=2)
    assert told.notes[0].startswith("2 of 2 records read verbatim, certified without the private data")
    nothing = fedspill.attack(update, setting.model, attack="linear_layer", num_examples=1)
    assert "certified" not in nothing.notes[0]


@pytest.fixture(scope="module")
def report() -> AuditReport:
    return fedspill.audit(PLAN).report


def test_a_report_holds_what_is_certified_and_how_much_of_it_is_true(report: AuditReport) -> None:
    (trial,) = report.trials
    found = trial.certified
    assert found is not None
    assert (found.basis, found.what, found.records, found.of, found.verbatim) == ("certificate", "examples", 2, 2, 2)
    measured = MEASURED["linear_layer", "certificate"]
    assert (found.measured, found.wrong, found.limit) == (
        measured.claims,
        measured.wrong,
        limit(measured.wrong, measured.claims),
    )
    assert AuditReport.model_validate_json(report.model_dump_json()) == report


def test_every_view_says_it_apart_from_what_was_measured(report: AuditReport) -> None:
    (line,) = certified_lines(report)
    assert line.startswith("linear_layer:paper: 2 of 2 records read verbatim")
    assert [block.name for block in blocks(report)] == ["Certified"]
    shown = io.StringIO()
    summary(report, Console(file=shown, width=400))
    assert "certified without the private data" in shown.getvalue()
    assert "certified without the private data" in render(report, ())
    required = fedspill.audit({**PLAN, "policy": {"require_bound": True}}).report
    assert [block.name for block in blocks(required)] == ["Measured", "Certified", "Declared", "Bounded"]


def test_a_report_of_before_loads_and_says_nothing_of_it(report: AuditReport) -> None:
    old = report.model_dump(mode="json")
    for trial in old["trials"]:
        del trial["certified"]
    again = AuditReport.model_validate(old)
    assert again.trials[0].certified is None
    assert certified_lines(again) == ()
    assert blocks(again) == []


def test_sums_are_of_what_was_recorded() -> None:
    one, other = (
        Counts(updates=3, claiming=2, certified=5, wrong=w, far=0, wrong_updates=w, least=50.0) for w in (0, 1)
    )
    claimed = [certificates.Claimed("a", "certificate", "as it is", c) for c in (one, other)]
    assert certificates.summed(claimed) == Measured(updates=4, claims=10, wrong=1, far=0, wrong_updates=1)
