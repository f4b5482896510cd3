"""The certificate: right sentences pass, and none that is wrong in a token, a label, its number or its company."""

from collections.abc import Callable

import pytest
import torch

from fedspill.core.model import Model
from fedspill.core.types import Batch, Update
from fedspill.inversion.subspace.checking import Verdict, verdict
from fedspill.inversion.subspace.choosing import open_space
from fedspill.inversion.subspace.growing import Check
from fedspill.inversion.subspace.labels import Read, matched_labels, read_labels, relabelled
from fedspill.inversion.subspace.readers import readers
from tests.support import texts

WORLDS: dict[str, tuple[Callable[[], Model], Callable[[int], Batch]]] = {
    "decoder": (lambda: texts.language_model(texts.GPT2), texts.sentences),
    "encoder": (lambda: texts.drawn(texts.Encoder), texts.classified),
}


class Judge:
    """Of one batch's update, with two layers to check at."""

    def __init__(self, model: Model, batch: Batch, dtype: torch.dtype = torch.float64) -> None:
        update, self.knowledge = texts.observed(model, batch)
        self.update = Update(update.kind, {k: v.to(dtype) for k, v in update.values.items()})
        values = {k: v.double() for k, v in self.update.values.items()}
        anchored = [r for r in readers(model) if r.anchored]
        spaces = [(r, open_space(model, r, values, 1e-16)) for r in anchored]
        self.checks = [Check(r, s) for r, s in spaces if s is not None][:2]

    def __call__(self, said: Batch, counts: list[int] | None = None) -> Verdict:
        ones = torch.tensor(counts or [1] * len(said))
        found = verdict(self.update, self.knowledge, self.checks, said.inputs, said.labels, ones)
        assert found is not None
        return found


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_right_sentences_pass_and_no_wrong_one_does(name: str, dtype: torch.dtype) -> None:
    model, batch = WORLDS[name][0](), WORLDS[name][1](3)
    judge = Judge(model, batch, dtype)
    assert judge(batch).certain().all()
    for place in (0, 4, texts.LENGTH - 1):
        tokens = batch.inputs.clone()
        tokens[1, place] = (tokens[1, place] + 1) % texts.VOCABULARY
        assert not judge(Batch(tokens, batch.labels)).certain()[1], place
    crossed = batch.inputs.clone()
    crossed[0, 4:], crossed[1, 4:] = batch.inputs[1, 4:], batch.inputs[0, 4:]
    assert not judge(Batch(crossed, batch.labels)).certain()[:2].any()
    labels = batch.labels.clone()
    labels[0] = labels[1]
    assert not judge(Batch(batch.inputs, labels)).certain().any()
    assert not judge(batch[:2]).certain().any()
    assert not judge(batch, [1, 1, 2]).certain().any()


def test_a_quiet_sentence_is_judged_by_its_own_rows() -> None:
    model, batch = texts.language_model(texts.GPT2), texts.sentences(2)
    loud = Batch(batch.inputs[[0] * 199 + [1]], batch.labels[[0] * 199 + [1]])
    judge, wrong = Judge(model, loud), batch.inputs.clone()
    wrong[1, 3] = (wrong[1, 3] + 1) % texts.VOCABULARY
    right, false = judge(batch, [199, 1]), judge(Batch(wrong, batch.labels), [199, 1])
    assert right.certain().all()
    assert false.residual < 0.05
    assert float(false.rows[1]) > 0.5
    assert not false.certain()[1]


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("told", [True, False])
def test_labels_and_copies_are_solved_for(name: str, told: bool) -> None:
    model, batch = WORLDS[name][0](), WORLDS[name][1](3)
    held = Batch(batch.inputs[[0, 1, 1, 2, 1]], batch.labels[[0, 1, 1, 2, 1]])
    values = texts.observed(model, held)[0].values
    read = read_labels(model, values, batch.inputs, 5 if told else None)
    assert read is not None
    assert read.counts.tolist() == [1, 3, 1]
    known = read.labels if read.labels.ndim == 1 else read.labels[:, :-1]
    assert torch.equal(known, batch.labels if read.labels.ndim == 1 else batch.labels[:, :-1])


def test_sentences_that_were_not_there_count_nothing() -> None:
    model, batch = texts.drawn(texts.Encoder), texts.classified(4)
    read = read_labels(model, texts.observed(model, batch[:3])[0].values, batch.inputs, 3)
    assert read is not None
    assert read.counts.tolist() == [1, 1, 1, 0]


def test_last_labels_of_a_tied_decoder_are_put_right() -> None:
    model, batch = texts.language_model(texts.GPT2), texts.sentences(2)
    labels = batch.labels.clone()
    labels[:, -1] = batch.inputs[:, 3]  # tokens of the sentences, whose rows hold more than the decoder's gradient
    held = Batch(batch.inputs, labels)
    values = texts.observed(model, held)[0].values
    read = read_labels(model, values, batch.inputs, 2)
    assert read is not None
    assert not torch.equal(read.labels, labels)
    update = texts.observed(model, Batch(batch.inputs, read.labels))[0].values
    left = {"wte.weight": values["wte.weight"] - update["wte.weight"]}
    better = relabelled(model, left, batch.inputs, read, 1.0)
    assert better is not None
    assert torch.equal(better.labels, labels)
    assert relabelled(model, {"wte.weight": 0 * values["wte.weight"]}, batch.inputs, better, 1.0) is None


def test_granted_labels_find_their_sentences() -> None:
    batch = texts.sentences(3)
    order = torch.tensor([2, 0, 1])
    read = matched_labels(batch.inputs[order], batch.labels)
    assert isinstance(read, Read)
    assert torch.equal(read.labels, batch.labels[order])
    assert read.counts.tolist() == [1, 1, 1]
